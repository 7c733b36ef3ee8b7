"""The averaging modes as a site runs them: the one place above `core` that knows which modes there are."""

from __future__ import annotations

from collections.abc import Mapping

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.site.modes.ledger import LedgerMode
from kmel_p2p.site.modes.mode import Notes, OwnWork, SiteMode
from kmel_p2p.site.modes.pushsum import PushSumMode
from kmel_p2p.site.modes.sealed import SealedMode

MODES: Mapping[str, SiteMode] = {mode.name: mode for mode in (LedgerMode(), PushSumMode(), SealedMode())}

__all__ = ["MODES", "Notes", "OwnWork", "SiteMode", "mode_of"]


def mode_of(charter: Charter) -> SiteMode:
    """The mode in which a charter's sites average."""
    return MODES[charter.averaging.mode]
