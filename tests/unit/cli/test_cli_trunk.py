"""`kmel-peer trunk`: which trunks there are, what they are drafted as, and what cannot be checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.learn.models.start_file import file_hash
from kmel_p2p.simulate.config import Simulation, load_simulation
from kmel_p2p.simulate.sites import LocalFederation, create_federation
from kmel_p2p.site.config import load_config
from kmel_p2p.site.desk.room import DeskRoom
from kmel_p2p.site.desk.start_file_parts import StartFileParts
from kmel_p2p.site.loaded_site import load_site
from tests.support.cli_harness import Run
from tests.support.trunk_packages import write_package


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("check", "nowhere-trunk"), ExitCode.CONFIG, "not installed: pip install nowhere-trunk"),
        (("check", "pytest"), ExitCode.CONFIG, "several trunks or none: none"),
        (("draft", "listed_trunk", "--hidden", "wide"), ExitCode.USAGE, "expected widths"),
        (("draft", "listed_trunk", "--option", "mode"), ExitCode.CONFIG, "expected KEY=VALUE"),
    ],
)
def test_what_cannot_be_checked_is_told(
    run: Run, folder: Path, arguments: tuple[str, ...], code: ExitCode, message: str
) -> None:
    write_package(folder, "listed_trunk")
    ended = run("trunk", *arguments)
    assert ended.code == code
    assert message in ended.err


def test_trunks_are_listed_and_drafted(run: Run, folder: Path) -> None:
    write_package(folder, "shown_trunk")
    assert "shown_trunk          package shown_trunk" in run("trunk", "list").out
    drafted = run("trunk", "draft", "shown_trunk", "--hidden", "8", "--seed", "5")
    assert drafted.code == ExitCode.OK
    assert 'name = "shown_trunk"' in drafted.out
    assert '"layer.weight 8x2259 0 ' in drafted.out
    assert "seed = 5" in drafted.out


SETTINGS = """
task = "trial"
[data]
kind = "csv"
train = "table.csv"
test = "table.csv"
[sites]
names = ["north", "south"]
{start_file}
[charter]
federation = "trial"
model = {{ hidden = [4, 2], start = "{sha256}" }}
features = {{ bits = 256 }}
[[charter.assay_endpoints]]
name = "solubility"
column = "logS"
unit = "log10(mol/L)"
"""


def federation(folder: Path, sha256: str, start_file: str = "") -> LocalFederation:
    table = folder / "table.csv"
    table.write_text("smiles,logS\nCCO,1\n")
    path = folder / "run.toml"
    path.write_text(SETTINGS.format(sha256=sha256, start_file=start_file))
    simulation: Simulation = load_simulation(path)
    return create_federation(simulation, folder / "run", [table, table], None, "")


def test_the_start_file_is_fetched_from_another_site(run: Run, tmp_path: Path) -> None:
    layout = load_site(load_config(federation(tmp_path, "").sites[0].folder / "site.toml")).layout
    tensors = {spec.name: np.full(spec.shape, 0.5, np.float32) for spec in layout.specs if "head." not in spec.name}
    save_file(tensors, tmp_path / "trained.safetensors")
    folder = tmp_path / "started"
    folder.mkdir()
    (folder / "trained.safetensors").write_bytes((tmp_path / "trained.safetensors").read_bytes())
    north, south = federation(folder, file_hash(folder / "trained.safetensors"), 'start_file = "trained.safetensors"')
    giver = load_site(load_config(north.folder / "site.toml"))
    asking = load_site(load_config(south.folder / "site.toml"))
    assert asking.start_file is None
    parts = StartFileParts(lambda: giver)
    with DeskRoom(
        giver.identity,
        giver.rule.addresses[0],
        lambda guest, name, arguments: parts.answer(asking.identity.key, arguments),
        members=lambda: [asking.identity.key],
    ):
        ended = run("trunk", "fetch", "-c", south.folder / "site.toml")
        assert ended.code == ExitCode.OK, ended.err
        assert "from north" in ended.err
        assert asking.start_file is not None
        assert str(asking.start_file) in ended.out
        assert np.array_equal(asking.initial_trunk(), giver.initial_trunk())
        asking.start_file.write_bytes(b"cut off")
        assert "from north" in run("trunk", "fetch", "-c", south.folder / "site.toml").err
    # What is here is looked at, and nobody is asked.
    ended = run("trunk", "fetch", "-c", south.folder / "site.toml")
    assert (ended.code, ended.err) == (ExitCode.OK, "")
    assert "is whole" in ended.out


def test_a_charter_without_a_start_file_needs_none(run: Run, tmp_path: Path) -> None:
    north, _ = federation(tmp_path, "")
    ended = run("trunk", "fetch", "-c", north.folder / "site.toml")
    assert (ended.code, ended.err) == (ExitCode.OK, "")
    assert "names no start file" in ended.out
