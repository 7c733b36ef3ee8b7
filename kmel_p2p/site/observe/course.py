"""How a run went, for curves: samples of a peer and figures of its rounds, kept in the store, of bounded size.

A series that is full loses every other point, and from then on points come half as often: a run of an hour and one of
a month both have some hundred points, spread over the whole of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.state.store import Store

SAMPLE, ROUND = "sample", "round"
"""Names of the series in the store. Rounds are all kept there, because accounts of a run need them."""

MOST = 512
"""Points of a series."""

SPACING_S = 2.0
"""Between two samples at first."""

Point = Mapping[str, Any]
"""What was sampled, with its time (seconds since 1970) under `at`."""


class Series:
    """At most `most` points of a time series, evenly spread.

    Args:
        points: to begin with, ascending; thinned out if there are more.
        spacing_s: at least so much time lies between two points; 0 for a series whose points come when they come.
    """

    def __init__(self, points: Sequence[Point], most: int, spacing_s: float) -> None:
        self._most, self.spacing_s = most, spacing_s
        self.points = list(points)
        if len(points) > 1 and spacing_s > 0:
            # What an earlier life has thinned out is not filled in more densely.
            span = self.points[-1]["at"] - self.points[0]["at"]
            self.spacing_s *= 2 ** max(0, math.ceil(math.log2(max(span, spacing_s) / (most * spacing_s))))
        while len(self.points) > most:
            self._thin()

    def add(self, point: Point) -> bool | None:
        """Take a point; None: it is too early for one; True: taken; False: taken, and others were dropped."""
        # A clock that was set back makes a point due, rather than none for hours.
        if self.points and 0 <= point["at"] - self.points[-1]["at"] < self.spacing_s:
            return None
        self.points.append(point)
        if len(self.points) <= self._most:
            return True
        self._thin()
        self.spacing_s *= 2
        return False

    def _thin(self) -> None:
        # The newest stays.
        self.points = self.points[::-1][::2][::-1]


class Course:
    """The series of one site.

    Args:
        store: to read them from; what an earlier version kept without a limit is thinned out.
        note: stores something that nobody waits for.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        note: Callable[[Callable[[Store], None]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        kept = store.history(SAMPLE, MOST)
        if store.history_length(SAMPLE) > len(kept):
            store.replace_history(SAMPLE, kept)
        self._samples = Series(kept, MOST, SPACING_S)
        self._rounds = Series(store.history(ROUND, MOST), MOST, 0.0)
        self._note, self._clock = note, clock
        self._sent_before = int(kept[-1].get("sent", 0)) if kept else 0
        self._newest: Point | None = None

    @property
    def samples(self) -> Sequence[Point]:
        """`vector` (site name -> newest number), `sent` (bytes since the first start) and more, ascending by `at`."""
        return self._samples.points

    @property
    def rounds(self) -> Sequence[Point]:
        """`number`, `loss` and `scores` of own rounds, ascending."""
        return self._rounds.points

    def sent(self, status: StatusDocument) -> int:
        """Bytes sent since this site's first start; a crash may have lost those since the sample before it."""
        return self._sent_before + status.egress.bytes_out

    def sample(self, status: StatusDocument) -> None:
        """Take a sample, if it is time for one."""
        point = self._newest = {
            "at": self._clock(),
            "phase": status.phase.value,
            "vector": dict(status.averaging.vector),
            "sent": self.sent(status),
            "alive": status.reachable,
        }
        taken = self._samples.add(point)
        if taken:
            self._note(partial(Store.add_history, kind=SAMPLE, at=point["at"], values=_without_time(point)))
        elif taken is False:
            rows = list(self._samples.points)
            self._note(lambda store: store.replace_history(SAMPLE, rows))

    def trained(self, row: Point) -> None:
        """A round was trained. `row` is stored whole by whoever calls this."""
        self._rounds.add(row)

    def close(self) -> None:
        """Keep where the run stood at last, so that the next start counts on from there."""
        point = self._newest
        if point is not None and (not self.samples or point["at"] != self.samples[-1]["at"]):
            self._note(partial(Store.add_history, kind=SAMPLE, at=point["at"], values=_without_time(point)))


def _without_time(point: Point) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name != "at"}
