import pytest

from kmel_p2p.core.membership.members import Suspicion, suspicion_duration_us
from kmel_p2p.core.types import SECOND


@pytest.mark.parametrize(("confirmations", "elapsed", "left"), [(0, 0, 30.0), (1, 2, 14.0), (2, 3, 4.81), (3, 4, -2.0)])
def test_decay_follows_memberlists_golden_table(confirmations, elapsed, left):
    duration = suspicion_duration_us(confirmations, 3, 2 * SECOND, 30 * SECOND)
    assert (duration - elapsed * SECOND) / SECOND == pytest.approx(left, abs=0.01)


def test_one_accuser_counts_once_however_often_it_is_repeated():
    suspicion = Suspicion(b"a", 2, SECOND, 6 * SECOND, 0)
    before = suspicion.deadline_us
    assert not any(suspicion.confirm(b"a") for _ in range(100))
    assert suspicion.deadline_us == before == 6 * SECOND


def test_only_the_wanted_number_of_accusers_shortens_it_and_never_under_the_minimum():
    suspicion = Suspicion(b"a", 2, SECOND, 6 * SECOND, 10)
    assert [suspicion.confirm(c) for c in (b"b", b"c", b"d")] == [True, True, False]
    assert suspicion.deadline_us == 10 + SECOND
    assert suspicion.settled


def test_without_wanted_confirmations_it_is_short_at_once():
    assert Suspicion(b"a", 0, SECOND, 6 * SECOND, 0).deadline_us == SECOND
