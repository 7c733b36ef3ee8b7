"""Applying entries: `python benchmarks/accumulate.py [--json] [--entries N] [--values N]`.

Figures, all from one run on one thread:

  entries_per_s         entries of a 1 M trunk per second: unpack, hash, signature, decode, add
  signatures_per_s      the same entries, unpacked, hash and signature checked only: what no codec can beat
  digest_over_blake2b   `Accumulator.digest` of `--values` values (10 M) over one BLAKE2b pass of the same bytes
  trunk_ms              float32 trunk from the same accumulator
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.parts.measure import Goal, at_least, at_most, median_seconds, parse, publish, this_machine
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.log import entry
from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE, Accumulator
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.delta import DeltaCodec, Layout, TensorSpec, initial_trunk

DISTINCT = 50
AUTHORS = 20
GOALS: dict[str, Goal] = {"entries_per_s": at_least(300.0), "digest_over_blake2b": at_most(1.3)}
SMOKE: dict[str, Any] = {"entries": 20, "values": 100000}


def make_entries(codec: DeltaCodec, count: int) -> list[bytes]:
    """Signed entries of several authors; payloads repeat after `DISTINCT`."""
    rng = np.random.default_rng(0)
    payloads = []
    for _ in range(min(DISTINCT, count)):
        residual = (rng.standard_normal(codec.layout.size) * 1e-3).astype(np.float32)
        payloads.append(codec.encode(residual))
    norms = [codec.decode(payload).norm_squared for payload in payloads]
    identities = [Identity(bytes([n]) * 32) for n in range(AUTHORS)]
    charter_id = bytes(32)
    order = RosterOrder(sorted(identity.key for identity in identities))
    heads = {identity.key: entry.NO_PREVIOUS for identity in identities}
    encoded = []
    for number in range(count):
        author = identities[number % AUTHORS]
        base = {identity.key: number // AUTHORS for identity in identities}
        made = entry.create(
            author,
            charter_id=charter_id,
            number=number // AUTHORS + 1,
            previous=heads[author.key],
            basis=entry.Basis(order.vector(base), bytes(32), {}, 0),
            weight=WEIGHT_ONE // AUTHORS,
            steps=20,
            norm_squared=norms[number % DISTINCT],
            codec_id=codec.codec_id,
            payload=payloads[number % DISTINCT],
        )
        heads[author.key] = made.hash
        encoded.append(made.encode())
    return encoded


def checked(data: bytes) -> entry.Entry:
    """The entry in `data`, its payload hash and signature verified."""
    received = entry.decode(data)
    if not received.signature_is_good():
        raise SystemExit("a signature made by this benchmark does not verify")
    return received


def entries_case(count: int, figures: dict[str, float]) -> None:
    layout = Layout([TensorSpec("weight", (1000, 1000), 0.03)])
    codec = DeltaCodec(layout)
    encoded = make_entries(codec, count)
    start = time.perf_counter()
    for data in encoded:
        checked(data)
    figures["signatures_per_s"] = count / (time.perf_counter() - start)
    accumulator = Accumulator.from_trunk(initial_trunk(layout, 0))
    start = time.perf_counter()
    for data in encoded:
        received = checked(data)
        accumulator.add(codec.decode(received.payload), received.weight, received.head_weights)
    figures["entries_per_s"] = count / (time.perf_counter() - start)


def digest_case(figures: dict[str, float], values: int = 10_000_000) -> None:
    layout = Layout([TensorSpec("weight", (values // 2500, 2500), 0.03)])
    accumulator = Accumulator.from_trunk(initial_trunk(layout, 0))
    raw = bytes(accumulator.raw())
    out = np.empty(layout.size, np.float32)
    one_pass = median_seconds(lambda: hashlib.blake2b(raw, digest_size=32).digest())
    figures["blake2b_ms"] = 1e3 * one_pass
    figures["digest_over_blake2b"] = median_seconds(lambda: accumulator.digest(b"vector")) / one_pass
    figures["trunk_ms"] = 1e3 * median_seconds(lambda: accumulator.trunk(out))


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10_000_000, help="size of the accumulator")
    parser.add_argument("--entries", type=int, default=1000, help="entries to apply (default 1000)")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    figures: dict[str, float] = {}
    entries_case(options.entries, figures)
    digest_case(figures, options.values)
    publish(f"accumulator, {options.entries:,} entries", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
