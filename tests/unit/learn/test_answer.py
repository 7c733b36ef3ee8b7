"""Which model answers for which compound."""

from __future__ import annotations

import numpy as np
import pytest

from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import CHOSEN, answers

OUTPUTS = {"hybrid": np.full((3, 2), 1.0), "local": np.full((3, 2), 2.0), "personalised": np.full((3, 2), 3.0)}


def test_the_personalised_model_answers_for_compounds_unlike_the_sites_own() -> None:
    foreign = np.array([False, True, False])
    found = answers(OUTPUTS, ["hybrid", "local"], foreign)
    assert found.tolist() == [[1.0, 2.0], [3.0, 3.0], [1.0, 2.0]]


def test_without_a_personalised_model_the_chosen_one_answers_everywhere() -> None:
    outputs = {"local": OUTPUTS["local"]}
    assert answers(outputs, ["local", "local"], np.array([True, True, True])).tolist() == [[2.0, 2.0]] * 3
    assert CHOSEN not in outputs


@pytest.mark.parametrize(("usual", "found"), [((0.4, 0.5, 0.6), [False, True]), (None, [False, False])])
def test_foreign_is_what_is_less_like_the_training_compounds_than_any_validation_compound_was(
    usual: tuple[float, float, float] | None, found: list[bool]
) -> None:
    own = Neighbours.of_bits(np.array([[True, True, False, False]]), usual)
    queries = np.array([[True, True, False, False], [True, False, True, True]])
    assert own.foreign(queries).tolist() == found
    assert own.are_foreign(own.nearest(queries)).tolist() == found


def test_where_a_site_has_no_measurements_the_others_model_answers_for_every_compound() -> None:
    outputs = {**OUTPUTS, "federated": np.full((3, 2), 4.0)}
    found = answers(outputs, ["hybrid", "federated"], np.array([False, True, False]), untrained={1})
    assert found.tolist() == [[1.0, 4.0], [3.0, 4.0], [1.0, 4.0]]
