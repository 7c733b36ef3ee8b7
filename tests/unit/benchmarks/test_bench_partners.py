"""The sites of `partners.py`, and what a benchmark leaves that is interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import defaults
from benchmarks.parts.partners_data import ENDPOINTS, FEDERATIONS, PARTNERS
from benchmarks.parts.silos_data import SILOS


def test_every_partner_measures_assay_endpoints_of_the_federation() -> None:
    known = {endpoint.name for endpoint in ENDPOINTS}
    for name, assays in PARTNERS.items():
        assert assays.keys() <= known, name
    assert {name for names in FEDERATIONS[12] for name in names} == {*SILOS, *PARTNERS}


def test_what_is_done_is_in_the_file_when_a_benchmark_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = dict.fromkeys(("local", "federated", "personalised", "hybrid", "best_local", "chosen"), 1.0)

    def run(arguments: Any, case: Any, seed: int, cache: Any) -> list[dict[str, Any]]:
        if case.name == "caco2":
            raise KeyboardInterrupt
        return [{"case": case.name, "site": 0, "seed": seed, **errors, "change_pct": -2.5}]

    monkeypatch.setattr(defaults, "run", run)
    out = tmp_path / "defaults.json"
    with pytest.raises(KeyboardInterrupt):
        defaults.main(["data", "--only", "dili;caco2", "--cache", str(tmp_path), "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["worst_vs_best_local_pct"] == -2.5
    assert found["unfinished"] == "1 of 2 federations"
    assert found["missed"] == []
