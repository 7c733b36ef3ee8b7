"""The charter's averaging section: two modes, each with its own keys, and unchanged ids of ledger charters."""

from __future__ import annotations

import pytest

from kmel_p2p.agreement.averaging import LedgerRule, PushSumRule
from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.errors import Bug, ConfigError, WireError
from kmel_p2p.agreement.identity import Identity, digest
from kmel_p2p.agreement.strict import parse_toml
from kmel_p2p.core.ledger.sync.messages import Want
from kmel_p2p.core.peer import make_wire
from kmel_p2p.core.pushsum.messages import ShareRequest
from kmel_p2p.core.pushsum.rules import PushSumRules
from kmel_p2p.site.modes import MODES

SITE = f'sites = [{{ name = "a", key = "{Identity(b"a" * 32).key.hex()}" }}]'
HEAD = f'federation = "trial"\n{SITE}\nassay_endpoints = [{{ name = "logS" }}]\n'


def charter(averaging: str) -> Charter:
    return parse_toml(Charter, f"{HEAD}[averaging]\n{averaging}", "charter.toml")


def test_the_section_of_mode_ledger_counts_in_a_charters_id_as_before_there_was_a_second_mode() -> None:
    before = {
        "mode": "ledger",
        "chunk": 4096,
        "kept": 32,
        "bits": 4,
        "steps_per_entry": 20,
        "entry_limit": 7,
        "weight_cap": 2.0,
        "norm_cap": 1.5,
        "first_norm": 1.0,
        "trusted_after": 16,
        "suspension_quorum": "none",
        "epochs": False,
        "retain_entries": 64,
    }
    made = charter("bits = 4\nkept = 32\nentry_limit = 7")
    assert canonical(made.model_dump(mode="python")["averaging"]) == canonical(before)
    whole = {**made.model_dump(mode="python"), "averaging": before}
    assert made.id == digest(b"kmel charter id 1", canonical(whole))


def test_a_charter_that_names_no_mode_means_ledger() -> None:
    assert charter("kept = 32").averaging == LedgerRule(kept=32)
    assert charter("").id == charter('mode = "ledger"').id


def test_pushsum_is_read_signed_and_written() -> None:
    made = charter('mode = "pushsum"\nbits = 4\nmomentum = 0.3\nouter_step = 0.7\nage_limit = 9\nentry_limit = 5')
    assert isinstance(made.averaging, PushSumRule)
    document = CharterDocument(charter=made).signed_by(Identity(b"a" * 32))
    again = CharterDocument.parse(document.render(), "charter.toml")
    assert again.require_in_force("charter.toml").id == made.id != charter("").id
    rules = PushSumRules.of(again.charter)
    assert rules.bits == 4
    assert rules.averaging == PushSumRule(bits=4, momentum=0.3, outer_step=0.7, age_limit=9, entry_limit=5)
    assert rules.charter_id == made.id
    with pytest.raises(Bug):
        _ = made.ledger
    with pytest.raises(Bug):
        PushSumRules.of(charter(""))


@pytest.mark.parametrize(
    ("averaging", "message"),
    [
        ("momentum = 0.1", "'momentum' belongs to mode 'pushsum'; remove it, or set mode = 'pushsum'"),
        ('mode = "pushsum"\nkept = 3', "'kept' belongs to mode 'ledger'"),
        ('mode = "pushsum"\nnorm_cap = 3.0', "'norm_cap' belongs to mode 'ledger'"),
        ('mode = "pushsum"\nmomentun = 0.1', r"unknown key 'averaging\.momentun'; did you mean 'momentum'"),
        ("keptt = 3", r"unknown key 'averaging\.keptt'; did you mean 'kept'"),
        ('mode = "gossip"', "'mode' must be 'ledger', 'pushsum' or 'sealed'"),
        ("mode = 3", "'mode' must be 'ledger', 'pushsum' or 'sealed'"),
        ('mode = "pushsum"\nbits = 2', r"'averaging\.bits' is 2: expected one of 4, 8"),
        ("bits = 8", r"'averaging\.bits' is 8: expected one of 1, 2, 4"),
        ('mode = "pushsum"\nmomentum = 0.95', "at most 0.9"),
        ('mode = "pushsum"\nouter_step = 0.0', "more than 0"),
        ("pattern = 0.5", "'pattern' belongs to mode 'sealed'"),
        ('mode = "sealed"\nkept = 3', "'kept' belongs to mode 'ledger'"),
        ('mode = "sealed"\nmin_group = 3', "at least 4"),
        ('mode = "sealed"\nmin_sum = 6', r"min_sum \(6\) is above min_group \(5\)"),
        ('mode = "sealed"', r"takes averaging\.min_group \(5\) to 16 sites, and \d are listed"),
        ('mode = "pushsum"\nage_limit = 4', r"age_limit is 4; it must exceed pace\.max_lead \(4\)"),
    ],
)
def test_what_does_not_belong_is_named(averaging: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        charter(averaging)


def test_messages_of_the_other_mode_do_not_decode() -> None:
    charter_id = b"c" * 32
    ledger, pushsum = make_wire(charter_id, MODES["ledger"].messages), make_wire(charter_id, MODES["pushsum"].messages)
    with pytest.raises(WireError, match="unknown message type 44"):
        ledger.decode(pushsum.encode(ShareRequest()))
    with pytest.raises(WireError, match="unknown message type"):
        pushsum.decode(ledger.encode(Want((), ())))
    assert pushsum.decode(pushsum.encode(ShareRequest())) == ShareRequest()
