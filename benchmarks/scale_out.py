"""Several processes, large trunks, a cluster for molecules, and many sites.

  torchrun_max_difference   largest difference of a value between the model of two processes and that of one, after
                            --steps steps with dropout and missing labels
  trainer_bytes_per_value   peak memory of a process that trains rounds, less that of a tiny trunk, by value
  round_over_bare_torch     processor time of a round (scoring, steps, compression, state file) over that of the same
                            steps of a plain torch module with AdamW
  daemon_accumulators       peak memory of a daemon that publishes and receives, over 8 bytes by value; two real peers
  ray_over_pool             processor time of predicting --molecules on a local Ray cluster over that of the pool
  ray_core_hours_1e9        of a billion molecules, from that
  simulated_sites           the most sites of --sites whose federation trained in this process's workers; `sites_curve`
                            has error and bytes of each

`--only` measures some of it. Made-up fingerprints and descriptors of the real size; every process trains on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.parts.daemons import found_federation, until
from benchmarks.parts.many_sites import Plan, federate_many, in_processes, on_ray
from benchmarks.parts.measure import ROOT, Goal, at_least, at_most, parse, publish, say, this_machine
from benchmarks.parts.ray_against_pool import ray_against_pool
from benchmarks.round_cost import made_up, network_shape
from kmel_p2p.chem.structures.parallel import end_with_parent, usable_cores
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import CLIP_NORM, LocalOptimiser
from kmel_p2p.learn.train.ranks import follow, joined
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.learn.worker.session import Progress

COMPOUNDS = 500
THIRTY_MILLION = (8192, 1400)
TINY = (8,)
ROUNDS = 3
MISSING = 0.3
"""Share of the labels that are missing where two processes are compared with one."""

ENTRIES = 6
"""That the watched daemon has applied when its memory is read."""

DEADLINE_S = 900.0


# ---- several processes ------------------------------------------------------------------------------------------


def max_difference(hidden: tuple[int, ...], steps: int, folder: Path) -> float:
    """Of any value of trunk and heads, between two processes (gloo) and one."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    data = made_up(COMPOUNDS)
    data.labels[np.random.default_rng(1).random(data.labels.shape) < MISSING] = np.nan
    alone = _trained(hidden, data, steps)
    store = str(folder / "ranks")
    follower = multiprocessing.get_context("spawn").Process(target=follow_on_one_thread, args=(store,))
    follower.start()
    with joined(True, store, 0, 2) as group:
        together = _trained(hidden, data, steps)
        group.end()
    follower.join()
    return float(np.abs(together - alone).max())


def follow_on_one_thread(store: str) -> None:
    """The other process."""
    end_with_parent()
    torch.set_num_threads(1)
    with joined(False, store, 1, 2) as group:
        follow(group)


def _trained(hidden: tuple[int, ...], data: Dataset, steps: int) -> NDArray[np.float32]:
    shape = network_shape(data, hidden)
    network = Network(shape)
    start_local(network, shape, 0, 0)
    LocalOptimiser(network, data, TrainingSettings()).train(steps, 1.0)
    return np.concatenate([network.trunk_values(), network.private_values()])


# ---- a large trunk ----------------------------------------------------------------------------------------------


def rounds_alone(hidden: tuple[int, ...], steps: int) -> dict[str, float]:
    """What `ROUNDS` rounds take in this process: peak memory, and processor seconds of a round."""
    data = made_up(COMPOUNDS)
    shape = network_shape(data, hidden)
    layout = trunk_layout(shape)
    network = Network(shape)
    start_local(network, shape, 0, 0)
    trunk, took = network.trunk_values(), []
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(steps_per_entry=steps)
        rounds = Rounds(network, data, layout, DeltaCodec(layout), settings, Path(folder))
        for number in range(1, ROUNDS + 1):
            began = process_time()
            rounds.train(number, steps, None, trunk, _quiet)
            rounds.commit(number)
            took.append(process_time() - began)
    # The first round also makes the optimiser's moments.
    return {"values": layout.size, "peak": _peak_bytes(), "seconds": statistics.median(took[1:])}


def bare_torch(hidden: tuple[int, ...], steps: int) -> dict[str, float]:
    """Processor seconds of the same steps of a module as one would write it."""
    data = made_up(COMPOUNDS)
    widths = (network_shape(data, hidden).inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.1)]
    module = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
    settings, rng, took = TrainingSettings(), np.random.default_rng(0), []
    adam = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, fused=True)
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(steps):
            rows = rng.choice(data.train, min(settings.batch_size, len(data.train)), replace=False)
            adam.zero_grad()
            outputs = module(torch.from_numpy(data.inputs.rows(rows)))
            nn.functional.huber_loss(outputs, torch.from_numpy(data.labels[rows])).backward()
            nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
            adam.step()
        took.append(process_time() - began)
    return {"peak": _peak_bytes(), "seconds": statistics.median(took[1:])}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _quiet(progress: Progress) -> None:
    """Nobody watches."""


def apart(part: str, hidden: Sequence[int], steps: int) -> dict[str, float]:
    """What a part of this benchmark gives in a process of its own."""
    say(f"{part}: {' '.join(map(str, hidden))}")
    command = [sys.executable, "-m", "benchmarks.scale_out", "--part", part, "--hidden", *map(str, hidden)]
    done = subprocess.run(
        [*command, "--round-steps", str(steps)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def daemon_peak(hidden: Sequence[int], folder: Path) -> int:
    """Peak memory in bytes of one of two daemons, once it has applied `ENTRIES` entries."""
    say("two daemons")
    federation = found_federation(folder, 2, hidden=tuple(hidden), steps=2, entries=1000, max_lead=4, tiny=True)
    watched = federation.sites[0]

    def applied() -> int:
        status = watched.status(timeout_s=5.0) if watched.running else None
        return sum(status.averaging.vector.values()) if status else 0

    with federation:
        for site in federation.sites:
            site.start()
        until("entries are applied", lambda: applied() >= ENTRIES, DEADLINE_S, federation)
        assert watched.process is not None
        text = Path(f"/proc/{watched.process.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:"))
    return peak * 1024


def large_trunk(options: argparse.Namespace) -> dict[str, Any]:
    """Trainer and daemon of a large trunk."""
    hidden, steps = tuple(options.hidden), options.round_steps
    large, small = apart("rounds", hidden, steps), apart("rounds", TINY, 1)
    bare = apart("torch", hidden, steps)
    with tempfile.TemporaryDirectory(prefix="kmel-scale-") as folder:
        peak = daemon_peak(hidden, Path(folder))
    return {
        "values": large["values"],
        "trainer_bytes_per_value": (large["peak"] - small["peak"]) / (large["values"] - small["values"]),
        "round_over_bare_torch": large["seconds"] / bare["seconds"],
        "round_s": large["seconds"],
        "bare_torch_s": bare["seconds"],
        "daemon_accumulators": peak / (8 * large["values"]),
    }


def several_processes(options: argparse.Namespace) -> dict[str, Any]:
    """Two ranks against one process."""
    with tempfile.TemporaryDirectory(prefix="kmel-scale-") as folder:
        return {"torchrun_max_difference": max_difference(tuple(options.shared_hidden), options.steps, Path(folder))}


def molecules(options: argparse.Namespace) -> dict[str, Any]:
    """A Ray cluster against the pool."""
    with tempfile.TemporaryDirectory(prefix="kmel-scale-") as folder:
        return ray_against_pool(options.molecules, options.stack, Path(folder))


def many_sites(options: argparse.Namespace) -> dict[str, Any]:
    """Error and bytes by number of sites."""
    curve = []
    for sites in options.sites:
        say(f"{sites} sites")
        plan = Plan(sites, options.compounds, options.rounds, options.site_steps, tuple(options.site_hidden))
        workers = min(sites, options.workers)
        with in_processes(plan, workers) if options.ray is None else on_ray(plan, workers, options.ray) as asks:
            found = federate_many(plan, asks)
        say(f"{sites} sites: error {found['error']:.4f}, {found['received_bytes'] / 1e6:.2f} MB received by each")
        curve.append(found)
    return {"simulated_sites": max(each["sites"] for each in curve), "sites_curve": curve}


PARTS = {"processes": several_processes, "trunk": large_trunk, "molecules": molecules, "sites": many_sites}


GOALS: dict[str, Goal] = {
    "torchrun_max_difference": at_most(1e-5),
    "trainer_bytes_per_value": at_most(24),
    "round_over_bare_torch": at_most(1.25),
    "daemon_accumulators": at_most(3),
    "ray_over_pool": at_most(1.2),
    "simulated_sites": at_least(1000),
}
SMOKE: dict[str, Any] = {
    "hidden": [16],
    "shared_hidden": [16],
    "steps": 3,
    "round_steps": 2,
    "molecules": 20,
    "stack": 0,
    "sites": [2],
    "rounds": 2,
    "site_steps": 2,
    "site_hidden": [8],
    "workers": 1,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=THIRTY_MILLION, help="widths of the large trunk")
    parser.add_argument("--round-steps", type=int, default=20, help="of a round")
    parser.add_argument("--shared-hidden", type=int, nargs="+", default=[512, 256], help="of what two processes train")
    parser.add_argument("--steps", type=int, default=50, help="that two processes take together")
    parser.add_argument("--molecules", type=int, default=100_000, help="predicted on a Ray cluster and by the pool")
    parser.add_argument("--stack", type=int, default=250, help="molecules that the stack which predicts is fitted to")
    parser.add_argument("--sites", type=int, nargs="+", default=[1, 10, 100, 1000], help="of simulated federations")
    parser.add_argument("--compounds", type=int, default=48, help="of each simulated site")
    parser.add_argument("--rounds", type=int, default=30, help="of simulated federations")
    parser.add_argument("--site-steps", type=int, default=20, help="of a simulated site's entry")
    parser.add_argument("--site-hidden", type=int, nargs="+", default=[64, 32], help="of simulated federations' trunk")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="that train simulated sites")
    parser.add_argument("--ray", metavar="ADDRESS", help="of a cluster whose actors are these workers, or local")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="what to measure")
    parser.add_argument("--part", choices=("rounds", "torch"), help=argparse.SUPPRESS)
    options = parse(parser, SMOKE, given)
    torch.set_num_threads(1)
    if options.part:
        part = rounds_alone if options.part == "rounds" else bare_torch
        print(json.dumps(part(tuple(options.hidden), options.round_steps)))
        return
    machine = this_machine()
    figures: dict[str, Any] = {}
    for name in options.only:
        figures |= PARTS[name](options)
    publish("scale", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
