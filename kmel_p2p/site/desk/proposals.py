"""Amendments that are not in force yet, with the signatures so far: they come and go through the desks of the sites.

Only what a current site has signed is kept, and one amendment of each site that brings some. An amendment that a
quorum has signed is handed to the caller, which puts it in force.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import private_directory, write_whole

PROPOSALS_NAME = "proposals.json"

MAX_PROPOSALS_OF_ONE = 1
"""Amendments that wait because one site brought them: a newer one takes the place of its former one."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An amendment that waits for signatures.

    Attributes:
        document: with the good signatures so far.
        brought_by: key of the site that brought it first (hex).
    """

    document: AmendmentDocument
    brought_by: str

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
        if known is not None and len(merged) == len(known_signatures):
            return known, False
        whole = document.model_copy(update={"signatures": dict(sorted(merged.items()))})
        kept = Proposal(whole, known.brought_by if known else brought_by.hex())
        waiting = {one.hash: one for one in self.waiting()}
        others = [one for one in waiting.values() if one.brought_by == kept.brought_by and one.hash != kept.hash]
        for former in others[: max(0, len(others) + 1 - MAX_PROPOSALS_OF_ONE)]:
            del waiting[former.hash]
        self._keep({**waiting, kept.hash: kept})
        return kept, True

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

    def _read(self) -> dict[str, Proposal]:
        try:
            raw = parse_json(self._path.read_bytes())
            found = [Proposal(AmendmentDocument.parse(one["document"], "proposal"), str(one["by"])) for one in raw]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
            raise ConfigError(
                f"{self._path}: cannot be read: {error}. It holds amendments that wait for signatures; restore it, or "
                "move it away: the other sites hand on what they have"
            ) from None
        return {one.hash: one for one in found}

    def _keep(self, waiting: dict[str, Proposal]) -> None:
        rows = [{"document": one.document.render(), "by": one.brought_by} for one in waiting.values()]
        private_directory(self._path.parent)
        write_whole(self._path, json.dumps(rows, indent=1).encode())
        self._waiting = waiting
