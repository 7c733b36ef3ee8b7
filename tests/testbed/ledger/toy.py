"""The smallest world in which a ledger works: a trunk of a few values, payloads without compression, made-up training.

For what does not depend on learning: spread, crashes, joins, forks. Payloads can be padded to any size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.averaging import LedgerRule
from kmel_p2p.agreement.charter import Charter, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import KmelError, WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.delta.sparse import SparseDelta
from tests.testbed.ledger.federation import LedgerWorld

TOY_SIZE = 16


class ToyCodec:
    """Payload = msgpack of positions, units and padding."""

    codec_id = 7

    @staticmethod
    def encode(positions: list[int], units: list[int], padding: int = 0) -> bytes:
        """The payload of a few values, and `padding` bytes without a meaning."""
        return bytes(msgpack.packb([positions, units, bytes(padding)]))

    def decode(self, payload: bytes) -> SparseDelta:
        """Read a payload.

        Raises:
            WireError: not a toy payload.
        """
        try:
            positions, units, _ = msgpack.unpackb(payload)
            delta = SparseDelta(np.array(positions, np.int64), np.array(units, np.int64))
        except (ValueError, TypeError, OverflowError, KmelError, msgpack.exceptions.UnpackException) as error:
            raise WireError("not a toy payload") from error
        if len(delta) and int(delta.positions[-1]) >= TOY_SIZE:
            raise WireError("a toy payload reaches beyond the trunk")
        return delta


class ToyTrainer:
    """Makes up deltas that differ by site and round. Its state file names the rounds that were committed."""

    def __init__(self, index: int, padding: int = 0) -> None:
        self.state: str | None = None
        self.committed: list[int] = []
        self.abandoned: list[int] = []
        self._index = index
        self._padding = padding

    def resume(self, state_file: str | None) -> None:
        self.state = state_file

    def train(self, trunk: NDArray[np.float32], number: int, steps: int, norm_bound: float) -> tuple[bytes, str]:
        units = 1000 + 7 * self._index + number
        payload = ToyCodec.encode([(self._index + number) % TOY_SIZE], [units], self._padding)
        return payload, f"round-{number}"

    def commit(self, number: int) -> None:
        self.committed.append(number)

    def abandon(self, number: int) -> None:
        self.abandoned.append(number)


def toy_trunk() -> NDArray[np.float32]:
    """Where every toy site starts from."""
    return np.linspace(-1, 1, TOY_SIZE).astype(np.float32)


def toy_identities(count: int) -> list[Identity]:
    """Sites with keys made from their numbers."""
    return [Identity((index + 1).to_bytes(4, "big") * 8) for index in range(count)]


def toy_charter(
    identities: list[Identity], averaging: Mapping[str, Any] | None = None, pace: Mapping[str, Any] | None = None
) -> Charter:
    """A charter of these sites, of which more than half start the run; sections are keyword settings of their rules."""
    sites = tuple(SiteRule(name=f"site{index}", key=who.key.hex()) for index, who in enumerate(identities))
    return Charter(
        federation="toy",
        sites=sites,
        assay_endpoints=(AssayEndpoint(name="toy"),),
        averaging=LedgerRule(**{"steps_per_entry": 10, "entry_limit": 6, **(averaging or {})}),
        pace=PaceRule(**{"start_sites": len(identities) // 2 + 1, **(pace or {})}),
    )


def toy_world(
    count: int,
    averaging: Mapping[str, Any] | None = None,
    pace: Mapping[str, Any] | None = None,
    padding: int = 0,
    **changes: Any,
) -> LedgerWorld:
    """A world of `count` toy sites; `changes` are fields of `LedgerWorld`."""
    identities = toy_identities(count)
    world = LedgerWorld(
        charter=toy_charter(identities, averaging, pace),
        identities=identities,
        codec=ToyCodec(),
        initial_trunk=toy_trunk(),
        make_trainer=lambda index: ToyTrainer(index, padding),
        max_payload_bytes=padding + 1024,
    )
    return dataclasses.replace(world, **changes)
