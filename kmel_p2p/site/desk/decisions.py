"""What the operator sees of invitations and newcomers, and decides on them; the same while founding and in a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.site.desk.invitations import InvitationBook, Newcomer


class Decisions:
    """See the module docstring.

    Args:
        name: of this site.
        identity: of this site.
        book: where everything is kept.
        changed: told after each decision.
    """

    def __init__(self, name: str, identity: Identity, book: InvitationBook, changed: Callable[[], None]) -> None:
        self._name = name
        self._identity = identity
        self._changed = changed
        self.book = book

    def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a request of the control socket.

        Raises:
            LocalError: it cannot be done.
        """
        match name:
            case "invitations":
                return self.listed()
            case "decide":
                shown = str(arguments.get("fingerprint", ""))
                return self.decide(str(arguments.get("site", "")), arguments.get("approve") is True, shown)
            case "withdraw":
                count = self.book.withdraw()
                self._changed()
                return count
            case "stop":
                raise LocalError("kmel-peer invite waits for the founders here; end it with Ctrl-C")
        raise LocalError("the federation is being founded: this has to wait until kmel-peer run")

    def found(self, site: str, approve: bool, shown: str = "") -> Newcomer:
        """As `InvitationBook.found`."""
        return self.book.found(site, approve, shown, self._identity.key)

    def decide(self, site: str, approve: bool, shown: str = "") -> Mapping[str, Any]:
        """Approve or refuse a newcomer, by name or key.

        Raises:
            LocalError: as `InvitationBook.found`.
        """
        decided = self.book.decide(self.found(site, approve, shown).key, approve)
        self._changed()
        return self.row(decided)

    def listed(self) -> Mapping[str, Any]:
        """Everything, as plain data."""
        handed_out = self.book.handed_out(self._name, self._identity.key)
        return {
            "invitations": [
                {"text": invitation.render(self._identity), "expires": invitation.expires, "places": left}
                for invitation, left in handed_out
            ],
            "sites": [self.row(newcomer) for newcomer in self.book.newcomers],
        }

    def alarms(self, members: Collection[SiteKey]) -> dict[str, str]:
        """What waits for the operator: newcomers that ask, and are or were no members."""
        return {
            f"{newcomer.name} asks to join": (
                f"compare by phone: {self.row(newcomer)['fingerprint']}; "
                f"then kmel-peer invite approve {newcomer.name}, or refuse"
            )
            for newcomer in self.book.newcomers
            if newcomer.state == "asks" and newcomer.site_key not in members
        }

    def row(self, newcomer: Newcomer) -> dict[str, Any]:
        """A newcomer as plain data, with the digits to compare."""
        return {
            "name": newcomer.name,
            "key": newcomer.key,
            "addresses": list(newcomer.addresses),
            "state": newcomer.state,
            "fingerprint": newcomer.fingerprint(self._identity.key),
        }
