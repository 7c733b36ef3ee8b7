"""Charts as SVG: whatever the points, within the frame, with a key, and with text that is only text."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.web.curves import COLOURS, DASHES, HEIGHT, WIDTH, Curve, chart

POINTS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(allow_nan=True, allow_infinity=True)), max_size=20)


@given(POINTS, POINTS, st.booleans(), st.booleans())
def test_curves_stay_within_the_frame(one: list, other: list, steps: bool, from_zero: bool) -> None:
    curves = [Curve("one", sorted(one)), Curve("other", sorted(other), own=True)]
    drawn = chart(curves, label="a & b", across="x", steps=steps, from_zero=from_zero)
    finite = [p for p in one + other if all(map(math.isfinite, p))]
    assert bool(drawn) == bool(finite)
    if not drawn:
        return
    root = ET.fromstring(f"<div>{drawn}</div>")
    assert root[0].get("aria-label") == "a & b"
    if max(abs(y) for _, y in finite) < 1e100:
        for path in re.findall(r'<path class="curve[^"]*" d="M([\d.-]+) ([\d.-]+)', drawn):
            assert -1 <= float(path[0]) <= WIDTH + 1
            assert from_zero or -1 <= float(path[1]) <= HEIGHT + 1


def test_names_are_text_and_every_curve_of_the_palette_looks_different() -> None:
    curves = [Curve(f"<b>{n}</b>", [(0, n), (1, n + 1)]) for n in range(COLOURS * DASHES)]
    drawn = chart(curves, label='"><script>', across="<i>", levels=[("<u>", 3.0), ("second", 4.0)])
    assert not re.search(r"<(b|i|u|script)>", drawn)
    styles = re.findall(r'<path class="(curve [^"]*)" d="M0 5H26"', drawn)
    assert len(styles) == len(set(styles)) == COLOURS * DASHES
    assert drawn.count('class="level l1"') == 2


def test_a_single_point_and_equal_values_are_drawn() -> None:
    assert 'd="M' in chart([Curve("one", [(3.0, 0.5)])], label="", across="")
    assert 'd="M' in chart([Curve("flat", [(0.0, 0.0), (1.0, 0.0)])], label="", across="", from_zero=False)
