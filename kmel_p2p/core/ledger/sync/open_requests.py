"""What was asked of whom, how long an answer may take, and who else has it.

So that every body moves once, an entry is asked of one site at a time, and of another only when the first had its time.
The time allowed follows the answers seen so far (RFC 6298: smoothed time plus four deviations, later doubled), because
a body of hundreds of kilobytes takes as long as the link makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.sync.messages import EntryId
from kmel_p2p.core.types import Micros, Randomness

MAX_REQUESTS = 4096
"""Entries asked for at once; the periodic summaries show the rest again later."""

MAX_OTHERS = 8
"""Further sites remembered as having one requested entry."""

DOUBLED_FROM = 8
"""Tries after which the time allowed doubles with each further one: by then it was not a single lost message."""

MAX_TRIES = 16
"""Times that one entry is asked for before it is given up, until somebody announces it again."""


@dataclass(slots=True)
class OpenRequest:
    """One entry that was asked for and has not arrived."""

    due_us: Micros
    asked_us: dict[SiteKey, Micros]
    """When each site was asked, the latest last."""
    tries: int = 1
    others: list[SiteKey] = field(default_factory=list)
    """Sites that have the entry and were not asked."""


class ResponseTime:
    """How long an answer may take, between a floor and a ceiling, going by the answers seen."""

    def __init__(self, floor_us: Micros, ceiling_us: Micros) -> None:
        self._floor_us = floor_us
        self._ceiling_us = ceiling_us
        self._smoothed_us: Micros | None = None
        self._deviation_us: Micros = 0
        self._guess_us: Micros = 3 * floor_us

    def allowed(self, tries: int) -> Micros:
        """Time allowed for try number `tries` (from 1), microseconds. A guess before the first answer."""
        base_us = self._guess_us if self._smoothed_us is None else self._smoothed_us + 4 * self._deviation_us
        return min(self._ceiling_us, max(self._floor_us, base_us) << max(0, tries - DOUBLED_FROM))

    def answered(self, took_us: Micros) -> None:
        """A site answered after `took_us`."""
        if self._smoothed_us is None:
            self._smoothed_us, self._deviation_us = took_us, took_us // 2
        else:
            self._deviation_us += (abs(took_us - self._smoothed_us) - self._deviation_us) // 4
            self._smoothed_us += (took_us - self._smoothed_us) // 8

    def silent(self) -> None:
        """Something was not answered in time. A guess that was too short must not multiply slow bodies."""
        self._guess_us = min(self._ceiling_us, 8 * self._floor_us, self._guess_us + self._floor_us)


class OpenRequests:
    """The table of open requests. Knows nothing of ledgers or messages."""

    def __init__(self, floor_us: Micros, ceiling_us: Micros) -> None:
        self._response_time = ResponseTime(floor_us, ceiling_us)
        self._open: dict[EntryId, OpenRequest] = {}
        self._next_due_us: Micros | None = None

    def __contains__(self, entry_id: EntryId) -> bool:
        return entry_id in self._open

    @property
    def full(self) -> bool:
        """Whether nothing more may be asked for now."""
        return len(self._open) >= MAX_REQUESTS

    def ask(self, entry_id: EntryId, site: SiteKey, now: Micros) -> None:
        """Note that `site` is being asked for an entry, for the first time or again."""
        request = self._open.get(entry_id)
        if request is None:
            request = self._open[entry_id] = OpenRequest(0, {})
        else:
            request.tries += 1
        request.asked_us.pop(site, None)
        request.asked_us[site] = now
        request.due_us = now + self._response_time.allowed(request.tries)
        self._next_due_us = request.due_us if self._next_due_us is None else min(self._next_due_us, request.due_us)

    def also_has(self, entry_id: EntryId, site: SiteKey) -> None:
        """`site` has an entry that was asked of another."""
        request = self._open.get(entry_id)
        if request is None or site in request.asked_us or site in request.others:
            return
        if len(request.others) < MAX_OTHERS:
            request.others.append(site)

    def arrived(self, entry_id: EntryId, sender: SiteKey, now: Micros) -> None:
        """The entry is here."""
        request = self._open.pop(entry_id, None)
        if request is not None and sender in request.asked_us:
            self._response_time.answered(now - request.asked_us[sender])

    def forget(self, site: SiteKey) -> None:
        """A site went away: what it was the last to be asked for is due at once."""
        for request in self._open.values():
            if site in request.others:
                request.others.remove(site)
            if site in request.asked_us:
                if site == _latest(request):
                    request.due_us = self._next_due_us = 0
                del request.asked_us[site]

    def overdue(self, now: Micros, rng: Randomness) -> list[tuple[EntryId, SiteKey | None]]:
        """Entries whose time is up, each with a site to ask next, or None when it is time to give up.

        The caller asks each again by `ask`, or drops it by `give_up`.
        """
        late = [(entry_id, request) for entry_id, request in self._open.items() if request.due_us <= now]
        self._next_due_us = min((r.due_us for r in self._open.values() if r.due_us > now), default=None)
        if late:
            self._response_time.silent()
        return [(entry_id, _next(request, rng)) for entry_id, request in late]

    def give_up(self, entry_id: EntryId) -> None:
        """Forget the entry; whoever announces it next will be asked."""
        self._open.pop(entry_id, None)

    def deadline(self) -> Micros | None:
        """When the first request is overdue, or a little earlier."""
        return self._next_due_us


def _latest(request: OpenRequest) -> SiteKey:
    return next(reversed(request.asked_us))


def _next(request: OpenRequest, rng: Randomness) -> SiteKey | None:
    """A site that was not asked yet, or else the one that was asked longest ago."""
    if request.tries >= MAX_TRIES:
        return None
    if request.others:
        return request.others.pop(rng.randrange(len(request.others)))
    return next(iter(request.asked_us), None)
