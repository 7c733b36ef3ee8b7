"""Sealed rounds: what they cost, what they give, and that nothing plain leaves a site.

  python benchmarks/sealed.py --json [FILE]

exact, digests, plain_bytes_found    200 rounds of five whole peers in virtual time, a tenth of the messages lost and
                                     a site killed in every stage of a round, again and again: every sum against the
                                     plain one, trunks that differ, bytes of plain vectors in messages and on others'
                                     disks
payload_bytes, share_bytes           of one vector of the demo's trunk, and of shares and commitments with it, for
                                     groups of 5, 8 and 16
mask_ms, unmask_ms                   making one (keys, shares and commitments included), and opening the sum
rmse                                 demo data, four sites, sums of quantised levels at a quarter of the places
dp_epsilon, dp_rmse                  the same with differential privacy of single compounds, a step in each round
lan_round_s, round_overhead_s        real daemons on this machine: time of a round, and that beside its training
slow_round_s, slow_round_overhead_s  with `--slow 20`: the same in network namespaces behind links of 50 Mbit/s, 50 ms
                                     from site to site (a round trip of 100 ms), for groups of 5 and 8
                                     (`slow_round_s_8`)
silos_stack_change_vs_clear_points   with `--silos DATA`: see parts/sealed_silos.py
disturbed                            with `--disturbed 200`: so many rounds of real daemons in network namespaces, a
                                     tenth of the packets lost and a daemon killed now and then: trunks that differ, and
                                     rounds without a sum by reason
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.leak import PROJECTED, sums_of, trained
from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, say, settings_of, this_machine
from benchmarks.parts.noised_federation import noised_trunk
from benchmarks.parts.sealed_daemons import run_sealed
from benchmarks.parts.sealed_federation import watch
from benchmarks.parts.sealed_silos import sealed_against_clear
from benchmarks.parts.solubility_data import Solubility, read_solubility
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.core.sealed.group import Group, OwnPart
from kmel_p2p.core.sealed.messages import GroupMember, SealKey, SealOpen, signed
from kmel_p2p.core.sealed.pairs import public_key
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.accountant import Steps, epsilon_of, noise_for
from kmel_p2p.learn.train.dataset import Dataset

GOALS: dict[str, Goal] = {
    "rmse": at_most(0.60),
    "payload_bytes": at_most(18_000),
    "share_bytes_per_member": at_most(80),
    "mask_ms": at_most(10),
    "unmask_ms": at_most(10),
    "round_overhead_s": at_most(1.0),
    "slow_digests": at_most(1),
    "silos_stack_change_vs_clear_points": at_most(0.5),
    "exact": at_least(1),
    "digests": at_most(1),
    "plain_bytes_found": at_most(0),
    "dp_epsilon": at_most(8.5),
    "dp_rmse": at_most(0.72),
}
SMOKE: dict[str, Any] = {
    "rounds": 4,
    "entries": 2,
    "steps": 2,
    "private_rounds": 2,
    "groups": [4],
    "seeds": 1,
    "daemons": 0,
    "slow": 2,
    "slow_groups": [5],
}
PRIVATE = PROJECTED.changed(hidden=(32, 16), dropout=0.0)
LEVELS, PATTERN = 7, 0.25
KILLED = 0.002
"""Probability of a kill at every input of a site: one in about three rounds."""


def masks(members: int, size: int, repeats: int) -> dict[str, float]:
    """One round's arithmetic in a group: medians over repeats."""
    charter, identities = (
        os.urandom(32),
        sorted((Identity(os.urandom(32)) for _ in range(members)), key=lambda i: i.key),
    )
    making, opening, payload, shares = [], [], 0, 0
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        secrets = [os.urandom(32) for _ in identities]
        keys = [
            signed(identity, charter, SealKey(identity.key, 1, public_key(secret)))
            for identity, secret in zip(identities, secrets, strict=True)
        ]
        listed = tuple(GroupMember(key.author, key.public, key.signature) for key in keys)
        opened = signed(identities[0], charter, SealOpen(identities[0].key, 1, bytes(32), listed))
        group = Group(opened, charter, size, LEVELS)
        plain = [rng.integers(-LEVELS, LEVELS + 1, size) for _ in identities]
        seeds = [os.urandom(32) for _ in identities]
        sealed, parts = [], []
        for identity, secret, vector, seed in zip(identities, secrets, plain, seeds, strict=True):
            began = time.perf_counter()
            parts.append(OwnPart(group, identity.key, secret))
            sealed.append(signed(identity, charter, parts[-1].seal(1, vector, seed)))
            making.append(time.perf_counter() - began)
        received = {
            (here.author, there): part.share_from(here)
            for here in sealed
            for there, part in zip((i.key for i in identities), parts, strict=True)
            if there != here.author
        }
        began = time.perf_counter()
        found = []
        for each in sealed:
            some = {there: share for (author, there), share in received.items() if author == each.author}
            found.append(group.self_seed(each, some))
        total = group.sum(sealed, [seed for seed in found if seed is not None], {})
        opening.append(time.perf_counter() - began)
        if not np.array_equal(total, np.sum(plain, axis=0)):
            raise AssertionError("the sum that was opened is not the sum that was sealed")
        first = sealed[0]
        payload = len(first.payload)
        shares = len(first.shares) + len(first.commitments) + len(first.pair_commitments)
    return {
        "payload_bytes": payload,
        "share_bytes": shares,
        "share_bytes_per_member": shares / members,
        "mask_ms": 1e3 * statistics.median(making),
        "unmask_ms": 1e3 * statistics.median(opening),
    }


def score(data: Solubility, shape: Architecture, trunk: np.ndarray) -> float:
    """RMSE of a trunk on the compounds of nobody."""
    network = Network(shape)
    network.load(trunk)
    return data.rmse(network.predict(data.inputs.rows(data.scored)))


def clear_sums(arguments: argparse.Namespace, data: Solubility, datasets: Sequence[Dataset], seed: int) -> float:
    """RMSE of sums without noise."""
    shape = PROJECTED.changed(seed=seed)
    sums = sums_of(arguments, shape, len(datasets), seed)
    return score(data, shape, trained(arguments, shape, datasets, seed, sums, model_seed=seed))


def by_daemons(arguments: argparse.Namespace) -> dict[str, Any]:
    """Real daemons: what a round takes undisturbed, on slow links, and with daemons killed and packets lost."""
    figures: dict[str, Any] = {}
    if arguments.daemons:
        with tempfile.TemporaryDirectory() as folder:
            quiet = run_sealed(Path(folder), arguments.daemons, arguments.steps)
        figures |= {"lan_round_s": quiet.seconds, "round_overhead_s": quiet.overhead_s, "daemon_digests": quiet.digests}
        say(f"on this machine: {quiet}")
    for sites in arguments.slow_groups if arguments.slow else ():
        with tempfile.TemporaryDirectory() as folder:
            run = run_sealed(
                Path(folder), arguments.slow, arguments.steps,
                sites=sites, megabits=arguments.megabits, delay_ms=arguments.delay,
            )  # fmt: skip
        found = {"slow_round_s": run.seconds, "slow_round_overhead_s": run.overhead_s, "slow_digests": run.digests}
        figures |= {f"{name}_{sites}": value for name, value in found.items()}
        figures |= found if sites == arguments.slow_groups[0] else {}
        say(f"{sites} sites on slow links: {run}")
    if arguments.disturbed:
        with tempfile.TemporaryDirectory() as folder:
            run = run_sealed(
                Path(folder), arguments.disturbed, arguments.steps, kills=arguments.kills, loss=arguments.loss
            )
        figures["disturbed"] = {"rounds": arguments.disturbed, **dataclasses.asdict(run)}
        say(f"disturbed: {run}")
    return figures


def arithmetic(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sizes and times of one round's masks."""
    size = round(PATTERN * trunk_layout(PROJECTED).size)
    figures: dict[str, Any] = {}
    for members in arguments.groups:
        found = masks(members, size, arguments.repeats)
        figures |= {f"{name}_{members}": value for name, value in found.items()}
        if members <= 8:
            figures |= found
        say(f"masks of {members}: {found['mask_ms']:.1f} ms, opened in {found['unmask_ms']:.1f} ms")
    return figures


def in_virtual_time(arguments: argparse.Namespace) -> dict[str, Any]:
    """Whole peers with lost messages and kills, and what a round sends without them."""
    run = watch(5, arguments.rounds, 400, loss=0.1, often=KILLED)
    say(f"{run.sums} rounds, {sum(run.kills.values())} kills in {len(run.kills)} stages, exact: {run.exact}")
    figures: dict[str, Any] = {
        "rounds": run.sums,
        "exact": run.exact,
        "digests": run.digests,
        "plain_bytes_found": run.plain_bytes_found,
        "kills": run.kills,
        "virtual_s_per_round": run.seconds_per_round,
    }
    for members in arguments.groups:
        quiet = watch(members, 3, trunk_layout(PROJECTED).size, loss=0.0)
        figures[f"round_bytes_{members}"] = quiet.bytes_per_round
        say(f"{members} sites send {quiet.bytes_per_round:,.0f} bytes each in a round")
    return figures


def learning(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the demo's sites learn from sums, without noise and with it."""
    data = read_solubility(StructureCache(arguments.cache), decoys=10)
    datasets = [data.site(rows) for rows in data.members]
    clear = [clear_sums(arguments, data, datasets, seed) for seed in range(arguments.seeds)]
    say(f"sums: RMSE {clear}")
    rule = PrivacyRule(dp="record", epsilon=arguments.epsilon, delta=arguments.delta)
    noise = noise_for(rule.epsilon, rule.delta, rule.rate, arguments.private_rounds)
    private = []
    for seed in range(arguments.seeds):
        shape = PRIVATE.changed(seed=seed)
        trunk = noised_trunk(shape, datasets, rule, noise, arguments.private_rounds, seed=seed)
        private.append(score(data, shape, trunk))
        say(f"epsilon {arguments.epsilon:g}, seed {seed}: RMSE {private[-1]:.3f}")
    spent = epsilon_of(Steps(noise, rule.rate, arguments.private_rounds), rule.delta)
    return {
        "rmse": float(np.mean(clear)),
        "rmse_by_seed": clear,
        "dp_epsilon": spent,
        "dp_noise": noise,
        "dp_rmse": float(np.mean(private)),
        "dp_rmse_by_seed": private,
        "dp_delta": rule.delta,
    }


def in_silos(arguments: argparse.Namespace) -> dict[str, Any]:
    """What four real silos lose with the projected trunk and sealed sums; nothing without their data."""
    if arguments.silos is None:
        return {}
    found = sealed_against_clear(arguments.silos, arguments.seeds, Path(f"{arguments.cache}-silos"))
    say(f"silos: {found['silos_stack_change_vs_clear_points']:+.2f} points against the ledger of the full trunk")
    return found


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "masks": arithmetic,
    "rounds": in_virtual_time,
    "learning": learning,
    "daemons": by_daemons,
    "silos": in_silos,
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures that are asked for."""
    figures: dict[str, Any] = {}
    for name in arguments.only:
        figures |= PARTS[name](arguments)
    return figures


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--silos", type=Path, help="directory of the public files that silos.py reads")
    parser.add_argument("--rounds", type=int, default=200, help="in virtual time")
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 8, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--entries", type=int, default=40, help="sums of the run without noise")
    parser.add_argument("--steps", type=int, default=10, help="of each round of it")
    parser.add_argument("--private-rounds", type=int, default=200, help="with noise, a step each")
    parser.add_argument("--epsilon", type=float, default=8.5)
    parser.add_argument("--delta", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--daemons", type=int, default=10, help="rounds of real daemons; 0: leave them out")
    parser.add_argument("--slow", type=int, default=0, help="rounds of real daemons on slow links; root")
    parser.add_argument("--slow-groups", type=int, nargs="+", default=[5, 8], help="daemons of these")
    parser.add_argument("--megabits", type=int, default=50, help="of each slow link, each way")
    parser.add_argument("--delay", type=int, default=50, help="from one site to another there, ms one way")
    parser.add_argument("--disturbed", type=int, default=0, help="rounds of real daemons that are killed; root")
    parser.add_argument("--kills", type=int, default=20, help="in these")
    parser.add_argument("--loss", type=float, default=0.1, help="share of packets lost in these")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-leak-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    figures = measure(arguments)
    goals = {name: goal for name, goal in GOALS.items() if name in figures}
    figures["settings"] = settings_of(arguments)
    publish("sealed rounds", machine, figures, goals, arguments.json)


if __name__ == "__main__":
    main()
