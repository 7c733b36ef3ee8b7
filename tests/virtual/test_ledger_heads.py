"""A shared head that few sites hold learns as fast as if only these sites existed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.delta.layout import Layout, TensorSpec, initial_trunk
from tests.testbed.ledger.federation import LedgerFederation, LedgerWorld
from tests.testbed.ledger.toy import toy_charter, toy_identities

LAYOUT = Layout(
    [
        TensorSpec("trunk.weight", (32,), 1.0),
        TensorSpec("head.weight", (2, 24), 0.2, heads_along=0),
        TensorSpec("head.bias", (2,), heads_along=0),
    ]
)
CODEC = DeltaCodec(LAYOUT, CodecParameters(chunk=64, kept=64, bits=4))
RARE = 1
RATE = 0.06
ENTRIES = 12
TARGET = np.random.default_rng(5).uniform(-0.2, 0.2, LAYOUT.size).astype(np.float32)


class Descent:
    """Gradient descent on half the squared distance to the target, on the trunk and the heads that a site holds."""

    def __init__(self, heads: tuple[int, ...]) -> None:
        owner = LAYOUT.heads_at(np.arange(LAYOUT.size))
        assert owner is not None
        self._learns = (owner < 0) | np.isin(owner, heads)
        self._residual = np.zeros(LAYOUT.size, np.float32)

    def resume(self, state_file: str | None) -> None:
        assert state_file is None

    def train(self, trunk: NDArray[np.float32], number: int, steps: int, norm_bound: float) -> tuple[bytes, str]:
        towards = (TARGET - trunk) * np.float32(1 - (1 - RATE) ** steps)
        self._residual += np.where(self._learns, towards, np.float32(0))
        return CODEC.encode(self._residual, norm_bound), f"round-{number}"

    def commit(self, number: int) -> None:
        return None

    def abandon(self, number: int) -> None:
        raise AssertionError("nothing goes wrong in this run")


def run(sites: int, holders: int, told: bool = True) -> tuple[float, float, LedgerFederation]:
    """How far the rare head and the trunk are from the target after a run, as a share of where they began.

    `told`: whether sites say which heads they train; else one weight holds for everything, as before format 2.
    """
    held = [(0, RARE) if index < holders else (0,) for index in range(sites)]
    identities = toy_identities(sites)
    shared = (AssayEndpoint(name="all", head="shared"), AssayEndpoint(name="rare", head="shared"))
    # Steps of any size: the descent is no optimiser of the product.
    wide = {"entry_limit": ENTRIES, "norm_cap": 4.0, "first_norm": 1e3, "trusted_after": 1}
    charter = toy_charter(identities, wide, {"max_lead": 1})
    world = LedgerWorld(
        charter=charter.model_copy(update={"assay_endpoints": shared}),
        identities=identities,
        codec=CODEC,
        initial_trunk=initial_trunk(LAYOUT, 1),
        make_trainer=lambda index: Descent(held[index]),
        max_payload_bytes=CODEC.max_payload_bytes,
        heads=lambda index: held[index] if told else None,
    )
    federation = LedgerFederation(world, seed=3)
    federation.start_all()
    assert federation.run(1000 * 1_000_000, until=federation.all_complete)
    assert len(federation.digests()) == 1
    trunk, first = federation.averaging(0).trunk(), initial_trunk(LAYOUT, 1)
    places = np.concatenate([np.arange(LAYOUT.size)[place] for place in LAYOUT.places_of_head(RARE)])

    def left(where: NDArray[np.int64]) -> float:
        return float(np.linalg.norm((trunk - TARGET)[where]) / np.linalg.norm((first - TARGET)[where]))

    return left(places), left(np.arange(32)), federation


def test_a_head_of_two_of_six_sites_learns_as_if_there_were_only_two() -> None:
    alone, trunk_alone, _ = run(2, 2)
    among, trunk_among, federation = run(6, 2)
    single, _, _ = run(6, 2, told=False)
    assert among < 2 * alone + 1e-3
    assert single > 10 * among
    # The trunk, which all train, is unharmed.
    assert trunk_among < 2 * trunk_alone + 1e-3
    entries = [entry for entry in federation.averaging(0).ledger.entries() if entry.number == ENTRIES]
    given = [entry.head_weights.get(RARE) for entry in entries]
    assert sorted(weight or 0 for weight in given) == [0, 0, 0, 0, WEIGHT_ONE // 2, WEIGHT_ONE // 2]
    assert sum(entry.weight for entry in entries) == WEIGHT_ONE
