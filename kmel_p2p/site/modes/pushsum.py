"""Averaging mode `pushsum` at a site: its stored state, what the operator is told of rounds, shares and mass."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug, ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Message, Record
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.pushsum.events import (
    JournalRecord,
    MassReceived,
    MassReclaimed,
    MassSent,
    PushSumRefused,
    RoundCounted,
    StateRecord,
    StoreOutdated,
)
from kmel_p2p.core.pushsum.journal import restore
from kmel_p2p.core.pushsum.messages import LIFE_BYTES, MAX_PAYLOAD_BYTES, SCHEMAS, MassTransfer
from kmel_p2p.core.pushsum.rules import PushSumRules, PushSumSettings
from kmel_p2p.core.pushsum.share import payload_bytes
from kmel_p2p.core.pushsum.state import PushSumState
from kmel_p2p.core.rounds import Averaging, Members
from kmel_p2p.core.types import Micros, Randomness
from kmel_p2p.core.wire import Schema
from kmel_p2p.delta.layout import Layout
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.modes.mode import OTHER_RUN, Notes, OwnWork, SiteMode, newest_text, own_count
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.status import AveragingStatus, vector_text
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.instance import was_put_back
from kmel_p2p.site.state.store import Store

SHARE = MassTransfer.__name__
"""Kind of message, in the egress log, that carries a share."""


class PushSumMode(SiteMode):
    """See the module docstring."""

    name: ClassVar[Mode] = "pushsum"
    messages: ClassVar[tuple[Schema, ...]] = SCHEMAS
    keeps_entries: ClassVar[bool] = False
    exposes: ClassVar[Mapping[str, str]] = {
        "en": "Sites saw each other's shares, which are mixtures but not sealed",
        "ko": "기관들이 서로의 몫을 보았습니다. 몫은 섞인 값이지만 봉인되지는 않습니다",
    }
    one_trunk: ClassVar[bool] = False

    def check(self, config: SiteConfig, charter: Charter, own: SiteKey, layout: Layout) -> None:
        """No amendments, neighbours other than this site, a trunk whose share fits a message."""
        if config.site.amendments:
            raise ConfigError(
                "site.amendments names files, but in averaging mode pushsum a charter is not amended: remove them"
            )
        for name in config.network.neighbours:
            if charter.site_named(name).site_key == own:
                raise ConfigError(f"network.neighbours names {name!r}, which is this site itself: remove it")
        if self.max_payload_bytes(charter, layout) > MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"the charter's trunk has {layout.size:,} values, too many for averaging mode pushsum, where a share "
                f"has at most {MAX_PAYLOAD_BYTES:,} bytes: choose a smaller trunk or mode ledger"
            )

    def codec(self, charter: Charter) -> None:
        """The whole drift is handed over: shares of its sum are quantised when they are sent."""

    def max_payload_bytes(self, charter: Charter, layout: Layout) -> int:
        """Of a share in the exchanges after everybody's last round, the largest."""
        return payload_bytes(layout.size, PushSumRules.of(charter).last_bits)

    # ---- store and protocol -------------------------------------------------------------------------------------

    def open(self, site: Site, store: Store) -> PushSumState:
        """The state in the store; a fresh one gets its name here."""
        if store.vector():
            raise ConfigError(f"{store.path}: holds a run in mode ledger; this charter's mode is pushsum. {OTHER_RUN}")
        base = site.initial_trunk()
        stored = store.averaging.load()
        if stored is None:
            # The name of this store: a replaced one is told from it, and what was owed to the old one is taken back.
            state = PushSumState.fresh(base, os.urandom(LIFE_BYTES))
            store.averaging.put_state(site.charter.id, state.index, state.encode(), None)
            was_put_back(store)
            return state
        if stored.charter_id != site.charter.id:
            raise ConfigError(
                f"{store.path}: holds a run under charter {stored.charter_id.hex()[:16]}; this site's charter is "
                f"{site.charter.id.hex()[:16]}. {OTHER_RUN}"
            )
        state = restore(base, stored.state, stored.journal, str(store.path))
        with store.transaction("life"):
            if was_put_back(store):
                state.outdated, state.restored = True, False
                state.begin_again(os.urandom(LIFE_BYTES))
                state.index += 1
                store.averaging.put_state(site.charter.id, state.index, state.encode(), None)
        return state

    def averaging(
        self, site: Site, history: Any, members: Members, rng: Randomness, generation: int, now: Micros
    ) -> PushSumAveraging:
        """`history`: a `PushSumState`, altered in place."""
        config, charter = site.config, site.charter
        neighbours = frozenset(charter.site_named(name).site_key for name in config.network.neighbours)
        settings = PushSumSettings(hold=config.ledger.hold, neighbours=neighbours)
        rules = PushSumRules.of(charter)
        return PushSumAveraging(site.identity, rules, members, rng, settings, history, generation, now)

    def writing(self, record: Record, site: Site) -> Callable[[Store], None] | None:
        """A whole state, or one change after it."""
        match record:
            case StateRecord(index=index, own_state_file=state_file):
                return lambda store: store.averaging.put_state(site.charter.id, index, record.state, state_file)
            case JournalRecord(index=index, body=change):
                return lambda store: store.averaging.append(index, change)
        return None

    def own_state_file(self, site: Site, store: Store) -> str | None:
        """Stored with the newest own round."""
        return store.averaging.own_state_file()

    # ---- for the operator ---------------------------------------------------------------------------------------

    def label(self, message: Message) -> str:
        """A transfer holds a share of the sender's trunk."""
        return f"{SHARE}: 1 share" if isinstance(message, MassTransfer) else super().label(message)

    def report(self, event: Event, notes: Notes) -> bool:
        """Rounds and shares."""
        activity, name = notes.activity, notes.name
        match event:
            case RoundCounted(number=number, mass=mass):
                activity.published += 1
                activity.published_at = activity.clock()
                notes.say("round counted", number=number, mass=mass)
            case MassSent(to=key, number=number, mass=mass, payload_bytes=size):
                activity.shares_sent += 1
                activity.entry_bytes += size
                notes.say("share sent", to=name(key), number=number, mass=mass, bytes=size)
            case MassReceived(sender=sender, number=number, mass=mass, treatment=treatment):
                activity.shares_received += 1
                activity.applied_at = activity.clock()
                how = treatment.name.lower()
                notes.say("share received", sender=name(sender), number=number, mass=mass, treatment=how)
            case MassReclaimed(to=key, number=number, mass=mass, reason=reason):
                text = f"share {number} for {name(key)} was taken back: {reason}"
                activity.alarm(f"share taken back {name(key)}", text)
                notes.warn("share taken back", to=name(key), number=number, mass=mass, reason=reason)
            case StoreOutdated(shown_by=key):
                found = f"site {name(key)} holds a share that it does not know" if key else "its files were copied"
                text = (
                    f"this site's store is an older copy ({found}): it goes on with the trunk that it holds and the "
                    "mass that it brought in, and the others take back what they owed it. Rounds after the copy are "
                    "lost here"
                )
                activity.alarm("store put back", text)
                notes.warn("store put back", shown_by=name(key) if key else "", remedy=text)
            case PushSumRefused(sender=sender, reason=reason):
                activity.refused += 1
                activity.alarm(f"refused from {name(sender)}", f"site {name(sender)}: {reason}")
                notes.warn("message refused", remote=name(sender), reason=reason)
            case _:
                return False
        return True

    def status(self, site: Site, averaging: Averaging, activity: Activity, digest: str) -> AveragingStatus:
        """`vector` counts rounds trained, as far as known; `digest` is that of this site's mass and sum.

        Facts, where 1024 of mass are one measurement's weight:
            mass: held here; it settles around the weight.
            weight: mass that this site brought in; 0 before its first round.
            level: round of the federation that this site has reached.
            reached: round that the federation has reached, as far as reachable sites tell.
            age: round up to which the other sites' work is mixed into the trunk here.
            outstanding: site name -> mass on its way there, without receipt yet.
            shares_sent: since the start.
            neighbours: the only sites that shares are sent to; empty: all.
        """
        machine, names = _of(averaging), site.names
        state, limit, neighbours = machine.state, site.charter.averaging.entry_limit, site.config.network.neighbours
        mass, weight = state.holding.mass, state.weight
        sent, received = activity.shares_sent, activity.shares_received
        vector = {names.get(key, key.hex()): rounds for key, rounds in machine.vector.items()}
        outstanding = {names.get(key, key.hex()): owed.mass for key, owed in sorted(state.owed.items())}
        last = newest_text(received, activity.ages.applied_s)
        return AveragingStatus(
            vector=vector,
            digest=digest,
            published=state.rounds,
            applied=received,
            refused=activity.refused,
            held=1 if activity.held else 0,
            entry_limit=limit,
            payload_bytes_mean=activity.entry_bytes / sent if sent else 0.0,
            facts={
                "mass": mass,
                "weight": weight,
                "level": state.level,
                "reached": machine.reached,
                "age": state.age,
                "outstanding": outstanding,
                "shares_sent": sent,
                "neighbours": neighbours,
            },
            summary=(
                ("trained", own_count(activity, state.rounds, f"{state.rounds} of {limit} rounds")),
                ("shares", f"{sent} sent, {received} received (the last {last})"),
                ("mass", f"{mass / weight:.2f} of its weight" if weight else "none yet"),
                ("without receipt", f"shares for {' '.join(outstanding)}" if outstanding else "none"),
                ("trunk", f"mixed up to round {state.age}; the federation is at {machine.reached}"),
                *((("neighbours", " ".join(neighbours)),) if neighbours else ()),
                ("digest", f"{digest[:16] or 'being computed'} of this site's own state"),
                ("rounds", vector_text(vector)),
            ),
            figures={
                "rounds_trained": state.rounds,
                "shares_sent": sent,
                "shares_received": received,
                "messages_refused": activity.refused,
                "mass": mass,
                "weight": weight,
                "trunk_age_rounds": max(0, machine.reached - state.age),
                "transfers_outstanding": len(outstanding),
            },
        )

    def has_failed(self, site: Site, averaging: Averaging) -> bool:
        """Never: nobody can shut a site out of the exchange of shares."""
        return False

    def check_amendment(self, site: Site, averaging: Averaging, document: AmendmentDocument) -> None:
        """Always refused."""
        raise LocalError(
            "this federation averages by pushsum, in which amendments are not carried between sites: "
            "draft a new charter with the sites of the next run and have it signed"
        )

    # ---- the end of a run ---------------------------------------------------------------------------------------

    def trunk_writer(self, site: Site, averaging: Averaging, folder: Path) -> None:
        """No trunk is everybody's."""

    def own_work(
        self, key: SiteKey, store: Store, section: AveragingStatus, sent: Mapping[str, tuple[int, int]]
    ) -> OwnWork:
        """From the rounds on record and the shares in the egress log."""
        # A round that a crash took back was trained again under its number.
        steps = {row["number"]: row["steps"] for row in store.history("round")}
        shares, size = sent.get(SHARE, (0, 0))
        return OwnWork(section.published, sum(steps.values()), [], size / shares if shares else 0.0)


def _of(averaging: Averaging) -> PushSumAveraging:
    if not isinstance(averaging, PushSumAveraging):
        raise Bug(f"{type(averaging).__name__} is not of mode pushsum")
    return averaging
