"""A site that never finishes keeps the others from the end of a pushsum run for a limited time, and is named."""

from __future__ import annotations

from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.rounds import Conclude, Phase, RunComplete, RunHeldUp, RunNotAwaiting
from kmel_p2p.core.rounds.settings import CONCLUDES_AFTER_US
from kmel_p2p.core.types import SECOND
from tests.support.pushsum_mesh import Mesh, no_drift

STUCK = 2


def mesh() -> Mesh:
    """Three sites, of which one is in its first round for ever."""
    return Mesh(
        [10, 10, 10],
        no_drift,
        size=8,
        entry_limit=4,
        train_time=lambda site: 10**6 * SECOND if site == STUCK else SECOND,
    )


def listening(site: PushSumAveraging) -> bool:
    return site.phase is Phase.LISTENING


def test_who_never_rests_is_named_and_then_waited_for_no_longer() -> None:
    run = mesh()
    run.run(lambda: all(listening(run.site(n)) for n in (0, 1)), 900 * SECOND)
    run.run(lambda: all(run.site(n).complete for n in (0, 1)), 2 * CONCLUDES_AFTER_US)
    held = {(n, event.site) for n, event in run.seen(RunHeldUp) if isinstance(event, RunHeldUp)}
    assert held >= {(0, run.keys[STUCK]), (1, run.keys[STUCK])}
    given_up = [(n, event) for n, event in run.seen(RunNotAwaiting) if event == RunNotAwaiting(run.keys[STUCK], True)]
    assert {n for n, _ in given_up} == {0, 1}
    assert {n for n, _ in run.seen(RunComplete)} == {0, 1}
    # Their last shares reached each other.
    assert run.site(0).trunk().tobytes() == run.site(1).trunk().tobytes()


def test_the_operators_end_the_wait_at_once() -> None:
    run = mesh()
    run.run(lambda: all(listening(run.site(n)) for n in (0, 1)), 900 * SECOND)
    for n in (0, 1):
        run.feed(n, lambda site: site.command(Conclude("asked by the operator"), run.now))
    run.run(lambda: all(run.site(n).complete for n in (0, 1)), run.now + 120 * SECOND)
