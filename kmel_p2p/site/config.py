"""Settings of one site: a TOML file, read strictly. Paths in it are relative to the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w

from kmel_p2p.agreement.charter import MAX_SITES, Name
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import StrictModel, parse_toml
from kmel_p2p.chem.read.dates import check_format
from kmel_p2p.chem.read.text_file import text_encoding

MAX_FILE_BYTES = 1 << 20

Location = Annotated[
    Path,
    pydantic.BeforeValidator(lambda value: Path(value).expanduser() if isinstance(value, str) and value else value),
]
"""A path, written as a string."""

_ADDRESS = re.compile(r"^tcp://(\[[0-9a-fA-F:.%]+\]|[^:/\s]+):(\d{1,5})$")


def _check_address(value: str) -> str:
    match = _ADDRESS.match(value)
    if not match or int(match.group(2)) > 65535:
        raise ValueError("an address looks like tcp://host:port, tcp://192.0.2.7:7700 or tcp://[2001:db8::7]:7700")
    return value


Address = Annotated[str, pydantic.AfterValidator(_check_address)]
"""Where a peer listens or is reached: tcp://host:port."""


class SiteSection(StrictModel):
    """Who this is and where its files are."""

    name: Name
    key_file: Location = Path("site.key")
    charter: Location = Path("charter.toml")
    amendments: Annotated[tuple[Location, ...], pydantic.Field(max_length=1024)] = ()
    """Amendments of the charter, in order. Needed at a site that one of them added; the others hear of them."""
    state_dir: Location = Path("state")


class NetworkSection(StrictModel):
    """The one port of the site, and how others reach it."""

    bind: Address = "tcp://0.0.0.0:7700"
    """Local address to listen at; port 0 takes any free one."""
    advertise: Annotated[tuple[Address, ...], pydantic.Field(max_length=8)] = ()
    """Addresses told to the others; empty: those of the charter, else the bound one."""
    preset: Literal["lan", "wan", "sim"] = "wan"
    neighbours: Annotated[tuple[Name, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    """Mode pushsum: the only sites that shares are sent to, by name; empty: all. Lists should be mutual."""
    outbound_only: bool = False
    """True where no inbound port can be opened: this peer dials, and is answered on its own connections."""

    @pydantic.model_validator(mode="after")
    def _outbound_only_advertises_nothing(self) -> NetworkSection:
        if self.outbound_only and self.advertise:
            raise ValueError("outbound_only peers cannot be dialled: remove 'advertise', or set outbound_only = false")
        return self


class ColumnRule(StrictModel):
    """Where the values of one assay endpoint are, and how they are written (see `agreement.columns.Column`)."""

    column: str = ""
    unit: str = ""
    low_limit: float | None = None
    """Values at or below it mean "below the assay's limit"; in the unit of the column."""
    high_limit: float | None = None
    factor: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] = 1.0
    """What the written numbers are multiplied by to be in `unit`."""
    complement: bool = False
    """The numbers are what is missing to the whole: % bound where the charter counts % unbound."""
    threshold: float | None = None
    """Makes classes of numbers, for assay endpoints that the charter takes as classes."""
    positive: Literal["above", "below"] = "above"
    match: Mapping[str, str] = {}
    """Column -> value: which rows are meant; formats wide, sdf and kmelloddy."""
    relation_column: str = ""
    """Formats wide and sdf: column with the relation (<, =, >) of each value, where cells hold the number alone."""
    unit_column: str = ""
    """Formats wide and sdf: column with the unit of each value; `unit` is that of rows that name none."""
    classes: Mapping[str, Annotated[int, pydantic.Field(ge=0, le=1)]] = {}
    """Words of the table and the class each means, where they are not the usual ones: { "+" = 1, "-" = 0 }."""
    part: Literal["", "AtoB", "BtoA", "ratio"] = ""
    expert_threshold: Annotated[int, pydantic.Field(ge=1, le=5)] = 1
    """MELLODDY-TUNER: which threshold of T0 makes classes where `threshold` is not given."""
    mass_of: Literal["parent", "written"] = "parent"
    """Where ug/mL becomes umol/L or alike: mass of the compound, or of the form as written, counter-ions included."""

    @pydantic.model_validator(mode="after")
    def _limits_are_ordered(self) -> ColumnRule:
        if self.low_limit is not None and self.high_limit is not None and not self.low_limit < self.high_limit:
            raise ValueError("low_limit must be below high_limit")
        if self.classes and self.threshold is not None:
            raise ValueError("'classes' is for words and 'threshold' for numbers; remove one of them")
        return self


class EmbargoSection(StrictModel):
    """What is in the file but must not be used."""

    compounds: Location | None = None
    """Text file, one SMILES or InChIKey per line."""
    scaffolds: Location | None = None
    """Text file, one SMILES per line."""
    project_column: str = ""
    projects: tuple[str, ...] = ()


class TimeSection(StrictModel):
    """What this site measured last is for testing."""

    column: str = ""
    """Column (property) with the date of a row."""
    test_from: str = ""
    """Compounds first measured on this day (2024-05-31, 2024-05 or 2024) or later are not trained on."""
    format: str = ""
    """How the column writes dates, where not as test_from does: %d/%m/%Y, %d-%b-%Y, ..."""

    @pydantic.model_validator(mode="after")
    def _both_or_none(self) -> TimeSection:
        if bool(self.column) != bool(self.test_from):
            raise ValueError("'column' and 'test_from' go together; give both or none")
        if self.format:
            try:
                check_format(self.format)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self


class DataSection(StrictModel):
    """The measurements of this site. They never leave it."""

    format: Literal["wide", "kmelloddy", "tuner", "sdf"] = "wide"
    path: Location
    smiles_column: str = "smiles"
    separator: Literal[",", ";", "\t", "|"] = ","
    """Between the cells of CSV files."""
    decimal: Literal[".", ","] = "."
    """Before the decimals of numbers."""
    encoding: str = "utf-8"
    """Of text files, by a name that Python knows: utf-8, cp949, cp1252, utf-16, ..."""
    structures: Location | None = None
    """MELLODDY-TUNER's T2; `path` is T1."""
    assays: Location | None = None
    """MELLODDY-TUNER's T0; optional."""
    test: Location | None = None
    """Optional further file of the same layout, used for scoring only."""
    require_approval: bool = False
    """True: training starts only on the dataset that `kmel-peer data approve` was given."""
    embargo: EmbargoSection = EmbargoSection()
    time: TimeSection = TimeSection()
    columns: Annotated[Mapping[str, ColumnRule], pydantic.Field(min_length=1)]
    """Assay endpoint of the charter -> column of the file."""

    @pydantic.model_validator(mode="after")
    def _format_fits(self) -> DataSection:
        if self.format == "tuner" and self.structures is None:
            raise ValueError("format 'tuner' needs 'structures': the file T2 that holds the SMILES")
        if self.format != "tuner" and (self.structures or self.assays):
            raise ValueError("'structures' and 'assays' belong to format 'tuner'; remove them")
        for name, rule in self.columns.items():
            if self.format != "kmelloddy" and not rule.column:
                raise ValueError(f"columns.{name}: 'column' is missing")
            if self.format == "kmelloddy" and not rule.match:
                raise ValueError(f"columns.{name}: 'match' is missing; it says which rows are meant")
            if self.format != "kmelloddy" and rule.part:
                raise ValueError(f"columns.{name}: 'part' belongs to format 'kmelloddy'; remove it")
            if self.format == "tuner" and rule.match:
                raise ValueError(f"columns.{name}: format 'tuner' has no 'match', its 'column' is the assay; remove it")
            if self.format in ("tuner", "kmelloddy") and (rule.relation_column or rule.unit_column):
                raise ValueError(
                    f"columns.{name}: format {self.format!r} says itself where relations and units are; "
                    "remove 'relation_column' and 'unit_column'"
                )
        if self.separator == self.decimal:
            raise ValueError("'separator' and 'decimal' are the same character; which one is it?")
        return self

    @pydantic.field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        try:
            text_encoding(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name


class ResourcesSection(StrictModel):
    """How much of this machine the trainer may use."""

    threads: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    """Threads of the trainer; 0: all cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the trainer computes; auto: on a GPU that torch can use (in bfloat16 if it has that), else on the CPU."""
    featurise_processes: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    """Processes that prepare structures; 0: all cores."""
    nice: Annotated[int, pydantic.Field(ge=0, le=19)] = 5
    """Priority given up by the trainer, so that the daemon always answers."""


class LedgerSection(StrictModel):
    """What this site does with its entries; in mode pushsum, with its rounds."""

    on_complete: Literal["stay", "exit"] = "stay"
    hold: bool = False
    """True: every entry (mode pushsum: every round) waits for the operator's approval before it leaves."""


class LogSection(StrictModel):
    """The log of the daemon, on standard error and in the state directory."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class MetricsSection(StrictModel):
    """Prometheus metrics and a status page, read-only. Off unless an address is given."""

    listen: Annotated[str, pydantic.Field(pattern=r"^(|(127\.0\.0\.1|\[::1\]|localhost):\d{1,5})$")] = ""
    """A loopback address such as 127.0.0.1:9477, port 0 for any; whoever may see it can log in here anyway."""


class SiteConfig(StrictModel):
    """Everything a site decides for itself."""

    site: SiteSection
    network: NetworkSection = NetworkSection()
    data: DataSection
    resources: ResourcesSection = ResourcesSection()
    ledger: LedgerSection = LedgerSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()

    def render(self) -> str:
        """The effective settings, defaults filled in, as TOML that reads back to an equal object."""
        return tomli_w.dumps(_without_none(self.model_dump(mode="json")))


def load_config(path: Path) -> SiteConfig:
    """Read a site's settings; every path in the result is absolute.

    Raises:
        ConfigError: names file and key, what was found, and the nearest known key.
    """
    return parse_config(read_text(path, "kmel-peer init writes one"), path)


def parse_config(text: str, path: Path) -> SiteConfig:
    """`load_config` of text that is at hand already; `path` names it and anchors relative paths."""
    config = parse_toml(SiteConfig, text, str(path))
    base = path.absolute().parent
    return config.model_copy(
        update={
            "site": _anchor(config.site, base, "key_file", "charter", "state_dir").model_copy(
                update={"amendments": tuple(_absolute(base / path) for path in config.site.amendments)}
            ),
            "data": _anchor(config.data, base, "path", "test", "structures", "assays").model_copy(
                update={"embargo": _anchor(config.data.embargo, base, "compounds", "scaffolds")}
            ),
        }
    )


def read_text(path: Path, remedy: str) -> str:
    """The text of a small settings file.

    Raises:
        ConfigError: missing, unreadable, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; is this the right file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _anchor(section: Any, base: Path, *names: str) -> Any:
    moved = {name: _absolute(base / value) for name in names if (value := getattr(section, name)) is not None}
    return section.model_copy(update=moved)


def _absolute(path: Path) -> Path:
    """Without `..`, so that errors show a path people recognise; symbolic links stay unless `..` crosses one."""
    return path.resolve() if ".." in path.parts else path


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
