"""Structures on which a process ends, as it does when RDKit crashes."""

from __future__ import annotations

import os
from typing import Any

from kmel_p2p.chem.structures import described, standardise
from kmel_p2p.chem.structures.parallel import end_with_parent

CRASHING = "CCCl"
"""The structure that `crash_on_one` crashes on."""


def crash_on_one() -> None:
    """From now on, standardising `CRASHING` ends this process. Also what a child process may begin with."""
    end_with_parent()
    plain = standardise.standardise

    def crashing(smiles: str, *given: Any, **further: Any) -> Any:
        if smiles == CRASHING:
            os.abort()
        return plain(smiles, *given, **further)

    setattr(described, "standardise", crashing)  # noqa: B010 - it is another module's name there
