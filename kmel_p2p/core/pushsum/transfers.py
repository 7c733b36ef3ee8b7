"""Moves mass so that loss, repetition and crashes never create or destroy any.

The sender debits and stores a transfer before it sends it, one at a time per receiver, and owes it until a receipt
comes. The receiver stores the credit before it writes the receipt, and takes each number once. A transfer whose
receipt is missing is asked about with back-off for as long as the receiver is in the roster; that it is out of reach
proves nothing, so its mass waits. It is taken back in three cases only: the receiver durably refused it; the
receiver's store (`life`) was replaced, or the receiver was retired, so that whatever it held is gone. In the last two
nobody can tell whether the receiver had applied it and passed some of it on; then that part counts twice. Both are
acts of people, rare, and shift weights between trunks that agree, not the trunk.

A store that was put back as an image would repeat numbers, and what it sends would be taken for repetitions. So after a
start a site sends nothing to another one before that one has said that it never heard of the next number. If it has,
the store is old, and this site goes on in another life.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Send
from kmel_p2p.core.pushsum.coding import Coding
from kmel_p2p.core.pushsum.events import (
    MassReceived,
    MassReclaimed,
    MassSent,
    PushSumRefused,
    StoreOutdated,
    Treatment,
)
from kmel_p2p.core.pushsum.holding import Sums, within_distance
from kmel_p2p.core.pushsum.journal import Journal
from kmel_p2p.core.pushsum.messages import LIFE_BYTES, Inquiry, MassTransfer, Receipt, TransferVerdict
from kmel_p2p.core.pushsum.share import Bits, decode, encode
from kmel_p2p.core.pushsum.state import Credited, Debited, Settled
from kmel_p2p.core.pushsum.statements import Statement, StatementTable
from kmel_p2p.core.types import SECOND, Lane, Micros, Randomness

LEAST_SHIFT = 4
"""A site keeps at least 2**-4 of its weight: below, its trunk would rest on the rounding of others."""


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """What is done about overdue receipts."""

    retry_first_us: Micros = 20 * SECOND
    """Longer than a transfer usually takes, so that what is still on its way is not asked for again."""
    retry_most_us: Micros = 600 * SECOND
    confirm_first_us: Micros = 2 * SECOND
    """Until a site is asked again whether it knows a number that this one will use next."""
    inquire_above: int = 64 * 1024
    """Payload bytes above which it is asked first whether the transfer arrived; smaller ones are simply sent again."""


@dataclass(slots=True)
class _Retry:
    at_us: Micros
    delay_us: Micros
    asked: bool = False
    """An inquiry is out: only then may a `MISSING` make us send the body again."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What is debited for the site of that life."""

    life: bytes
    mass: int
    payload: bytes
    sums: Sums


SENT_AT_MOST = 4
"""Times its weight that a transfer of a site may carry. It sends about half of what it holds, and mass wanders in
proportion to weights, so an honest transfer hardly ever has more. One that has is refused, and its mass returns."""


class Transfers:
    """Both ends of all transfers of one site. Effects go to the shared `outbox`."""

    def __init__(
        self,
        journal: Journal,
        coding: Coding,
        statements: StatementTable,
        is_alive: Callable[[SiteKey], bool],
        outbox: deque[Effect],
        rng: Randomness,
        settings: TransferSettings,
        age_limit: int,
        now: Micros,
    ) -> None:
        self._journal = journal
        self._coding = coding
        self._state = journal.state
        self._statements = statements
        self._is_alive = is_alive
        self._outbox = outbox
        self._rng = rng
        self._settings = settings
        self._age_limit = age_limit
        self._taking: dict[SiteKey, tuple[bytes, int]] = {}
        """Life and number of what is being decoded or stored, by sender."""
        self._retries = {key: _Retry(now, settings.retry_first_us) for key in self._state.owed}
        self._confirmed: set[SiteKey] | None = set() if self._state.restored else None
        """Sites that do not know the number that this one will use next; None: nobody can, for the life is new."""
        self._asked: dict[SiteKey, _Retry] = {}
        self._shown_by: SiteKey | None = None
        """Who knows it, so that the store is an older copy."""
        if self._state.outdated:
            outbox.append(Emit(StoreOutdated(None)))
        self.credible: Callable[[Statement], int] = lambda statement: statement.weight
        """How much of the weight that a site states counts."""
        self.trains: Callable[[], bool] = lambda: False
        """Whether this site goes on training."""
        self.on_work: Callable[[SiteKey], None] = lambda sender: None
        """Called when a transfer of a site that trains is credited and durable."""

    # ---- sending ------------------------------------------------------------------------------------------------

    def may_send(self, to: Statement, weight: int) -> bool:
        """Whether a transfer to that site can start now. `weight`: own starting mass."""
        if self._shown_by is not None or (self._confirmed is not None and to.site not in self._confirmed):
            return False
        return to.site not in self._state.owed and self._share_of_mass(to, weight) > 0

    def send(self, to: Statement, weight: int, bits: Bits) -> None:
        """Debit a share for `to`, store it, and send it once it is durable; nothing if that cannot be any more."""
        seed = self._rng.randrange(2**64)

        def prepare() -> Callable[[], _Share] | None:
            statement = self._statements.get(to.site)
            if statement is None or not self.may_send(statement, weight):
                return None
            mass, life, holding = self._share_of_mass(statement, weight), statement.life, self._state.holding
            return lambda: _Share(life, mass, *encode(holding, mass, bits, seed))

        self._coding.run(prepare, lambda share: self._debit(to.site, share))

    def _debit(self, to: SiteKey, share: _Share) -> None:
        number = self._state.numbers.get(to, 0) + 1
        transfer = Debited(to, number, share.life, share.mass, self._state.age, share.payload)
        self._journal.change(transfer, share.sums, then=lambda now: self._first_sending(transfer, now))
        statement = self._statements.get(to)
        if statement is not None:
            self.check_life(statement)

    def _share_of_mass(self, to: Statement, weight: int) -> int:
        """Mass for `to`, 0 for none: such that masses settle in proportion to weights (detailed balance)."""
        held, theirs = self._state.holding.mass, self.credible(to)
        mass = held * theirs // max(1, weight + theirs)
        return mass if held - mass >= max(1, weight >> LEAST_SHIFT) else 0

    def _first_sending(self, transfer: Debited, now: Micros) -> None:
        if self._state.owed.get(transfer.to) is not transfer:
            return
        self._retries[transfer.to] = _Retry(now + self._settings.retry_first_us, self._settings.retry_first_us)
        self._outbox.append(Emit(MassSent(transfer.to, transfer.number, transfer.mass, len(transfer.payload))))
        self._send_body(transfer)

    def _remind(self, owed: Debited, retry: _Retry) -> None:
        if len(owed.payload) > self._settings.inquire_above:
            retry.asked = True
            self._outbox.append(Send(owed.to, Inquiry(owed.number, self._state.life, owed.life)))
        else:
            self._send_body(owed)

    def _send_body(self, transfer: Debited) -> None:
        body = MassTransfer(
            transfer.number,
            self._state.life,
            transfer.life,
            transfer.mass,
            transfer.age,
            self.trains(),
            transfer.payload,
        )
        self._outbox.append(Send(transfer.to, body, Lane.BULK))

    # ---- time and membership ------------------------------------------------------------------------------------

    def advance(self, now: Micros) -> None:
        """ShareRequest about, or send again, transfers whose receipts are overdue."""
        for key in sorted(self._retries):
            retry = self._retries[key]
            if now >= retry.at_us and self._is_alive(key):
                retry.at_us = now + retry.delay_us
                retry.delay_us = min(2 * retry.delay_us, self._settings.retry_most_us)
                self._remind(self._state.owed[key], retry)
        for key, retry in self._asked.items():
            if now >= retry.at_us and self._is_alive(key):
                retry.at_us = now + retry.delay_us
                retry.delay_us = min(2 * retry.delay_us, self._settings.retry_most_us)
                self._ask_whether_known(key)
        if self._shown_by is not None and not self._coding.is_busy and not self._taking:
            self._begin_again()

    def deadline(self) -> Micros | None:
        """When `advance` has something to do. A receiver out of reach is waited for without a timer."""
        waiting = (*self._retries.items(), *self._asked.items())
        return min((r.at_us for key, r in waiting if self._is_alive(key)), default=None)

    def is_back(self, key: SiteKey, now: Micros) -> None:
        """A receiver is reachable again: ask at once."""
        if key in self._retries:
            self._retries[key] = _Retry(now, self._settings.retry_first_us)
        if key in self._asked:
            self._asked[key] = _Retry(now, self._settings.confirm_first_us)

    def hear_anew(self, now: Micros) -> None:
        """This process stood still, and a copy of this site may have run: as after a start from a store."""
        self._confirmed = set()
        self._asked = {each.site: _Retry(now, self._settings.confirm_first_us) for each in self._statements}

    def is_retired(self, key: SiteKey) -> None:
        """A site left the roster, and with it whatever mass it holds."""
        self._reclaim(key, "the site was retired")

    def check_life(self, statement: Statement) -> None:
        """A site told its present life: what was owed to an earlier one is lost with its store."""
        site = statement.site
        if self._confirmed is not None and site not in self._confirmed and site not in self._asked:
            self._asked[site] = _Retry(0, self._settings.confirm_first_us)
        owed = self._state.owed.get(statement.site)
        if owed is not None and owed.life != statement.life:
            self._reclaim(statement.site, "the site's store was replaced")

    @property
    def is_pending(self) -> bool:
        """Whether a transfer to a reachable site has no receipt yet, or something is being coded."""
        return self._coding.is_busy or any(self._is_alive(key) for key in self._state.owed)

    def _ask_whether_known(self, key: SiteKey) -> None:
        statement = self._statements.get(key)
        if statement is not None:
            number = self._state.numbers.get(key, 0) + 1
            self._outbox.append(Send(key, Inquiry(number, self._state.life, statement.life)))

    def _heard_of_next(self, sender: SiteKey, receipt: Receipt) -> bool:
        """Whether a receipt is about a number that was not used here yet; notes what it says."""
        next_number = self._state.numbers.get(sender, 0) + 1
        if sender not in self._asked or receipt.life != self._state.life or receipt.number != next_number:
            return False
        del self._asked[sender]
        if self._confirmed is not None and TransferVerdict(receipt.verdict) is TransferVerdict.MISSING:
            self._confirmed.add(sender)
        else:
            self._shown_by = sender
        return True

    def _begin_again(self) -> None:
        """This store is an older copy: count transfers anew, in another life."""
        self._outbox.append(Emit(StoreOutdated(self._shown_by)))
        self._shown_by, self._confirmed = None, None
        self._asked.clear()
        self._retries.clear()
        self._journal.begin_again(self._rng.randrange(2 ** (8 * LIFE_BYTES)).to_bytes(LIFE_BYTES, "big"))

    def _reclaim(self, key: SiteKey, reason: str) -> None:
        owed = self._state.owed.get(key)
        if owed is None:
            return
        self._retries.pop(key, None)

        def prepare() -> Callable[[], Sums] | None:
            still = self._state.owed.get(key) is owed
            return (lambda: decode(owed.payload, len(self._state.holding))) if still else None

        def put_back(sums: Sums) -> None:
            self._retries.pop(key, None)
            self._journal.change(Settled(key, owed.number, reclaimed=True), sums)
            self._outbox.append(Emit(MassReclaimed(key, owed.number, owed.mass, reason)))

        self._coding.run(prepare, put_back)

    # ---- messages -----------------------------------------------------------------------------------------------

    def on_receipt(self, sender: SiteKey, receipt: Receipt) -> None:
        """The receiver says what became of a transfer."""
        if self._heard_of_next(sender, receipt):
            return
        owed, retry = self._state.owed.get(sender), self._retries.get(sender)
        # A receipt before the first sending answers a transfer that does not exist yet.
        if owed is None or retry is None or receipt.number != owed.number or receipt.life != self._state.life:
            return
        match TransferVerdict(receipt.verdict):
            case TransferVerdict.APPLIED:
                del self._retries[sender]
                self._journal.change(Settled(sender, owed.number, reclaimed=False))
            case TransferVerdict.REFUSED:
                self._reclaim(sender, "the site refused it")
            case TransferVerdict.MISSING if retry.asked:
                retry.asked = False
                self._send_body(owed)
            case TransferVerdict.MISSING:
                pass

    def on_inquiry(self, sender: SiteKey, inquiry: Inquiry) -> None:
        """Someone asks about a transfer to us."""
        taking = self._taking.get(sender)
        if inquiry.receiver_life == self._state.life and taking != (inquiry.sender_life, inquiry.number):
            self._receipt(sender, inquiry.sender_life, inquiry.number)

    def on_transfer(self, sender: SiteKey, transfer: MassTransfer, reached: int) -> None:
        """Mass arrives: take it once, or refuse it for good.

        Args:
            sender: authenticated.
            transfer: what arrived.
            reached: the round the federation has reached; bounds the age a transfer may claim.
        """
        statement = self._statements.get(sender)
        if transfer.receiver_life != self._state.life or statement is None or statement.life != transfer.sender_life:
            # Of another store, or we do not know the sender's yet: it will ask, by then we do.
            return
        if sender in self._taking:
            # One at a time: it asks again.
            return
        taken = self._state.taken.get(sender)
        if taken is not None and taken.has(transfer.sender_life, transfer.number):
            self._receipt(sender, transfer.sender_life, transfer.number)
            return
        age, size = min(transfer.age, reached), len(self._state.holding)
        self._taking[sender] = transfer.sender_life, transfer.number
        started = self._coding.run(
            lambda: lambda: _checked(transfer, size),
            lambda found: self._take(sender, transfer, age, found),
            must=False,
        )
        if not started:
            # As if it had been lost: it comes again.
            del self._taking[sender]

    def _take(self, sender: SiteKey, transfer: MassTransfer, age: int, found: Sums | WireError) -> None:
        """Credit what a transfer decoded to, or refuse it."""
        room = self._state.holding.has_room(transfer.mass)
        statement = self._statements.get(sender)
        most = SENT_AT_MOST * self.credible(statement) if statement is not None else 0
        if not isinstance(found, WireError) and (not room or transfer.mass > most):
            found = WireError(f"transfer with a mass of {transfer.mass}, more than the site can honestly hold")
        if isinstance(found, WireError):
            self._outbox.append(Emit(PushSumRefused(sender, str(found))))
            sums, treatment, payload = None, Treatment.REFUSED, b""
        else:
            sums, treatment, payload = found, self._treatment(age), transfer.payload
        credit = Credited(sender, transfer.number, transfer.sender_life, transfer.mass, age, treatment, payload)
        self._journal.change(credit, sums, then=lambda now: self._credited(credit, transfer.trains))

    def _treatment(self, age: int) -> Treatment:
        own = self._state.age
        if age > own + self._age_limit:
            return Treatment.REPLACED
        if own > age + self._age_limit:
            return Treatment.REVALUED
        return Treatment.ADDED

    def _credited(self, credit: Credited, sender_trains: bool) -> None:
        del self._taking[credit.sender]
        self._receipt(credit.sender, credit.life, credit.number)
        if credit.treatment is not Treatment.REFUSED:
            self._outbox.append(Emit(MassReceived(credit.sender, credit.number, credit.mass, credit.treatment)))
            if sender_trains:
                self.on_work(credit.sender)

    def _receipt(self, sender: SiteKey, life: bytes, number: int) -> None:
        """Answer from what is stored: applied, refused, or not here."""
        taken = self._state.taken.get(sender)
        if taken is None or not taken.has(life, number):
            verdict = TransferVerdict.MISSING
        elif taken.refused and taken.number == number:
            verdict = TransferVerdict.REFUSED
        else:
            # Numbers below the newest were settled before the sender could start the newest.
            verdict = TransferVerdict.APPLIED
        self._outbox.append(Send(sender, Receipt(number, life, verdict)))


def _checked(transfer: MassTransfer, size: int) -> Sums | WireError:
    """What a transfer decodes to, int64[size], or why it does not stand."""
    if transfer.mass == 0:
        return WireError("transfer without mass")
    try:
        sums = decode(transfer.payload, size)
    except WireError as error:
        return error
    return sums if within_distance(sums, transfer.mass) else WireError("transfer with a value too far from the start")
