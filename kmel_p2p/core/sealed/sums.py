"""The sums that were opened, in order: the trunk, and the chain of hashes that names them.

Every sum is an entry of one author that is no site, the lane. Positions and step of a round follow from the sums before
it, so a sum of a few kilobytes and its number of sites are all that a site needs to go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgpack
import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.canonical import reader
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey, digest
from kmel_p2p.core.sealed import levels as steps
from kmel_p2p.core.sealed.keystream import positions
from kmel_p2p.core.sealed.masking import MAX_MEMBERS, mask_bits, pack, packed_bytes, unpack
from kmel_p2p.core.sealed.messages import MAX_ROUND
from kmel_p2p.core.sealed.public_optimiser import PublicOptimiser

NORMS_KEPT = 16
"""Sums whose median norm bounds the next one."""
NORM_CAP = 8.0
"""Multiple of that median."""
_HEADER_BYTES = 128
"""Of an encoded sum beside its values, at most."""


@dataclass(frozen=True, slots=True)
class SumEntry:
    """One sum.

    Attributes:
        number: of sums, from 1.
        round: in which it was opened; rounds that were void have none.
        sites: whose vectors are in it, as bits: their places in the order of keys of the roster.
        choice: names group and vectors.
        packed: the levels' sum, each value plus the number of sites times the limit, packed as a masked vector is.
    """

    number: int
    round: int
    sites: int
    choice: bytes
    packed: bytes

    @property
    def count(self) -> int:
        """Sites whose vectors are in it."""
        return self.sites.bit_count()

    def authors(self, roster: Sequence[SiteKey]) -> list[SiteKey]:
        """Sites whose vectors are in it. `roster`: in the order of keys."""
        return [site for place, site in enumerate(roster) if self.sites >> place & 1]

    def encode(self) -> bytes:
        """A msgpack array of the fields."""
        packed: bytes = msgpack.packb(
            [self.number, self.round, self.sites, self.choice, self.packed], use_bin_type=True
        )
        return packed


def decode_sum(data: bytes) -> SumEntry:
    """What `encode` encoded.

    Raises:
        WireError: it is not that.
    """
    unpacker = reader(data)
    try:
        fields = [unpacker.unpack() for _ in range(unpacker.read_array_header() if data else 0)]
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError("a sum that is no list of five fields") from error
    if len(fields) != 5:
        raise WireError("a sum that is no list of five fields")
    number, at_round, sites, choice, packed = fields
    whole = all(type(each) is int and 0 <= each <= MAX_ROUND for each in (number, at_round, sites))
    if not whole or type(choice) is not bytes or len(choice) != HASH_BYTES or type(packed) is not bytes:
        raise WireError("a sum with a field of another kind")
    entry = SumEntry(number, at_round, sites, choice, packed)
    if entry.encode() != data:
        raise WireError("a sum in another spelling")
    return entry


class SumLog:
    """See the module docstring.

    Args:
        charter_id: 32 bytes.
        base: initial trunk, float32[d].
        pattern: part of the values that a round sends.
        levels: limit of a level.
        exponent: of the first step.
        optimiser: what sums move the trunk by, where they are sums of gradients; None: they are added to it.
    """

    def __init__(
        self,
        charter_id: bytes,
        base: NDArray[np.float32],
        pattern: float,
        levels: int,
        exponent: int,
        optimiser: PublicOptimiser | None = None,
    ) -> None:
        self.lane = SiteKey(digest(b"kmel lane 1", charter_id))
        self.number = 0
        self.last_round = 0
        self.chain = digest(b"kmel seal-chain 1", charter_id)
        self.exponent = exponent
        self.levels = levels
        self.encoded: list[bytes] = []
        """All sums, for sites that lack some."""
        self.encoded_bytes = 0
        """Of all of them."""
        self._charter_id, self._optimiser = charter_id, optimiser
        self._sum = np.rint(base.astype(np.float64) * 2.0**steps.SCALE_BITS).astype(np.int64)
        self._count = max(1, round(pattern * base.size))
        self._norms: deque[int] = deque(maxlen=NORMS_KEPT)

    def __len__(self) -> int:
        return int(self._sum.size)

    @property
    def count(self) -> int:
        """Values that a round sends."""
        return self._count

    @property
    def most_bytes(self) -> int:
        """Of one sum, encoded."""
        return packed_bytes(self._count, mask_bits(MAX_MEMBERS, self.levels)) + _HEADER_BYTES

    def positions(self, at_round: int) -> NDArray[np.int64]:
        """Where those of a round are that starts from here, int64[count]."""
        seed = digest(b"kmel seal-pattern 1", self.chain, at_round.to_bytes(8, "big"))
        return positions(seed, len(self), self._count)

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The trunk, float32[d]; equal sums give equal bits."""
        values = (self._sum * 2.0**-steps.SCALE_BITS).astype(np.float32)
        if out is None:
            return values
        out[:] = values
        return out

    def digest_work(self) -> Callable[[], bytes]:
        """Work for another thread: hash of chain and trunk, 32 bytes."""
        chain, held = self.chain, self._sum.copy()
        return lambda: digest(chain, held.astype("<i8").tobytes())

    def problem(self, total: NDArray[np.int64]) -> str:
        """Why a sum does not stand, in words; the same at every site. Empty: it stands."""
        norm = self._norm(total)
        usual = sorted(self._norms)[len(self._norms) // 2] if len(self._norms) >= NORMS_KEPT // 2 else None
        if usual is not None and norm > NORM_CAP**2 * usual:
            return f"its norm is {(norm / max(1, usual)) ** 0.5:.1f} times the usual one; {NORM_CAP:g} are allowed"
        return ""

    def entry(self, at_round: int, sites: int, choice: bytes, total: NDArray[np.int64]) -> SumEntry:
        """A sum as the next entry. `sites`: as `SumEntry.sites`."""
        shifted = (total + sites.bit_count() * self.levels).astype(np.uint16)
        packed = pack(shifted, mask_bits(sites.bit_count(), self.levels))
        return SumEntry(self.number + 1, at_round, sites, choice, packed)

    def add(self, entry: SumEntry) -> None:
        """Add the next sum.

        Raises:
            WireError: it is not the next one, or not a sum of so many sites. Nothing was changed.
        """
        if entry.number != self.number + 1 or entry.round <= self.last_round or not 0 < entry.sites < 2**MAX_MEMBERS:
            raise WireError(f"sum {entry.number} of round {entry.round} does not follow {self.number}")
        raised = unpack(entry.packed, self._count, mask_bits(entry.count, self.levels)).astype(np.int64)
        if int(raised.max(initial=0)) > 2 * entry.count * self.levels:
            raise WireError(f"sum {entry.number} has a value beyond what {entry.count} sites can send")
        total = raised - entry.count * self.levels
        if self._optimiser is None:
            steps.add_sum(self._sum, self.positions(entry.round), total, self.exponent)
        else:
            self._sum += self._optimiser.change(total, self._sum)
        self._norms.append(self._norm(total))
        self.chain = chain_after(self.chain, entry)
        self.encoded.append(entry.encode())
        self.encoded_bytes += len(self.encoded[-1])
        self.number, self.last_round = entry.number, entry.round
        if self._optimiser is None:
            self.exponent = steps.next_exponent(self.exponent, total, entry.count, self.levels)

    def _norm(self, total: NDArray[np.int64]) -> int:
        """Squared norm in units of 2**-80."""
        if not -40 <= self.exponent <= 0:
            raise Bug(f"exponent {self.exponent}")
        return int((total * total).sum()) << 2 * (self.exponent + steps.SCALE_BITS)


def chain_after(chain: bytes, entry: SumEntry) -> bytes:
    """The chain with one sum more."""
    return digest(b"kmel seal-chain 1", chain, entry.encode())
