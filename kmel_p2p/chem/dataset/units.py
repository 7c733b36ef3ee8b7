"""Units of measurements: converted where known and compatible, refused otherwise; with molar masses where needed."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.read.cells import CellError
from kmel_p2p.chem.structures.parent import StructureError
from kmel_p2p.chem.structures.standardise import standardise
from kmel_p2p.chem.structures.table import StructureTable

_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")

_CELLS = "million_cells"
_PER_CELLS = re.compile(
    r"/\s*\(?(?:10\s*(?:\^|\*\*)?\s*6|1[eE]6|million)\s*(?:cells?|hepatocytes?)?\)?"
    r"|[.·*\s]*\(?10\^?6\s*(?:cells?|hepatocytes?)\)?\s*\^?-1"
)
"""Hepatocyte clearance is per million cells, often written as a bare `/10^6`, which is not a number to divide by."""

_ALIASES = dict.fromkeys(("pIC50", "pEC50", "pAC50", "pKi", "pKd", "pXC50", "pChEMBL"), "-log10(mol/L)")

_PER_BODY = re.compile(r"/\s*kg\b|\bkg\s*(\^|\*\*)?\s*-\s*1")
"""Per kilogram: in a clearance, of body weight; per mg or g is of protein or liver. pint would convert the two."""

_CLEARANCE = {"[length]": 3, "[time]": -1, "[mass]": -1}

_LOG10 = re.compile(r"^(?P<sign>-?)\s*log10\((?P<inner>.*)\)$")


@dataclass(frozen=True, slots=True)
class Conversion:
    """From one unit to another.

    Attributes:
        factor: of the quantities themselves, not of their logarithms.
        from_log, to_log: 1 where decimal logarithms come in or go out, -1 where negative ones do (pIC50), else 0.
        mass_power: 0 where the units measure the same thing; -1 from mass to amount of substance (ug/mL to umol/L),
            1 the other way: then `factor` goes with this power of the compound's molar mass in g/mol.
    """

    factor: float = 1.0
    from_log: int = 0
    to_log: int = 0
    mass_power: int = 0

    @property
    def reverses(self) -> bool:
        """Whether larger values become smaller ones, so that "below" becomes "above"."""
        return (self.from_log == -1) != (self.to_log == -1)

    def __call__(self, values: NDArray[np.float64], mass: float = 1.0) -> NDArray[np.float64]:
        """Values (any shape) in the wanted unit; `mass` in g/mol counts only where `mass_power` is not 0."""
        factor: float = self.factor * mass**self.mass_power
        if self.from_log and self.to_log:
            return self.to_log * (self.from_log * values + math.log10(factor))
        quantities: NDArray[np.float64] = (np.power(10.0, self.from_log * values) if self.from_log else values) * factor
        return self.to_log * np.log10(quantities) if self.to_log else quantities


def converter(found: str, wanted: str, where: str) -> Conversion:
    """How values in unit `found` become values in unit `wanted` (the charter's).

    `log10(mol/L)` means decimal logarithms of values in mol/L, `-log10(mol/L)` negative ones (pIC50).

    Args:
        where: file and column, for the error.

    Raises:
        ConfigError: a unit is missing or unknown, or the two do not measure the same thing.
    """
    found, wanted = _ALIASES.get(found.strip(), found), _ALIASES.get(wanted.strip(), wanted)
    if found == wanted:
        sign = log_sign(found)
        return Conversion(from_log=sign, to_log=sign)
    if not found:
        raise ConfigError(f"{where}: no unit is given; the charter's is {wanted!r}. Set 'unit' of the column")
    if not wanted:
        raise ConfigError(f"{where}: unit is {found!r}, but the charter's assay endpoint has none; remove 'unit'")
    found_log, wanted_log = _LOG10.match(found), _LOG10.match(wanted)
    factor, power = _factor(
        found_log["inner"] if found_log else found, wanted_log["inner"] if wanted_log else wanted, where
    )
    return Conversion(factor, log_sign(found), log_sign(wanted), power)


def log_sign(unit: str) -> int:
    """1 for `log10(...)`, -1 for `-log10(...)`, 0 for anything else."""
    match = _LOG10.match(_ALIASES.get(unit.strip(), unit))
    return 0 if match is None else -1 if match["sign"] else 1


def _factor(found: str, wanted: str, where: str) -> tuple[float, int]:
    """Factor, and the power of the molar mass that goes with it."""
    if found == wanted:
        return 1.0, 0
    pint = _pint()
    try:
        have, want = _quantity(found), _quantity(wanted)
        ratio = have / want
    except _OddUnit as error:
        raise ConfigError(f"{where}: unit {found!r} (charter: {wanted!r}): {error}") from None
    except (pint.errors.PintError, ValueError, TypeError, AttributeError, SyntaxError, AssertionError) as error:
        raise ConfigError(f"{where}: unit {found!r} (charter: {wanted!r}) is not known: {error}") from None
    except Exception as error:  # pint's tokenizer lets others through on odd text
        raise ConfigError(f"{where}: unit {found!r} cannot be read: {error}") from None
    if (_CELLS in str(have.units)) != (_CELLS in str(want.units)):
        raise ConfigError(
            f"{where}: unit {found!r} cannot be converted to the charter's {wanted!r}: "
            "only one of them is per million cells"
        )
    is_clearance = dict(have.dimensionality) == _CLEARANCE
    if is_clearance and bool(_PER_BODY.search(found)) != bool(_PER_BODY.search(wanted)):
        raise ConfigError(
            f"{where}: unit {found!r} cannot be converted to the charter's {wanted!r}: only one of them is per kg of "
            "body weight, the other per mass of protein. If you know how much protein a kg holds, give the charter's "
            "unit as 'unit' and the multiplier of your values as 'factor' (docs/data.md)"
        )
    for unit, power in (("dimensionless", 0), ("g/mol", -1), ("mol/g", 1)):
        try:
            return float(ratio.to(unit).magnitude), power
        except pint.errors.DimensionalityError:
            continue
    raise ConfigError(
        f"{where}: unit {found!r} cannot be converted to the charter's {wanted!r}; they measure different things"
    )


@functools.cache
def _pint() -> Any:
    # Costs a third of a second, and most sites write in the charter's unit.
    import pint

    return pint


@functools.cache
def _registry() -> Any:
    registry = _pint().UnitRegistry(autoconvert_offset_to_baseunit=True, on_redefinition="ignore")
    # In assay tables M is molar and never metre's mega or a mass.
    registry.define("molar = mole / liter = M")
    registry.define("ratio = []")
    registry.define("fraction = []")
    registry.define(f"{_CELLS} = [cells]")
    return registry


class _OddUnit(ValueError):
    """A spelling that could mean two things."""


def _quantity(text: str) -> Any:
    """What pint understands of a unit as assay tables write it."""
    text = text.strip().translate(_SUPERSCRIPTS)
    if re.match(r"^[x×]?\s*10[eE]-", text):
        raise _OddUnit("10e-6 is 1e-5; write 10^-6 or 1e-5, whichever is meant")
    if text.startswith("log("):
        raise _OddUnit("which logarithm? Write log10(...)")
    text = _PER_CELLS.sub(f"/{_CELLS}", text)
    text = re.sub(r"\s*\bprotein$", "", text)
    # "10-6 cm/s" is how permeability is written in K-MELLODDY tables, "10'-6 cm/s" in ChEMBL.
    text = re.sub(r"^(?:[x×]\s*)?(?:10\s*[\^']?|E)\s*-\s*(\d+)\s*(?=[A-Za-zµμ])", r"1e-\1 ", text)
    # "uL.min-1.mg-1" and "ng·h/mL" are products; a number after a unit is its power.
    text = re.sub(r"\b([A-Za-zµμ]+)\s*\^?-\s*(\d)(?!\d)", r"\1**-\2", text)
    text = re.sub(r"(?<=[A-Za-z0-9])[·.](?=[A-Za-zµμ])", "*", text)
    return _registry().Quantity(text)


MassOf = Literal["parent", "written"]


class Scale:
    """Average molar masses (g/mol) of structures as written, for units that count mass where the charter counts moles.

    `parent` is the mass of the standardised structure, without counter-ions: what an assay that quantifies the compound
    itself (by mass spectrometry or absorption) reports. `written` is that of the whole record, salt and solvent
    included: right where a concentration was made up by weighing the form that the SMILES shows.
    """

    def __init__(self, policy: FeatureRule) -> None:
        self._policy = policy
        self._known: dict[tuple[str, MassOf], float | str] = {}

    def learn(self, table: StructureTable) -> None:
        """Take parents from structures that are standardised already."""
        for source, smiles, reason in zip(table.sources, table.smiles, table.reasons, strict=True):
            self._known[source, "parent"] = reason if reason else _weight(_parsed(smiles))

    def mass(self, smiles: str, of: MassOf) -> float:
        """Average molar mass in g/mol.

        Raises:
            CellError: the structure cannot be used, and why.
        """
        key = (smiles, of)
        if key not in self._known:
            self._known[key] = self._weigh(smiles, of)
        known = self._known[key]
        if isinstance(known, str):
            raise CellError(f"its unit needs the compound's mass: {known}")
        return known

    def _weigh(self, smiles: str, of: MassOf) -> float | str:
        if of == "written":
            return _weight(_parsed(smiles))
        try:
            _, molecule = standardise(smiles, self._policy)
        except StructureError as error:
            return str(error)
        return _weight(molecule)


def _parsed(smiles: str) -> Chem.Mol | None:
    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    return molecule


def _weight(molecule: Chem.Mol | None) -> float | str:
    """g/mol, or why there is none."""
    if molecule is None:
        return "SMILES does not parse"
    mass = float(Descriptors.MolWt(molecule))  # type: ignore[attr-defined]
    return mass if mass > 0 else "no atom with a mass"
