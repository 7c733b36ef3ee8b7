"""One peer of `versus_hivemind.py` on the other side: runs in the benchmark's own virtual environment.

Trains exactly what a kmel-peer trains (its data preparation, network, optimiser, batches and schedule are imported) and
averages the whole trunk with hivemind's `DecentralizedAverager` after every round. Writes one JSON line per round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import hivemind
import numpy as np
import torch

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.delta import initial_trunk
from kmel_p2p.files import private_directory
from kmel_p2p.learn.evaluate.scores import fold_scores
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.optimise import LocalOptimiser, cosine_rate
from kmel_p2p.learn.worker.prepare import prepare
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site, trainer_plan

CODECS = {
    "fp16": hivemind.compression.Float16Compression,
    "8bit": hivemind.compression.Uniform8BitQuantization,
}
GROUP_TIMEOUT_S = 60.0


def join(path: Path, first: bool) -> hivemind.DHT:
    """The swarm; its first peer writes its address to `path`."""
    quiet = {"nat_port_map": False, "auto_nat": False, "use_relay": False}
    if first:
        dht = hivemind.DHT(start=True, **quiet)
        partial = path.with_suffix(".partial")
        partial.write_text("\n".join(map(str, dht.get_visible_maddrs())))
        os.replace(partial, path)
        return dht
    while not path.exists():
        time.sleep(0.05)
    return hivemind.DHT(initial_peers=path.read_text().split(), start=True, **quiet)


def wait_for_all(folder: Path, name: str, count: int) -> None:
    """Until every peer came here."""
    (folder / f"{name}.here").touch()
    while len(list(folder.glob("*.here"))) < count:
        time.sleep(0.02)


def say(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, "at": time.time(), **values}), flush=True)


def make_averager(options: argparse.Namespace, tensor: torch.Tensor, dht: hivemind.DHT) -> Any:
    timeouts: dict[str, float] = {}
    if options.timeouts == "short":
        timeouts = {"next_chunk_timeout": 5, "sender_timeout": 5, "reducer_timeout": 10, "allreduce_timeout": 30}
    return hivemind.DecentralizedAverager(
        [tensor],
        dht,
        start=True,
        prefix="versus",
        target_group_size=options.peers,
        min_group_size=options.peers,
        compression=CODECS[options.codec](),
        **timeouts,
    )


def train(options: argparse.Namespace) -> None:
    """Rounds of local training and averaging, as many as the charter's entry limit."""
    site = load_site(load_config(options.config))
    private_directory(site.config.site.state_dir)
    plan = trainer_plan(site, reproducible_seed=int.from_bytes(site.identity.key[:4], "big"))
    dataset, _ = prepare(plan, lambda progress: None)
    network = Network(plan.architecture)
    network.load(initial_trunk(site.layout, plan.model_seed))
    optimiser = LocalOptimiser(network, dataset, plan.training)
    shared = torch.from_numpy(network.trunk_values())
    dht = join(options.folder / "address", options.number == 0)
    averager = make_averager(options, shared, dht)
    wait_for_all(options.folder, site.rule.name, options.peers)
    say("start", rows=len(dataset.train), values=int(shared.numel()))
    for number in range(1, plan.training.entry_limit + 1):
        scores = fold_scores(dataset, network.predict)
        say("round", number=number, scores=scores)
        optimiser.train(plan.training.steps_per_entry, cosine_rate((number - 1) / plan.training.entry_limit))
        with averager.get_tensors() as (tensor,):
            tensor.copy_(torch.from_numpy(network.trunk_values()))
        group = averager.step(weight=float(len(dataset.train)), timeout=GROUP_TIMEOUT_S)
        with averager.get_tensors() as (tensor,):
            network.load(tensor.detach().numpy().copy())
        say("averaged", number=number, peers=0 if group is None else len(group))
    say("end", scores=fold_scores(dataset, network.predict))
    # Others may still be asking for their last parts.
    wait_for_all(options.folder, site.rule.name + ".end", 2 * options.peers)


def average_once(options: argparse.Namespace) -> None:
    """One averaging of random vectors, for the kill test; says what became of it."""
    values = np.random.default_rng(options.number).standard_normal(options.values).astype(np.float32)
    shared = torch.from_numpy(values.copy())
    dht = join(options.folder / "address", options.number == 0)
    averager = make_averager(options, shared, dht)
    wait_for_all(options.folder, str(options.number), options.peers)
    say("step")
    try:
        group = averager.step(timeout=GROUP_TIMEOUT_S, allow_retries=False)
        outcome = "nothing" if group is None else f"{len(group)} peers"
    except Exception as error:
        outcome = type(error).__name__
    with averager.get_tensors() as (tensor,):
        moved = float((tensor - torch.from_numpy(values)).abs().max())
        digest = Identity(bytes(32)).sign(b"versus", tensor.numpy().tobytes()).hex()[:16]
    say("done", outcome=outcome, moved=moved, digest=digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "average"))
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--codec", choices=tuple(CODECS), default="8bit")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--timeouts", choices=("default", "short"), default="default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "train":
        train(options)
    else:
        average_once(options)
    sys.stdout.flush()
    # hivemind's background processes end with this one.
    os._exit(0)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork", force=True)
    main()
