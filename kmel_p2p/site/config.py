"""Settings of one site: a TOML file, read strictly. Paths in it are relative to the file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.columns import Location, Source
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.strict import Name, StrictModel, parse_toml
from kmel_p2p.site.observe.egress import DAY_S, Rotation
from kmel_p2p.site.training_hours import Hours

MAX_FILE_BYTES = 1 << 20

KEY_VARIABLE = "KMEL_KEY"
"""Environment variable with the path of the site's key, in place of `site.key_file`: where a supervisor keeps it."""

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
    """Of this site in the charter."""
    key_file: Location = Path("site.key")
    """The site's only secret; its mode must be 0600. The environment variable KMEL_KEY names another file."""
    charter: Location = Path("charter.toml")
    """What all sites signed."""
    amendments: Annotated[tuple[Location, ...], pydantic.Field(max_length=1024)] = ()
    """Amendments of the charter, in order. Needed at a site that one of them added; the others hear of them."""
    start_file: Location | None = None
    """This site's copy of the file that the trunk starts from, where the charter names one (`model.start`). Without it,
    the peer fetches one from another site."""
    state_dir: Location = Path("state")
    """What the peer keeps: store, models, logs. One peer at a time works on it."""


def proxy_address(proxy: str) -> str:
    """host:port of a proxy as `network.proxy` names it; empty: none."""
    return proxy.removeprefix("socks5://")


class NetworkSection(StrictModel):
    """The one port of the site, and how others reach it."""

    bind: Address = "tcp://0.0.0.0:7700"
    """Local address to listen at; port 0 takes any free one."""
    advertise: Annotated[tuple[Address, ...], pydantic.Field(max_length=8)] = ()
    """Addresses told to the others; empty: those of the charter, else the bound one."""
    preset: Literal["lan", "wan", "sim"] = "wan"
    """How patient membership is: `wan` between companies, `lan` in one building, `sim` on one machine."""
    neighbours: Annotated[tuple[Name, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    """Where sites exchange shares: the only ones to send shares to, by name; empty: all. Lists should be mutual."""
    outbound_only: bool = False
    """True where no inbound port can be opened: this peer dials, and is answered on its own connections."""
    proxy: Annotated[
        str,
        worded_pattern(
            r"^(|socks5://(\[[0-9a-fA-F:.]+\]|[^:/@\s]+):\d{1,5})$",
            'a proxy such as "socks5://proxy.example:1080", or ""',
        ),
    ] = ""
    """SOCKS5 proxy (without a login) through which this peer dials all other sites; it resolves their names."""

    @property
    def proxy_address(self) -> str:
        """host:port of the proxy; empty: none."""
        return proxy_address(self.proxy)

    @pydantic.model_validator(mode="after")
    def _outbound_only_advertises_nothing(self) -> NetworkSection:
        if self.outbound_only and self.advertise:
            raise ValueError("outbound_only peers cannot be dialled: remove 'advertise', or set outbound_only = false")
        return self


class DataSection(Source):
    """The measurements of this site. They never leave it."""

    test: Location | None = None
    """Optional further file of the same layout, used for scoring only."""
    test_in_rounds: bool = False
    """True: every round is scored on the test fold, too, for a plot; otherwise it is scored once, at the end."""
    require_approval: bool = False
    """True: training starts only on the dataset that `kmel-peer data approve` was given."""
    structure_cache: Location | None = None
    """Where prepared structures are kept. Projects of one machine may share a folder, so that a structure that several
    of them use is prepared once. None: `cache/` in `state_dir`."""

    @property
    def test_source(self) -> Source | None:
        """The test file, read like the other; None where there is none."""
        return None if self.test is None else self.model_copy(update={"path": self.test})


LEAST_MEMORY_MB = 512
"""Of `resources.memory_mb`: torch and RDKit alone take some 400."""
LEAST_CPUS = 0.1
"""Of `resources.cpus`."""


class ResourcesSection(StrictModel):
    """How much of this machine the trainer may use."""

    threads: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    """Threads of the trainer, of all its processes together; 0: all cores."""
    launcher: Literal["none", "torchrun"] = "none"
    """`torchrun`: the trainer is several processes, each of which trains on its share of every batch."""
    processes: Annotated[int, pydantic.Field(ge=1, le=1024)] = 1
    """How many on each machine; on GPUs, at most as many as there are. More than one needs a launcher."""
    nodes: Annotated[int, pydantic.Field(ge=1, le=1024)] = 1
    """Machines with so many processes each, this one among them; docs/models.md says how the others start theirs."""
    rendezvous: Annotated[
        str, worded_pattern(r"^(|(\[[0-9a-fA-F:.]+\]|[^:/@\s]+):\d{1,5})$", 'host:port such as "node1:29400", or ""')
    ] = ""
    """Where the processes of several machines meet: a name of this machine, and a port that only they can reach."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the trainer computes; auto: on a GPU that torch can use (in bfloat16 if it has that), else on the CPU."""
    featurise_processes: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    """Processes that prepare structures; 0: all cores."""
    nice: Annotated[int, pydantic.Field(ge=0, le=19)] = 5
    """Priority given up by the trainer, so that the daemon always answers."""
    cpus: Annotated[float, pydantic.Field(ge=0, le=1024, allow_inf_nan=False)] = 0.0
    """Cores' worth of time that all processes of the trainer may use together, such as 2.5; 0: no limit."""
    memory_mb: Annotated[int, pydantic.Field(ge=0, le=1 << 24)] = 0
    """MiB that they may have together, at least 512; 0: no limit. docs/operate.md says what holds without a cgroup."""
    hours: Annotated[tuple[Hours, ...], pydantic.Field(max_length=64)] = ()
    """When rounds may begin, in this machine's local time, such as "Mon-Fri 20:00-06:00"; empty: always."""

    @property
    def allowed_threads(self) -> int:
        """`threads`; where they are not given, no more than `cpus` has time for. 0: all cores."""
        return self.threads or math.ceil(self.cpus)

    @property
    def allowed_featurise_processes(self) -> int:
        """`featurise_processes`, likewise."""
        return self.featurise_processes or math.ceil(self.cpus)

    @pydantic.model_validator(mode="after")
    def _limits_leave_room_and_several_processes_have_a_launcher(self) -> ResourcesSection:
        if self.launcher == "none" and (self.processes > 1 or self.nodes > 1):
            raise ValueError('processes and nodes above 1 need launcher = "torchrun"')
        if 0 < self.memory_mb < LEAST_MEMORY_MB:
            raise ValueError(f"no trainer starts in memory_mb = {self.memory_mb}: {LEAST_MEMORY_MB} or more, or 0")
        if 0 < self.cpus < LEAST_CPUS:
            raise ValueError(f"cpus = {self.cpus:g} is too little to train with: {LEAST_CPUS} or more, or 0")
        if (self.nodes > 1) != bool(self.rendezvous):
            raise ValueError('nodes above 1 and rendezvous = "host:port" go together')
        return self


class LedgerSection(StrictModel):
    """What this site does with its entries or rounds."""

    on_complete: Literal["stay", "exit"] = "stay"
    """When the run is complete: `stay` and relay, or `exit` with code 0."""
    hold: bool = False
    """True: every entry (or round) waits for the operator's approval before it leaves."""
    hear_s: Annotated[int, pydantic.Field(ge=10, le=30 * 86400)] = 600
    """Before its first entry after a start, a site hears what the others hold of its log: seconds that it waits for
    those that are away. Make it longer where machines may be put back from snapshots of their disks while partners are
    away for longer; `kmel-peer begin` ends the wait at once."""


class EgressSection(StrictModel):
    """The record of what left this site (`kmel-peer egress`): a chain of files in the state directory."""

    segment_mb: Annotated[int, pydantic.Field(ge=1, le=65536)] = 64
    """A file that has reached this size is closed, and the chain goes on in a new one."""
    segment_days: Annotated[int, pydantic.Field(ge=1, le=3650)] = 30
    """The same for its age."""
    keep_days: Annotated[int, pydantic.Field(ge=0, le=36500)] = 0
    """Closed files are deleted when all of their records are older, and the chain records it; 0: nothing is deleted."""

    @property
    def rotation(self) -> Rotation:
        """The same as the log reads it."""
        return Rotation(self.segment_mb << 20, self.segment_days * DAY_S, self.keep_days * DAY_S)


class PredictionsSection(StrictModel):
    """What this site predicts with, and the register of what it predicted."""

    versions: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 10
    """Versions of the models that are kept (`kmel-peer models`); the oldest are deleted, never the one in use."""
    graph_networks: Annotated[int, pydantic.Field(ge=0, le=10)] = 0
    """Graph networks (extra gnn) in the site's stacks beside their other learners; 3 is enough. 0: none."""
    record: bool = False
    """True: predictions of this site are recorded, without structures; `kmel-peer prospective` reports on them."""
    most: Annotated[int, pydantic.Field(ge=1000, le=100_000_000)] = 1_000_000
    """Predictions recorded at most, one per compound, assay endpoint and model version: some 250 MB per million."""


class BoardSection(StrictModel):
    """What this peer posts on the board by itself."""

    state_payoff: bool = True
    """When a run has ended: for which assay endpoints the federation pays for this site, by coarse classes, signed, for
    all sites to read. False: nothing is stated, and what was stated is withdrawn at the next start."""


class TrackingSection(StrictModel):
    """Curves of this site's run in the tools of its own people (extra tracking). They leave the site only where its
    operator names a server elsewhere."""

    tensorboard: Location | None = None
    """Folder for TensorBoard's event files."""
    mlflow: Annotated[str, pydantic.Field(max_length=2048)] = ""
    """Where MLflow tracks: the URI of a server such as "https://mlflow.example", or a folder; empty: nowhere."""
    experiment: Annotated[str, pydantic.Field(max_length=200)] = ""
    """Of MLflow; empty: named as the federation."""


class LogSection(StrictModel):
    """The log of the daemon, on standard error and in the state directory."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    format: Literal["json", "console"] = "json"
    """Of standard error; the file always has JSON."""


class MetricsSection(StrictModel):
    """Prometheus metrics and a status page, read-only. Off unless an address is given."""

    listen: Annotated[
        str,
        worded_pattern(
            r"^(|(127\.0\.0\.1|\[::1\]|localhost):\d{1,5})$", 'a loopback address such as "127.0.0.1:9477", or ""'
        ),
    ] = ""
    """A loopback address such as 127.0.0.1:9477, port 0 for any; whoever may see it can log in here anyway."""
    token_file: Location | None = None
    """A file with a token that page and metrics ask for, as password or bearer: for machines that others log in to."""


class SiteConfig(StrictModel):
    """Everything a site decides for itself."""

    site: SiteSection
    network: NetworkSection = NetworkSection()
    data: DataSection
    resources: ResourcesSection = ResourcesSection()
    ledger: LedgerSection = LedgerSection()
    egress: EgressSection = EgressSection()
    predictions: PredictionsSection = PredictionsSection()
    board: BoardSection = BoardSection()
    tracking: TrackingSection = TrackingSection()
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
    return parse_config(read_text(path, "kmel-peer init writes one; --config names another"), path)


def parse_config(text: str, path: Path) -> SiteConfig:
    """`load_config` of text that is at hand already; `path` names it and anchors relative paths."""
    config = parse_toml(SiteConfig, text, str(path))
    base = path.absolute().parent
    if key := os.environ.get(KEY_VARIABLE):
        config = config.model_copy(update={"site": config.site.model_copy(update={"key_file": Path(key).absolute()})})
    return config.model_copy(
        update={
            "site": _anchor(config.site, base, "key_file", "charter", "start_file", "state_dir").model_copy(
                update={"amendments": tuple(_absolute(base / path) for path in config.site.amendments)}
            ),
            "metrics": _anchor(config.metrics, base, "token_file"),
            "tracking": _anchored_tracking(config.tracking, base),
            "data": _anchor(config.data, base, "path", "test", "structures", "assays", "structure_cache").model_copy(
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


def _anchored_tracking(section: TrackingSection, base: Path) -> TrackingSection:
    """With an absolute folder for MLflow, too, unless it is a URI."""
    section = _anchor(section, base, "tensorboard")
    if not section.mlflow or "://" in section.mlflow:
        return section
    return section.model_copy(update={"mlflow": str(_absolute(base / section.mlflow))})


def _absolute(path: Path) -> Path:
    """Without `..`, so that errors show a path people recognise; symbolic links stay unless `..` crosses one."""
    return path.resolve() if ".." in path.parts else path


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
