"""Passes the trainer's answers on: to the protocol, to the store and to what the operator sees."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.rounds import Ready, RoundFailed, RoundTrained, Unready
from kmel_p2p.learn.worker import session
from kmel_p2p.site.final_models import FinalModels
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.course import ROUND, Course
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.trainer.contributions import ContributionMeasuring
from kmel_p2p.site.trainer.following import DataFollowed
from kmel_p2p.site.trainer.looks import TrunkLooks

log = structlog.get_logger()

NOT_TRAINING = "not training"
"""An alarm."""
REMEDY = "correct it, then run kmel-peer data reload, or restart the peer"


class TrainerAnswers:
    """See the module docstring. A `supervisor.Listener`.

    Args:
        activity: what status and metrics show.
        command: feeds a command to the protocol.
        final_models: told when the trainer is ready, and when the models are written.
        looks: told of rounds, and of what looks found.
        measuring: likewise of what contributions are worth.
        note: stores something that nobody waits for.
        course: told of rounds, too.
        data: told when the trainer has read the data.
        fail: ends the peer.
    """

    def __init__(
        self,
        *,
        activity: Activity,
        command: Callable[[Any], None],
        final_models: FinalModels,
        looks: TrunkLooks,
        measuring: ContributionMeasuring,
        note: Callable[[Callable[[Store], None]], None],
        course: Course,
        data: DataFollowed,
        fail: Callable[[KmelError], None],
    ) -> None:
        self._activity = activity
        self._command = command
        self._final_models = final_models
        self._looks = looks
        self._measuring = measuring
        self._note = note
        self._course = course
        self._data = data
        self._fail = fail

    def trainer_prepared(self, answer: session.Prepared) -> None:
        """The data are ready: announce their size class and take part."""
        self._activity.clear(NOT_TRAINING)
        self._data.prepared(answer)
        self._trains_on(answer)

    def trainer_reloaded(self, answer: session.Reloaded) -> None:
        """The data were read again; what is trained on may be what it was."""
        self._data.reloaded(answer)
        self._trains_on(answer.prepared)

    def _trains_on(self, answer: session.Prepared) -> None:
        self._activity.data = {
            "rows_in": answer.rows_in,
            "used": answer.used,
            "rejected": answer.rejected,
            "aggregated": answer.aggregated,
            "train_rows": answer.train_rows,
            "valid_rows": answer.valid_rows,
            "test_rows": answer.test_rows,
        }
        log.info("data prepared", **self._activity.data, rejects=str(answer.rejects_path))
        # What was asked of a trainer that was starting again nobody answers.
        self._looks.lost()
        self._measuring.lost()
        self._command(membership_commands.DescribeSelf(size_class=answer.size_class))
        self._command(Ready(answer.heads))
        self._final_models.prepared(answer.dataset_hash)

    def trainer_trained(self, answer: session.Trained) -> None:
        """The delta of a round has arrived."""
        activity = self._activity
        activity.trained_at, activity.loss, activity.scores = activity.clock(), answer.train_loss, answer.scores
        activity.steps += answer.steps
        activity.trained_payload = answer.payload
        at = time.time()
        row = {
            "number": answer.round,
            "loss": answer.train_loss,
            "scores": {name: dict(scores) for name, scores in answer.scores.items()},
            "steps": answer.steps,
            "payload_bytes": len(answer.payload),
            "norm": answer.norm,
            "seconds": answer.seconds,
            "training_us": answer.training_us,
        }
        self._note(partial(Store.add_history, kind=ROUND, at=at, values=row))
        self._course.trained({"at": at, **row})
        validation = validation_figure(answer.scores)
        self._command(
            RoundTrained(
                number=answer.round,
                payload=answer.payload,
                steps=answer.steps,
                training_us=answer.training_us,
                own_state_file=answer.state_file,
                validation=validation,
            )
        )
        self._looks.trained(answer.seconds, answer.round)
        self._measuring.trained(answer.seconds)

    def trainer_lost(self, number: int | None, reason: str, restarts: int) -> None:
        """The trainer died, in round `number` or between rounds (None); a new one starts by itself."""
        self._looks.lost()
        self._measuring.lost()
        self._data.lost()
        self._activity.last_error = reason
        self._activity.alarm("trainer", f"{reason}; restarted {restarts} times")
        self._command(Unready(reason) if number is None else RoundFailed(number, reason))

    def trainer_finished(self, answer: session.Finished) -> None:
        """The models are compared and written."""
        self._final_models.finished(answer)

    def trainer_examined(self, answer: session.Examined) -> None:
        """Parts of the trunk were looked at."""
        self._looks.examined(answer)

    def trainer_appraised(self, answer: session.Appraised) -> None:
        """Contributions were measured."""
        self._measuring.appraised(answer)

    def trainer_unusable(self, kind: str, text: str, *, ended: bool) -> None:
        """The trainer cannot use this site's files: there is no point in trying again.

        Where one could before (not `ended`), this site goes on as one that cannot train now.
        """
        self._data.unusable(text)
        if ended:
            self._fail(DataError(text) if kind == "data" else ConfigError(text))
            return
        self._activity.last_error = text
        self._activity.alarm(NOT_TRAINING, f"{text}. This site relays and does not train; {REMEDY}")
        self._command(Unready(text))


def validation_figure(scores: session.Scores) -> float | None:
    """One figure over all assay endpoints, whatever their units: the mean logarithm of the validation scores."""
    valid = [folds["valid"] for folds in scores.values() if folds.get("valid", 0.0) > 0.0]
    return math.fsum(math.log(score) for score in valid) / len(valid) if valid else None
