from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.membership.members import join, order
from kmel_p2p.core.membership.messages import Standing

standings = st.builds(Standing, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


@settings(deadline=None, max_examples=200)
@given(standings, standings, standings)
def test_merging_facts_is_a_join(a, b, c):
    assert join(a, b) == join(b, a)
    assert join(a, join(b, c)) == join(join(a, b), c)
    assert join(a, a) == a
    assert order(join(a, b)) == max(order(a), order(b))
