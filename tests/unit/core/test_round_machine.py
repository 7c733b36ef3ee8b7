"""The round machine that both averaging modes share, under a mode that does nothing of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Emit, Event, Message, Persisted
from kmel_p2p.core.membership.events import TwinDecided, TwinFound
from kmel_p2p.core.rounds import (
    Approve,
    ApproveUntil,
    EntryHeld,
    Listen,
    Pause,
    Phase,
    PhaseChanged,
    Ready,
    Reject,
    Resume,
    RoundAbandoned,
    RoundCommitted,
    RoundFailed,
    RoundOpened,
    RoundTrained,
    RunComplete,
    Unready,
    Waiting,
)
from kmel_p2p.core.rounds.machine import HELD, RoundMachine
from kmel_p2p.core.rounds.settings import RoundSettings
from kmel_p2p.core.rounds.states import TRANSITIONS, End, Move, RoundState, Wait
from kmel_p2p.core.types import SECOND, Micros

OWN = SiteKey(b"o" * 32)


class Nobody:
    def alive(self) -> tuple[SiteKey, ...]:
        return ()

    def descriptor(self, key: SiteKey) -> None:
        return None


class PlainMode(RoundMachine):
    """Stores a round by asking for `Persisted`."""

    messages = ()

    def __init__(self, *, hold: bool = False) -> None:
        self.done = 0
        self.obstacle: Wait | End | None = None
        self.refusal = ""
        settings = RoundSettings(
            entry_limit=3,
            steps_per_entry=20,
            start_sites=1,
            max_lead=4,
            patience=0,
            hold=hold,
            settle_us=SECOND,
            stuck_after_us=SECOND,
            unit="entries",
        )
        super().__init__(OWN, Nobody(), settings, 0)

    def _obstacle(self, now: Micros) -> Wait | End | None:
        return self.obstacle or self._limit(self.done)

    def _begin_round(self) -> tuple[int, float]:
        return self.done + 1, 1.5

    def _step_times_us(self) -> Iterable[Micros]:
        return ()

    def _check_trained(self, result: RoundTrained) -> int:
        if not result.payload:
            raise LocalError("nothing was trained")
        return len(result.payload)

    def _store_round(self, result: RoundTrained) -> None:
        if self.refusal:
            self._refuse(self.refusal)

    def _phase_changed(self) -> None: ...
    def _on_message(self, sender: SiteKey, message: Message, now: Micros) -> None: ...
    def _on_time(self, now: Micros) -> None: ...

    def _on_command(self, cmd: Any, now: Micros) -> None:
        if isinstance(cmd, Persisted):
            self.done += 1
            self._commit()

    def _deadlines_us(self) -> Iterable[Micros | None]:
        return ()

    def _before_round(self, now: Micros) -> None: ...
    def _after_round(self, now: Micros) -> None: ...

    def _rounds_published(self) -> dict[SiteKey, int]:
        return {}

    def _behind(self) -> dict[SiteKey, int]:
        return {}

    def _final_state(self) -> object:
        return self.done if self.phase is Phase.LISTENING and self._state is RoundState.IDLE else None

    def _run_completed(self) -> None: ...

    def told(self, command: Any) -> list[Event]:
        """The events that follow a command."""
        self.command(command, SECOND)
        events = []
        while (effect := self.poll()) is not None:
            assert isinstance(effect, Emit)
            events.append(effect.event)
        return events


def trained(number: int, payload: bytes = b"delta") -> RoundTrained:
    return RoundTrained(number, payload, 20, 1000, f"round-{number}")


def test_a_round_goes_from_open_to_committed_and_the_next_one_opens() -> None:
    mode = PlainMode()
    assert mode.told(Ready()) == [PhaseChanged(Phase.TRAINING, "data prepared"), RoundOpened(1, 20, 1.5, 3)]
    assert mode.told(trained(1)) == []
    assert mode.told(Persisted(1)) == [RoundCommitted(1), RoundOpened(2, 20, 1.5, 3)]


def test_a_held_round_waits_for_the_operator_and_is_trained_again_after_a_rejection() -> None:
    mode = PlainMode(hold=True)
    mode.told(Ready())
    assert mode.told(trained(1)) == [EntryHeld(1, 5), Waiting(f"round 1 is held: {HELD}")]
    assert mode.told(Reject(1, "no")) == [
        RoundAbandoned(1, "no", rejected=True), Waiting(""), RoundOpened(1, 20, 1.5, 3)
    ]  # fmt: skip
    mode.told(trained(1))
    assert mode.told(Reject(1, "not yet", deferred=True))[0] == RoundAbandoned(1, "not yet", True, True)
    mode.told(trained(1))
    assert mode.told(Approve(1)) == [Waiting("")]
    assert mode.told(Persisted(1)) == [RoundCommitted(1), RoundOpened(2, 20, 1.5, 3)]


def test_rounds_that_were_approved_beforehand_are_not_held() -> None:
    mode = PlainMode(hold=True)
    mode.told(Ready())
    assert mode.told(trained(1))[0] == EntryHeld(1, 5)
    assert mode.told(ApproveUntil(2)) == [Waiting("")], "the held one goes"
    mode.told(Persisted(1))
    assert mode.told(trained(2)) == []
    mode.told(Persisted(2))
    assert mode.told(trained(3))[0] == EntryHeld(3, 5)
    assert mode.told(ApproveUntil(0)) == []
    assert mode.told(Reject(3, "no"))[0] == RoundAbandoned(3, "no", rejected=True)


def test_a_mode_without_a_residual_cannot_defer() -> None:
    mode = PlainMode(hold=True)
    mode.has_residual = False
    mode.told(Ready())
    mode.told(trained(1))
    with pytest.raises(LocalError, match="keeps no residual"):
        mode.told(Reject(1, "no", deferred=True))
    assert mode.told(Approve(1)) == [Waiting("")], "it is still held"


def test_a_failed_round_leaves_the_site_unready_until_it_says_otherwise() -> None:
    mode = PlainMode()
    mode.told(Ready())
    failed = mode.told(RoundFailed(1, "signal 9"))
    assert failed == [RoundAbandoned(1, "signal 9"), PhaseChanged(Phase.PREPARING, "signal 9")]
    assert mode.told(Ready())[-1] == RoundOpened(1, 20, 1.5, 3)
    assert mode.told(Unready("lost")) == [PhaseChanged(Phase.PREPARING, "lost")]


def test_a_pause_begins_after_the_open_round_and_ends_where_it_began() -> None:
    mode = PlainMode()
    mode.told(Ready())
    assert mode.told(Pause("nights only")) == []
    assert mode.told(trained(1)) == []
    assert mode.told(Persisted(1)) == [
        RoundCommitted(1), PhaseChanged(Phase.PREPARING, "nights only"), Waiting("nights only")
    ]  # fmt: skip
    assert mode.told(Resume()) == [
        PhaseChanged(Phase.TRAINING, "the pause is over"), Waiting(""), RoundOpened(2, 20, 1.5, 3)
    ]  # fmt: skip


def test_a_site_that_was_paused_before_its_data_were_ready_trains_after_both() -> None:
    mode = PlainMode()
    assert mode.told(Pause("nights only")) == [Waiting("nights only")]
    assert mode.told(Ready()) == []
    assert mode.told(Unready("lost")) == []
    assert mode.told(Resume()) == [Waiting("")]
    assert mode.told(Ready())[-1] == RoundOpened(1, 20, 1.5, 3)


def test_a_pause_brings_nobody_back_from_listening() -> None:
    mode = PlainMode()
    mode.told(Pause("nights only"))
    mode.told(Ready())
    mode.told(Listen("enough"))
    mode.told(Resume())
    assert mode.phase is Phase.LISTENING
    assert RoundOpened not in {type(event) for event in mode.told(Ready())}


def test_what_cannot_be_stored_is_abandoned() -> None:
    mode = PlainMode()
    mode.refusal = "it would not stand"
    mode.told(Ready())
    assert mode.told(trained(1)) == [RoundAbandoned(1, "it would not stand"), RoundOpened(1, 20, 1.5, 3)]


def test_what_the_trainer_hands_over_is_looked_at_before_anything_changes() -> None:
    mode = PlainMode()
    mode.told(Ready())
    with pytest.raises(LocalError, match="nothing was trained"):
        mode.told(trained(1, b""))
    assert mode.told(trained(1)) == []


def test_an_obstacle_is_told_once_and_an_end_is_for_good() -> None:
    mode = PlainMode()
    mode.obstacle = Wait("nobody is here")
    assert mode.told(Ready())[-1] == Waiting("nobody is here")
    assert mode.told(Ready()) == []
    assert mode.waiting == "nobody is here"
    mode.obstacle = End("enough")
    assert mode.told(Ready()) == [Waiting(""), PhaseChanged(Phase.LISTENING, "enough"), RunComplete(1)]
    assert mode.complete
    mode.obstacle = None
    assert mode.told(Ready()) == []
    assert mode.phase is Phase.LISTENING


def test_the_charters_limit_ends_it() -> None:
    mode = PlainMode()
    mode.done = 3
    assert mode.told(Ready())[1] == PhaseChanged(Phase.LISTENING, "the limit of 3 entries is reached")


def test_a_listening_site_finishes_the_open_round_first() -> None:
    mode = PlainMode()
    mode.told(Ready())
    assert mode.told(Listen("asked")) == [PhaseChanged(Phase.LISTENING, "asked")]
    mode.told(trained(1))
    assert mode.told(Persisted(1)) == [RoundCommitted(1), RunComplete(1)]


@pytest.mark.parametrize("command", [trained(1), Approve(1), Reject(1, ""), RoundFailed(1, "")])
def test_a_command_for_a_round_that_is_not_there_is_refused_and_changes_nothing(command: Any) -> None:
    mode = PlainMode()
    with pytest.raises(LocalError, match=r"round 1 is not (training|held for approval): none is open"):
        mode.told(command)
    assert mode.told(Ready())[-1] == RoundOpened(1, 20, 1.5, 3)
    with pytest.raises(LocalError, match=r"round 2 is not training: round 1 is training"):
        mode.told(trained(2))
    assert mode.told(trained(1)) == []


def test_nothing_is_published_while_a_twin_runs() -> None:
    mode = PlainMode()
    mode.told(Ready())
    mode._pause.note(TwinFound(OWN))
    assert isinstance(mode.told(trained(1))[0], RoundAbandoned)
    assert "kmel-peer claim" in mode.waiting
    mode._pause.note(TwinFound(SiteKey(b"x" * 32)))
    mode._pause.note(TwinDecided(OWN))
    assert mode.told(Ready())[-1] == RoundOpened(1, 20, 1.5, 3)


def test_every_state_can_be_left_and_every_round_ends_idle() -> None:
    assert {start for start, _ in TRANSITIONS.values()} == set(RoundState)
    assert set(TRANSITIONS) == set(Move)
    for move in (Move.FAIL, Move.REJECT, Move.REFUSE, Move.COMMIT):
        assert TRANSITIONS[move][1] is RoundState.IDLE
