"""A command line run in this process, for a fresh site."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.main import invoke
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.predict.model_directory import Card, write_model
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from tests.support.cli_harness import FakeDaemon, Output, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Output:
        code = invoke([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Output(int(code), captured.out, captured.err)

    return call


@pytest.fixture
def site(tmp_path: Path, run: Run) -> Path:
    """Settings of a fresh site called north."""
    assert run("init", tmp_path / "north", "--name", "north").code == 0
    (tmp_path / "north" / "state").mkdir()
    return tmp_path / "north" / "site.toml"


@pytest.fixture
def daemon(site: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(site.parent / "state")
    fake.start()
    yield fake
    fake.close()


@pytest.fixture
def trained(tmp_path: Path, run: Run) -> Path:
    """A federation of one site with 90 compounds and a model of random parameters; returns its settings."""
    assert run("init", tmp_path / "a", "--name", "north").code == ExitCode.OK
    folder = tmp_path / "a"
    key, charter, settings = folder / "site.key", folder / "charter.toml", folder / "site.toml"
    site = f"north={load_key(key).key.hex()}"
    made = run(
        "charter", "new", "--federation", "demo", "--site", site, "--endpoint", "logd,head=shared", "-o", charter
    )
    assert made.code == ExitCode.OK, made.err
    assert run("charter", "sign", "--yes", charter, "--key", key).code == ExitCode.OK
    chain = [f"{'C' * length}{end}" for length in range(1, 31) for end in ("O", "N", "F")]
    with (folder / "d.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("smiles", "D"), *((smiles, len(smiles) / 10) for smiles in chain)])
    settings.write_text(
        '[site]\nname = "north"\n[data]\npath = "d.csv"\n[data.columns]\nlogd = { column = "D" }\n'
        "[resources]\nfeaturise_processes = 1\n"
    )
    loaded = load_site(load_config(settings))
    rng = np.random.default_rng(0)
    shape = loaded.architecture
    sizes = trunk_layout(shape).size, private_layout(shape).size
    parameters = {
        name: (rng.normal(scale=0.01, size=sizes[0]).astype(np.float32), np.zeros(sizes[1], np.float32))
        for name in ("local", "federated", "personalised")
    }
    policy = loaded.charter.features
    card = Card(shape, policy, loaded.charter.features.reference_hash, {"logd": "hybrid"}, {"site": "north"}, {})
    write_model(folder / "state" / "model", card, parameters)
    return settings
