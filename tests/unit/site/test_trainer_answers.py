"""What the trainer's answers lead to."""

from __future__ import annotations

from unittest.mock import Mock

from kmel_p2p.core.rounds import Ready
from kmel_p2p.site.trainer.answers import TrainerAnswers


def test_what_was_asked_of_a_trainer_that_was_starting_is_asked_again() -> None:
    parts = {
        name: Mock()
        for name in ("activity", "command", "final_models", "looks", "measuring", "note", "course", "data", "fail")
    }
    TrainerAnswers(**parts).trainer_prepared(Mock(size_class=3, heads=1))
    # Otherwise they would wait for an answer that nobody gives, until the trainer dies the next time.
    parts["looks"].lost.assert_called_once_with()
    parts["measuring"].lost.assert_called_once_with()


def test_new_data_are_announced_and_refused_ones_leave_what_was_announced() -> None:
    names = ("activity", "command", "final_models", "looks", "measuring", "note", "course", "data", "fail")
    parts = {name: Mock() for name in names}
    answer = Mock(prepared=Mock(size_class=4, heads=(0, 1), dataset_hash="new"))
    TrainerAnswers(**parts).trainer_reloaded(answer)
    parts["data"].reloaded.assert_called_once_with(answer)
    assert parts["command"].call_args_list[-1].args == (Ready((0, 1)),)
    parts["final_models"].prepared.assert_called_once_with("new")
    # Nobody answers what was asked while the data were read.
    parts["looks"].lost.assert_called_once_with()
    parts["fail"].assert_not_called()
