"""Averaging mode `ledger` at a site: its store, its entries, what the operator is told of them, the final trunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug, ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Message, Record
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.events import (
    AgreementRecord,
    AmendmentRecord,
    AmendmentsOverruled,
    CompactionRecord,
    DivergenceRecord,
    EntryRecord,
    EpochRecord,
    OwnLogDoubted,
    PublishedAgainRecord,
    RetractionRecord,
    SnapshotRecord,
    VoteRecord,
    WithheldRecord,
)
from kmel_p2p.core.ledger.harm.parts import trunks_without
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import RETIRED
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.snapshot.needs import needs
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.ledger.sync.messages import SCHEMAS, Bodies, SnapshotPart
from kmel_p2p.core.ledger.worth.stretch import stretch_since
from kmel_p2p.core.rounds import Averaging, Members, StretchWork, Trunks
from kmel_p2p.core.types import SECOND, Micros, Randomness, Vector
from kmel_p2p.core.wire import Schema
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.models.layout import unlearned
from kmel_p2p.learn.predict.trunk_file import TrunkCard, write_trunk
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.modes.harm_report import harm_facts, harm_summary
from kmel_p2p.site.modes.ledger_report import report
from kmel_p2p.site.modes.mode import OTHER_RUN, Notes, OwnWork, SiteMode, newest_text, own_count
from kmel_p2p.site.modes.stored_ledger import adopt, codec_of, compact, compression, keep_epoch, keep_vote, open_ledger
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.status import AveragingStatus, vector_text
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.instance import was_put_back
from kmel_p2p.site.state.overruled import overrule
from kmel_p2p.site.state.own_sum import others_trunk
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.trust import AGREEMENT, DIVERGENCE

DOUBT_BLOB = "own log in doubt"
"""Under this name the store keeps whether this site's log may lack entries."""


class LedgerMode(SiteMode):
    """See the module docstring."""

    name: ClassVar[Mode] = "ledger"
    messages: ClassVar[tuple[Schema, ...]] = SCHEMAS
    keeps_entries: ClassVar[bool] = True
    exposes: ClassVar[Mapping[str, str]] = {
        "en": "Every site saw the others' signed entries, which tell much about the fingerprints behind them",
        "ko": "모든 기관이 서로의 서명된 엔트리를 보았고, 엔트리는 그 바탕이 된 지문에 대해 많은 것을 드러냅니다",
    }
    one_trunk: ClassVar[bool] = True

    def check(self, config: SiteConfig, charter: Charter, own: SiteKey, layout: Layout) -> None:
        """Entries reach every site, so nobody chooses whom to send them to."""
        if config.network.neighbours:
            raise ConfigError(
                "network.neighbours belongs to averaging mode pushsum; this charter's mode is ledger, in which entries "
                "reach every site, also through others: remove it"
            )

    def codec(self, charter: Charter) -> CodecParameters:
        """The charter's compression of deltas."""
        return compression(charter)

    def max_payload_bytes(self, charter: Charter, layout: Layout) -> int:
        """Of an entry."""
        return DeltaCodec(layout, self.codec(charter)).max_payload_bytes

    def needs(self, charter: Charter, layout: Layout, sites: int) -> list[str]:
        """Headers, entries and snapshot, with advice where the sites are too many for the charter."""
        payload = self.max_payload_bytes(charter, layout)
        return needs(sites, layout.size, charter.ledger.retain_entries, payload).in_words()

    # ---- store and protocol -------------------------------------------------------------------------------------

    def open(self, site: Site, store: Store) -> Ledger:
        """The ledger as the store holds it."""
        if store.averaging.load() is not None:
            raise ConfigError(f"{store.path}: holds a run in mode pushsum; this charter's mode is ledger. {OTHER_RUN}")
        ledger = open_ledger(site, store)
        if was_put_back(store) and store.vector():
            store.put_blob(DOUBT_BLOB, b"1")
        ledger.own_log_in_doubt = bool(store.get_blob(DOUBT_BLOB))
        retired = ledger.accepted.retired
        # The vector reads the whole snapshot again.
        stored = store.vector() if retired else {}
        for author, end in retired.items():
            # A crash, or an amendment that came as a file, can leave entries behind that no longer count.
            if stored.get(author, 0) > ledger.head(author):
                store.retract(author, end, RETIRED, ())
        return ledger

    def averaging(
        self, site: Site, history: Any, members: Members, rng: Randomness, generation: int, now: Micros
    ) -> LedgerAveraging:
        """`history`: a `Ledger`."""
        chosen = site.config.ledger
        settings = LedgerSettings(hold=chosen.hold, hear_us=chosen.hear_s * SECOND)
        largest = self.max_payload_bytes(site.charter, site.layout)
        return LedgerAveraging(site.identity, site.charter, history, members, rng, settings, largest, now)

    def writing(self, record: Record, site: Site) -> Callable[[Store], None] | None:
        """Entries, ends of logs, amendments, snapshots and evidence."""
        match record:
            case EntryRecord(author=author, number=number, encoded=encoded, own_state_file=state_file):
                return lambda store: store.append_entry(author, number, encoded, state_file)
            case WithheldRecord(number=number):
                return lambda store: store.forget_entry(site.identity.key, number)
            case RetractionRecord(author=author, number=number, reason=reason, evidence=evidence):
                return lambda store: store.retract(author, number, reason, evidence)
            case AmendmentRecord(number=number, encoded=encoded):
                return lambda store: store.add_amendment(number, encoded)
            case AmendmentsOverruled():
                return lambda store: overrule(store, record)
            case CompactionRecord():
                return lambda store: compact(site, store, record)
            case VoteRecord(encoded=encoded):
                return lambda store: keep_vote(store, encoded)
            case EpochRecord():
                return lambda store: keep_epoch(store, record)
            case PublishedAgainRecord(encoded=encoded):
                return lambda store: store.drop_retracted(site.identity.key, encoded)
            case OwnLogDoubted(doubted=doubted):
                return lambda store: store.put_blob(DOUBT_BLOB, b"1" if doubted else b"")
            case SnapshotRecord():
                return lambda store: adopt(site, store, record, time.time())
            case AgreementRecord(site=key):
                since = time.time()
                return lambda store: store.add_history(AGREEMENT, since, {"site": key})
            case DivergenceRecord():
                row = {
                    "site": record.site,
                    "vector": record.vector.packed,
                    "chains": record.chains,
                    "amendment": record.amendment,
                    "own_digest": record.own_digest,
                    "claimed_digest": record.claimed_digest,
                    "signature": record.signature,
                }
                at = time.time()
                return lambda store: store.add_history(DIVERGENCE, at, row)
        return None

    def own_state_file(self, site: Site, store: Store) -> str | None:
        """Stored with the newest own entry."""
        return store.own_state_file(site.identity.key)

    # ---- for the operator ---------------------------------------------------------------------------------------

    def label(self, message: Message) -> str:
        """Bodies hold entries, and a part of a snapshot holds a part of everybody's sum."""
        match message:
            case Bodies(entries):
                return f"{type(message).__name__}: {len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
            case SnapshotPart():
                return f"{type(message).__name__}: 1 part of a snapshot"
        return super().label(message)

    def report(self, event: Event, notes: Notes) -> bool:
        """Entries, logs, snapshots, amendments, votes."""
        return report(event, notes)

    def status(self, site: Site, averaging: Averaging, activity: Activity, digest: str) -> AveragingStatus:
        """`vector` counts the entries applied; `digest` is that of the trunk there.

        Facts: `campaign`, its number; `unmapped`, assay endpoints that later campaigns added and this site names no
        column for; `ended`, site name -> why its log was ended; `suspended` and `harm`, see
        `harm_facts`.
        """
        ledger, own, names = _of(averaging).ledger, site.identity.key, site.names
        vector = {names.get(key, key.hex()): number for key, number in ledger.vector.items()}
        published = ledger.vector.get(own, 0)
        applied = sum(number for key, number in ledger.vector.items() if key != own)
        limit = _of(averaging).entry_limit
        ended = {names.get(key, key.hex()): fault.reason for key, fault in ledger.faults.items()}
        unmapped = site.assay_endpoints.unmapped(site.config.data.columns)
        harm = harm_facts(ledger, names, site.assay_endpoints.names)
        return AveragingStatus(
            vector=vector,
            digest=digest,
            published=published,
            applied=applied,
            refused=activity.refused,
            held=1 if activity.held else 0,
            entry_limit=limit,
            payload_bytes_mean=activity.entry_bytes / activity.published if activity.published else 0.0,
            facts={"ended": ended, "campaign": _of(averaging).campaign, "unmapped": unmapped, **harm},
            summary=(
                *(() if _of(averaging).campaign == 1 else (("campaign", _campaign_in_words(_of(averaging))),)),
                *((("not mapped", f"{', '.join(unmapped)} (kmel-peer doctor says more)"),) if unmapped else ()),
                ("published", own_count(activity, published, f"{published} of {limit}")),
                ("applied", f"{applied} of other sites ({newest_text(applied, activity.ages.applied_s)})"),
                ("digest", f"{digest[:16] or 'being computed'}, vector {vector_text(vector)}"),
                *harm_summary(harm),
            ),
            figures={
                "entries_published": published,
                "entries_applied": applied,
                "entries_refused": activity.refused,
                "logs_ended": len(ended),
                "sites_said_to_harm": len(harm["harm"]),
                "sites_suspended": len(harm["suspended"]),
            },
        )

    def behind(self, averaging: Averaging, key: SiteKey) -> int | None:
        """By what the site told last, at most some seconds ago where it answers."""
        return _of(averaging).antientropy.lacking(key)

    def has_failed(self, site: Site, averaging: Averaging) -> bool:
        """Its own log was ended."""
        return site.identity.key in _of(averaging).ledger.faults

    def check_amendment(self, site: Site, averaging: Averaging, document: AmendmentDocument) -> None:
        """What is in the snapshot already cannot be taken back."""
        floors = _of(averaging).ledger.accepted.floor
        ledger = _of(averaging).ledger
        for name in document.amendment.lift:
            lifted = site.constitution.site_named(name)
            for key in site.constitution.keys_of(lifted.site_key) if lifted is not None else ():
                first = ledger.accepted.left_out.get(key)
                if first is not None and key in ledger.suspended:
                    raise LocalError(
                        f"entries of {name!r} from {first} on are compacted here without counting, and cannot be put "
                        "back; retire the site, or have another site hand the amendment in"
                    )
        for rule in document.amendment.retire:
            retired = site.constitution.site_named(rule.name)
            floor = floors.get(retired.site_key, 0) if retired is not None else 0
            left_out = ledger.accepted.left_out.get(retired.site_key) if retired is not None else None
            if rule.last < floor or (0 < rule.retract_from <= floor and rule.retract_from != left_out):
                raise LocalError(
                    f"entries of {rule.name!r} up to {floor} are compacted into the snapshot here and cannot be taken "
                    f"back; retract from {floor + 1} on, or leave them"
                )

    # ---- the end of a run ---------------------------------------------------------------------------------------

    def trunk_writer(self, site: Site, averaging: Averaging, folder: Path) -> Callable[[], bool]:
        """The trunk that every site holds now."""
        snapshot = _of(averaging).ledger.snapshot()

        def work() -> bool:
            trunk = snapshot.accumulator.trunk()
            return write_trunk(folder, trunk_card(site, snapshot, trunk), trunk)

        return work

    def others_trunk(
        self, site: Site, averaging: Averaging, store: Path
    ) -> Callable[[], NDArray[np.float32] | None] | None:
        """The sum without the own entries. None where others' proofs or amendments ended this site's log, or where a
        former key of this site has entries: their contribution is not ours to take out."""
        ledger, own = _of(averaging).ledger, site.identity.key
        former = [key for key, rule in site.constitution.everyone.items() if rule.name == site.rule.name and key != own]
        accepted = ledger.accepted
        if own in accepted.ended or own in accepted.withdrawn or any(ledger.head(key) for key in former):
            return None
        newest = (ledger.head(own), ledger.head_hash(own))
        return others_trunk(ledger.accumulator.copy(), store, own, newest, codec_of(site))

    def trunks_without(self, site: Site, averaging: Averaging, turn: int) -> Trunks | None:
        """Without each other author that counts: whole, and its newest entries."""
        return trunks_without(_of(averaging).ledger, site.identity.key, codec_of(site), turn)

    def stretch_since(self, site: Site, averaging: Averaging, mark: Vector) -> StretchWork | None:
        """The entries that count and came since."""
        return stretch_since(_of(averaging).ledger, codec_of(site), mark)

    def own_work(
        self, key: SiteKey, store: Store, section: AveragingStatus, sent: Mapping[str, tuple[int, int]]
    ) -> OwnWork:
        """From the own entries that are still kept."""
        own = [entry.encoded for entry in store.load_entries() if entry.author == key]
        sizes = [len(encoded) for encoded in own]
        steps = sum(decode(encoded).steps for encoded in own)
        return OwnWork(len(own), steps, sizes, fmean(sizes) if sizes else 0.0)


def _campaign_in_words(machine: LedgerAveraging) -> str:
    number, published = machine.campaign, machine.publisher.next_number - 1 - machine.before_campaign
    allowed = machine.entry_limit - machine.before_campaign
    return f"{number}: {max(0, published)} of {allowed} entries of this site" if allowed else f"{number}: sits it out"


def trunk_card(site: Site, snapshot: Snapshot, trunk: NDArray[np.float32]) -> TrunkCard:
    """What the trunk of a ledger is. Takes a while for a large one: the exact sum is hashed."""
    everyone = site.constitution.everyone
    vector = snapshot.vector
    return TrunkCard(
        federation=site.charter.federation,
        charter_id=site.charter.id.hex(),
        amendments=len(snapshot.amendments),
        amendment_hash=snapshot.amendment_hash.hex(),
        vector={key.hex(): number for key, number in vector.items()},
        authors=[
            {
                "name": everyone[key].name if key in everyone else "",
                "key": key.hex(),
                "entries": number,
                **({"retracted_from": snapshot.withdrawn[key]} if key in snapshot.withdrawn else {}),
            }
            for key, number in vector.items()
        ],
        ledger_digest=snapshot.digest().hex(),
        architecture=site.architecture,
        features=site.charter.features,
        reference_hash=site.charter.features.reference_hash,
        unlearned=unlearned(site.architecture, trunk, site.initial_trunk()),
    )


def _of(averaging: Averaging) -> LedgerAveraging:
    if not isinstance(averaging, LedgerAveraging):
        raise Bug(f"{type(averaging).__name__} is not of mode ledger")
    return averaging
