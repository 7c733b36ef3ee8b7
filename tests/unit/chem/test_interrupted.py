"""Interrupted featurising keeps what was done: killed in the middle, a run computes only the rest again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.structures import described
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import StructureTable

POLICY = FeatureRule(bits=64)
SMILES = [f"{'C' * n}O" for n in range(1, 41)]

KILLED = """
import os, signal, sys
from pathlib import Path
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures import described
from kmel_p2p.chem.structures.cache import StructureCache

described.CHUNK, described.KEPT = 4, 8

def progress(done, total):
    if done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)

smiles = ["C" * n + "O" for n in range(1, 41)]
described.describe_all(smiles, FeatureRule(bits=64), cache=StructureCache(Path(sys.argv[1])), progress=progress)
"""


def test_a_killed_run_computes_only_the_rest_again(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    cache = StructureCache(tmp_path)
    assert len(list(tmp_path.glob("*.block"))) == 2
    again = describe_all(SMILES, POLICY, cache=cache)
    assert again.computed == 40 - 16
    assert again.table.take(again.row_of).sources == SMILES
    assert describe_all(SMILES, POLICY).table.take(range(40)).smiles == again.table.take(again.row_of).smiles
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"], "the blocks are in the file now"
    assert describe_all(SMILES, POLICY, cache=cache).computed == 0


def test_an_interrupted_ingest_keeps_all_that_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "CHUNK", 4)
    (tmp_path / "d.csv").write_text("smiles,D\n" + "".join(f"{smiles},1\n" for smiles in SMILES))
    source = Source(path=tmp_path / "d.csv", columns={"logd": Column(column="D")})
    cache = StructureCache(tmp_path / "cache")

    def stop(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, [AssayEndpoint(name="logd")], POLICY, cache=cache, progress=stop)
    computed: list[int] = []
    chunk = described.describe_chunk

    def counted(smiles: Sequence[str], policy: FeatureRule) -> StructureTable:
        computed.append(len(smiles))
        return chunk(smiles, policy)

    monkeypatch.setattr(described, "describe_chunk", counted)
    got = ingest(source, [AssayEndpoint(name="logd")], POLICY, cache=cache)
    assert len(got.structures) == 40
    assert sum(computed) == 20


def test_a_damaged_block_is_computed_again_and_others_are_used(tmp_path: Path) -> None:
    whole = describe_all(SMILES, POLICY).table
    cache = StructureCache(tmp_path)
    cache.keep(whole.take(range(10)), POLICY)
    cache.keep(whole.take(range(5, 20)), POLICY)  # another process may have done the same
    cache.keep(whole.take(range(20, 40)), POLICY)
    broken = sorted(tmp_path.glob("*.block"))[2]
    broken.write_bytes(broken.read_bytes()[:-100])
    again = describe_all(SMILES, POLICY, cache=cache)
    assert again.computed == 20
    assert cache.damaged == 1
    assert sorted(again.table.sources) == sorted(SMILES)
