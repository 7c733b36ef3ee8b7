"""Curves as SVG, drawn by ourselves: small, without a size of their own, with a key; nothing is told by colour alone.

Text is escaped here. Colours and dashes are classes of the style sheet, so that no policy of a browser is in the way.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmel_p2p.agreement.shown import shown

COLOURS, DASHES = 8, 4
"""Of the style sheet; together they tell 32 curves apart."""

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 30

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    points: Points
    own: bool = False
    """Drawn thicker."""

    def style(self, place: int) -> str:
        """Classes of the style sheet."""
        dash = place // COLOURS % DASHES
        return f"curve c{place % COLOURS}{f' d{dash}' if dash else ''}{' own' if self.own else ''}"


def chart(
    curves: Sequence[Curve],
    *,
    label: str,
    across: str,
    levels: Sequence[tuple[str, float]] = (),
    steps: bool = False,
    from_zero: bool = True,
    ticks: Callable[[float], str] = lambda value: f"{value:g}",
) -> str:
    """An SVG and its key; empty when there is nothing to draw.

    Args:
        label: what a person who does not see it is told.
        across: what the horizontal axis is.
        levels: (name, value) of horizontal lines to compare with, at most two.
        steps: values stay until the next point.
        from_zero: the vertical axis begins at 0; otherwise a little below the lowest value.
        ticks: text of a number on the horizontal axis.
    """
    known = [
        Curve(each.name, [p for p in each.points if all(map(math.isfinite, p))], each.own)
        for each in curves
    ]  # fmt: skip
    xs = [x for each in known for x, _ in each.points]
    ys = [y for each in known for _, y in each.points] + [value for _, value in levels]
    if not xs:
        return ""
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    high, low = max(ys), min(ys)
    room = 0.08 * (high - low or abs(high) or 1.0)
    bottom, top = (0.0 if from_zero else low - room), high + room

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(place, (left, right), (bottom, top), across, ticks)]
    for at, each in enumerate(known):
        if each.points:
            parts.append(f'<path class="{each.style(at)}" d="{_path([place(*p) for p in each.points], steps)}"/>')
    for at, (_, value) in enumerate(levels):
        _, height = place(left, value)
        parts.append(
            f'<line class="level l{at}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
    drawn = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text_of(label)}">'
        f"{''.join(parts)}</svg>"
    )
    return drawn + _key(known, levels)


def text_of(text: str) -> str:
    """A text of anybody within SVG."""
    return html.escape(shown(text))


def _path(points: Points, steps: bool) -> str:
    found = []
    before = None
    for x, y in points:
        if before is None:
            found.append(f"M{x:.1f} {y:.1f}")
        elif steps:
            found.append(f"H{x:.1f}" if f"{y:.1f}" == before else f"H{x:.1f}V{y:.1f}")
        else:
            found.append(f"L{x:.1f} {y:.1f}")
        before = f"{y:.1f}"
    # A single point is drawn, too.
    return "".join(found) + ("h.01" if len(points) == 1 else "")


def _grid(
    place: Callable[[float, float], tuple[float, float]],
    across: tuple[float, float],
    up: tuple[float, float],
    name: str,
    ticks: Callable[[float], str],
) -> str:
    parts = []
    for value in _round_numbers(*up):
        _, y = place(across[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for value in _round_numbers(*across):
        x, _ = place(value, up[0])
        parts.append(f'<text x="{x:.1f}" y="{base + 13}" text-anchor="middle">{text_of(ticks(value))}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{text_of(name)}</text>'
    )
    return "".join(parts)


def _round_numbers(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from `low` to `high`."""
    width = high - low
    if not width > 0 or not math.isfinite(width):
        return [low]
    step = 10.0 ** math.floor(math.log10(width / about))
    step *= next(factor for factor in (1, 2, 5, 10) if width / (step * factor) <= about + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round((first + at) * step, 12) for at in range(int((high - first * step) / step + 1e-9) + 1)]


def _key(curves: Sequence[Curve], levels: Sequence[tuple[str, float]]) -> str:
    lines = [(each.style(at), each.name) for at, each in enumerate(curves)] + [
        (f"level l{at}", name) for at, (name, _) in enumerate(levels)
    ]
    return (
        '<ul class="key">'
        + "".join(
            f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><path class="{style}" d="M0 5H26"/></svg>'
            f"{text_of(name)}</li>"
            for style, name in lines
        )
        + "</ul>"
    )
