"""The desk's answers to those who hold an invitation: where their application stands, and what they are to sign.

Each question carries the newcomer's application, signed with its key. Nothing of the federation is told before the
operator has approved it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.invitation import Application
from kmel_p2p.agreement.strict import build
from kmel_p2p.site.desk.invitations import InvitationBook, Newcomer

Stage = Literal["asks", "approved", "refused", "sign", "complete"]
"""Where an application stands: nobody decided; waits for others; refused; the charter is to be signed; all is there."""


class Table(Protocol):
    """What an approved newcomer is told, and where it signs: a founding, or a federation that runs."""

    def stands(self, newcomer: Newcomer) -> Mapping[str, Any]:
        """`state` (a `Stage`), `text` for people, and once they are there `charter` and `amendments` as TOML.

        Raises:
            LocalError: it cannot go on; to be read by the newcomer.
        """
        ...

    def sign(self, newcomer: Newcomer, signature: str) -> None:
        """Take a newcomer's signature (hex) of the charter.

        Raises:
            LocalError: it is not good, or none is awaited.
        """
        ...

    def has_all(self, newcomer: Newcomer) -> None:
        """A newcomer has written down everything that it needs."""
        ...


class NewcomersDesk:
    """See the module docstring.

    Args:
        book: who was invited and who asked.
        table: what goes on.
        host: name of this site.
        key: its key.
        clock: seconds since 1970.
        changed: told whenever somebody new asks, or signs.
        sites: key and name of the other sites that take part, or did.
    """

    def __init__(
        self,
        book: InvitationBook,
        table: Table,
        host: str,
        key: SiteKey,
        clock: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
        sites: Callable[[], Mapping[SiteKey, str]] = dict,
    ) -> None:
        self._book = book
        self._table = table
        self._host = host
        self._key = key
        self._sites = sites
        self._clock = clock
        self._changed = changed

    def answer(self, invitation: bytes, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a holder of the invitation with this id.

        Raises:
            LocalError: to be read by the newcomer.
        """
        application = self._application(arguments)
        before = self._book.newcomers
        sites = {**self._sites(), self._key: self._host}
        newcomer = self._book.apply(invitation, application, self._clock(), self._key, sites)
        if self._book.newcomers != before:
            self._changed()
        if name == "sign" and newcomer.state == "approved":
            self._table.sign(newcomer, str(arguments.get("signature", "")))
            self._changed()
        elif name == "done" and newcomer.state == "approved":
            self._table.has_all(newcomer)
            self._changed()
        elif name != "join":
            raise LocalError(f"this desk knows no request {name[:40]!r} of somebody invited")
        match newcomer.state:
            case "asks":
                return {"state": "asks", "text": f"waits until the operator of {self._host} has compared fingerprints"}
            case "refused":
                return {"state": "refused", "text": f"the operator of {self._host} has refused this site"}
        return self._table.stands(newcomer)

    @staticmethod
    def _application(arguments: Mapping[str, Any]) -> Application:
        raw = arguments.get("application")
        if type(raw) is not dict:
            raise LocalError("an application is missing; use the same version of kmel-peer")
        try:
            return build(Application, raw, "application")
        except ConfigError as error:
            raise LocalError(str(error)) from None
