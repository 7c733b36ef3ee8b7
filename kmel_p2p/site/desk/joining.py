"""A newcomer's side of an invitation: asks the desk of the site that invites, and believes nothing unsigned."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import SIGNING_CONTEXT, CharterDocument, signature_is_good
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.invitation import Application, Invitation
from kmel_p2p.agreement.shown import one_line
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.desk import invited_keys
from kmel_p2p.net.desk_client import DeskRefusedError, DeskUnreachableError, ask_desk, encode_question

FINAL = frozenset({ConnectionFailure.NOT_ADMITTED, ConnectionFailure.WRONG_KEY, ConnectionFailure.OTHER_VERSION})
"""Failures that waiting does not mend."""

WRONG_KEY_FOR_S = 60.0
"""A connection that is closed in the handshake looks like a wrong key, and a port forwarder whose program is down does
that, too: only if nothing else happens for so long, it is believed."""

STATES = ("asks", "approved", "refused", "sign", "complete")


class Joining:
    """See the module docstring.

    Args:
        invitation: the text that was received.
        application: ours.
        clock: seconds since 1970.
        elapsed: monotonic seconds.
    """

    def __init__(
        self,
        invitation: Invitation,
        application: Application,
        clock: Callable[[], float],
        elapsed: Callable[[], float] = time.monotonic,
        proxy: str = "",
    ) -> None:
        """`proxy`: through which this site dials, host:port; empty: none."""
        self.invitation = invitation
        self._application = application
        self._clock = clock
        self._elapsed = elapsed
        self._proxy = proxy
        self._wrong_since: float | None = None
        """When the key began to look wrong, and has ever since."""
        self._keys = invited_keys(bytes.fromhex(invitation.secret))
        self._agreed: bytes | None = None
        """Id of the charter that this site signed."""

    def ask(self) -> Mapping[str, Any]:
        """Where the application stands: `state` (`newcomers.Stage`, or `unreachable`) and `text`, in one line.

        Raises:
            ConfigError: the invitation leads nowhere; says why and what to do.
            LocalError: the site that invites refuses the application, in its words.
        """
        return self._ask("join", {})

    def sign(self, signature: str) -> Mapping[str, Any]:
        """Hand over the signature of the charter offered last (hex); gives what `ask` gives.

        Raises:
            LocalError, ConfigError: it was not taken, and will not be.
        """
        return self._ask("sign", {"signature": signature})

    def done(self) -> None:
        """Tell that everything is written down. If that does not arrive, nothing is lost."""
        with contextlib.suppress(LocalError, ConfigError):
            self._ask("done", {})

    def offered(self, answer: Mapping[str, Any]) -> CharterDocument:
        """The charter that is to be signed: this site is in it, and whoever invited has signed it.

        Raises:
            ConfigError: it is not that; it must not be signed.
        """
        document = self._charter(answer)
        rule = document.charter.roster.get(self._application.site_key)
        if rule is None or rule.name != self._application.name or rule.addresses != self._application.addresses:
            raise ConfigError(
                f"the charter that {self.invitation.site} offers does not list this site as it applied: it was not "
                "signed; talk to its operator"
            )
        self._agreed = document.charter.id
        return document

    def complete(
        self, answer: Mapping[str, Any], own: SiteKey
    ) -> tuple[CharterDocument, tuple[AmendmentDocument, ...]]:
        """The charter in force and the amendments up to the one that added this site, all signatures checked.

        Raises:
            ConfigError: it is not in force, is another than was signed, or has no place for this site.
        """
        document = self._charter(answer)
        charter = document.require_in_force(f"charter from {self.invitation.site}")
        if self._agreed is not None and charter.id != self._agreed:
            raise ConfigError(f"{self.invitation.site} sent another charter than the one that was signed here")
        texts = answer.get("amendments", [])
        if type(texts) is not list or not all(type(text) is str for text in texts):
            raise ConfigError(f"{self.invitation.site} sent amendments that cannot be read; update kmel-peer there")
        constitution = Constitution(charter)
        for text in texts:
            constitution = constitution.followed_by(AmendmentDocument.parse(text, f"from {self.invitation.site}"))
        rule = constitution.roster.get(own)
        if rule is None or rule.name != self._application.name:
            raise ConfigError(f"the charter that {self.invitation.site} sent has no place for this site's key")
        return document, constitution.documents

    # ---- inner --------------------------------------------------------------------------------------------------

    def _charter(self, answer: Mapping[str, Any]) -> CharterDocument:
        source = f"charter from {self.invitation.site}"
        document = CharterDocument.parse(str(answer.get("charter", "")), source)
        charter, inviting = document.charter, self.invitation.site_key
        if charter.federation != self.invitation.federation:
            raise ConfigError(
                f"{source}: it is of {charter.federation!r}, and the invitation is to {self.invitation.federation!r}"
            )
        rule = charter.roster.get(inviting)
        good = rule is not None and signature_is_good(
            inviting, SIGNING_CONTEXT, charter.id, document.signatures.get(rule.name, "")
        )
        if not good and document.problems():
            raise ConfigError(f"{source}: {self.invitation.site} has not signed it; nothing was signed here")
        return document

    def _ask(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        application = self._application.model_dump(mode="json")
        question = encode_question(name, {"application": application, **arguments})
        failure: DeskUnreachableError | None = None
        for address in self.invitation.addresses:
            try:
                key = self.invitation.site_key
                answer = ask_desk(self._keys, key, address, question, proxy=self._proxy, any_protocol=False)
            except DeskRefusedError as error:
                raise LocalError(f"{self.invitation.site} refuses: {error}") from None
            except DeskUnreachableError as error:
                failure = failure if failure is not None and failure.failure in FINAL else error
                continue
            if type(answer) is not dict or answer.get("state") not in STATES or type(answer.get("text")) is not str:
                raise LocalError(f"{self.invitation.site} answered what this version cannot read; update kmel-peer")
            self._wrong_since = None
            return {**answer, "text": f"{self.invitation.site} says: {one_line(answer['text'])}"}
        assert failure is not None, "an invitation has an address"
        if failure.failure is ConnectionFailure.NOT_ADMITTED:
            over = self._clock() >= self.invitation.expires
            why = "it is over" if over else "it was used up or withdrawn, or that peer was set up anew"
            raise ConfigError(
                f"{self.invitation.site} does not know this invitation any more: {why}; ask for a new one"
            )
        if failure.failure is not ConnectionFailure.WRONG_KEY:
            self._wrong_since = None
        elif self._wrong_since is None:
            self._wrong_since = self._elapsed()
        lasts = self._wrong_since is None or self._elapsed() - self._wrong_since >= WRONG_KEY_FOR_S
        if failure.failure in FINAL and lasts:
            raise ConfigError(str(failure))
        return {"state": "unreachable", "text": f"{failure}. Still trying"}
