"""What the launcher does before and around the daemons; the daemons here are small stand-in programs."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rdkit import Chem

from kmel_p2p.agreement.errors import ConfigError, DataError, LocalError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures import described as described_module
from kmel_p2p.chem.structures.cache import FOLDER, StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.worker.prepare import prepare
from kmel_p2p.simulate import SiteFailedError
from kmel_p2p.simulate.config import load_simulation
from kmel_p2p.simulate.data import _read, divide, hand_out
from kmel_p2p.simulate.follow import follow
from kmel_p2p.simulate.interrupts import Interrupts
from kmel_p2p.simulate.launcher import MARKER, prepare_directory
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess, create_federation, free_ports
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site, trainer_plan
from kmel_p2p.site.state.lockfile import SiteLock

ROOT = Path(__file__).parents[3]
SETTINGS = """
task = "trial"
[data]
kind = "csv"
train = "train.csv"
test = "test.csv"
[sites]
names = ["north", "south"]
[charter]
federation = "trial"
[[charter.assay_endpoints]]
name = "solubility"
column = "logS"
unit = "log10(mol/L)"
"""
RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "c1ccoc1", "c1ccc2ccccc2c1", "C1CCNCC1")
TRAIN = "smiles,logS\n" + "".join(f"{'C' * n}{ring},-{n}.5\n" for n in range(1, 5) for ring in RINGS) + "bad,1\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text("smiles,logS\nCCO,1\n")
    path = tmp_path / "sim.toml"
    path.write_text(SETTINGS)
    return path


def small(config: Path, out: Path) -> LocalFederation:
    simulation = load_simulation(config)
    policy = simulation.charter_of((rule("north"),), "").features
    divided = divide(simulation, policy, out)
    return create_federation(simulation, out, divided.parts, divided.test, "")


def rule(name: str) -> Any:
    from kmel_p2p.agreement.charter import SiteRule
    from kmel_p2p.simulate.sites import simulated_identity

    return SiteRule(name=name, key=simulated_identity(0, name).key.hex())


def test_the_shipped_settings_are_valid() -> None:
    for path in sorted((ROOT / "configs" / "sim").glob("*.toml")):
        simulation = load_simulation(path, seed=5)
        assert simulation.seed == 5
        sites = tuple(rule(name) for name in simulation.sites.names)
        assert simulation.charter_of(sites, "").model.seed == 5


def test_every_compound_goes_to_one_site_and_every_site_is_ready_to_run(config: Path, tmp_path: Path) -> None:
    federation = small(config, tmp_path / "out")
    parts = [(site.folder / "measurements.csv").read_text().splitlines()[1:] for site in federation]
    assert sorted(parts[0] + parts[1]) == sorted(TRAIN.splitlines()[1:])
    assert all(parts)
    smiles = [[line.split(",")[0] for line in part if not line.startswith("bad")] for part in parts]
    series = [set(describe_all(part, FeatureRule(bits=64)).table.series) for part in smiles]
    assert not series[0] & series[1]
    for site in federation:
        ready = load_site(load_config(site.folder / "site.toml"))
        assert ready.rule.name == site.name
        assert ready.config.data.test == tmp_path / "out" / "data" / "test.csv"
        assert ready.config.network.bind == ready.rule.addresses[0]
    assert len({site.folder for site in federation}) == 2


def test_the_table_of_the_demo_is_whole() -> None:
    header, train, scored, owners = _read(load_simulation(ROOT / "configs" / "sim" / "solubility.toml"))
    assert (header, owners) == (["smiles", "SOL"], None)
    assert (len(train), len(scored)) == (1025, 257)
    assert {len(row) for row in train + scored} == {2}
    assert all(Chem.MolFromSmiles(smiles) and float(value) < 5 for smiles, value in train + scored)


def test_silos_keep_the_files_they_came_with(config: Path, tmp_path: Path) -> None:
    rows = TRAIN.splitlines()
    (tmp_path / "one.csv").write_text("\n".join(rows[:6]) + "\n")
    (tmp_path / "two.csv").write_text("\n".join([rows[0], *rows[5:]]) + "\n")  # one compound at both
    settings = SETTINGS.replace('kind = "csv"', 'kind = "silos"')
    config.write_text(settings.replace('train = "train.csv"', 'parts = { south = "one.csv", north = "two.csv" }'))
    federation = small(config, tmp_path / "out")
    found = {site.name: (site.folder / "measurements.csv").read_text().splitlines()[1:] for site in federation}
    assert found == {"south": rows[1:6], "north": rows[5:]}
    (tmp_path / "two.csv").write_text("smiles,other\nCCO,1\n")
    with pytest.raises(DataError, match=r"two\.csv: has no column 'logS'"):
        small(config, tmp_path / "out2")
    config.write_text(settings.replace('train = "train.csv"', 'parts = { east = "one.csv", north = "two.csv" }'))
    with pytest.raises(ConfigError, match=r"data\.parts and sites\.names must name the same sites; 'east'"):
        small(config, tmp_path / "out3")
    config.write_text(settings)
    with pytest.raises(ConfigError, match="needs parts"):
        small(config, tmp_path / "out4")


def test_the_same_seed_founds_the_same_federation(config: Path, tmp_path: Path) -> None:
    one, other = small(config, tmp_path / "a"), small(config, tmp_path / "b")
    assert [s.key for s in one.document.charter.sites] == [s.key for s in other.document.charter.sites]
    assert one["north"].name == "north"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("kind =", "knd ="), ConfigError, "did you mean 'kind'"),
        (('train = "train.csv"', ""), ConfigError, "needs both train and test"),
        (('names = ["north", "south"]', 'names = ["north"]'), ConfigError, "sites.names"),
        (('"south"]', '"north"]'), ConfigError, "'north' twice"),
        (('federation = "trial"', 'federation = "trial"\npace.start_sites = 3'), ConfigError, "start_sites is 3"),
        (("train.csv", "none.csv"), DataError, "no such file"),
        (('column = "logS"', 'column = "logP"'), DataError, "no column 'logP'; it has: smiles, logS"),
    ],
)
def test_wrong_settings_and_data_are_told(
    config: Path, tmp_path: Path, change: tuple[str, str], error: type[Exception], said: str
) -> None:
    config.write_text(SETTINGS.replace(*change))
    with pytest.raises(error, match=said):
        small(config, tmp_path / "out")


def test_only_a_directory_of_an_earlier_run_is_replaced(config: Path, tmp_path: Path) -> None:
    simulation = load_simulation(config)
    out = tmp_path / "deep" / "out"
    prepare_directory(out, simulation)
    (out / "sites" / "north" / "state").mkdir(parents=True)
    (out / "report.json").write_text("{}")
    with SiteLock(out / "sites" / "north" / "state"), pytest.raises(ConfigError, match="still alive"):
        prepare_directory(out, simulation)
    prepare_directory(out, simulation)
    assert [path.name for path in out.iterdir()] == [MARKER]
    (out / MARKER).unlink()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no simulation made"):
        prepare_directory(out, simulation)
    assert (out / "thesis.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="is a file"):
        prepare_directory(out / "thesis.txt", simulation)


def test_free_ports_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


class Silent:
    """A watcher for tests."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *reason: object) -> None:
        return None

    def show(self, documents: object, elapsed_s: float) -> None:
        return None


class Program(SiteProcess):
    """A site whose daemon is a line of Python."""

    code = "import time; time.sleep(60)"

    def start(self) -> None:
        real, sys.executable = sys.executable, str(self.folder / "python")
        Path(sys.executable).write_text(f"#!/bin/sh\nexec {real} -c '{self.code}'\n")
        Path(sys.executable).chmod(0o755)
        try:
            super().start()
        finally:
            sys.executable = real


def programs(config: Path, tmp_path: Path, code: str) -> LocalFederation:
    federation = small(config, tmp_path / "out")
    sites = [Program(site.name, site.folder) for site in federation]
    sites[1].code = code
    return LocalFederation(sites, federation.document)


def test_a_site_that_ends_is_named_with_its_last_lines(config: Path, tmp_path: Path) -> None:
    with programs(config, tmp_path, 'print("the disk is full"); raise SystemExit(3)') as federation:
        federation.start()
        with pytest.raises(SiteFailedError, match=r"'south' ended with code 3(.|\n)*the disk is full"):
            follow(federation, Silent(), 30.0, Interrupts())
    assert not any(site.running for site in federation)


def test_time_is_limited_and_nothing_stays_behind(config: Path, tmp_path: Path) -> None:
    deaf = (
        'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("deaf", flush=True); time.sleep(60)'
    )
    with programs(config, tmp_path, deaf) as federation:
        federation.start()
        end = time.monotonic() + 120
        while "deaf" not in federation["south"].last_lines() and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(LocalError, match="is already running"):
            federation["north"].start()
        with pytest.raises(SiteFailedError, match=r"not complete after 0.1 s(.|\n)*'north': no answer"):
            follow(federation, Silent(), 0.1, Interrupts())
        federation.stop(grace_s=1.0)
        assert federation["north"].exit_code == -signal.SIGTERM
        assert federation["south"].exit_code == -signal.SIGKILL


def test_every_molecule_is_described_once_in_a_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: Counter[str] = Counter()
    plain = described_module.describe_chunk

    def describe_chunk(smiles: Sequence[str], policy: FeatureRule) -> StructureTable:
        described.update(smiles)
        return plain(smiles, policy)

    monkeypatch.setattr(described_module, "describe_chunk", describe_chunk)
    simulation, out = load_simulation(config), tmp_path / "out"
    policy = simulation.charter_of((rule("north"),), "").features
    divided = divide(simulation, policy, out)
    federation = create_federation(simulation, out, divided.parts, divided.test, "")
    hand_out(divided, policy, [site.state_dir for site in federation])
    once = dict.fromkeys({line.split(",")[0] for line in TRAIN.splitlines()[1:]} | {"CCO"}, 1)
    assert dict(described) == once
    for site in federation:
        plan = trainer_plan(load_site(load_config(site.folder / "site.toml")), reproducible_seed=1)
        # Whose part has too few compounds says so; only the structures matter here.
        with contextlib.suppress(DataError):
            prepare(plan, lambda progress: None)
        cached = StructureCache(site.state_dir / FOLDER).look_up(list(once), policy)[0]
        assert cached is not None
        own = {line.split(",")[0] for line in (site.folder / "measurements.csv").read_text().splitlines()[1:]}
        assert set(cached.sources) == own | {"CCO"}
    assert StructureCache(divided.cache).look_up(list(once), policy)[1] == []
    assert dict(described) == once
    assert all(site.state_dir.stat().st_mode & 0o077 == 0 for site in federation)
