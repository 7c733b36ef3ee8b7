"""Fetches a snapshot when entries alone cannot bring this site up to date: find, fetch, check, have attested, adopt.

Nothing of a snapshot is used before more than half of the *other sites of the roster* signed that they hold the same
headers and the same sum at its vector; they reach that vector by exact subtraction. Sites that are away count as not
having signed: a site that gives a false snapshot while the others are off would otherwise be its only witness. The
giver is one of those others and counts once; the receiver, who knows nothing, does not count. So of two sites the giver
alone decides, because nobody else could know better; of three, both others must agree.

Lost parts are asked for again, and after an interruption fetching resumes where it stopped, as long as the server still
has the copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.computing import Computing
from kmel_p2p.core.effects import Effect, Emit, Send
from kmel_p2p.core.ledger.events import SnapshotProgress, SnapshotRefused
from kmel_p2p.core.ledger.snapshot.attempt import IN_VAIN, TOO_FEW, Attempt, FetchStage, largest_meta
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot, amendments_problem, continued, decode
from kmel_p2p.core.ledger.sync.messages import (
    MAX_PARTS_ASKED,
    NO_SNAPSHOT,
    Attest,
    Claim,
    SnapshotAsk,
    SnapshotOffer,
    SnapshotPart,
)
from kmel_p2p.core.ledger.sync.open_requests import ResponseTime
from kmel_p2p.core.roster_vector import RosterOrder, RosterVector
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros, Randomness, Vector

OFFER_WAIT: Micros = 15 * SECOND
"""How long a site may take to freeze and digest its ledger before another is asked."""

PART_FLOOR: Micros = 500 * MILLISECOND
PART_CEILING: Micros = 30 * SECOND
"""Bounds on the time allowed for a part."""

STALLED: Micros = 60 * SECOND
"""Without a new part or a new attestation for so long, another site is asked for its snapshot."""

SLOWEST_PART: Micros = 10 * SECOND
"""A giver that takes longer per part on average (200 kbit/s) is left for another one, if there is one."""

ASK_PERIOD: Micros = 3 * SECOND
"""Between two requests for an offer, or to the sites that have not attested yet: messages may be lost, and some sites
must first reach the vector."""

IN_VAIN_STALLED: Micros = 600 * SECOND
"""As `STALLED`, where every giver was tried and none was attested: long enough for an operator to decide, and then
another one's turn, for a giver may have made up what nobody else will ever hold."""

MAX_OFFERS = 4
"""A giver that restarts, or whose copy expired, offers another snapshot; one that never stops doing so is left."""


class SnapshotFetcher:
    """See the module docstring. Effects go to the shared `outbox`; the owner adopts when `stage` is READY."""

    def __init__(
        self,
        own: SiteKey,
        size: int,
        constitution: Callable[[], Constitution],
        alive: Callable[[], Iterable[SiteKey]],
        told: Callable[[SiteKey], Vector],
        computing: Computing,
        outbox: deque[Effect],
        rng: Randomness,
        blocked: Callable[[], frozenset[SiteKey]] = frozenset,
        helps: Callable[[SiteKey], bool] = lambda site: True,
    ) -> None:
        """`own`: this site; `size`: values of the trunk; `told`: how far a site is; `blocked`: by the operator;
        `helps`: whether a site's snapshot may bring what is missing here."""
        self.stage = FetchStage.IDLE
        self._own = own
        self._size = size
        self._constitution = constitution
        self._alive = alive
        self._told = told
        self._computing = computing
        self._outbox = outbox
        self._rng = rng
        self._blocked = blocked
        self._helps = helps
        self._response_time = ResponseTime(PART_FLOOR, PART_CEILING)
        self._attempt: Attempt | None = None
        self._failed: set[SiteKey] = set()
        self._unattested = False
        """Whether a snapshot was here, and too few attested it, since every giver was last tried."""
        self._in_vain = False
        """Whether every giver was tried, and for want of attestations none could be believed."""
        self._due_us: Micros | None = None
        self._stalls_at_us: Micros = 0

    @property
    def active(self) -> bool:
        """Whether a snapshot is on its way."""
        return self.stage is not FetchStage.IDLE

    @property
    def progress(self) -> str:
        """The present stage in words, with the share fetched."""
        attempt = self._attempt
        if self.stage is FetchStage.FETCHING and attempt is not None and attempt.offer is not None:
            return f"{self.stage.value} ({100 * len(attempt.parts) // attempt.offer.parts} %)"
        if self.stage is FetchStage.ATTESTING and attempt is not None:
            count = f"{len(attempt.attested & self.others())} of {self._needed()} needed"
            return f"{self.stage.value} ({count}{self._why_an_operator(attempt)})"
        return self.stage.value if self.active else ""

    @property
    def needs_operator(self) -> bool:
        """Whether nobody else may be able to help any more."""
        return self._attempt is not None and bool(self._why_an_operator(self._attempt))

    @property
    def awaited(self) -> tuple[SiteKey, ...]:
        """For whom it waits: the giver, or those who have not attested yet."""
        attempt = self._attempt
        if attempt is None:
            return ()
        if self.stage is FetchStage.ATTESTING:
            return tuple(sorted(self.others() - attempt.attested - attempt.denied))
        return (attempt.server,)

    @property
    def until_us(self) -> Micros | None:
        """When another giver is tried, unless something comes in; None while too many sites are away to attest."""
        attempt = self._attempt
        if attempt is None or self.stage is FetchStage.READY:
            return None
        return None if self._too_few(attempt) else self._stalls_at_us

    # ---- machine ------------------------------------------------------------------------------------------------

    def want(self, now: Micros) -> None:
        """Begin to look for a snapshot, unless one is on its way."""
        if self.stage is FetchStage.IDLE:
            self._failed.clear()
            self._seek(now)

    def on_offer(self, sender: SiteKey, offer: SnapshotOffer, now: Micros) -> None:
        """The site that was asked offers a snapshot."""
        attempt = self._attempt
        if attempt is None or sender != attempt.server or self.stage not in (FetchStage.SEEKING, FetchStage.FETCHING):
            return
        if not 8 * self._size < offer.size_bytes <= 8 * self._size + largest_meta(self._constitution()):
            self._fail("its size does not fit our trunk", now)
            return
        if attempt.offer is None or attempt.offer.id != offer.id:
            attempt.offered_us = attempt.offered_us or now
            attempt.offers += 1
            if attempt.offers > MAX_OFFERS:
                self._fail("it offers another one again and again", now)
                return
            attempt.offer, attempt.parts, attempt.asked_us = offer, {}, {}
        self._enter(FetchStage.FETCHING, now)
        self._ask_parts(now)

    def on_part(self, sender: SiteKey, part: SnapshotPart, now: Micros) -> None:
        """A part arrived."""
        attempt = self._attempt
        if (
            self.stage is not FetchStage.FETCHING
            or attempt is None
            or attempt.offer is None
            or sender != attempt.server
        ):
            return
        offer = attempt.offer
        if part.id != offer.id or part.index >= offer.parts or len(part.data) != offer.part_bytes(part.index):
            return
        asked = attempt.asked_us.pop(part.index, None)
        if asked is not None:
            self._response_time.answered(now - asked[0])
        if part.index not in attempt.parts:
            attempt.parts[part.index] = part.data
            self._stalls_at_us = now + STALLED
        if len(attempt.parts) == offer.parts:
            self._check(attempt, now)
        else:
            self._ask_parts(now)

    def on_claim(self, site: SiteKey, claim: Claim, now: Micros) -> None:
        """A site sent a signed claim, perhaps at the snapshot's vector."""
        attempt = self._attempt
        if (
            self.stage is not FetchStage.ATTESTING
            or attempt is None
            or attempt.offer is None
            or attempt.snapshot is None
        ):
            return
        if claim.vector != attempt.vector or claim.amendment != attempt.snapshot.standing:
            return
        same = claim.chains == attempt.snapshot.chains and claim.digest == attempt.offer.digest
        if site not in attempt.attested | attempt.denied:
            self._stalls_at_us = max(self._stalls_at_us, now + STALLED)
        (attempt.attested if same else attempt.denied).add(site)
        self._count(now)

    def forget(self, site: SiteKey, now: Micros) -> None:
        """A site went away or came back."""
        if self.stage is FetchStage.ATTESTING:
            # It may be the one that attests what another giver has.
            self._stalls_at_us = min(self._stalls_at_us, now + STALLED)
        if (
            self._attempt is not None
            and self._attempt.server == site
            and self.stage in (FetchStage.SEEKING, FetchStage.FETCHING)
        ):
            self._seek(now)

    def advance(self, now: Micros) -> None:
        """Ask again for what did not arrive; give up an attempt that stalls."""
        if self._due_us is None or now < self._due_us:
            return
        if self.stage is FetchStage.ATTESTING:
            self._count(now)
        if self._due_us is None or self.stage is FetchStage.IDLE:
            return
        if now >= self._stalls_at_us and self.stage is FetchStage.ATTESTING:
            self._unattested = True
            self._fail("too few others could attest it", now)
        elif now >= self._stalls_at_us:
            self._fail("it stopped answering", now)
        elif self.stage is FetchStage.FETCHING and self._attempt and self._is_too_slow(self._attempt, now):
            self._fail("it gives its parts too slowly", now)
        elif self.stage is FetchStage.SEEKING:
            self._ask_offer(now)
        elif self.stage is FetchStage.FETCHING:
            self._ask_parts(now)
        elif self.stage is FetchStage.ATTESTING:
            self._ask_attestations(now)

    def deadline(self) -> Micros | None:
        """When `advance` has something to do."""
        return self._due_us

    def trust(self, site: SiteKey, now: Micros) -> None:
        """The operator takes the word of one site for the snapshot that too few can attest.

        Raises:
            LocalError: nothing waits for that, or that site has not attested it.
        """
        attempt = self._attempt
        if attempt is None or not self._why_an_operator(attempt):
            raise LocalError("nothing here waits for that order: no snapshot lacks attestations that nobody can give")
        if site not in attempt.attested & self.others():
            raise LocalError(
                "that site has not attested the snapshot that is here; kmel-peer status says who is awaited"
            )
        self._enter(FetchStage.READY, now)
        self._due_us = None

    def abandon(self) -> None:
        """What is on its way is of no use any more."""
        self.stage, self._attempt, self._due_us = FetchStage.IDLE, None, None

    def take(self) -> tuple[Snapshot, SiteKey, tuple[SiteKey, ...]]:
        """The attested snapshot, who gave it, and who attested it. Ends the attempt."""
        assert self.stage is FetchStage.READY, "only an attested snapshot is handed out"
        assert self._attempt is not None
        assert self._attempt.snapshot is not None
        snapshot, server = self._attempt.snapshot, self._attempt.server
        attested = tuple(sorted(self._attempt.attested & self.others()))
        self.stage, self._attempt, self._due_us, self._in_vain = FetchStage.IDLE, None, None, False
        return snapshot, server, attested

    # ---- inner --------------------------------------------------------------------------------------------------

    def _enter(self, stage: FetchStage, now: Micros) -> None:
        if self.stage is not stage:
            self.stage = stage
            self._stalls_at_us = now + self._patience(stage)
            self._outbox.append(Emit(SnapshotProgress(stage.value)))

    def _patience(self, stage: FetchStage) -> Micros:
        return IN_VAIN_STALLED if self._in_vain and stage is FetchStage.ATTESTING else STALLED

    def _is_too_slow(self, attempt: Attempt, now: Micros) -> bool:
        until_us = attempt.offered_us + STALLED + SLOWEST_PART * len(attempt.parts)
        return now >= until_us and len(self._givers()) > 1

    def _givers(self) -> dict[SiteKey, int]:
        """Sites that may be asked, may help and have not failed, with their entries."""
        known = {key: sum(self._told(key).values()) for key in sorted(self._alive())}
        return {
            key: entries for key, entries in known.items() if entries and key not in self._failed and self._helps(key)
        }

    def _seek(self, now: Micros) -> None:
        """Ask the site that is furthest ahead, of those that have not failed."""
        left = self._givers()
        if not left:
            self._failed.clear()
            self._in_vain, self._unattested = self._unattested, False
            self.stage, self._attempt, self._due_us = FetchStage.IDLE, None, None
            return
        # Any of those nearly as far ahead: newcomers that start together spread over the federation.
        most = max(left.values())
        server = self._rng.choice([key for key, entries in left.items() if 10 * entries >= 9 * most])
        self._attempt = Attempt(server)
        self._enter(FetchStage.SEEKING, now)
        self._stalls_at_us = now + OFFER_WAIT
        self._ask_offer(now)

    def _ask_offer(self, now: Micros) -> None:
        assert self._attempt is not None
        self._due_us = now + ASK_PERIOD
        self._outbox.append(Send(self._attempt.server, SnapshotAsk(NO_SNAPSHOT, 0, 0)))

    def _fail(self, reason: str, now: Micros) -> None:
        assert self._attempt is not None
        self._outbox.append(Emit(SnapshotRefused(self._attempt.server, reason)))
        self._failed.add(self._attempt.server)
        self._seek(now)

    def _ask_parts(self, now: Micros) -> None:
        attempt = self._attempt
        assert attempt is not None
        assert attempt.offer is not None
        attempt.asked_us = {index: times for index, times in attempt.asked_us.items() if times[1] > now}
        free = MAX_PARTS_ASKED - len(attempt.asked_us)
        missing = (i for i in range(attempt.offer.parts) if i not in attempt.parts and i not in attempt.asked_us)
        due = now + self._response_time.allowed(1)
        for index in [index for index, _ in zip(missing, range(free), strict=False)]:
            attempt.asked_us[index] = (now, due)
            self._outbox.append(Send(attempt.server, SnapshotAsk(attempt.offer.id, index, 1)))
        self._due_us = min(due for _, due in attempt.asked_us.values())

    def _check(self, attempt: Attempt, now: Micros) -> None:
        """Decode, verify and digest off the event loop."""
        offer = attempt.offer
        assert offer is not None
        data = b"".join(attempt.parts.pop(index) for index in range(offer.parts))
        found: list[tuple[Snapshot, RosterVector]] = []
        constitution = self._constitution()

        def work() -> bytes:
            try:
                snapshot = decode(data, self._size)
            except WireError as error:
                return b"!" + str(error).encode()
            problem = snapshot.problem() or amendments_problem(snapshot, constitution)
            if problem or snapshot.digest() != offer.digest:
                return b"!" + (problem or "it differs from what was offered").encode()
            order = RosterOrder(continued(snapshot, constitution).order)
            found.append((snapshot, order.vector(snapshot.vector)))
            return b""

        self._enter(FetchStage.CHECKING, now)
        self._due_us = None
        if not self._computing.start(lambda: work, lambda result: self._checked(attempt, found, result or b"", now)):
            self._fail("this site is too busy to check it", now)

    def _checked(
        self, attempt: Attempt, found: list[tuple[Snapshot, RosterVector]], result: bytes, now: Micros
    ) -> None:
        if self._attempt is not attempt or self.stage is not FetchStage.CHECKING:
            return
        if not found:
            self._fail(result[1:].decode(errors="replace"), now)
            return
        attempt.snapshot, attempt.vector = found[0]
        self._enter(FetchStage.ATTESTING, now)
        self._ask_attestations(now)

    def _ask_attestations(self, now: Micros) -> None:
        attempt = self._attempt
        assert attempt is not None
        assert attempt.snapshot is not None
        for site in sorted(self._alive()):
            if site not in attempt.attested and site not in attempt.denied:
                self._outbox.append(Send(site, Attest(attempt.snapshot.standing, attempt.vector)))
        self._due_us = now + ASK_PERIOD

    def _count(self, now: Micros) -> None:
        """More than half of the other sites of the roster decide."""
        attempt = self._attempt
        assert attempt is not None
        others, needed = self.others(), self._needed()
        if len(attempt.attested & others) >= needed:
            self._enter(FetchStage.READY, now)
            self._due_us = None
        elif len(attempt.denied & others) > len(others) - needed:
            self._fail("other sites hold something else at its vector", now)
        elif self._too_few(attempt):
            # Fetching from another giver would not help.
            self._stalls_at_us = max(self._stalls_at_us, now + STALLED)

    def _too_few(self, attempt: Attempt) -> bool:
        """Whether too many sites are away, or hold nothing, to attest what is fetched."""
        in_sight = {key for key in self._alive() if self._told(key)} | attempt.attested
        return self.stage is FetchStage.ATTESTING and len(self.others() & in_sight) < self._needed()

    def _why_an_operator(self, attempt: Attempt) -> str:
        """What to add to `progress` where only an operator may be able to help; empty: others may still attest."""
        if self._too_few(attempt):
            return TOO_FEW
        in_vain = self._in_vain and self.stage is FetchStage.ATTESTING and not attempt.denied
        return IN_VAIN if in_vain else ""

    def others(self) -> set[SiteKey]:
        """The sites of the roster without this one and those that the operator has blocked."""
        return set(self._constitution().roster) - self._blocked() - {self._own}

    def _needed(self) -> int:
        """Sites that must attest: more than half of the others."""
        return len(self.others()) // 2 + 1
