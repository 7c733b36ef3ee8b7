"""Why compounds are predicted as they are, as one self-contained HTML file: it loads nothing and runs nothing.

It shows own compounds with measured values where the model directory has them, and then must stay at the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kmel_p2p.learn.predict.explanation_view import CompoundView
from kmel_p2p.web.templates import page

if TYPE_CHECKING:
    from kmel_p2p.learn.predict.predict import Model

MOST = 50
"""Compounds of a report: some 15 s of computing, and a page that a browser still scrolls."""


def explanation_page(
    model: Model, compounds: Sequence[CompoundView], *, source: str, total: int, level: float | None, warning: str = ""
) -> str:
    """HTML of some compounds.

    Args:
        compounds: at most `MOST`.
        source: where they come from.
        total: rows there.
        level: of the intervals; None where one model was asked for, which has none.
        warning: about the compounds as a whole.
    """
    values = {
        "labels": model.card.labels,
        "digest": model.card.digest[:16],
        "compounds": compounds,
        "measured": any(compound.neighbours for compound in compounds),
        "source": source,
        "total": total,
        "shown": len(compounds),
        "level": "" if level is None else f"{level:g}",
        "warning": warning,
    }
    return page("kmel_p2p.learn.predict", "explanation_page.html", values)
