"""A federation on the way to its charter: the site that founds it collects sites, drafts, and collects signatures.

Everything is on disk at every moment: who came in `invitations.json`, the charter with the signatures so far in
`charter.toml`. So it can be interrupted anywhere and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.charter import SIGNING_CONTEXT, CharterDocument, signature_is_good
from kmel_p2p.agreement.charter_text import signed_text
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.files import write_whole
from kmel_p2p.site.config import read_text
from kmel_p2p.site.desk.invitations import InvitationBook, Newcomer

DRAFT_REMEDY = "kmel-peer invite drafts it once the sites are there"


class FoundingTable:
    """See the module docstring. Satisfies `newcomers.Table`.

    Args:
        book: who was invited and who asked.
        charter_path: where the charter is, or will be.
        own: key of the site that founds.
    """

    def __init__(self, book: InvitationBook, charter_path: Path, own: SiteKey) -> None:
        self._book = book
        self._path = charter_path
        self._own = own
        self._have_all: set[str] = set()
        """Keys of the newcomers that wrote down the complete charter."""

    @property
    def document(self) -> CharterDocument | None:
        """The charter as it is on disk; None while there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        if not self._path.exists():
            return None
        return CharterDocument.parse(read_text(self._path, DRAFT_REMEDY), str(self._path))

    @property
    def missing(self) -> int:
        """Sites that are yet to come and be approved, before the charter can be drafted."""
        plan = self._book.plan
        return 0 if plan is None else max(0, plan.sites - 1 - len(self._book.approved()))

    def newcomers(self) -> list[Newcomer]:
        """Whom the charter lists beside this site: those approved first, as many as are planned."""
        plan = self._book.plan
        return self._book.approved()[: plan.sites - 1 if plan else None]

    def is_signed(self) -> bool:
        """Whether the site that founds has signed the charter as it is on disk."""
        return self._offered() is not None

    def all_have_it(self) -> bool:
        """Whether every newcomer that the charter lists has fetched it whole."""
        return {newcomer.key for newcomer in self.newcomers()} <= self._have_all

    def keep(self, document: CharterDocument) -> None:
        """Write the charter with the signatures so far; the rest of the file stays as it is.

        Raises:
            ConfigError: it cannot be written.
        """
        text = read_text(self._path, DRAFT_REMEDY) if self._path.exists() else document.render()
        write_whole(self._path, signed_text(text, document).encode(), mode=0o644)

    def stands(self, newcomer: Newcomer) -> Mapping[str, Any]:
        """As `Table.stands`."""
        try:
            document = self._offered()
        except LocalError as error:
            return {"state": "approved", "text": f"approved; {error}"}
        if document is None:
            wait = f"waits for {self.missing} more" if self.missing else "waits until the charter is drafted and signed"
            return {"state": "approved", "text": f"approved; {wait}"}
        if newcomer.site_key not in document.charter.roster:
            raise LocalError("the charter was drafted without this site; ask the operator who invited it")
        problems = document.problems()
        if not problems:
            return {"state": "complete", "text": "the charter is in force", "charter": document.render()}
        return {"state": "sign", "text": "; ".join(problems), "charter": document.render()}

    def sign(self, newcomer: Newcomer, signature: str) -> None:
        """As `Table.sign`."""
        document = self._offered()
        rule = None if document is None else document.charter.roster.get(newcomer.site_key)
        if document is None or rule is None:
            raise LocalError("there is no charter here that this site could sign")
        if not signature_is_good(rule.site_key, SIGNING_CONTEXT, document.charter.id, signature):
            raise LocalError("this signature is not of the charter as it is here; read it again, and sign that")
        if document.signatures.get(rule.name) != signature:
            signed = document.model_copy(update={"signatures": {**document.signatures, rule.name: signature}})
            self.keep(signed)

    def has_all(self, newcomer: Newcomer) -> None:
        """As `Table.has_all`."""
        self._have_all.add(newcomer.key)

    def _offered(self) -> CharterDocument | None:
        """The charter, once the site that founds has signed it: nobody is asked to sign what it does not stand for."""
        try:
            document = self.document
        except ConfigError:
            raise LocalError("the charter is being edited; ask again later") from None
        rule = None if document is None else document.charter.roster.get(self._own)
        if document is None or rule is None:
            return None
        signature = document.signatures.get(rule.name, "")
        return document if signature_is_good(self._own, SIGNING_CONTEXT, document.charter.id, signature) else None
