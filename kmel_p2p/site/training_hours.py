"""When a site's trainer may work: "20:00-06:00" every day, "Mon-Fri 20:00-06:00", "Sat,Sun 00:00-24:00".

Hours that pass midnight belong to the day they begin on. Times are local: people plan by the clock on the wall.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(DAYS)
_DAYS = rf"(?:{_DAY})(?:-(?:{_DAY}))?"
_HOURS = re.compile(rf"(?:({_DAYS}(?:,{_DAYS})*) +)?(\d\d):(\d\d)-(\d\d):(\d\d)")
_MINUTES_A_DAY = 24 * 60
_WEEK = 7 * _MINUTES_A_DAY


@dataclass(frozen=True, slots=True)
class Window:
    """Hours that return every week.

    Attributes:
        days: on which it begins; 0 is Monday.
        start: minutes after midnight.
        length: in minutes, more than 0, at most a day.
    """

    days: frozenset[int]
    start: int
    length: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read one, such as "Mon-Fri 20:00-06:00".

        Raises:
            ValueError: it is none; says what one looks like.
        """
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} are no hours; write 20:00-06:00, Mon-Fri 20:00-06:00 or Sat,Sun 00:00-24:00")
        start, end = (60 * int(found[at]) + int(found[at + 1]) for at in (2, 4))
        if start >= _MINUTES_A_DAY or end > _MINUTES_A_DAY or int(found[3]) > 59 or int(found[5]) > 59:
            raise ValueError(f"{text!r}: times run from 00:00 to 24:00")
        if start == end:
            raise ValueError(f"{text!r}: begins when it ends; 00:00-24:00 is the whole day")
        return cls(_days(found[1]), start, (end - start) % _MINUTES_A_DAY or _MINUTES_A_DAY)

    def holds(self, minute: int) -> bool:
        """Whether a minute of the week, counted from Monday's first, is inside."""
        return any((minute - day * _MINUTES_A_DAY - self.start) % _WEEK < self.length for day in self.days)

    def starts(self) -> list[int]:
        """Minutes of the week when it begins."""
        return [day * _MINUTES_A_DAY + self.start for day in self.days]


def _checked(text: str) -> str:
    Window.parse(text)
    return text


Hours = Annotated[str, pydantic.AfterValidator(_checked)]
"""One `Window` as a setting."""


def closed_until(hours: Sequence[str], now: datetime.datetime) -> str:
    """When training may begin next, such as "Mon 20:00"; empty when it may now, or always (without any hours).

    Args:
        hours: each a `Window`.
        now: local time.
    """
    windows = [Window.parse(text) for text in hours]
    minute = now.weekday() * _MINUTES_A_DAY + 60 * now.hour + now.minute
    if not windows or any(window.holds(minute) for window in windows):
        return ""
    ahead = min((start - minute) % _WEEK for window in windows for start in window.starts())
    day, rest = divmod((minute + ahead) % _WEEK, _MINUTES_A_DAY)
    return f"{DAYS[day]} {rest // 60:02}:{rest % 60:02}"


def _days(text: str | None) -> frozenset[int]:
    """Places of days such as "Mon-Wed,Sat"; "Fri-Mon" goes over the week's end. All of them for None."""
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(found)
