"""Publish rounds: the invariant of error feedback, crash and roll-back."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.scores import Predict, fold_outputs
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.grid import Grid
from kmel_p2p.learn.privacy.noised_sum import NoisedSum
from kmel_p2p.learn.train.balance import sums
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.prefix import PREFIX_NAME
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.learn.worker.session import Progress
from tests.support.learn_fixtures import ENDPOINTS, SETTINGS, architecture, dataset

LAYOUT = trunk_layout(architecture())
CODEC = DeltaCodec(LAYOUT, CodecParameters(chunk=64, kept=4, bits=2))


def quiet(progress: Progress) -> None:
    """Nobody listens."""


def rounds(folder: Path, resume: str | None = None, settings: TrainingSettings = SETTINGS) -> Rounds:
    network = Network(architecture())
    start_local(network, architecture(), 3, 4)
    made = Rounds(network, dataset(), LAYOUT, CODEC, settings, folder)
    made.resume(resume)
    return made


def run(site: Rounds, trunk: np.ndarray, numbers: range, bound: float | None = None) -> list[bytes]:
    """Train and commit these rounds; `trunk` follows the site's own entries."""
    payloads = []
    for number in numbers:
        result = site.train(number, 5, bound, trunk, quiet)
        site.commit(number)
        trunk += CODEC.decode(result.payload).dense(LAYOUT.size)
        payloads.append(result.payload)
    return payloads


def kept_facts(folder: Path, number: int) -> dict[str, Any]:
    with safe_open(folder / f"round-{number}.safetensors", framework="np") as handle:
        facts: dict[str, Any] = json.loads(handle.metadata()["facts"])
    return facts


def test_other_measurements_are_learned_from_as_after_a_restart_with_them(tmp_path: Path) -> None:
    site, twin = rounds(tmp_path / "a"), rounds(tmp_path / "b")
    trunk = initial_trunk(LAYOUT, 3)
    run(site, trunk.copy(), range(1, 3))
    run(twin, trunk.copy(), range(1, 3))
    fresh = dataset(160, 1)
    site.learn_from(fresh)
    network = Network(architecture())
    start_local(network, architecture(), 3, 4)
    again = Rounds(network, fresh, LAYOUT, CODEC, SETTINGS, tmp_path / "b")
    again.resume("round-2.safetensors")
    assert run(site, trunk.copy(), range(3, 5)) == run(again, trunk.copy(), range(3, 5))
    assert (site.prefix.number, site.prefix.loss) == (again.prefix.number, again.prefix.loss)
    assert [scores for _, scores in site.history] == [scores for _, scores in again.history]
    assert run(site, trunk.copy(), range(5, 6)) != run(twin, trunk.copy(), range(3, 6))[-1:]


def test_an_open_round_keeps_its_measurements(tmp_path: Path) -> None:
    site, twin = rounds(tmp_path / "a"), rounds(tmp_path / "b")
    trunk = initial_trunk(LAYOUT, 3)
    site.train(1, 5, None, trunk, quiet)
    with pytest.raises(LocalError, match="round 1 is open"):
        site.learn_from(dataset(160, 1))
    site.commit(1)
    run(twin, trunk.copy(), range(1, 2))
    assert run(site, trunk.copy(), range(2, 3)) == run(twin, trunk.copy(), range(2, 3))
    (tmp_path / "a" / PREFIX_NAME).write_bytes(b"damaged")
    with pytest.raises(ConfigError):
        site.learn_from(dataset(160, 1))
    assert run(site, trunk.copy(), range(3, 4)) == run(twin, trunk.copy(), range(3, 4))


def test_abandoned_rounds_do_not_count_in_the_sums_of_the_drift(tmp_path: Path) -> None:
    site, twin = rounds(tmp_path / "a"), rounds(tmp_path / "b")
    trunk = initial_trunk(LAYOUT, 3)
    site.train(4, 5, None, trunk, quiet)
    site.abandon(4)
    run(site, trunk.copy(), range(7, 9))
    site.train(9, 5, None, trunk, quiet)
    site.abandon(9)
    run(rounds(tmp_path / "a", "round-8.safetensors"), trunk.copy(), range(9, 11))
    run(twin, trunk.copy(), range(7, 9))
    assert kept_facts(tmp_path / "a", 10)["first"] == 7
    assert kept_facts(tmp_path / "b", 8)["first"] == 7
    assert kept_facts(tmp_path / "b", 8)["drift"] != kept_facts(tmp_path / "a", 10)["drift"]


def test_everything_published_plus_residual_is_everything_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = rounds(tmp_path)
    trunk = initial_trunk(LAYOUT, 3)
    drifts, sent = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    for number in range(1, 6):
        before = site.residual.astype(np.float64)
        result = site.train(number, 5, None, trunk, quiet)
        delta = CODEC.decode(result.payload)
        sent += delta.dense(LAYOUT.size)
        drifts += site._network.trunk_values().astype(np.float64) - trunk
        assert result.norm == pytest.approx(float(np.linalg.norm(delta.dense(LAYOUT.size))))
        assert not np.array_equal(before, site.residual)
        site.commit(number)
        # Others publish too: the trunk this site trains from moves by more than its own entries.
        trunk = trunk + delta.dense(LAYOUT.size) + np.float32(0.001)
    assert sent + site.residual == pytest.approx(drifts, abs=1e-5)
    assert sums(drifts.astype(np.float32)) == pytest.approx(kept_facts(tmp_path, 5)["drift"], abs=1e-5)
    assert np.abs(sent).sum() > 0


def test_norm_bound_is_kept_and_nothing_is_lost(tmp_path: Path) -> None:
    site = rounds(tmp_path)
    trunk = initial_trunk(LAYOUT, 3)
    free = site.train(1, 5, None, trunk, quiet)
    site.abandon(1)
    bound = free.norm / 3
    result = site.train(1, 5, bound, trunk, quiet)
    assert 0 < result.norm <= bound
    drift = site._network.trunk_values() - trunk
    assert CODEC.decode(result.payload).dense(LAYOUT.size) + site.residual == pytest.approx(drift, abs=1e-6)


def test_a_restart_from_the_stored_file_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight, trunk = rounds(tmp_path / "a"), initial_trunk(LAYOUT, 3)
    run(straight, trunk, range(1, 4))
    at_three = trunk.copy()
    later = run(straight, trunk, range(4, 6))

    crashed, trunk = rounds(tmp_path / "b"), initial_trunk(LAYOUT, 3)
    run(crashed, trunk, range(1, 4))
    # Round 4 is on disk but its entry was never stored; the process dies and another takes its place.
    crashed.train(4, 5, None, trunk, quiet)
    assert (tmp_path / "b" / "round-4.safetensors").exists()
    again = rounds(tmp_path / "b", "round-3.safetensors")
    assert np.array_equal(trunk, at_three)
    assert sorted(path.name for path in (tmp_path / "b").glob("round-*")) == ["round-3.safetensors"]
    assert again.committed == 3
    assert run(again, trunk, range(4, 6)) == later
    assert again.steps == straight.steps == 25
    assert again.history == straight.history


def test_an_abandoned_round_leaves_no_trace(tmp_path: Path) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 3))
    residual, private, history = site.residual.copy(), site.private(), list(site.history)
    first = site.train(3, 5, None, trunk, quiet)
    site.abandon(3)
    assert np.array_equal(site.residual, residual)
    assert np.array_equal(site.private(), private)
    assert (site.steps, site.history, site.committed) == (10, history, 2)
    assert [path.name for path in tmp_path.glob("round-*")] == ["round-2.safetensors"]
    assert site.train(3, 5, None, trunk, quiet).payload == first.payload


@pytest.mark.parametrize("number", [1, 3])
def test_a_rejected_round_is_trained_on_other_batches_also_after_a_restart(tmp_path: Path, number: int) -> None:
    """The same batches gave the same bytes: what the operator had kept back was held again half a second later."""
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, number))
    residual, private = site.residual.copy(), site.private()
    rejected = site.train(number, 5, None, trunk, quiet)
    site.abandon(number, rejected=True)
    assert np.array_equal(site.residual, residual)
    assert np.array_equal(site.private(), private)
    names = [path.name for path in tmp_path.glob("round-*")]
    assert names == [f"round-{number - 1}.safetensors"]
    restarted = rounds(tmp_path, names[0] if number > 1 else None)
    assert restarted.steps == site.steps == 5 * number
    again = site.train(number, 5, None, trunk, quiet)
    assert again.payload != rejected.payload
    assert restarted.train(number, 5, None, trunk, quiet).payload == again.payload
    site.commit(number)
    assert kept_facts(tmp_path, number)["first"] == 1
    run(site, trunk + CODEC.decode(again.payload).dense(LAYOUT.size), range(number + 1, number + 3))


@pytest.mark.parametrize("number", [1, 3])
def test_a_deferred_round_stays_in_the_residual_and_in_the_books(tmp_path: Path, number: int) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    sent = np.zeros(LAYOUT.size)
    for payload in run(site, trunk, range(1, number)):
        sent += CODEC.decode(payload).dense(LAYOUT.size)
    before = site.residual.copy()
    site.train(number, 5, None, trunk, quiet)
    drift = site._network.trunk_values() - trunk
    site.abandon(number, rejected=True, deferred=True)
    assert site.residual == pytest.approx(before + drift, abs=1e-6)
    restarted = rounds(tmp_path, f"round-{number - 1}.safetensors" if number > 1 else None)
    assert np.array_equal(restarted.residual, site.residual)
    assert np.array_equal(restarted.private(), site.private())
    for payload in run(restarted, trunk, range(number, number + 2)):
        sent += CODEC.decode(payload).dense(LAYOUT.size)
    books = kept_facts(tmp_path, number + 1)["drift"]
    assert sums((sent + restarted.residual).astype(np.float32)) == pytest.approx(books, abs=1e-5)


def test_an_interrupted_round_leaves_no_trace(tmp_path: Path) -> None:
    class StopNow(Exception):
        pass

    def stop_after_two(progress: Progress) -> None:
        if progress.done == 2:
            raise StopNow

    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    with pytest.raises(StopNow):
        site.train(1, 5, None, trunk, stop_after_two)
    assert not site.residual.any()
    assert site.steps == 0
    assert (
        site.train(1, 5, None, trunk, quiet).payload == rounds(tmp_path / "x").train(1, 5, None, trunk, quiet).payload
    )


@pytest.mark.parametrize(
    "misuse",
    [
        lambda site, trunk: site.commit(2),
        lambda site, trunk: site.abandon(2),
        lambda site, trunk: (site.train(2, 1, None, trunk, quiet), site.train(3, 1, None, trunk, quiet)),
    ],
)
def test_rounds_out_of_order_are_refused(tmp_path: Path, misuse: Callable[[Rounds, np.ndarray], object]) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 2))
    with pytest.raises(LocalError):
        misuse(site, trunk)


def test_a_log_that_grew_without_this_trainer_costs_it_nothing(tmp_path: Path) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 4))
    steps, residual = site.steps, site.residual.copy()
    again = rounds(tmp_path, "round-3.safetensors")
    again.train(9, 2, None, trunk, quiet)
    again.abandon(9)
    np.testing.assert_array_equal(again.residual, residual)
    result = again.train(9, 2, None, trunk, quiet)
    again.commit(9)
    assert again.steps == steps + 2
    assert result.state_file == "round-9.safetensors"
    with safe_open(tmp_path / result.state_file, framework="np") as handle:
        assert json.loads(handle.metadata()["facts"])["first"] == 9


def test_the_newest_state_is_taken_where_a_backup_left_another_one(tmp_path: Path) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 4))
    assert rounds(tmp_path, "round-2.safetensors").committed == 3


def test_pieces_of_any_length_make_the_same_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tensors(folder: Path) -> list[bytes]:
        with safe_open(folder / "round-3.safetensors", framework="np") as handle:
            return [handle.get_tensor(name).tobytes() for name in sorted(handle.keys())]

    site, trunk = rounds(tmp_path / "a"), initial_trunk(LAYOUT, 3)
    expected = run(site, trunk.copy(), range(1, 4))
    for module in ("models.own_order", "tensor_file"):
        monkeypatch.setattr(f"kmel_p2p.learn.{module}.PIECE", 37)
    run(rounds(tmp_path / "b"), again := trunk.copy(), range(1, 2))
    pieces = rounds(tmp_path / "b", "round-1.safetensors")
    pieces.train(2, 5, None, again, quiet)
    pieces.abandon(2)
    assert run(pieces, again, range(2, 4)) == expected[1:]
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")


@pytest.mark.parametrize("missing", ["before", "during"])
def test_a_round_file_that_somebody_removed_is_missed_only_where_it_is_needed(tmp_path: Path, missing: str) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 3))
    residual = site.residual.copy()
    if missing == "before":
        (tmp_path / "round-2.safetensors").unlink()
    site.train(3, 5, None, trunk, quiet)
    if missing == "during":
        (tmp_path / "round-2.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"round-2\.safetensors"):
            site.abandon(3)
        return
    site.abandon(3)
    np.testing.assert_array_equal(site.residual, residual)


def test_diverged_training_is_named_and_undone(tmp_path: Path) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    trunk[:10] = 3e38
    with pytest.raises(ConfigError, match="learning_rate"):
        site.train(1, 2, None, trunk, quiet)
    assert not site.residual.any()
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "other model"])
def test_a_damaged_round_file_is_named(tmp_path: Path, damage: str) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 2))
    path = tmp_path / "round-1.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content.replace(b'"residual"', b'"residuum"'))
    with pytest.raises(ConfigError, match=r"round-1\.safetensors"):
        rounds(tmp_path, "round-1.safetensors")


def test_only_the_steps_are_timed_and_the_test_fold_waits_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(data: Dataset, predict: Predict) -> dict[str, np.ndarray]:
        time.sleep(0.4)
        return fold_outputs(data, predict)

    monkeypatch.setattr("kmel_p2p.learn.train.round.fold_outputs", slow)
    site, trunk = rounds(tmp_path / "a"), initial_trunk(LAYOUT, 3)
    began = time.monotonic()
    result = site.train(1, 2, None, trunk, quiet)
    assert 0 < result.training_us / 1e6 < time.monotonic() - began - 0.4
    assert set(result.scores["logd"]) == {"valid"}
    shown = rounds(tmp_path / "b", settings=SETTINGS.changed(test_in_rounds=True))
    assert set(shown.train(1, 2, None, trunk, quiet).scores["logd"]) == {"valid", "test"}


def test_a_full_disk_leaves_the_state_before_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kmel_p2p.files.os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        site.train(1, 2, None, trunk, quiet)
    assert not site.residual.any()
    assert not list(tmp_path.glob("*"))


def test_a_shared_head_without_measurements_stays_where_it_is(tmp_path: Path) -> None:
    data = dataset()
    data.labels[:, 2] = np.nan
    assert data.trained_heads() == (0,)
    assert dataset().trained_heads() == (0, 1)
    network = Network(architecture())
    start_local(network, architecture(), 3, 4)
    site = Rounds(network, data, LAYOUT, CODEC, SETTINGS, tmp_path)
    site.resume(None)
    # Away from zero, so that weight decay would move it.
    trunk = initial_trunk(LAYOUT, 3)
    sent = CODEC.decode(site.train(1, 5, None, trunk, quiet).payload).dense(LAYOUT.size)
    idle = np.concatenate([np.arange(LAYOUT.size)[place] for place in LAYOUT.places_of_head(1)])
    assert idle.size == 13
    assert not sent[idle].any()
    assert not site.residual[idle].any()
    assert site.residual[np.concatenate([np.arange(LAYOUT.size)[p] for p in LAYOUT.places_of_head(0)])].any()


def test_the_best_trunk_that_a_round_started_from_outlives_a_restart(tmp_path: Path) -> None:
    site, trunk = rounds(tmp_path), initial_trunk(LAYOUT, 3)
    run(site, trunk, range(1, 5))
    best = site.prefix.number
    assert best > 1, "training helps at first"
    kept, loss = site.prefix.parameters, site.prefix.loss
    assert kept is not None
    # From here on the others ruin the trunk.
    ruined = trunk + np.random.default_rng(0).normal(0, 3, LAYOUT.size).astype(np.float32)
    again = rounds(tmp_path, "round-4.safetensors")
    for life in (site, again):
        life.train(5, 5, None, ruined, quiet)
        life.abandon(5)
        assert (life.prefix.number, life.prefix.loss) == (best, loss)
        assert life.prefix.parameters is not None
        np.testing.assert_array_equal(life.prefix.parameters.trunk, kept.trunk)
        np.testing.assert_array_equal(life.prefix.parameters.private, kept.private)
    whole = (tmp_path / PREFIX_NAME).read_bytes()
    (tmp_path / PREFIX_NAME).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=PREFIX_NAME):
        rounds(tmp_path, "round-4.safetensors")
    (tmp_path / PREFIX_NAME).write_bytes(whole)
    assert rounds(tmp_path).prefix.parameters is None, "a site that starts anew knows no earlier trunk"
    assert not (tmp_path / PREFIX_NAME).exists()


def noised_rounds(folder: Path) -> tuple[Rounds, NoisedSum, Network]:
    """Rounds under differential privacy, where every head is shared."""
    shared = tuple(endpoint.changed(head="shared") for endpoint in ENDPOINTS)
    shape = architecture().changed(trunk="projected", projection=16, dropout=0.0, endpoints=shared)
    network, data = Network(shape), replace(dataset(), endpoints=shared)
    start_local(network, shape, 3, 4)
    grid = Grid.of(6553, 2.0, 4, network.trunk.numel())
    noised = NoisedSum(network, data, PrivacyRule(dp="record"), grid, os.urandom)
    return Rounds(network, data, trunk_layout(shape), None, SETTINGS, folder, noised), noised, network


def test_under_differential_privacy_a_round_is_a_noised_sum_and_nothing_else_is_trained(tmp_path: Path) -> None:
    site, noised, network = noised_rounds(tmp_path)
    site.resume(None)
    trunk = network.trunk_values()
    first = site.train(1, 1, None, trunk, quiet)
    levels = np.frombuffer(first.payload, "<f4")
    assert (levels == np.rint(levels)).all()
    assert 0.8 * noised.grid.std < levels.std() < 6553
    assert math.isfinite(first.train_loss)
    np.testing.assert_array_equal(network.trunk_values(), trunk)
    site.abandon(1)
    again = site.train(1, 1, None, trunk, quiet)
    assert again.payload != first.payload, "noise that repeats can be taken off"
    site.commit(1)
    kept, _, _ = noised_rounds(tmp_path)
    kept.resume(again.state_file)
    assert kept.committed == 1
    kept.train(2, 1, None, trunk, quiet)
