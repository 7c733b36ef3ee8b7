"""Every benchmark runs at its smallest size and writes the JSON that docs/benchmarks.md was read from."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.kills
from benchmarks.parts.measure import ROOT
from tests.support.namespaces import require_namespaces
from tests.support.public_files import write_public_files
from tests.support.small_learners import make_learners_small, make_learners_small_here
from tests.testbed.witness import Figures, Kill

KEYS = {
    "accumulate": {"signatures_per_s", "entries_per_s", "digest_over_blake2b", "trunk_ms"},
    "bounds": {"bounds", "default_honest_ratio", "settings"},
    "bytes_to_score": {"ledger", "others", "ratio", "final_scores", "best_scores", "bytes_per_round", "by_target"},
    "censoring": {"compounds", "bounds", "chosen", "last"},
    "censoring_kernel": {"mean", "folds", "against_as_values"},
    "codec": {"ratio_1bit", "ratio_2bit", "index_bits", "encode_over_copy", "decode_ms", "training_ratio_2bit_worst"},
    "contribution": {"rank_correlation", "cost_share", "by_sum"},
    "contributions": {"held_out", "train", "median_correlation"},
    "defaults": {"worst_vs_best_local_pct", "mean_vs_best_local_pct", "by_case", "sites", "settings"},
    "expansionrx": {"endpoints", "best_local_rae", "stack_rae", "chosen_rae", "change_vs_best_local_pct", "settings"},
    "faults": {"faults_seeds", "faults_sound", "faults_score_kept", "faults_mean_difference", "runs"},
    "featurise": {"molecules", "per_second", "rdkit_per_second", "ratio", "cached_per_second", "enumerated"},
    "federation": {"ledger_peer_bytes_4", "ledger_alone_bytes_100", "pushsum_agree_4", "pushsum_apart_4"},
    "first_hour": {
        *("commands_to_found", "commands_to_join", "minutes", "mistakes", "mistakes_unhelpful"),
        *("doctor_found", "doctor_missed", "doctor_false"),
    },
    "fuzz": {"cases", "untyped", "slowest_ms", "by_target"},
    "hostile": {"attacks", "failed", "progress_share_worst", "alarm_s_worst", "extra_mb_worst", "loop_ms_worst"},
    "kills": {"kills", "digests", "vectors", "missing", "contradictions", "problems", "worst_gap"},
    "late_founder": {"answers_s", "ready_s", "entry_s", "counted_s", "entries_left", "others_extended"},
    "leak": {"ledger_projected", "sealed_projected", "settings"},
    "living": {
        *("prospective_change_vs_best_local_pct", "coverage_90", "entries_to_last_error_ratio", "digests"),
        *("folds_moved", "restarts", "pairs", "by_drop", "by_site_and_drop", "error_by_entry", "settings"),
    },
    "membership": {"idle_bytes_16", "idle_spread", "speed_16", "crash_lan_median_s", "crash_wan_median_s"},
    "page_memory": {"rss_mb", "page_mb", "viewed_mb", "view_ms"},
    "partners": {"gain_vs_best_local_pct", "gain_by_site_pct", "pairs", "settings"},
    "poison": {"attacks", "false_suspensions", "worst_predicted_ratio", "worst_federated_ratio", "look_share"},
    "predicting": {"cpu_ratio", "peak_mb_10k", "peak_mb_100k", "peak_growth", "rows_per_second"},
    "rare_classes": {"pairs", "pairs_with_sets", "coverage_by_class", "by_pair", "settings"},
    "round_cost": {"training_share", "steps_kept", "step_speedup", "comparison_s"},
    "scale_out": {
        *("torchrun_max_difference", "trainer_bytes_per_value", "daemon_accumulators", "round_over_bare_torch"),
        *("ray_over_pool", "ray_equal", "ray_core_hours_1e9", "simulated_sites", "sites_curve"),
    },
    "sealed": {
        *("rmse", "payload_bytes", "share_bytes", "mask_ms", "unmask_ms", "exact", "digests", "plain_bytes_found"),
        *("dp_epsilon", "dp_rmse", "slow_round_s", "slow_round_overhead_s"),
    },
    "silos": {
        *("pairs", "mean_change_pct", "logd_mean_change_pct", "cross_silo_federated_change_pct", "settings"),
        *("mean_change_vs_best_local_pct", "worst_change_vs_best_local_pct"),
        *("logd_change_vs_best_local_pct", "cross_silo_change_vs_best_local_pct"),
    },
    "soak": {"rss_over_accumulator", "rss_slope_mb_per_hour", "files_slope_per_hour", "messages_lost_share"},
    "schedules": {"seeds", "violations", "marks_missed", "longest_liveness_s", "seeds_per_minute"},
    "spread": {"rounds_mean", "bodies_per_receiver", "lossy_rounds_mean", "eager_author_share"},
    "structures": {"cases", "wrong", "identity_changed", "structures", "changed"},
    "tdc": {"splits", "beats_rdkit2d", "beats_chemprop", "kept_of_all_pct"},
    "transfer": {"ratio", "ping_p99_ms", "loop_blocked_ms", "audited_ratio", "ours_cpu_s"},
    "versus_hivemind": {"target_rmse", "ours_bytes_per_peer", "ours_seconds", "ours_bytes_per_round", "curves"},
    "wan": {"communication_share", "worst_share", "link_share", "entry_bytes", "digests"},
}
"""Benchmark -> figures that its JSON has at least, beside those that all have."""
COMMON = {"missed", "under_load", "machine"}
PUBLIC_FILES = {
    "censoring",
    "censoring_kernel",
    "defaults",
    "expansionrx",
    "featurise",
    "living",
    "partners",
    "predicting",
    "rare_classes",
    "silos",
    "structures",
    "tdc",
}
NAMESPACES = {"sealed", "versus_hivemind", "wan"}
KILLING = {"kills"}
"""tests/process/test_kills.py kills real peers as this benchmark does; what it makes of them is shown below."""


def test_every_benchmark_is_listed() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == KEYS.keys() | {"__init__"}


@pytest.fixture(scope="module")
def public_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_public_files(tmp_path_factory.mktemp("public"))


@pytest.fixture(autouse=True)
def small_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a smoke run mean nothing, and growing trees is most of what it would do."""
    make_learners_small(monkeypatch)
    make_learners_small_here(monkeypatch)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(KEYS.keys() - KILLING))
def test_a_benchmark_runs_at_its_smallest_size(name: str, public_files: Path, tmp_path: Path) -> None:
    if name in NAMESPACES:
        require_namespaces()
    given = ["--smoke", "--json", str(tmp_path / "figures.json")]
    if name in PUBLIC_FILES:
        given.insert(0, str(public_files))
    if name in PUBLIC_FILES - {"featurise", "living", "predicting", "structures"}:
        given += ["--cache", str(tmp_path / "cache")]
    importlib.import_module(f"benchmarks.{name}").main(given)
    assert json.loads((tmp_path / "figures.json").read_text()).keys() >= KEYS[name] | COMMON


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["north: a gap"], 1)])
def test_kills_writes_what_a_run_showed(
    problems: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [Kill(0.5, "north", "daemon", "training", "training"), Kill(1.5, "south", "trainer", "training", "idle")]
    found = Figures(kills, entries=9, digests=1, vectors=1, balances={"north": 1e-7, "south": 2e-7}, looks=3,
                    problems=problems, restart_s=[1.5, 2.5])  # fmt: skip
    monkeypatch.setattr(benchmarks.kills, "found_federation", lambda *given, **settings: contextlib.nullcontext())
    monkeypatch.setattr(benchmarks.kills, "kill_at_random", lambda *given: found)
    assert benchmarks.kills.main(["--smoke", "--json", str(tmp_path / "figures.json")]) == code
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.keys() >= KEYS["kills"] | COMMON
    assert (figures["kills"], figures["worst_gap"], figures["slowest_restart_s"]) == (2, 2e-7, 2.5)
    assert (figures["killed daemon while training"], figures["killed trainer while idle"]) == (1, 1)


@pytest.mark.parametrize("how", [["benchmarks/spread.py"], ["-m", "benchmarks.spread"]])
def test_a_benchmark_runs_by_path_and_by_name_and_prints_json_alone(how: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *how, "--smoke", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout).keys() >= KEYS["spread"] | COMMON
