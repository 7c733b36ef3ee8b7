"""A finished run of two sites, as plain data."""

from __future__ import annotations

from typing import Any


def fold(test: float) -> dict[str, dict[str, float]]:
    return {"solubility": {"valid": test + 0.1, "test": test}}


def site(name: str, local: float, digest: str = "ab" * 32) -> dict[str, Any]:
    return {
        "site": name, "train_rows": 100, "local": local, "federated": 0.6, "personalised": 0.61, "hybrid": 0.7,
        "entries": 3, "payload_bytes_mean": 2000.0, "bytes_sent": 12_345, "digest": digest,
        "vector": {"north": 3, "south": 3},
    }  # fmt: skip


def sample_report() -> dict[str, Any]:
    return {
        "task": "aqueous solubility", "metric": "rmse", "unit": "log10(mol/L)", "params": 100_000, "seed": 1,
        "wall_s": 42.0, "pooled": 0.61, "baseline_median": 2.0, "fp32_bytes_per_exchange": 400_000,
        "sites": [site("north", 0.9), site("south", 1.2)],
    }  # fmt: skip


def sample_details() -> dict[str, Any]:
    history = {
        "local": [[0, fold(2.0)], [1, fold(1.2)], [2, fold(1.0)]],
        "federated": [[1, fold(1.9)], [2, fold(0.8)], [3, fold(0.6)]],
    }
    samples = [
        {"at_s": float(at), "phase": "training", "vector": {"north": at, "south": max(0, at - 1)}, "loss": 0.2,
         "bytes_out": 4000 * at, "bytes_in": 4000 * at, "alive": 1}
        for at in range(4)
    ]  # fmt: skip
    one = {
        "chemistry": {"compounds": 100, "scaffolds": 20, "shared_scaffolds": 0, "similarity_within": 0.5,
                      "similarity_across": 0.2},
        "predicts": 0.654, "best_local": 0.8, "forest": 0.987, "chosen": "hybrid",
        "comparison": {"history": history, "endpoints": []}, "egress": {"Bodies": [6, 12_000], "Ping": [9, 345]},
        "egress_problem": "", "daemon_rss_max": 10**8, "trainer_rss_max": 5 * 10**8, "samples": samples,
    }  # fmt: skip
    return {
        "version": "0.1.0", "machine": {"python": "3.11", "system": "Linux x86_64", "cores": 2}, "run_s": 40.0,
        "charter_id": "cd" * 32, "sites": {"north": one, "south": one},
    }  # fmt: skip
