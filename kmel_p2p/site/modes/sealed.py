"""Averaging mode `sealed` at a site: its stored part in the round, and what the operator is told of rounds and sums."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug, ConfigError, LocalError, WireError
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.agreement.privacy import NoisePlan
from kmel_p2p.core.effects import Event, Message, Record
from kmel_p2p.core.rounds import Averaging, Members
from kmel_p2p.core.sealed.averaging import SealedAveraging
from kmel_p2p.core.sealed.events import (
    AccusationRecord,
    CandidateRecord,
    GroupOpened,
    OwnStateRecord,
    ResidualDropped,
    RoundSpoiled,
    RoundVoid,
    SealRefused,
    SiteAccused,
    SumAdded,
    SumRecord,
    VectorSealed,
)
from kmel_p2p.core.sealed.masking import mask_bits, packed_bytes
from kmel_p2p.core.sealed.messages import MAX_PAYLOAD_BYTES, SCHEMAS, Sealed, SealPast
from kmel_p2p.core.sealed.own_part import SealedState, decode_own_state
from kmel_p2p.core.sealed.rules import SealedRules, SealedSettings
from kmel_p2p.core.sealed.sums import SumLog, decode_sum
from kmel_p2p.core.types import Micros, Randomness
from kmel_p2p.core.wire import Schema
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.models.layout import unlearned
from kmel_p2p.learn.models.registry import KINDS, kind_of
from kmel_p2p.learn.predict.trunk_file import TrunkCard, write_trunk
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.modes.mode import OTHER_RUN, Notes, OwnWork, SiteMode, newest_text, own_count
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.status import AveragingStatus
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.store import STORE_NAME, Store

VECTOR = Sealed.__name__
"""Kind of message, in the egress log, that carries a masked vector."""

RUN = b"kmel sealed 1"
"""State record of a store that holds a run in this mode; its journal has the sums."""
ROUND, CANDIDATE, RESIDUAL, TRAINER = "sealed round", "sealed candidate", "sealed residual", "sealed trainer state"
"""Blobs: this site's part in the round, what is left of its residual if its vector counts, the residual, and the name
of the trainer state that belongs to it."""
ACCUSATION = "accusation"
"""Series in the store: what sites signed and must not have."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store holds of a run."""

    log: SumLog
    own: SealedState
    residual: NDArray[np.float32]
    candidate: NDArray[np.float32] | None


class SealedMode(SiteMode):
    """See the module docstring."""

    name: ClassVar[Mode] = "sealed"
    messages: ClassVar[tuple[Schema, ...]] = SCHEMAS
    keeps_entries: ClassVar[bool] = False
    exposes: ClassVar[Mapping[str, str]] = {
        "en": "Sites saw sums of groups, and no other site's delta",
        "ko": "기관들이 그룹의 합만 보았고 다른 기관의 델타는 보지 않았습니다",
    }
    one_trunk: ClassVar[bool] = True

    def check(self, config: SiteConfig, charter: Charter, own: SiteKey, layout: Layout) -> None:
        """No amendments, no neighbours, a trunk whose vector fits a message."""
        if config.site.amendments:
            raise ConfigError(
                "site.amendments names files, but in averaging mode sealed a charter is not amended: remove them"
            )
        if config.network.neighbours:
            raise ConfigError("network.neighbours belongs to averaging mode pushsum; this charter's mode is sealed")
        if charter.privacy.on:
            _check_private(charter)
        if self.max_payload_bytes(charter, layout) > MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"the charter's trunk has {layout.size:,} values, too many for averaging mode sealed, where a vector "
                f"has at most {MAX_PAYLOAD_BYTES:,} bytes: choose a smaller trunk or averaging.pattern"
            )

    def codec(self, charter: Charter) -> None:
        """The whole drift is handed over: it is quantised where it is sealed."""

    def noise(self, charter: Charter) -> NoisePlan | None:
        """A share of what the charter's budget asks for, for each of `min_sum` sites less those that may collude."""
        if not charter.privacy.on:
            return None
        rules = SealedRules.of(charter)
        return NoisePlan(charter.privacy, rules.levels, rules.budget, rules.min_sum - charter.privacy.colluders)

    def max_payload_bytes(self, charter: Charter, layout: Layout) -> int:
        """Of a masked vector in the largest group."""
        rules = SealedRules.of(charter)
        return packed_bytes(max(1, round(rules.pattern * layout.size)), mask_bits(len(rules.roster), rules.levels))

    # ---- store and protocol -------------------------------------------------------------------------------------

    def open(self, site: Site, store: Store) -> Kept:
        """The sums in the store, and this site's part in the present round; a first start is recorded."""
        if store.vector():
            raise ConfigError(f"{store.path}: holds a run in mode ledger; this charter's mode is sealed. {OTHER_RUN}")
        stored = store.averaging.load()
        if stored is None:
            store.averaging.put_state(site.charter.id, 0, RUN, None)
        elif stored.charter_id != site.charter.id or stored.state != RUN:
            raise ConfigError(
                f"{store.path}: holds another run, under charter {stored.charter_id.hex()[:16]}; this site's charter "
                f"is {site.charter.id.hex()[:16]}. {OTHER_RUN}"
            )
        rules, size = SealedRules.of(site.charter), site.layout.size
        log = rules.empty_log(site.initial_trunk())
        for number, encoded in stored.journal if stored is not None else ():
            try:
                log.add(decode_sum(encoded))
            except WireError as error:
                raise ConfigError(f"{store.path}: sum {number} does not stand ({error}). {OTHER_RUN}") from error
        part = store.get_blob(ROUND)
        own = decode_own_state(part, rules.charter_id, str(store.path)) if part else SealedState()
        residual = _values(store, RESIDUAL, size)
        return Kept(
            log, own, np.zeros(size, np.float32) if residual is None else residual, _values(store, CANDIDATE, size)
        )

    def averaging(
        self, site: Site, history: Any, members: Members, rng: Randomness, generation: int, now: Micros
    ) -> SealedAveraging:
        """`history`: `Kept`."""
        settings = SealedSettings(hold=site.config.ledger.hold)
        kept = (history.log, history.own, history.residual, history.candidate)
        # Secrets come from the operating system, never from the seeded generator that a test may replay.
        return SealedAveraging(
            site.identity, SealedRules.of(site.charter), members, rng, settings, *kept, os.urandom, now
        )

    def writing(self, record: Record, site: Site) -> Callable[[Store], None] | None:
        """The part in the round, a sum with what follows from it, an accusation."""
        match record:
            case OwnStateRecord():
                return lambda store: _keep_part(store, record)
            case CandidateRecord(residual=residual):
                return lambda store: store.put_blob(CANDIDATE, residual)
            case SumRecord():
                return lambda store: _keep_sum(store, record)
            case AccusationRecord(site=key, round=number, reason=reason, statements=statements):
                row = {"site": key, "round": number, "reason": reason, "statements": list(statements)}
                at = time.time()
                return lambda store: store.add_history(ACCUSATION, at, row)
        return None

    def own_state_file(self, site: Site, store: Store) -> str | None:
        """Stored with the newest own vector in a sum."""
        name = store.get_blob(TRAINER)
        return name.decode() if name else None

    # ---- for the operator ---------------------------------------------------------------------------------------

    def label(self, message: Message) -> str:
        """A vector holds this site's delta under masks; sums are everybody's."""
        match message:
            case Sealed():
                return f"{VECTOR}: 1 masked vector"
            case SealPast(sums=sums):
                return f"{SealPast.__name__}: {len(sums)} sums"
        return super().label(message)

    def report(self, event: Event, notes: Notes) -> bool:
        """Groups, vectors, sums, void rounds and what does not stand."""
        activity, name = notes.activity, notes.name
        match event:
            case GroupOpened(round=number, sites=sites):
                notes.say("group opened", round=number, sites=[name(site) for site in sites])
            case VectorSealed(round=number, payload_bytes=size, share_bytes=shares):
                activity.shares_sent += 1
                activity.entry_bytes += size + shares
                notes.say("vector sealed", round=number, bytes=size, share_bytes=shares)
            case SumAdded(number=number, round=at_round, sites=sites, own=own):
                activity.applied_at = activity.clock()
                if own:
                    activity.published += 1
                    activity.published_at = activity.clock()
                notes.say("sum added", number=number, round=at_round, sites=sites, own=own)
            case RoundVoid(round=number, reason=reason, missing=missing, spent=spent):
                away = [name(site) for site in missing]
                notes.say("round void", round=number, reason=reason, missing=away, spent=spent)
            case RoundSpoiled(round=number, rounds=rounds, suspects=suspects):
                named = ", ".join(name(site) for site in suspects)
                text = (
                    f"{rounds} sealed rounds were opened and gave no sum: a site sealed something else than levels. If "
                    f"one site alone did, it is among: {named}. Nothing proves it. Ask their operators for versions "
                    "and logs; from the second such round on, this site leaves one of them out of the sums that it "
                    "asks for"
                )
                activity.alarm("sealed rounds spoiled", text)
                notes.warn("round spoiled", round=number, rounds=rounds, suspects=named)
            case ResidualDropped():
                notes.warn("residual dropped", reason="the store is older than sums with vectors of this site")
            case SealRefused(sender=sender, reason=reason):
                activity.refused += 1
                activity.alarm(f"refused from {name(sender)}", f"site {name(sender)}: {reason}")
                notes.warn("message refused", remote=name(sender), reason=reason)
            case SiteAccused(site=site, round=number, reason=reason):
                text = (
                    f"site {name(site)} broke the rules of sealed round {number}: {reason}; the proof is in the store"
                )
                activity.alarm(f"accused {name(site)}", text)
                notes.warn("site accused", remote=name(site), round=number, reason=reason)
            case _:
                return False
        return True

    def status(self, site: Site, averaging: Averaging, activity: Activity, digest: str) -> AveragingStatus:
        """`vector` counts the sums; `digest` is that of the trunk there, equal at all sites.

        Facts:
            round: the present one.
            progress: where it is, in words.
            waits_for: names of the sites that it waits for.
            privacy: under differential privacy, steps charged and allowed, and the budget.
        """
        machine, names, limit = _of(averaging), site.names, site.charter.averaging.entry_limit
        number, sealed = machine.log.number, activity.shares_sent
        waits = [names.get(key, key.hex()) for wait in machine.waits for key in wait.sites]
        own = machine.committed
        waiting = f"{machine.progress}, waits for {' '.join(waits)}" if waits else machine.progress
        return AveragingStatus(
            vector={"sums": number},
            digest=digest,
            published=machine.committed,
            applied=number,
            refused=activity.refused,
            held=1 if activity.held else 0,
            entry_limit=limit,
            payload_bytes_mean=activity.entry_bytes / sealed if sealed else 0.0,
            facts={
                "round": machine.present.at.number,
                "progress": machine.progress,
                "waits_for": waits,
                **({"privacy": _spent(site.charter, machine)} if site.charter.privacy.on else {}),
            },
            summary=(
                ("sums", f"{number} of {limit} sums ({newest_text(number, activity.ages.applied_s)})"),
                ("own part", own_count(activity, own, f"{own} of {number} sums have a vector of this site")),
                ("round", waiting),
                *((("privacy", _spent_text(site.charter, machine)),) if site.charter.privacy.on else ()),
                ("digest", f"{digest[:16] or 'being computed'}, after {number} sums"),
            ),
            figures={"sums": number, "vectors_in_sums": machine.committed, "messages_refused": activity.refused},
        )

    def has_failed(self, site: Site, averaging: Averaging) -> bool:
        """Never: nobody is shut out by proof alone."""
        return False

    def check_amendment(self, site: Site, averaging: Averaging, document: AmendmentDocument) -> None:
        """Always refused."""
        raise LocalError(
            "this federation averages by sealed rounds, in which amendments are not carried between sites: draft a new "
            "charter with the sites of the next run and have it signed"
        )

    # ---- the end of a run ---------------------------------------------------------------------------------------

    def trunk_writer(self, site: Site, averaging: Averaging, folder: Path) -> Callable[[], bool]:
        """The trunk that every site holds now."""
        log = _of(averaging).log
        trunk, digest_work, number = log.trunk(), log.digest_work(), log.number

        def work() -> bool:
            card = TrunkCard(
                federation=site.charter.federation,
                charter_id=site.charter.id.hex(),
                amendments=0,
                amendment_hash=bytes(HASH_BYTES).hex(),
                vector={log.lane.hex(): number},
                authors=[{"name": "sealed sums", "key": log.lane.hex(), "entries": number}],
                ledger_digest=digest_work().hex(),
                architecture=site.architecture,
                features=site.charter.features,
                reference_hash=site.charter.features.reference_hash,
                unlearned=unlearned(site.architecture, trunk, site.initial_trunk()),
            )
            return write_trunk(folder, card, trunk)

        return work

    def own_rounds(self, averaging: Averaging, key: SiteKey) -> int:
        """Own vectors that are in a sum: the vector of sums has no site."""
        return _of(averaging).committed

    def own_work(
        self, key: SiteKey, store: Store, section: AveragingStatus, sent: Mapping[str, tuple[int, int]]
    ) -> OwnWork:
        """From the rounds on record and the vectors in the egress log."""
        steps = {row["number"]: row["steps"] for row in store.history("round")}
        vectors, size = sent.get(VECTOR, (0, 0))
        return OwnWork(section.published, sum(steps.values()), [], size / vectors if vectors else 0.0)


def charged_steps(site: Site) -> int:
    """Noised steps charged to a site's privacy budget, read from its store; 0 where there is no store yet.

    Raises:
        ConfigError: the store belongs to another run, or is damaged.
    """
    path = site.config.site.state_dir / STORE_NAME
    if not path.exists():
        return 0
    store = Store(path, read_only=True)
    try:
        part = store.get_blob(ROUND)
        sealed = decode_own_state(part, site.charter.id, str(path)).sealed if part else 0
        return max(sealed, store.averaging.newest())
    finally:
        store.close()


def _check_private(charter: Charter) -> None:
    kind = kind_of(charter.model)
    if not kind.compound_gradients or charter.model.members > 1:
        able = ", ".join(name for name, each in KINDS.items() if each.compound_gradients)
        raise ConfigError(
            "privacy.dp is 'record', which clips the gradient of every compound by itself: choose model.trunk among "
            f"{able}, with model.members = 1; found {kind.name} and {charter.model.members}"
        )


def _spent(charter: Charter, machine: SealedAveraging) -> dict[str, float]:
    rule = charter.privacy
    budget = rule.steps(charter.averaging.entry_limit)
    return {"steps": machine.charged, "budget_steps": budget, "epsilon": rule.epsilon, "delta": rule.delta}


def _spent_text(charter: Charter, machine: SealedAveraging) -> str:
    """The budget and how much of it is used, in words."""
    spent = _spent(charter, machine)
    return (
        f"{spent['steps']:.0f} of {spent['budget_steps']:.0f} noised steps; all of them cost epsilon "
        f"{spent['epsilon']:g} (delta {spent['delta']:g})"
    )


def _keep_sum(store: Store, record: SumRecord) -> None:
    with store.transaction("sum"):
        store.averaging.append(record.number, record.encoded)
        _put_part(store, record)
        store.shred_replaced()


def _keep_part(store: Store, record: OwnStateRecord) -> None:
    with store.transaction("sealed round"):
        _put_part(store, record)
        if record.over:
            store.shred_replaced()


def _put_part(store: Store, record: SumRecord | OwnStateRecord) -> None:
    store.put_blob(ROUND, record.state)
    candidate = store.get_blob(CANDIDATE)
    if record.adopt and candidate:
        store.put_blob(RESIDUAL, candidate)
        store.put_blob(CANDIDATE, b"")
    if record.own_state_file:
        store.put_blob(TRAINER, record.own_state_file.encode())


def _values(store: Store, name: str, size: int) -> NDArray[np.float32] | None:
    held = store.get_blob(name)
    if not held:
        return None
    if len(held) != 4 * size:
        raise ConfigError(
            f"{store.path}: {name} has {len(held)} bytes; the charter's trunk needs {4 * size}. {OTHER_RUN}"
        )
    return np.frombuffer(held, "<f4").astype(np.float32)


def _of(averaging: Averaging) -> SealedAveraging:
    if not isinstance(averaging, SealedAveraging):
        raise Bug(f"{type(averaging).__name__} is not of mode sealed")
    return averaging
