"""What a whole peer does when it learns that its process stood still."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any, cast

from kmel_p2p.core.effects import Emit, Hangup, LinkUp, StoodStill
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.toy import toy_identities

OWN, ONE, OTHER = (identity.key for identity in toy_identities(3))


class Part:
    """Membership, averaging or board, as far as a peer needs it: writes down what it is given."""

    messages = (str,)
    roster = (ONE, OTHER)

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.effects: deque[Any] = deque()

    def receive(self, sender: bytes, message: Any, now: int) -> None:
        self.inputs.append((sender, message))

    def command(self, cmd: Any, now: int) -> None:
        self.inputs.append(cmd)

    def poll(self) -> Any:
        return self.effects.popleft() if self.effects else None


def test_after_a_standstill_nothing_counts_that_came_over_an_old_connection() -> None:
    membership, averaging, board = Part(), Part(), Part()
    parts: list[Any] = [membership, averaging, board, SimpleNamespace(replaced={})]
    peer = Peer(OWN, *parts)
    averaging.inputs.clear()
    stood_still = StoodStill(60 * SECOND)
    peer.receive(ONE, cast(Any, "before"), 0)
    peer.command(stood_still, 1)
    peer.receive(ONE, cast(Any, "was on its way"), 1)
    peer.command(LinkUp(ONE), 2)
    peer.receive(ONE, cast(Any, "new"), 2)
    peer.receive(OTHER, cast(Any, "was on its way, too"), 2)
    assert averaging.inputs == [(ONE, "before"), stood_still, (ONE, "new")]
    effects = list(iter(peer.poll, None))
    assert Emit(stood_still) in effects
    assert {effect.to for effect in effects if isinstance(effect, Hangup)} == {ONE, OTHER}
