"""Amendments that are not in force yet, with the signatures so far: they come and go through the desks of the sites.

Only what a current site has signed is kept, and of each site two: the newest that it signed and brought itself, and the
newest with its signature that another one brought. So nobody pushes out what somebody else proposed, neither by
bringing it first nor by repeating what that site had signed before. An amendment that a quorum has signed is handed to
the caller, which puts it in force.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.amendment_words import changes_in_words
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import private_directory, write_whole

PROPOSALS_NAME = "proposals.json"

MAX_PROPOSALS_OF_ONE = 2
"""Amendments that wait because one site signed them: a newer one takes the place of its former one."""

RELAYED = " relayed"


@dataclass(frozen=True, slots=True)
class Proposal:
    """An amendment that waits for signatures.

    Attributes:
        document: with the good signatures so far.
        kept_for: why it is kept: sites that signed it (key in hex), `KEY` if it is the newest that this site brought
            itself, `KEY relayed` if it is the newest with its signature that another one brought.
    """

    document: AmendmentDocument
    kept_for: frozenset[str]

    @property
    def hash(self) -> str:
        """Of the amendment, in hex."""
        return self.document.amendment.hash.hex()


class Proposals:
    """See the module docstring.

    Args:
        state_dir: of the site.
        constitution: as it is now.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, state_dir: Path, constitution: Callable[[], Constitution]) -> None:
        self._path = state_dir / PROPOSALS_NAME
        self._constitution = constitution
        self._waiting = self._read()

    def waiting(self) -> list[Proposal]:
        """Those that may still come in force."""
        constitution = self._constitution()
        return [one for one in self._waiting.values() if not constitution.problem(one.document.amendment)]

    def take(self, document: AmendmentDocument, brought_by: SiteKey) -> tuple[Proposal, bool]:
        """Keep an amendment, or the signatures that it brings; gives it as it is now, and whether anything is new.

        Raises:
            LocalError: it cannot be the next one, or no current site has signed it; to be read by who brought it.
        """
        constitution = self._constitution()
        if problem := constitution.problem(document.amendment):
            raise LocalError(f"amendment {document.amendment.number}: {problem}")
        known = self._waiting.get(document.amendment.hash.hex())
        known_signatures: Mapping[str, str] = known.document.signatures if known else {}
        good = {name: document.signatures[name] for name in constitution.signed(document)}
        merged = {**good, **known_signatures}
        if not merged:
            raise LocalError(f"amendment {document.amendment.number}: no current site has signed it")
        kept_for = frozenset(_why_kept(constitution, name, brought_by) for name in good)
        if known is not None:
            # What its signer brought itself needs no other reason.
            kept_for = frozenset(why for why in kept_for if why.removesuffix(RELAYED) not in known.kept_for)
        is_new = known is None or len(merged) > len(known_signatures)
        if known is not None and not is_new and kept_for <= known.kept_for:
            return known, False
        whole = document.model_copy(update={"signatures": dict(sorted(merged.items()))})
        kept = Proposal(whole, kept_for | (known.kept_for if known is not None else frozenset()))
        others = [Proposal(one.document, one.kept_for - kept_for) for one in self.waiting() if one.hash != kept.hash]
        self._keep({one.hash: one for one in (*(other for other in others if other.kept_for), kept)})
        return kept, is_new

    def named(self, number_or_hash: str) -> Proposal:
        """The one of that number, or whose hash begins so; the only one there is for an empty text.

        Raises:
            LocalError: none, or several.
        """
        waiting = self.waiting()
        found = [
            one
            for one in waiting
            if number_or_hash in ("", str(one.document.amendment.number)) or one.hash.startswith(number_or_hash)
        ]
        if len(found) != 1:
            listed = ", ".join(f"{one.document.amendment.number} ({one.hash[:16]})" for one in waiting) or "none"
            raise LocalError(
                f"{'several amendments are' if found else 'no such amendment is'} proposed; there are: {listed}"
            )
        return found[0]

    def alarms(self, name: str) -> dict[str, str]:
        """What waits for the operator of this site: amendments that it has not signed."""
        unsigned = [proposal for proposal in self.waiting() if name not in proposal.document.signatures]
        return {
            f"amendment {row['number']} proposed": (
                f"{'; '.join(row['changes'])}. {row['missing']}. kmel-peer amendment sign shows it and asks"
            )
            for row in map(self.row, unsigned)
        }

    def row(self, proposal: Proposal) -> dict[str, Any]:
        """What an operator reads of it."""
        amendment = proposal.document.amendment
        return {
            "number": amendment.number,
            "hash": proposal.hash,
            "changes": changes_in_words(amendment),
            "signed": sorted(proposal.document.signatures),
            "missing": self.missing(proposal),
            "document": proposal.document.render(),
        }

    def missing(self, proposal: Proposal) -> str:
        """What is missing before it comes in force, in words."""
        constitution, amendment = self._constitution(), proposal.document.amendment
        if amendment.number <= constitution.number and constitution.hash_at(amendment.number) == amendment.hash:
            return "it is in force"
        return constitution.why_not_in_force(proposal.document) or "a quorum has signed: it comes in force now"

    def _read(self) -> dict[str, Proposal]:
        try:
            raw = parse_json(self._path.read_bytes())
            found = [
                Proposal(AmendmentDocument.parse(one["document"], "proposal"), frozenset(one["for"])) for one in raw
            ]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
            raise ConfigError(
                f"{self._path}: cannot be read: {error}. It holds amendments that wait for signatures; restore it, or "
                "move it away: the other sites hand on what they have"
            ) from None
        return {one.hash: one for one in found}

    def _keep(self, waiting: dict[str, Proposal]) -> None:
        rows = [{"document": one.document.render(), "for": sorted(one.kept_for)} for one in waiting.values()]
        private_directory(self._path.parent)
        write_whole(self._path, json.dumps(rows, indent=1).encode())
        self._waiting = waiting


def _why_kept(constitution: Constitution, signed_by: str, brought_by: SiteKey) -> str:
    """An entry of `Proposal.kept_for`."""
    rule = constitution.site_named(signed_by)
    assert rule is not None, "its signature was checked with its key"
    return rule.key if rule.site_key == brought_by else rule.key + RELAYED
