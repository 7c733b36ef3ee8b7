"""Compounds in the file that nobody may use: unpublished series, licensed or collaboration compounds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from rdkit.Chem import inchi

from kmel_p2p.agreement.columns import EmbargoSection
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.parent import StructureError
from kmel_p2p.chem.structures.series import murcko_scaffold
from kmel_p2p.chem.structures.standardise import standardise

_KEY = re.compile(r"^[A-Z]{14}(-[A-Z]{10}-[A-Z])?$")


@dataclass(frozen=True, slots=True)
class Embargo:
    """The lists, ready for use.

    Attributes:
        skeletons: first blocks of InChIKeys; stereoisomers and salts of a listed compound are withheld with it.
        others: identities of listed compounds that InChI cannot name.
        scaffolds: Murcko scaffolds (canonical SMILES).
        projects: names of projects, lower case.
        met: members of the four sets that withheld something.
    """

    skeletons: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    scaffolds: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()
    met: set[str] = field(default_factory=set)

    def refusal(self, identity: str, scaffold: str) -> str:
        """Why a compound is withheld; empty when it is not."""
        if identity in self.others or identity[:14] in self.skeletons:
            self.met.add(identity if identity in self.others else identity[:14])
            return "embargo: the compound is on the list"
        if scaffold and scaffold in self.scaffolds:
            self.met.add(scaffold)
            return "embargo: the scaffold is on the list"
        return ""

    def project_refusal(self, project: str) -> str:
        """Why a project's rows are withheld; empty when they are not."""
        name = project.strip().lower()
        if name not in self.projects:
            return ""
        self.met.add(name)
        return "embargo: the project is on the list"

    def unmatched(self) -> tuple[str, ...]:
        """Entries of the lists that withheld nothing, in words; a misspelt name must not go unnoticed."""
        found = [f"project {name!r} is on the list, and no row that could be used names it"
                 for name in sorted(self.projects - self.met)]  # fmt: skip
        for listed, what in ((self.skeletons | self.others, "compounds"), (self.scaffolds, "scaffolds")):
            if missing := len(listed - self.met):
                found.append(f"{missing} of {len(listed)} {what} on the list kept nothing (more) back")
        return tuple(found)


def load_embargo(source: EmbargoSection, policy: FeatureRule) -> Embargo:
    """Read the lists.

    Raises:
        ConfigError: projects without a column. DataError: a list is missing, or a line of it is neither structure
            nor key; an embargo that is only half understood must stop the run.
    """
    if source.projects and not source.project_column:
        raise ConfigError("data.embargo.projects needs data.embargo.project_column: which column names the project?")
    if source.project_column and not source.projects:
        raise ConfigError("data.embargo.project_column needs data.embargo.projects: which projects are withheld?")
    skeletons, others, scaffolds = set(), set(), set()
    for number, text in _lines(source.compounds, "data.embargo.compounds"):
        if _KEY.match(text):
            skeletons.add(text[:14])
            continue
        try:
            structure, molecule = standardise(text, policy)
        except StructureError as error:
            raise _unreadable(source.compounds, number, text, "SMILES or InChIKey", error) from None
        key = str(inchi.MolToInchiKey(molecule) or "")  # type: ignore[no-untyped-call]
        if key:
            skeletons.add(key[:14])
        else:
            others.add(structure.identity)
    for number, text in _lines(source.scaffolds, "data.embargo.scaffolds"):
        try:
            _, molecule = standardise(text, policy)
        except StructureError as error:
            raise _unreadable(source.scaffolds, number, text, "SMILES", error) from None
        scaffold = murcko_scaffold(molecule)
        if not scaffold:
            raise DataError(
                f"{source.scaffolds}: line {number}: {text!r} has no ring, so no scaffold; list it as a compound"
            )
        scaffolds.add(scaffold)
    projects = frozenset(name.strip().lower() for name in source.projects)
    return Embargo(frozenset(skeletons), frozenset(others), frozenset(scaffolds), projects)


def _lines(path: Path | None, key: str) -> list[tuple[int, str]]:
    """Lines that are neither blank nor comments (`#`)."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the embargo list ({key}) cannot be read: {error}") from None
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _unreadable(path: Path | None, number: int, text: str, wanted: str, error: Exception) -> DataError:
    return DataError(f"{path}: line {number}: {text[:80]!r} is not a {wanted} ({error}); correct or remove it")
