"""The silos benchmark compares like with like: units, assay limits, weights, and what a real peer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import silos
from benchmarks.parts import silos_data, silos_peers
from benchmarks.parts.inprocess import site_weights
from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.train.dataset import Dataset
from tests.support.public_files import MOLECULES, write_public_files


@pytest.fixture(scope="module")
def public_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_public_files(tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="module")
def data(public_files: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    cache = StructureCache(tmp_path_factory.mktemp("cache"))
    return silos_data.datasets(silos_data.read_silos(public_files), 30, 1000, 1, cache)


def test_clearance_has_one_unit_and_its_limits_are_bounds(public_files: Path) -> None:
    tables = silos_data.read_silos(public_files)
    biogen, expansion = tables["biogen"]["hlm"], tables["expansion"]["hlm"]
    # 1 uL/min/mg of protein is 1.157 mL/min/kg of body weight.
    assert biogen["label"][1] == pytest.approx(np.linspace(0.7, 2.5, len(MOLECULES))[1] - np.log10(1.1565))
    assert list(biogen["relation"][:2]) == [-1, 0]
    assert list(expansion["relation"][:3]) == [-1, -1, 0], "0, and the smallest value ever given"
    assert expansion["label"][0] == expansion["label"][1]
    az = tables["az"]["hlm"]
    assert set(az["relation"][az["label"] == np.log10(3.0)]) == {-1}
    assert set(az["relation"][az["label"] == np.log10(150.0)]) == {1}
    assert set(az["relation"][az["label"].between(0.5, 2.1)]) == {0}
    assert len(tables["chembl"]["hlm"]) == len(MOLECULES) - 1, "10 to the 6.4 is no clearance"
    solubility = tables["biogen"]["solubility"]
    assert solubility["label"][0] == pytest.approx(
        np.linspace(0.7, 2.5, len(MOLECULES))[1] + 3 - np.log10(106.17), abs=1e-3
    )


def test_silos_share_no_compound_and_keep_to_their_size(data: list[Dataset]) -> None:
    az, _, _, chembl = data
    assert not set(az.smiles) & set(chembl.smiles)
    for part in data:
        for place in range(len(part.endpoints)):
            assert len(part.measured(part.train, place)) <= 24
            assert len(part.measured(part.valid, place)) <= 6
        assert len({*part.train, *part.valid, *part.test, *part.calibration}) == len(part.inputs)


def test_a_peer_reads_the_silo_as_it_is(data: list[Dataset], tmp_path: Path) -> None:
    """Real peers and the federation in one process must train on the same values in the same folds."""
    for silo, part in zip(silos_data.SILOS, data, strict=True):
        path = silos_peers.write_table(tmp_path / f"{silo}.csv", part)
        columns = {e.name: Column(column=e.name, unit="") for e in part.endpoints}
        source = Source(path=path, smiles_column="smiles", columns=columns)
        own = ingest(source, part.endpoints, silos_data.POLICY, cache=StructureCache(tmp_path / "cache"))
        policy = SplitRule(
            fold_key=silos_data.fold_key(1),
            valid_fraction=silos_data.VALID_FRACTION,
            test_fraction=silos_data.TEST_FRACTION,
        )
        read = Dataset.build(own, own.folds(policy)).with_calibration(policy.apart(own.structures.series))
        at = {smiles: row for row, smiles in enumerate(read.smiles)}
        order = [at[smiles] for smiles in part.smiles]
        assert len(order) == len(read.smiles)
        assert read.labels[order] == pytest.approx(part.labels, abs=1e-5, nan_ok=True)
        measured = np.isfinite(part.labels)
        assert np.array_equal(read.relations[order][measured], part.relations[measured])
        for fold in ("train", "valid", "test", "calibration"):
            assert {read.smiles[row] for row in getattr(read, fold)} == {
                part.smiles[row] for row in getattr(part, fold)
            }


def test_weights_add_up_and_a_head_belongs_to_those_who_train_it(data: list[Dataset]) -> None:
    layout = trunk_layout(
        Architecture(inputs=silos_data.POLICY.width, hidden=(8,), endpoints=silos_data.ENDPOINTS, dropout=0.0)
    )
    weights = np.stack(site_weights(layout, data, cap=4.0))
    assert weights[:, 0].sum() == pytest.approx(1)
    for head, endpoint in enumerate(silos_data.ENDPOINTS):
        trains = [len(part.measured(part.train, head)) > 0 for part in data]
        for place in layout.places_of_head(head):
            assert weights[trains, place.start].sum() == pytest.approx(1), endpoint.name
    assert np.stack(site_weights(layout, data))[:, 0].max() <= 0.5


def test_changes_are_means_over_seeds_against_local() -> None:
    first = {("az", "logd"): {"local": 1.0, "hybrid": 0.9, "chosen": 0.9}}
    second = {("az", "logd"): {"local": 1.0, "hybrid": 0.8, "chosen": 1.0}}
    figures = silos.summary([{"pairs": first, "cross": second}, {"pairs": second, "cross": second}])
    assert figures["mean_change_pct"] == figures["worst_change_pct"] == pytest.approx(-5.0)
    assert figures["mean_hybrid_change_pct"] == pytest.approx(-15.0)
    assert figures["mean_change_pct_by_seed"] == pytest.approx([-10.0, 0.0])
    assert figures["cross_silo_hybrid_change_pct"] == pytest.approx(-20.0)
