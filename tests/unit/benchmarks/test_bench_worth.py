"""The benchmarks that a consortium decides by: what is drafted, who is in a federation, what counts as the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import defaults, expansionrx, partners
from benchmarks.parts import draft_cases, partners_data
from benchmarks.parts.inprocess import federate
from benchmarks.parts.silos_data import SILOS
from kmel_p2p.agreement.drafted import suggested
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.worker.plan import TrainingSettings
from tests.support.public_files import MOLECULES, write_public_files

CACO2 = next(case for case in draft_cases.CASES if case.name == "caco2")


@pytest.fixture(scope="module")
def public_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_public_files(tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> StructureCache:
    return StructureCache(tmp_path_factory.mktemp("cache"))


def test_federations_run_under_the_draft_as_it_is_written() -> None:
    charter = draft_cases.drafted(CACO2)
    suggestion = suggested(CACO2.compounds)
    assert len(charter.sites) == CACO2.sites
    assert charter.model.hidden == suggestion.hidden
    assert charter.training.learning_rate == suggestion.learning_rate
    assert charter.averaging.entry_limit == suggestion.entry_limit
    assert charter.pace.patience == suggestion.patience
    assert [endpoint.name for endpoint in charter.assay_endpoints] == ["caco2_papp"]


def test_drafted_sites_share_no_compound_and_have_the_catalogues_labels(
    public_files: Path, cache: StructureCache
) -> None:
    charter = draft_cases.drafted(CACO2)
    data = draft_cases.site_datasets(public_files, CACO2, charter, 0, cache)
    names = [smiles for part in data for smiles in part.smiles]
    assert len(data) == CACO2.sites
    assert len(set(names)) == len(names) == len(MOLECULES)
    endpoint = charter.assay_endpoints[0]
    values = np.concatenate([part.labels[:, 0] for part in data]) * endpoint.scale + endpoint.center
    # The file has log10 cm/s, the catalogue 10-6 cm/s.
    assert sorted(values) == pytest.approx(sorted(np.linspace(0.7, 2.5, len(MOLECULES)) + 6), abs=1e-4)


def test_the_worst_site_is_found() -> None:
    row = {"case": "a", "site": 0, "local": 1.2, "federated": 1.1, "personalised": 1.0, "hybrid": 1.0}
    figures = defaults.summary(
        [
            {**row, "best_local": 1.0, "chosen": 0.9, "change_pct": -10.0},
            {**row, "best_local": 1.0, "chosen": 1.03, "change_pct": 3.0, "site": 1},
        ]
    )
    assert figures["worst_vs_best_local_pct"] == 3.0
    assert figures["worst_site"] == "a, site 1"
    assert figures["sites_worse"] == 1
    assert figures["worst_local_vs_best_local_pct"] == pytest.approx(20.0)
    assert figures["by_case"]["a"] == {"mean_pct": -3.5, "worst_pct": 3.0}


def test_a_site_stops_when_its_patience_ends(public_files: Path, cache: StructureCache, tmp_path: Path) -> None:
    charter = draft_cases.drafted(CACO2)
    data = draft_cases.site_datasets(public_files, CACO2, charter, 0, cache)
    data = [part for part in data if len(part.train) and len(part.valid)]
    endpoints = charter.assay_endpoints
    shape = Architecture(inputs=charter.features.width, hidden=(4,), endpoints=endpoints, dropout=0.0)
    # With no learning rate to speak of, no score ever improves on the first.
    settings = [TrainingSettings(learning_rate=1e-30, weight_decay=0.0, steps_per_entry=1) for _ in data]
    patient = federate(shape, data, settings, 6, tmp_path / "patient")
    hasty = federate(shape, data, settings, 6, tmp_path / "hasty", patience=2)
    assert len(data) > 1
    assert patient.entries == [6] * len(data)
    assert hasty.entries == [3] * len(data)


def test_the_last_fifth_of_the_molecules_is_the_test(public_files: Path, cache: StructureCache) -> None:
    data = expansionrx.by_time(public_files, expansionrx.ENDPOINTS, cache, 0)
    count = len(MOLECULES)
    # The file is in the reverse order of its molecules' numbers.
    assert {data.smiles[row] for row in data.test} == {data.smiles[row] for row in range(count - count // 5, count)}
    newest = pd.Series([data.smiles[row] for row in data.test])
    assert not set(newest) & {data.smiles[row] for row in np.concatenate([data.train, data.valid])}
    place = [endpoint.name for endpoint in expansionrx.ENDPOINTS].index("solubility")
    ksol = data.labels[:, place] * 0.8 + 1.5
    assert np.nanmin(ksol) == 0.0, "log10(0 + 1): the challenge has no bounds"


def test_predicting_the_mean_is_worth_nothing() -> None:
    labels = np.array([0.0, 1.0, 5.0], np.float32)
    endpoint = expansionrx.ENDPOINTS[0]
    assert expansionrx.relative_error(endpoint, np.full(3, 2.0), labels) == pytest.approx(1.0)
    assert expansionrx.relative_error(endpoint, labels.astype(float), labels) == 0.0


def test_every_federation_has_the_four_silos_and_grows() -> None:
    for size, federations in partners_data.FEDERATIONS.items():
        names = [name for federation in federations for name in federation]
        assert all(len(federation) == size for federation in federations)
        assert len(set(names)) == len(names)
        assert set(SILOS) <= set(names)


def test_gains_are_means_over_pairs_and_are_drawn(tmp_path: Path) -> None:
    rows = [
        {"sites": size, "site": site, "endpoint": "logd", "seed": 0, "best_local": 1.0, "chosen": 1.0 - gain}
        for size, gain in ((4, 0.02), (12, 0.05))
        for site, gain in ((SILOS[0], gain), (SILOS[1], 0.0))
    ]
    figures = partners.summary(rows)
    assert figures["gain_vs_best_local_pct"] == pytest.approx({"4": 1.0, "12": 2.5})
    assert figures["gain_by_site_pct"]["12"] == pytest.approx({SILOS[0]: 5.0, SILOS[1]: 0.0})
    assert figures["gain_of_12_over_4"] == pytest.approx(2.5)
    partners.plot(figures, "title", tmp_path / "partners.svg")
    assert "AstraZeneca" in (tmp_path / "partners.svg").read_text()
