"""Everything a site must not lose in pushsum mode, and the changes that alter it.

A store holds one encoded state and a journal of changes after it. Each change is applied here by one function, live
and when a journal is read back, so a restart arrives at the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.pushsum.events import Treatment
from kmel_p2p.core.pushsum.holding import Holding, Sums
from kmel_p2p.core.pushsum.share import decode as decode_share

STATE_VERSION = 1
LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Minted:
    """This site's starting mass came into being."""

    weight: int


@dataclass(frozen=True, slots=True)
class Debited:
    """A transfer left the holding and is owed to `to`."""

    to: SiteKey
    number: int
    life: bytes
    mass: int
    age: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Credited:
    """A transfer of another site was taken, or refused for good."""

    sender: SiteKey
    number: int
    life: bytes
    mass: int
    age: int
    treatment: Treatment
    payload: bytes
    """Empty for a refused one."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A transfer is no longer owed: it arrived, or (`reclaimed`) it came back."""

    to: SiteKey
    number: int
    reclaimed: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """The newest transfer of one sender: what makes every transfer count once.

    A sender has one transfer under way to us at a time and its numbers rise, so one number is enough. `ended` holds
    earlier lives of the sender, newest last: what it sent in them must not be taken again.
    """

    life: bytes
    number: int
    refused: bool
    ended: tuple[bytes, ...] = ()

    def has(self, life: bytes, number: int) -> bool:
        """Whether that transfer was decided on."""
        return life in self.ended or (life == self.life and number <= self.number)


MAX_ENDED = 8
"""Lives of one sender remembered. Each costs its site a whole store."""

Change: TypeAlias = Minted | Debited | Credited | Settled


@dataclass(frozen=True, slots=True)
class Moved:
    """A site's velocity, float32[d], and sum, int64[d], after a round."""

    velocity: NDArray[np.float32]
    sums: Sums
    copy: Sums
    """Equal to `sums`, for the store: made here, where the event loop does not wait for it."""


@dataclass(slots=True)
class PushSumState:
    """See the module docstring.

    Attributes:
        life: names this store; see `statement.Statement.life`.
        holding: sum and mass.
        velocity: outer momentum, float32[d].
        weight: starting mass once minted, 0 before.
        rounds: rounds trained here.
        offset: rounds of the federation before this site's first.
        age: round up to which others' work is mixed in.
        numbers: number of the newest transfer to each site.
        owed: debited transfers without receipt, by receiver; at most one each.
        taken: the newest transfer of each sender.
        index: of the newest record.
        restored: came from a store, which may be older than what this site sent. Not stored.
        outdated: the store was put back from a copy, which was noticed at the start. Not stored.
    """

    life: bytes
    holding: Holding
    velocity: NDArray[np.float32]
    weight: int = 0
    rounds: int = 0
    offset: int = 0
    age: int = 0
    numbers: dict[SiteKey, int] = field(default_factory=dict)
    owed: dict[SiteKey, Debited] = field(default_factory=dict)
    taken: dict[SiteKey, Taken] = field(default_factory=dict)
    index: int = 0
    restored: bool = False
    outdated: bool = False

    @classmethod
    def fresh(cls, base: NDArray[np.float32], life: bytes) -> PushSumState:
        """A site without history. `base`: initial trunk, float32[d]; `life`: 8 random bytes."""
        return cls(life, Holding(base), np.zeros(base.size, np.float32))

    def begin_again(self, life: bytes) -> None:
        """Go on as another store does whose own was lost, with the trunk of this one.

        Transfers are counted anew. What this site held is not known any more: others may have been sent it since. So
        it holds what it brought in, and the others take back what they owe to its earlier life.
        """
        self.life = life
        if self.weight:
            self.holding.reset(self.weight)
        self.numbers.clear()
        self.owed.clear()
        self.taken.clear()

    @property
    def level(self) -> int:
        """Round of the federation this site has reached."""
        return self.rounds + self.offset

    def moved(self, drift: NDArray[np.float32], momentum: float, outer_step: float) -> Moved:
        """Where one round's drift, float32[d], moves the trunk: v <- momentum * v + outer_step * drift; trunk += v.

        Momentum acts on local drift only, never on the distance to others: it cannot destabilise consensus. Alters
        nothing.

        Raises:
            LocalError: the drift is not finite or leaves the trunk's range.
        """
        # Out of range becomes infinite, which `moved` below refuses in words.
        with np.errstate(over="ignore", invalid="ignore"):
            velocity = np.float32(momentum) * self.velocity + np.float32(outer_step) * drift
            sums = self.holding.moved(velocity)
        return Moved(velocity, sums, sums.copy())

    def count(self, moved: Moved) -> None:
        """The round that moved the trunk there is this site's next one."""
        self.velocity = moved.velocity
        self.holding.replace(moved.sums)
        self.rounds += 1
        self.age = max(self.age, self.level)

    def trained(self, drift: NDArray[np.float32], momentum: float, outer_step: float) -> None:
        """`moved` and `count` in one."""
        self.count(self.moved(drift, momentum, outer_step))

    def apply(self, change: Change, sums: Sums | None = None) -> None:
        """Apply one change. `sums`: what its payload decodes to, when the caller has it already."""
        match change:
            case Minted(weight):
                self.holding.mint(weight)
                self.weight = weight
                self.offset = max(self.offset, self.age - self.rounds)
            case Debited():
                self.holding.take(self._decoded(change.payload, sums), change.mass)
                self.numbers[change.to] = change.number
                self.owed[change.to] = change
            case Credited():
                self._credit(change, sums)
            case Settled(to, number, reclaimed):
                owed = self.owed.pop(to)
                if owed.number != number:
                    raise Bug(f"transfer {number} is settled while {owed.number} is owed")
                if reclaimed:
                    self.holding.put(self._decoded(owed.payload, sums), owed.mass)

    def _credit(self, change: Credited, sums: Sums | None) -> None:
        before = self.taken.get(change.sender)
        ended = before.ended if before else ()
        if before and before.life != change.life:
            ended = (*ended, before.life)[-MAX_ENDED:]
        refused = change.treatment is Treatment.REFUSED
        self.taken[change.sender] = Taken(change.life, change.number, refused, ended)
        match change.treatment:
            case Treatment.ADDED:
                self.holding.put(self._decoded(change.payload, sums), change.mass)
            case Treatment.REVALUED:
                self.holding.put_revalued(change.mass)
            case Treatment.REPLACED:
                self.holding.put_replacing(self._decoded(change.payload, sums), change.mass)
                # Momentum gathered on the trunk that was given up points nowhere.
                self.velocity = np.zeros_like(self.velocity)
                self.offset = max(self.offset, change.age - self.rounds)
            case Treatment.REFUSED:
                return
        self.age = max(self.age, change.age)

    def _decoded(self, payload: bytes, sums: Sums | None) -> Sums:
        return decode_share(payload, len(self.holding)) if sums is None else sums

    # ---- bytes --------------------------------------------------------------------------------------------------

    def frozen(self, copy: Sums | None = None) -> StateCopy:
        """A copy that later changes do not touch; for another thread to encode.

        Args:
            copy: of the present sum, when there is one already.
        """
        return StateCopy(
            self.holding.sums.copy() if copy is None else copy,
            # Replaced by every round, never altered.
            self.velocity,
            [
                STATE_VERSION,
                self.life,
                self.holding.mass,
                [self.weight, self.rounds, self.offset, self.age, self.index],
                [[to, number] for to, number in sorted(self.numbers.items())],
                [fields_of(owed) for _, owed in sorted(self.owed.items())],
                [[sender, t.life, t.number, t.refused, t.ended] for sender, t in sorted(self.taken.items())],
            ],
        )

    def encode(self) -> bytes:
        """The bytes `restore` reads: about 12 per trunk value plus what is owed."""
        return bytes(self.frozen().encode())


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A state at one moment. Immutable."""

    sums: Sums
    velocity: NDArray[np.float32]
    rest: list[Any]

    def encode(self) -> bytearray:
        """Length of what follows (8 bytes, big-endian), its msgpack, the sum (int64) and the velocity (float32)."""
        packed: bytes = msgpack.packb(self.rest, use_bin_type=True)
        head = len(packed).to_bytes(LENGTH_BYTES, "big") + packed
        d = self.sums.size
        out = bytearray(len(head) + 12 * d)
        out[: len(head)] = head
        # numpy copies without the interpreter's lock, so that the event loop runs meanwhile.
        np.frombuffer(out, "<i8", d, len(head))[:] = self.sums
        np.frombuffer(out, "<f4", d, len(head) + 8 * d)[:] = self.velocity
        return out


def decode_state(base: NDArray[np.float32], data: bytes) -> PushSumState:
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
    version, life, mass, numbers, sent, owed, taken = msgpack.unpackb(data[LENGTH_BYTES:start], raw=False)
    if version != STATE_VERSION:
        raise ValueError(f"state version {version}, this program reads {STATE_VERSION}")
    weight, rounds, offset, age, index = numbers
    d = base.size
    if len(data) != start + 12 * d:
        raise ValueError(f"a trunk of {(len(data) - start) // 12} values, not {d}")
    sums = np.frombuffer(data, "<i8", d, start).astype(np.int64)
    speed = np.frombuffer(data, "<f4", d, start + 8 * d).astype(np.float32)
    transfers = [Debited(*fields) for fields in owed]
    return PushSumState(
        life=life,
        holding=Holding(base, sums, mass),
        velocity=speed,
        weight=weight,
        rounds=rounds,
        offset=offset,
        age=age,
        numbers={SiteKey(to): number for to, number in sent},
        owed={transfer.to: transfer for transfer in transfers},
        taken={
            SiteKey(sender): Taken(born, number, refused, tuple(ended))
            for sender, born, number, refused, ended in taken
        },
        index=index,
    )


def fields_of(change: Change) -> list[Any]:
    return [getattr(change, name) for name in type(change).__dataclass_fields__]
