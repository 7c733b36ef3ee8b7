"""The end of a run of real daemons: one trunk, the same bytes at every site, written once; then the daemon may go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import kmel_p2p
from kmel_p2p.cli.main import invoke
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.predict.trunk_file import digest_of
from kmel_p2p.learn.tensor_file import read_vector
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from tests.support.local_run import log_times, small_federation, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

ENTRIES = 4


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and inode of every file."""
    return {str(path): (path.read_bytes(), path.stat().st_ino) for path in sorted(folder.iterdir())}


def test_every_site_writes_the_same_trunk_once_and_exits_as_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = small_federation(tmp_path, ENTRIES, 10)
    for site in federation:
        path = site.folder / "site.toml"
        path.write_text(path.read_text().replace('on_complete = "stay"', 'on_complete = "exit"'))
    with federation:
        federation.start()
        until("all have ended", lambda: not any(site.running for site in federation), federation)
        assert [site.exit_code for site in federation] == [0, 0, 0]
        north = federation["north"]
        folders = [site.state_dir / "trunk" for site in federation]
        first = {path.name: path.read_bytes() for path in folders[0].iterdir()}
        assert all({path.name: path.read_bytes() for path in folder.iterdir()} == first for folder in folders)

        card = json.loads(first["card.json"])
        assert digest_of(load_file(folders[0] / card["file"])) == card["digest"]
        rules = federation.document.charter.sites
        assert card["charter_id"] == federation.document.charter.id.hex()
        assert card["vector"] == {rule.key: ENTRIES for rule in rules}
        assert {(author["name"], author["key"]) for author in card["authors"]} == {(r.name, r.key) for r in rules}
        # The others' trunks of three sites hold each contribution twice, and the initial trunk three times.
        config = load_config(north.folder / "site.toml")
        layout, tensors = load_site(config).layout, load_file(folders[0] / card["file"])
        trunk = np.concatenate([tensors[spec.name].ravel() for spec in layout.specs])
        others = [read_vector(site.state_dir / "others-trunk.f32", layout.size) for site in federation]
        initial = initial_trunk(layout, federation.document.charter.model.seed)
        np.testing.assert_allclose(sum(others), 2 * trunk + initial, atol=1e-5)
        assert all(np.abs(values - trunk).max() > 1e-3 for values in others)
        capsys.readouterr()
        assert invoke(["ledger", "verify", "--json", "-c", str(north.folder / "site.toml")]) == 0
        assert json.loads(capsys.readouterr().out)["digest"] == card["ledger_digest"]
        assert set(kmel_p2p.load(folders[0]).predictions(["CCO"])[0].values) == {"solubility"}

        before = [content(north.state_dir / name) for name in ("trunk", "model")]
        north.start()
        until("north has ended again", lambda: not north.running, federation)
        assert north.exit_code == 0
        assert [content(north.state_dir / name) for name in ("trunk", "model")] == before
        assert len(log_times(north, "trunk written")) == len(log_times(north, "models written")) == 1
        assert len(log_times(north, "models are written already")) == 1
