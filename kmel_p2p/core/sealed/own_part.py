"""What a site must not forget of the present round, as bytes: its secrets, and everything that it said.

It is durable before anything of it leaves, so a site that crashes says the same again and never two things. With the
next round's state, the seeds of the round before are gone from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.core.sealed.messages import SCHEMAS, Sealed, SealOpen, SealSum, Statement
from kmel_p2p.core.wire import Wire

FORMAT = 3


@dataclass(slots=True)
class SealedState:
    """See the module docstring.

    Attributes:
        round: the present one.
        committed: own rounds that are over: their vectors are in a sum, or were opened for none.
        secret: X25519, of this round.
        self_seed: of this site's vector.
        state_file: trainer state that belongs to that vector.
        opened: the Open that it was sealed to.
        said: own statements of this round, in order.
        last_sum: the newest own `SealSum`.
        sealed: vectors sealed so far, in a sum or not: what differential privacy charges.
    """

    round: int = 1
    committed: int = 0
    secret: bytes = b""
    self_seed: bytes = b""
    state_file: str = ""
    opened: SealOpen | None = None
    said: list[Statement] = field(default_factory=list)
    last_sum: SealSum | None = None
    sealed: int = 0

    def __repr__(self) -> str:
        return f"SealedState(round={self.round})"

    def encode(self, charter_id: bytes) -> bytes:
        """A msgpack array."""
        encode = Wire(charter_id, SCHEMAS).encode
        packed: bytes = msgpack.packb(
            [
                FORMAT,
                self.round,
                self.committed,
                self.secret,
                self.self_seed,
                self.state_file,
                encode(self.opened) if self.opened is not None else b"",
                [encode(statement) for statement in self.said],
                encode(self.last_sum) if self.last_sum is not None else b"",
                self.sealed,
            ],
            use_bin_type=True,
        )
        return packed

    def after(self, outcome_of: int, committed: bool) -> SealedState:
        """The state of the round after that one: without its secrets."""
        return SealedState(outcome_of + 1, self.committed + committed, sealed=self.sealed)


def decode_own_state(data: bytes, charter_id: bytes, where: str) -> SealedState:
    """What `SealedState.encode` encoded.

    Raises:
        ConfigError: it is damaged, or another version's; names `where` it was.
    """
    decode: Callable[[bytes], object] = Wire(charter_id, SCHEMAS).decode
    try:
        version, *fields = msgpack.unpackb(data, raw=False)
        if version == 1:
            # Before there was noise, nothing was charged.
            version, fields = 2, [*fields, *fields[1:2]]
        if version == 2:
            # Vectors of before have another meaning now: this site seals the round anew, to keys of another dealing.
            version, fields = FORMAT, _without_vector(fields, decode)
        if version != FORMAT:
            raise ConfigError(f"{where}: holds sealed rounds of format {version}; this version reads {FORMAT}")
        number, committed, secret, self_seed, state_file, opened, said, last, sealed = fields
        group = decode(opened) if opened else None
        last_sum = decode(last) if last else None
        statements = [decode(each) for each in said]
    except (ValueError, TypeError, WireError, msgpack.exceptions.UnpackException) as error:
        raise ConfigError(f"{where}: the state of the present sealed round is damaged ({error})") from error
    if not isinstance(group, SealOpen | None) or not isinstance(last_sum, SealSum | None):
        raise ConfigError(f"{where}: the state of the present sealed round has other statements than it must")
    kept = [each for each in statements if isinstance(each, Statement)]
    return SealedState(number, committed, secret, self_seed, state_file, group, kept, last_sum, sealed)


def _without_vector(fields: list[Any], decode: Callable[[bytes], object]) -> list[Any]:
    number, committed, secret, _, _, _, said, *rest = fields
    return [
        number,
        committed,
        secret,
        b"",
        "",
        b"",
        [each for each in said if not isinstance(decode(each), Sealed)],
        *rest,
    ]
