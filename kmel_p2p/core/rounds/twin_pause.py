"""Nothing is published while another process runs with this site's key: two logs under one key would end each other."""

from __future__ import annotations

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event
from kmel_p2p.core.membership.events import TwinDecided, TwinFound
from kmel_p2p.core.rounds.states import Wait

TWIN_FOUND = (
    "another process runs with this site's key, so nothing is published: stop one of the two; kmel-peer claim at the "
    "other one says that it goes on"
)
TWIN_CHOSEN = "another process with this site's key was chosen to go on: stop this one"


class TwinPause:
    """See the module docstring."""

    def __init__(self, own: SiteKey) -> None:
        self.wait: Wait | None = None
        """Why nothing may be published, whatever else is so."""
        self._own = own

    def note(self, event: Event) -> None:
        """Take in what membership found."""
        match event:
            case TwinFound(key=key, chosen=chosen) if key == self._own:
                self.wait = Wait(TWIN_CHOSEN if chosen else TWIN_FOUND)
            case TwinDecided(key=key) if key == self._own:
                self.wait = None
