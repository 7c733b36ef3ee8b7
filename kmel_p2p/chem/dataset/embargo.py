"""Compounds in the file that nobody may use: unpublished series, licensed or collaboration compounds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rdkit import Chem, rdBase

from kmel_p2p.agreement.columns import EmbargoSection
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.parent import StructureError, counter_ions, neutral_part, part_key, parts_of
from kmel_p2p.chem.structures.series import murcko_scaffold, skeleton
from kmel_p2p.chem.structures.standardise import parse, standardise

_KEY = re.compile(r"^[A-Z]{14}(-[A-Z]{10}-[A-Z])?$")


@dataclass(frozen=True, slots=True)
class Embargo:
    """The lists, ready for use.

    A record is withheld if any part of it, as written or standardised, is on the list: the part itself, a stereoisomer,
    a charged form or a tautomer (`parent.part_key`, `series.skeleton`).

    Attributes:
        compounds: key or skeleton of a part -> the line of the list, in words.
        scaffolds: Murcko scaffold (canonical SMILES) -> the line of the list, in words.
        projects: names of projects, lower case.
        withheld: line or project -> rows that it withheld.
    """

    compounds: Mapping[str, str] = field(default_factory=dict)
    scaffolds: Mapping[str, str] = field(default_factory=dict)
    projects: frozenset[str] = frozenset()
    withheld: Counter[str] = field(default_factory=Counter)

    def refusal(self, written: str, standardised: str, scaffold: str) -> str:
        """Why a row is withheld; empty if it is not.

        Args:
            written: SMILES of the record.
            standardised: SMILES of its parent; empty if the record cannot be used anyway.
            scaffold: Murcko scaffold of the parent.
        """
        if not self.compounds and not self.scaffolds:
            return ""
        parts = _parts(written) + (_parts(standardised) if standardised else [])
        for part in parts if self.compounds else ():
            for key in _keys(part):
                if key in self.compounds:
                    return self._withhold(self.compounds[key], "compound")
        for own in (scaffold, *(_scaffold(part) for part in parts if self.scaffolds)):
            if own and own in self.scaffolds:
                return self._withhold(self.scaffolds[own], "scaffold")
        return ""

    def project_refusal(self, project: str) -> str:
        """Why a project's rows are withheld; empty if they are not."""
        name = project.strip().lower()
        return self._withhold(name, "project") if name in self.projects else ""

    def _withhold(self, entry: str, what: str) -> str:
        self.withheld[entry] += 1
        return f"embargo: the {what} is on the list ({entry})"

    def unmatched(self) -> tuple[str, ...]:
        """Entries of the lists that withheld nothing, in words; a misspelt name must not go unnoticed."""
        found = [f"project {name!r} is on the list, and no row that could be used names it"
                 for name in sorted(self.projects) if not self.withheld[name]]  # fmt: skip
        for listed, what in ((self.compounds, "compounds"), (self.scaffolds, "scaffolds")):
            entries = dict.fromkeys(listed.values())
            if missing := [entry for entry in entries if not self.withheld[entry]]:
                shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
                found.append(f"{len(missing)} of {len(entries)} {what} on the list withheld nothing ({shown})")
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
    compounds: dict[str, str] = {}
    scaffolds: dict[str, str] = {}
    for number, text in _lines(source.compounds, "data.embargo.compounds"):
        entry = f"line {number}: {text[:60]}"
        if _KEY.match(text):
            compounds.setdefault(text[:14], entry)
            continue
        try:
            parts = _listed(text, policy)
        except StructureError as error:
            raise _unreadable(source.compounds, number, text, "SMILES or InChIKey", error) from None
        for part in parts:
            for key in _keys(part):
                compounds.setdefault(key, entry)
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
        scaffolds.setdefault(scaffold, f"line {number}: {text[:60]}")
    projects = frozenset(name.strip().lower() for name in source.projects)
    return Embargo(compounds, scaffolds, projects)


def _listed(text: str, policy: FeatureRule) -> list[Chem.Mol]:
    """The parts of a line that are on the list: its parent; without one (a metal complex, a mixture), all that are no
    counter-ions.

    Raises:
        StructureError: it is not a structure, or all of it is counter-ions.
    """
    molecule = parse(text)
    try:
        return [standardise(text, policy)[1]]
    except StructureError as error:
        parts = [part for part in Chem.GetMolFrags(molecule, asMols=True) if part_key(part) not in counter_ions()]
        parts = [part for part in parts if part.GetNumHeavyAtoms() > 1]
        if not parts:
            raise error
        return parts


def _parts(smiles: str) -> list[Chem.Mol]:
    """The parts of a record as it is written; none if it cannot be read."""
    with rdBase.BlockLogs():
        try:
            molecule = parse(smiles)
        except StructureError:
            return []
        try:
            return parts_of(molecule)
        except StructureError:  # a metal complex: it may be on the list as it is
            return list(Chem.GetMolFrags(molecule, asMols=True))


def _keys(part: Chem.Mol) -> tuple[str, str]:
    return part_key(part), skeleton(part)


def _scaffold(part: Chem.Mol) -> str:
    return murcko_scaffold(neutral_part(part))


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
