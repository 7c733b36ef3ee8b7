"""From a raw cell to a label: relation, unit, declared assay limits, threshold, the charter's range."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.catalogue import look_up
from kmel_p2p.chem.dataset.units import Conversion, Scale, converter, log_sign
from kmel_p2p.chem.read.cells import ABOVE, BELOW, EQUAL, CellError, Reading, read_class, read_number
from kmel_p2p.chem.read.records import Mapped, RawCell
from kmel_p2p.chem.structures.table import StructureTable

LIMIT_TOLERANCE = 1e-6
"""Relative distance within which a value equals a declared limit; files and settings may round differently."""


@dataclass(slots=True)
class Readings:
    """What the cells of one assay endpoint held before compounds were merged; for the data report.

    Attributes:
        written: numbers in the unit of their column, without a relation of their own.
        native: numbers in the charter's unit, also those outside its range; with any relation.
        outside: how many of `native` were refused as outside the charter's range.
        units: unit -> numbers written in it.
        relations: of `native`, after declared limits were applied.
        limited: values that a declared limit made a bound.
        lowest: of `written`, the lowest that could be used.
    """

    written: list[float] = field(default_factory=list)
    native: list[float] = field(default_factory=list)
    relations: list[int] = field(default_factory=list)
    outside: int = 0
    units: Counter[str] = field(default_factory=Counter)
    limited: int = 0
    lowest: float = math.inf


class CellReader:
    """Reads cells of the mapped assay endpoints and records what they held."""

    def __init__(
        self, mapped: Sequence[Mapped], path: str, strict_units: bool, policy: FeatureRule, decimal: str = "."
    ) -> None:
        """Raises:
        ConfigError: with `strict_units`, a unit of the settings cannot be used; or settings contradict each other.
        """
        self._path = path
        self._decimal = decimal
        self._by_row = not strict_units
        self._mapped = {rule.place: rule for rule in mapped}
        self._converters: dict[tuple[int, str], Conversion | str] = {}
        self._scale = Scale(policy)
        self._classes = {
            rule.place: {word.strip().lower(): value for word, value in rule.column.classes.items()} for rule in mapped
        }
        self.readings = {rule.place: Readings() for rule in mapped}
        for rule in mapped:
            _check(rule, self._where(rule))
            strict = strict_units and not rule.column.unit_column
            if rule.endpoint.kind == "regression" and (strict or rule.column.unit):
                converter(rule.column.unit, rule.endpoint.unit, self._where(rule))

    def read(self, cell: RawCell, smiles: str) -> tuple[float, int]:
        """(label, relation).

        Args:
            smiles: of the row, for units that need the compound's mass.

        Raises:
            CellError: with the reason.
        """
        if cell.fault:
            raise CellError(cell.fault)
        rule = self._mapped[cell.place]
        if rule.endpoint.kind == "classification":
            if rule.column.threshold is None:
                return self._word(rule, cell.text), EQUAL
            return self._class(rule, read_number(cell.text, self._decimal), cell.unit), EQUAL
        written = read_number(cell.text, self._decimal)
        convert = self._convert(rule, cell.unit)
        reading = self._adjusted(rule, self._limited(rule, written, cell.unit), cell.unit)
        mass = self._scale.mass(smiles, rule.column.mass_of) if convert.mass_power else 1.0
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            native = convert(np.array([reading.value]), mass)
        value = float(native[0])
        relation = -reading.relation if convert.reverses else reading.relation
        readings = self.readings[cell.place]
        readings.units[cell.unit] += 1
        readings.native.append(value)
        readings.relations.append(relation)
        reason = rule.endpoint.refusal(value)
        if reason:
            low, high = rule.endpoint.valid_range
            readings.outside += not low <= value <= high
            raise CellError(reason)
        if relation == EQUAL:
            readings.lowest = min(readings.lowest, written.value)
        return float(rule.endpoint.label(native)[0]), relation

    def may_need_masses(self) -> bool:
        """Whether converting a number of this file may take the mass of its compound."""
        return any(
            rule.endpoint.kind == "regression"
            and rule.column.mass_of == "parent"
            and (self._by_row or rule.column.unit_column or self._convert(rule, rule.column.unit).mass_power)
            for rule in self._mapped.values()
        )

    def needs_mass(self, cell: RawCell) -> bool:
        """Whether this number does."""
        rule = self._mapped[cell.place]
        if cell.fault or rule.endpoint.kind != "regression" or rule.column.mass_of != "parent":
            return False
        try:
            return self._convert(rule, cell.unit).mass_power != 0
        except CellError:
            return False

    def learn_masses(self, table: StructureTable) -> None:
        """Take over the masses of structures that are standardised already."""
        self._scale.learn(table)

    def _limited(self, rule: Mapped, reading: Reading, unit: str) -> Reading:
        """A value without a relation that equals a declared limit is a bound."""
        readings = self.readings[rule.place]
        if reading.relation != EQUAL:
            return reading
        readings.written.append(reading.value)
        low, high = (self._in_unit(rule, limit, unit) for limit in (rule.column.low_limit, rule.column.high_limit))
        if low is not None and reading.value <= low + LIMIT_TOLERANCE * abs(low):
            readings.limited += 1
            return Reading(low, BELOW)
        if high is not None and reading.value >= high - LIMIT_TOLERANCE * abs(high):
            readings.limited += 1
            return Reading(high, ABOVE)
        return reading

    def _adjusted(self, rule: Mapped, reading: Reading, unit: str) -> Reading:
        """The value after `factor` and `complement` of the settings, still in `unit`."""
        column, value, relation = rule.column, reading.value, reading.relation
        if column.factor != 1.0:
            sign = log_sign(unit)
            value = value + sign * math.log10(column.factor) if sign else value * column.factor
        if column.complement:
            whole = float(self._conversion("%", unit, rule)(np.array([100.0]))[0])
            value, relation = whole - value, -relation
        return Reading(value, relation)

    def _word(self, rule: Mapped, text: str) -> float:
        try:
            return read_class(text, self._classes[rule.place]).value
        except CellError:
            try:
                read_number(text, self._decimal)
            except CellError:
                pass
            else:
                raise CellError(_threshold_wanted(rule.endpoint.name)) from None
            raise

    def _class(self, rule: Mapped, reading: Reading, unit: str) -> float:
        threshold = self._in_unit(rule, rule.column.threshold, unit)
        assert threshold is not None
        above = reading.value >= threshold if rule.column.positive == "above" else reading.value > threshold
        undecided_above = reading.relation == ABOVE and not above
        if undecided_above or (reading.relation == BELOW and reading.value > threshold):
            raise CellError(f"the bound does not say on which side of the threshold {threshold:g} the value lies")
        return float(above if rule.column.positive == "above" else not above)

    def _in_unit(self, rule: Mapped, setting: float | None, unit: str) -> float | None:
        """A number of the settings, which is in the settings' unit, in the unit of a row."""
        if setting is None or unit == rule.column.unit:
            return setting
        convert = self._conversion(rule.column.unit, unit, rule)
        if convert.mass_power or convert.reverses:
            raise CellError(
                f"its unit {unit!r} and the settings' {rule.column.unit!r} differ too much for the declared limits"
            )
        return float(convert(np.array([setting]))[0])

    def _conversion(self, found: str, wanted: str, rule: Mapped) -> Conversion:
        """Raises:
        CellError: there is none.
        """
        try:
            return converter(found, wanted, self._where(rule))
        except ConfigError:
            raise CellError(
                f"its unit is {wanted or 'not given'!r}, and numbers of data.columns.{rule.endpoint.name} are in "
                f"{found or 'no unit'!r}; give them a 'unit' that fits"
            ) from None

    def _convert(self, rule: Mapped, unit: str) -> Conversion:
        key = (rule.place, unit)
        if key not in self._converters:
            try:
                self._converters[key] = converter(unit, rule.endpoint.unit, self._where(rule))
            except ConfigError as error:
                self._converters[key] = str(error).removeprefix(self._where(rule) + ": ")
        known = self._converters[key]
        if isinstance(known, str):
            raise CellError(known)
        return known

    def _where(self, rule: Mapped) -> str:
        return f"{self._path}: column {rule.column.column!r} ({rule.endpoint.name})"


def _threshold_wanted(name: str) -> str:
    entry = look_up(name)
    usual = f" (usual: {entry.border}, class 1 {entry.positive} it)" if entry and entry.border else ""
    return f"a number where a class is wanted; set 'threshold' and 'positive' of data.columns.{name}{usual}"


def _check(rule: Mapped, where: str) -> None:
    column, endpoint = rule.column, rule.endpoint
    key = f"data.columns.{endpoint.name}"
    if endpoint.kind == "classification":
        if column.low_limit is not None or column.high_limit is not None:
            raise ConfigError(f"{key}: a class has no low_limit or high_limit; remove it")
        if column.factor != 1.0 or column.complement:
            raise ConfigError(f"{key}: a class has no factor or complement; remove it")
        return
    if column.threshold is not None:
        raise ConfigError(f"{key}.threshold: the charter takes {endpoint.name} as a value, not as a class; remove it")
    if column.classes:
        raise ConfigError(f"{key}.classes: the charter takes {endpoint.name} as a value, not as a class; remove it")
    if column.complement and (log_sign(column.unit) or not column.unit):
        raise ConfigError(
            f"{where}: complement is for shares; unit is {column.unit!r}, it must be '%' or 'fraction', no logarithm"
        )
    if column.complement and column.unit:
        converter("%", column.unit, f"{where}: complement is for shares")


def endpoint_values(endpoint: AssayEndpoint, readings: Readings) -> np.ndarray:
    """float64[n]: numbers within the charter's range, in its unit."""
    native = np.asarray(readings.native, np.float64)
    low, high = endpoint.valid_range
    chosen: np.ndarray = native[np.isfinite(native) & (native >= low) & (native <= high)]
    return chosen
