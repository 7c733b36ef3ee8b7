"""One small object of every format of the ledger, made from fixed secrets; run as a script it writes the golden file.

Run it only for a new version of a format: bytes already in use never change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tomli_w

from kmel_p2p.agreement.amendment import Amendment, AmendmentDocument
from kmel_p2p.agreement.charter import SiteRule
from kmel_p2p.agreement.identity import Identity, digest
from kmel_p2p.core.effects import Message
from kmel_p2p.core.ledger.harm.vote import cast
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Basis, Entry, context_hash, create
from kmel_p2p.core.ledger.log.epoch import NO_EPOCHS, begin
from kmel_p2p.core.ledger.rules.proof import fork_of
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.ledger.sync.claims import sign_claim
from kmel_p2p.core.ledger.sync.messages import (
    SCHEMAS,
    Amendments,
    Announce,
    Attest,
    Bodies,
    Compacted,
    EntryId,
    EntryRange,
    Epochs,
    Have,
    Heads,
    Holdings,
    LogHead,
    Proofs,
    SnapshotAsk,
    SnapshotOffer,
    SnapshotPart,
    Stubs,
    VoteDigest,
    Votes,
    Want,
    WantAmendments,
)
from kmel_p2p.core.ledger.sync.own_states import state_digest
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.core.wire import Wire
from kmel_p2p.delta import CodecParameters, DeltaCodec, Layout, TensorSpec

GOLDEN = Path(__file__).parent / "golden" / "formats.toml"

CHARTER_ID = bytes(range(32, 64))
ALICE = Identity(bytes(range(32)))
BOB = Identity(bytes(range(1, 33)))
ORDER = RosterOrder(sorted((ALICE.key, BOB.key)))
LAYOUT = Layout([TensorSpec("w", (2, 12)), TensorSpec("b", (3,))])
CODEC = DeltaCodec(LAYOUT, CodecParameters(chunk=16, kept=4, bits=2))
PAYLOAD = bytes.fromhex("0102000f0003874901fb198e98d5c0e04a8000662000d0000602000100e5a0c4e04884")
"""The worked example of docs/delta.md."""

WIRE = Wire(CHARTER_ID, SCHEMAS)


def _basis(vector: dict[Identity, int], others: list[Entry]) -> Basis:
    context = context_hash(entry.hash for entry in sorted(others, key=lambda entry: entry.author))
    return Basis(ORDER.vector({who.key: number for who, number in vector.items()}), context, {}, 0)


def _entry(who: Identity, number: int, previous: bytes, basis: Basis, heads: dict[int, int], steps: int) -> Entry:
    return create(
        who,
        charter_id=CHARTER_ID,
        number=number,
        previous=previous,
        basis=basis,
        weight=32768,
        head_weights=heads,
        steps=steps,
        norm_squared=CODEC.decode(PAYLOAD).norm_squared,
        codec_id=CODEC.codec_id,
        payload=PAYLOAD,
    )


FIRST = _entry(ALICE, 1, NO_PREVIOUS, _basis({}, []), {}, 20)
OF_BOB = _entry(BOB, 1, NO_PREVIOUS, _basis({ALICE: 1}, [FIRST]), {}, 20)

PREVIOUS = bytes.fromhex("daa278bf09a8833367034a52d9ad201b5517ae1c9cdd15d2d263232f530f0ff3")
CONTEXT = bytes.fromhex("f9ec7039bbe0c19e085ca70135dfb8e61c67035f6fa101f1862a853e9cdc9890")
"""Hashes of two entries of an earlier format, on which the stored example was made."""
BASIS = Basis(ORDER.vector({ALICE.key: 1, BOB.key: 1}), CONTEXT, {}, 0)
SECOND = _entry(ALICE, 2, PREVIOUS, BASIS, {0: 32768, 2: 65535}, 20)
"""The worked example of docs/ledger.md."""
OTHER_SECOND = _entry(ALICE, 2, PREVIOUS, BASIS, {0: 32768, 2: 65535}, 21)


def _amendment() -> AmendmentDocument:
    added = SiteRule(name="carol", key=Identity(bytes(range(2, 34))).key.hex(), addresses=("tcp://10.0.0.3:5555",))
    amendment = Amendment(charter=CHARTER_ID.hex(), number=1, add=(added,))
    signed = {
        name: who.sign(b"kmel amendment 1", amendment.hash).hex() for name, who in (("alice", ALICE), ("bob", BOB))
    }
    return AmendmentDocument(amendment=amendment, signatures=signed)


AMENDMENT = _amendment()


def _snapshot() -> Snapshot:
    accumulator = Accumulator.from_trunk(np.zeros(LAYOUT.size, np.float32))
    for entry in (FIRST, OF_BOB):
        accumulator.add(CODEC.decode(entry.payload), entry.weight, entry.head_weights)
    return Snapshot(
        charter_id=CHARTER_ID,
        headers={who.key: (entry.without_payload(),) for who, entry in ((ALICE, FIRST), (BOB, OF_BOB))},
        evidence=(),
        amendments=(AMENDMENT.encode(),),
        amendment_hash=AMENDMENT.amendment.hash,
        withdrawn={BOB.key: 1},
        accumulator=accumulator,
        votes=(VOTE.encode(),),
    )


VOTE = cast(ALICE, CHARTER_ID, BOB.key, 0, (1, 1), {0: 2, 3: -1}, against=True)
SNAPSHOT = _snapshot()
OFFER_ID = digest(b"kmel snapshot 1", SNAPSHOT.prefix(), SNAPSHOT.digest())
FORK = fork_of(SECOND, OTHER_SECOND)
VECTOR = ORDER.vector(SNAPSHOT.vector)
EPOCH = begin(ALICE, CHARTER_ID, 1, 2, (OTHER_SECOND.hash,))

MESSAGES: dict[str, Message] = {
    "have": Have(state_digest(AMENDMENT.amendment.hash, VECTOR, SNAPSHOT.chains, {1: 2}), 1, 12500, (0, 2), True),
    "holdings": Holdings(
        1, AMENDMENT.amendment.hash, VECTOR, SNAPSHOT.chains, {1: 2}, NO_EPOCHS, (FIRST.stub(),), True
    ),
    "epochs": Epochs((EPOCH.encode(),)),
    "want": Want((EntryRange(ALICE.key, 2, 3),), (BOB.key,)),
    "bodies": Bodies((FIRST.encode(),)),
    "announce": Announce((EntryId(ALICE.key, 2),)),
    "claim": sign_claim(BOB, CHARTER_ID, SNAPSHOT.standing, VECTOR, SNAPSHOT.chains, SNAPSHOT.digest()),
    "proofs": Proofs((FORK.evidence,)),
    "heads": Heads((LogHead(ALICE.key, 1, FIRST.hash),)),
    "stubs": Stubs((FIRST.stub(),)),
    "compacted": Compacted(AMENDMENT.amendment.hash, VECTOR),
    "snapshot_ask": SnapshotAsk(OFFER_ID, 0, 1),
    "snapshot_offer": SnapshotOffer(OFFER_ID, len(SNAPSHOT.encode()), SNAPSHOT.digest()),
    "snapshot_part": SnapshotPart(OFFER_ID, 0, SNAPSHOT.encode()),
    "attest": Attest(SNAPSHOT.standing, VECTOR),
    "want_amendments": WantAmendments(1),
    "amendments": Amendments((AMENDMENT.encode(),)),
    "vote_digest": VoteDigest(bytes(range(32))),
    "votes": Votes((VOTE.encode(),)),
}


def today() -> dict[str, bytes]:
    """What this version of the code makes of the samples."""
    return {
        "entry": SECOND.encode(),
        "first_entry": FIRST.encode(),
        "header_stub": SECOND.stub(),
        "amendment": AMENDMENT.encode(),
        "snapshot": SNAPSHOT.encode(),
        "vote": VOTE.encode(),
        "fork_proof_first": FORK.evidence[0],
        "fork_proof_second": FORK.evidence[1],
        **{f"message_{name}": WIRE.encode(message) for name, message in MESSAGES.items()},
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(tomli_w.dumps({name: made.hex() for name, made in today().items()}))
