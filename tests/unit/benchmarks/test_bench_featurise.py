"""Standardising and describing costs about what RDKit's own calls cost, with a wide margin."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import featurise
from kmel_p2p.chem.structures.described import describe_chunk
from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES


def test_our_table_costs_little_beside_the_chemistry(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("Drug,Y\n" + "".join(f"{smiles},1\n" for smiles in REFERENCE_MOLECULES))
    smiles, enumerated = featurise.gather(tmp_path, 80, seed=1)
    assert (len(smiles), len(set(smiles))) == (80, 80)
    assert enumerated == 80 - len(REFERENCE_MOLECULES)
    seconds = {"ours": 0.0, "plain": 0.0}
    for turn in range(4):
        part = smiles[20 * turn : 20 * turn + 20]
        started = time.process_time()
        table = describe_chunk(part, featurise.POLICY)
        seconds["ours"] += time.process_time() - started
        started = time.process_time()
        assert featurise.plain_chunk(part) == len(part)
        seconds["plain"] += time.process_time() - started
        assert not any(table.reasons)
    assert seconds["plain"] / seconds["ours"] >= 0.4
