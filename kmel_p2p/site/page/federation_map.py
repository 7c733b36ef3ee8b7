"""The federation as this peer sees it, as SVG: the other sites around this one, and each way between the two.

Every state is told by a sign and a dash as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kmel_p2p.site.observe.status import MemberStatus
from kmel_p2p.web.curves import text_of

MOST_NAMED, MOST_DRAWN = 16, 64
"""Sites drawn with their names, and drawn at all; a table names every one."""

SIGNS: Mapping[str, str] = {
    "alive": "\N{CHECK MARK}", "suspect": "?", "dead": "\N{MULTIPLICATION SIGN}", "left": "\N{EN DASH}",
    "blocked": "\N{DIVISION SLASH}", "unknown": "\N{MIDDLE DOT}",
}  # fmt: skip
"""State of a site -> what stands in its circle."""

WIDTH, HEIGHT = 360, 290
LONGEST = 14
"""Letters of a name."""


def federation_map(site: str, members: Sequence[MemberStatus], words: Mapping[str, str]) -> str:
    """The drawing; empty for a site alone, or where there are too many to be told apart.

    Args:
        site: this one.
        words: `map`, with places for `site`, `up` and `of`; `to` and `from`; and one for each state of a site.
    """
    if not 0 < len(members) <= MOST_DRAWN:
        return ""
    named = len(members) <= MOST_NAMED
    radius = 15 if named else 7
    middle = (WIDTH / 2, HEIGHT / 2)
    ways, circles = [], []
    angles = [2 * math.pi * at / len(members) - math.pi / 2 for at in range(len(members))]
    places = [(middle[0] + 128 * math.cos(angle), middle[1] + 105 * math.sin(angle)) for angle in angles]
    for member, place in zip(members, places, strict=True):
        for open_, out in ((member.outbound, True), (member.inbound, False)):
            # One connection carries both ways: the other one is missing only where both are.
            state = "open" if open_ else "spare" if member.outbound or member.inbound else "shut"
            ways.append(_way(middle, place, radius, state, outward=out))
        circles.append(_site(member, place, radius, named, words))
    up = sum(member.reachable for member in members)
    heights = [middle[1], *(y for _, y in places)]
    top, bottom = min(heights) - 40, max(heights) + 40
    label = words["map"].format(site=site, up=up, of=len(members))
    x, y = middle
    frame = f'viewBox="0 {top:.0f} {WIDTH} {bottom - top:.0f}" role="img" aria-label="{text_of(label)}"'
    here = f'<circle class="self" cx="{x}" cy="{y}" r="19"/>{_text("name", x, y + 33, _short(site))}'
    return f'<svg class="chart map" {frame}>{"".join(ways)}{"".join(circles)}{here}</svg>'


def _site(
    member: MemberStatus, place: tuple[float, float], radius: float, named: bool, words: Mapping[str, str]
) -> str:
    x, y = place
    told = f"{member.name}: {words[member.state]}{f', {member.problem}' if member.problem else ''}"
    circle = f'<circle class="site {member.state}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
    # Away from this site, so that no way runs through it.
    below = y + radius + 12 if y > HEIGHT / 2 - 1 else y - radius - 5
    texts = _text("sign", x, y + 5, SIGNS[member.state]) + _text("name", x, below, _short(member.name))
    return f"<g><title>{text_of(told)}</title>{circle}{texts if named else ''}</g>"


def _text(style: str, x: float, y: float, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text_of(text)}</text>'


def _way(middle: tuple[float, float], place: tuple[float, float], radius: float, state: str, *, outward: bool) -> str:
    """A line beside the straight one between the two sites, with its head at where it leads."""
    length = math.dist(middle, place)
    along = ((place[0] - middle[0]) / length, (place[1] - middle[1]) / length)
    beside = (-along[1], along[0])
    shift = 4.0 if outward else -4.0
    ends = [
        (middle[0] + along[0] * at + beside[0] * shift, middle[1] + along[1] * at + beside[1] * shift)
        for at in ((24, length - radius - 4) if outward else (length - radius - 4, 24))
    ]
    (x1, y1), (x2, y2) = ends
    towards = along if outward else (-along[0], -along[1])
    side = 3.2 if state == "open" else 0.0
    head = [
        (x2, y2),
        (x2 - 8 * towards[0] + side * beside[0], y2 - 8 * towards[1] + side * beside[1]),
        (x2 - 8 * towards[0] - side * beside[0], y2 - 8 * towards[1] - side * beside[1]),
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
    return (
        f'<line class="way {state}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        f'<polygon class="head {state}" points="{points}"/>'
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
