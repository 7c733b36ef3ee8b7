"""Bytes already in use never change: every format against a stored file, the page's example against both."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.core.ledger.log import entry
from kmel_p2p.core.ledger.rules.proof import prove
from kmel_p2p.core.ledger.rules.rules import AmendedRules, Rules
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.ledger.snapshot import snapshot
from kmel_p2p.core.ledger.sync.claims import claim_is_signed
from kmel_p2p.core.ledger.sync.messages import SCHEMAS, Claim
from tests.support import golden_samples as samples

STORED = {name: bytes.fromhex(text) for name, text in tomllib.loads(samples.GOLDEN.read_text()).items()}
PAGE = Path(__file__).parents[3] / "docs" / "ledger.md"


@pytest.mark.parametrize("name", sorted(samples.today()))
def test_todays_code_writes_the_stored_bytes(name: str) -> None:
    assert samples.today()[name].hex() == STORED[name].hex()


def test_every_stored_sample_is_made_and_every_message_is_stored() -> None:
    assert STORED.keys() == samples.today().keys()
    assert {type(message) for message in samples.MESSAGES.values()} == {schema.cls for schema in SCHEMAS}


@pytest.mark.parametrize("name", sorted(samples.MESSAGES))
def test_stored_messages_are_read(name: str) -> None:
    assert samples.WIRE.decode(STORED[f"message_{name}"]) == samples.MESSAGES[name]


def test_stored_entries_are_read_and_signed() -> None:
    second = entry.decode(STORED["entry"])
    assert second == samples.SECOND
    assert second.signature_is_good()
    assert second.head_weights == {0: 32768, 2: 65535}
    first = entry.decode(STORED["first_entry"])
    assert first == samples.FIRST
    assert first.signature_is_good()
    assert first.head_weights == {}
    assert entry.decode_stub(STORED["header_stub"]) == second.without_payload()


def test_the_stored_snapshot_is_read() -> None:
    found = snapshot.decode(STORED["snapshot"], samples.LAYOUT.size)
    assert found.problem() == ""
    assert found.digest() == samples.SNAPSHOT.digest()
    assert (samples.ORDER.vector(found.vector), found.chains) == (samples.VECTOR, samples.SNAPSHOT.chains)
    assert found.encode() == STORED["snapshot"]


def test_the_stored_amendment_claim_and_fork_hold() -> None:
    document = AmendmentDocument.decode(STORED["amendment"])
    assert document == samples.AMENDMENT
    assert document.encode() == STORED["amendment"]
    claim = samples.WIRE.decode(STORED["message_claim"])
    assert isinstance(claim, Claim)
    assert claim_is_signed(samples.BOB.key, samples.CHARTER_ID, claim)
    rules = Rules(samples.CHARTER_ID, samples.ORDER, samples.CODEC.codec_id, 2**16, 4.0, 2**48)
    evidence = [STORED["fork_proof_first"], STORED["fork_proof_second"]]
    fault = prove(evidence, AmendedRules.first(rules), samples.CODEC, 1000)
    assert fault is not None
    assert (fault.author, fault.number, fault.reason) == (samples.ALICE.key, 2, Refusal.FORK.value)


def test_the_pages_worked_example_is_the_stored_entry() -> None:
    page = PAGE.read_text()
    block = page.split("### Worked example", 1)[1].split("```", 2)[1]
    # Bytes stand before the first run of three spaces, what they mean after it.
    shown = "".join(re.split(r"\s{3,}", line, maxsplit=1)[0] for line in block.splitlines())
    assert bytes.fromhex(shown.replace(" ", "")) == STORED["entry"]
    assert samples.SECOND.hash.hex() in page
    assert f"{len(STORED['entry'])} bytes:" in page


def test_the_page_names_every_rule_and_every_message() -> None:
    page = PAGE.read_text()
    assert [refusal.value for refusal in Refusal if refusal.value not in page] == []
    rows = [f"| {schema.type_id} | {schema.cls.__name__} |" for schema in SCHEMAS]
    assert [row for row in rows if row not in page] == []
    assert f"{entry.MAX_HEADER_BYTES:,} bytes" in page
