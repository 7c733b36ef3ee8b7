"""What the trainer's answers lead to."""

from __future__ import annotations

from unittest.mock import Mock

from kmel_p2p.site.trainer.answers import TrainerAnswers


def test_what_was_asked_of_a_trainer_that_was_starting_is_asked_again() -> None:
    parts = {
        name: Mock() for name in ("activity", "command", "final_models", "looks", "measuring", "note", "course", "fail")
    }
    TrainerAnswers(**parts).trainer_prepared(Mock(size_class=3, heads=1))
    # Otherwise they would wait for an answer that nobody gives, until the trainer dies the next time.
    parts["looks"].lost.assert_called_once_with()
    parts["measuring"].lost.assert_called_once_with()
