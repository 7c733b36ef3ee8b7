"""The book of invitations: counted, valid for a time, bounded, and the same after a restart."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nacl.bindings as nb
import pytest

from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey, digest, verify
from kmel_p2p.agreement.invitation import Application, Invitation, fingerprint, invitation_id
from kmel_p2p.site.desk.invitations import (
    INVITATIONS_NAME,
    MAX_INVITATIONS,
    MAX_REFUSED,
    NAME_HELD_S,
    WAITING_MAX,
    DecidedMeanwhileError,
    FoundingPlan,
    InvitationBook,
    Newcomer,
)

NORTH, FORMER = Identity(b"n" * 32), Identity(b"f" * 32)
NOW, END = 1_000.0, 2_000


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def invited(book: InvitationBook, uses: int = 2, secret: bytes = b"s" * 16) -> Invitation:
    book.invite("demo", ("tcp://north.example:7700",), uses, END, secret)
    return book.handed_out("north", NORTH.key)[-1][0]


def application(invitation: Invitation, number: int, name: str = "") -> Application:
    return Application.made(identity(number), invitation, name or f"site{number}", ())


def ask(book: InvitationBook, asked: Application, now: float = NOW, secret: bytes = b"s" * 16) -> Newcomer:
    return book.apply(invitation_id(secret), asked, now, NORTH.key, {NORTH.key: "north", FORMER.key: "former"})


def mixed_order() -> tuple[bytes, Callable[[bytes], bytes]]:
    """A key with a part of small order, which no CURVE key comes from, and a way to sign with it."""
    secret = hashlib.sha512(b"any").digest()
    scalar = nb.crypto_core_ed25519_scalar_reduce(bytes([secret[0] & 248]) + secret[1:31] + bytes([64]) + bytes(32))
    small = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    key = nb.crypto_core_ed25519_add(nb.crypto_scalarmult_ed25519_base_noclamp(scalar), small)

    def sign(message: bytes) -> bytes:
        for number in itertools.count(1):
            nonce = nb.crypto_core_ed25519_scalar_reduce(digest(b"r", number.to_bytes(4, "big"), message) + bytes(32))
            first = nb.crypto_scalarmult_ed25519_base_noclamp(nonce)
            factor = nb.crypto_core_ed25519_scalar_reduce(hashlib.sha512(first + key + message).digest())
            if int.from_bytes(factor, "little") % 8 == 0:
                product = nb.crypto_core_ed25519_scalar_mul(factor, scalar)
                return first + nb.crypto_core_ed25519_scalar_add(nonce, product)
        raise AssertionError

    return key, sign


@pytest.fixture
def book(tmp_path: Path) -> InvitationBook:
    return InvitationBook(tmp_path)


def test_nobody_takes_part_before_the_operator_says_so(book: InvitationBook) -> None:
    invitation = invited(book)
    assert ask(book, application(invitation, 1)).state == "asks"
    assert book.approved() == []
    book.decide("site1", approve=True)
    assert [one.name for one in book.approved()] == ["site1"]


def test_everything_is_there_after_a_restart(book: InvitationBook, tmp_path: Path) -> None:
    invitation = invited(book)
    ask(book, application(invitation, 1))
    book.decide("site1", approve=True)
    plan = FoundingPlan(federation="demo", sites=3, endpoints=("logd",), trunk="mlp", seed=1)
    book.plan_founding(plan)
    again = InvitationBook(tmp_path)
    assert again.plan == plan
    assert again.newcomers == book.newcomers
    assert again.handed_out("north", NORTH.key) == [(invitation, 1)]


def test_an_invitation_is_counted(book: InvitationBook) -> None:
    invitation = invited(book, uses=1)
    ask(book, application(invitation, 1))
    ask(book, application(invitation, 2))
    book.decide("site1", approve=True)
    with pytest.raises(LocalError, match="no place left"):
        book.decide("site2", approve=True)
    with pytest.raises(LocalError, match="used up"):
        ask(book, application(invitation, 3))


def test_an_invitation_ends_and_lets_those_go_on_who_were_approved(book: InvitationBook) -> None:
    invitation = invited(book)
    assert book.secrets(END - 1) == [b"s" * 16]
    assert book.secrets(END) == []
    with pytest.raises(LocalError, match="is over"):
        ask(book, application(invitation, 1), END)
    ask(book, application(invitation, 1))
    book.decide("site1", approve=True)
    assert book.secrets(END) == [b"s" * 16]
    assert ask(book, application(invitation, 1), END).state == "approved"


def test_who_holds_the_text_cannot_fill_the_book(book: InvitationBook) -> None:
    invitation = invited(book, uses=1)
    for number in range(1, WAITING_MAX + 1):
        ask(book, application(invitation, number))
    with pytest.raises(LocalError, match="used up"):
        ask(book, application(invitation, 99))
    for number in range(1, MAX_REFUSED + 9):
        ask(book, application(invitation, number))
        book.decide(f"site{number}", approve=False)
    assert len(book.newcomers) <= MAX_REFUSED + 2


def test_a_name_is_taken_once_and_a_refused_key_stays_refused(book: InvitationBook) -> None:
    invitation = invited(book)
    ask(book, application(invitation, 1, "south"))
    with pytest.raises(LocalError, match="already asked under the name"):
        ask(book, application(invitation, 2, "south"))
    book.decide("south", approve=False)
    assert ask(book, application(invitation, 2, "south")).state == "asks"
    assert ask(book, application(invitation, 1, "south")).state == "refused"


def test_a_key_that_did_not_sign_is_not_taken(book: InvitationBook) -> None:
    invitation = invited(book)
    stolen = application(invitation, 1).model_copy(update={"key": identity(2).key.hex()})
    with pytest.raises(LocalError, match="not signed"):
        ask(book, stolen)
    assert book.newcomers == ()


def test_withdrawing_ends_all_and_keeps_decisions(book: InvitationBook) -> None:
    invitation = invited(book)
    for number in (1, 2):
        ask(book, application(invitation, number))
    book.decide("site1", approve=True)
    assert book.withdraw() == 1
    assert [one.name for one in book.newcomers] == ["site1"]
    assert ask(book, application(invitation, 1)).state == "approved"
    assert list(book.secrets(NOW)) == [b"s" * 16]
    with pytest.raises(LocalError, match="is over"):
        ask(book, application(invitation, 3))


def test_a_new_invitation_takes_the_place_of_an_unused_one(book: InvitationBook) -> None:
    for number in range(MAX_INVITATIONS + 3):
        invited(book, secret=bytes([number]) * 16)
    assert len(book.handed_out("north", NORTH.key)) == MAX_INVITATIONS


def test_a_damaged_book_is_named_with_what_to_do(book: InvitationBook, tmp_path: Path) -> None:
    invited(book)
    (tmp_path / INVITATIONS_NAME).write_text('{"invitations": 7}')
    with pytest.raises(ConfigError, match=r"invitations\.json.*restore it, or move it away"):
        InvitationBook(tmp_path)


def test_deciding_on_nobody_says_who_asked(book: InvitationBook) -> None:
    invitation = invited(book)
    ask(book, application(invitation, 1))
    with pytest.raises(LocalError, match="site1 did"):
        book.decide("south", approve=True)


@pytest.mark.parametrize(
    ("number", "name", "address", "why"),
    [
        (1, "north", "", "called 'north'"),
        (1, "former", "", "called 'former'"),
        (0, "south", "", "is that of 'north' already"),
        (1, "south", "garbage", "no port"),
        (1, "south", "tcp://*:7700", "no host"),
        (1, "south", "tcp://0.0.0.0:7700", "every interface"),
        (1, "south", "[/tcp]://x", "scheme"),
        (1, "south", "tcp://s.example:7700)      south asks fingerprint 1111 2222 (tcp://s:7700", "write an IPv6"),
        (1, "south", "tcp://evil.example:1[tcp://good]", "no port"),
    ],
)
def test_who_no_charter_can_list_is_refused_at_once(
    book: InvitationBook, number: int, name: str, address: str, why: str
) -> None:
    invitation = invited(book)
    asking = identity(number) if number else NORTH
    made = Application.made(asking, invitation, name, (address,) if address else ())
    with pytest.raises(LocalError, match=why):
        ask(book, made)
    assert book.newcomers == ()


def test_a_key_that_no_charter_takes_is_refused_at_once(book: InvitationBook) -> None:
    invitation = invited(book)
    context, made = b"kmel application 1", application(invitation, 1)
    key, sign = mixed_order()
    body = canonical([NORTH.key, invitation.id, "site1", key.hex(), []])
    signature = sign(len(context).to_bytes(1, "big") + context + body)
    assert verify(SiteKey(key), context, body, signature)
    with pytest.raises(LocalError, match="not an Ed25519 public key"):
        ask(book, made.changed(key=key.hex(), signature=signature.hex()))


def test_both_sides_see_the_same_digits_after_a_second_invitation(book: InvitationBook) -> None:
    first = invited(book, secret=b"a" * 16)
    ask(book, Application.made(identity(1), first, "south", ("tcp://typo:1",)), secret=b"a" * 16)
    second = invited(book)
    made = Application.made(identity(1), second, "south2", ("tcp://right:1",))
    newcomer = ask(book, made)
    assert newcomer.fingerprint(NORTH.key) == fingerprint(NORTH.key, identity(1).key, second.id, made.signature)
    assert [(one.name, one.addresses, one.state) for one in book.newcomers] == [("south2", ("tcp://right:1",), "asks")]


def test_what_was_approved_is_not_changed_by_asking_again(book: InvitationBook) -> None:
    invitation = invited(book)
    ask(book, application(invitation, 1))
    book.decide("site1", approve=True)
    with pytest.raises(LocalError, match="approved with another application, as 'site1'"):
        ask(book, application(invitation, 1, "other"))
    assert ask(book, application(invitation, 1)).state == "approved"


def test_an_answer_to_what_is_not_there_any_more_decides_nothing(book: InvitationBook) -> None:
    invitation = invited(book)
    shown = ask(book, application(invitation, 1)).fingerprint(NORTH.key)
    assert book.found("site1", True, shown, NORTH.key).name == "site1"
    ask(book, Application.made(identity(1), invitation, "site1", ("tcp://other:1",)))
    with pytest.raises(DecidedMeanwhileError, match="compare that one"):
        book.found("site1", True, shown, NORTH.key)


def test_a_refusal_can_be_taken_back_and_a_name_means_who_was_not_refused(book: InvitationBook) -> None:
    invitation = invited(book, uses=2)
    ask(book, application(invitation, 1, "south"))
    book.decide("south", approve=False)
    ask(book, application(invitation, 2, "south"))
    assert book.found("south", approve=True).key == identity(2).key.hex()
    with pytest.raises(LocalError, match="another site is called 'south'"):
        book.decide(identity(1).key.hex(), approve=True)
    book.decide("south", approve=False)
    with pytest.raises(LocalError, match="by its key"):
        book.decide("south", approve=True)
    assert book.decide(identity(1).key.hex(), approve=True).state == "approved"
    assert ask(book, application(invitation, 1, "south")).state == "approved"


def test_a_refused_site_that_asks_anew_stays_refused_with_the_digits_that_it_sees(book: InvitationBook) -> None:
    first = invited(book, secret=b"a" * 16)
    ask(book, application(first, 1), secret=b"a" * 16)
    book.decide("site1", approve=False)
    made = application(invited(book), 1)
    assert ask(book, made).state == "refused"
    assert [one.signature for one in book.newcomers] == [made.signature]


def test_what_was_signed_for_another_site_that_hands_the_secret_on_is_not_taken(book: InvitationBook) -> None:
    invitation = invited(book)
    forged = invitation.changed(key=identity(9).key.hex())
    with pytest.raises(LocalError, match="for this invitation"):
        ask(book, application(forged, 1))


def test_who_asks_no_more_and_was_never_decided_on_holds_no_name_and_no_place(tmp_path: Path) -> None:
    book = InvitationBook(tmp_path)
    book.invite("demo", ("tcp://north.example:7700",), 1, int(NOW + 10 * NAME_HELD_S), b"s" * 16)
    made = book.handed_out("north", NORTH.key)[-1][0]
    for number in range(WAITING_MAX):
        ask(book, application(made, number, "wanted" if number == 0 else ""))
    late = NOW + NAME_HELD_S + 1
    with pytest.raises(LocalError, match="used up"):
        ask(book, application(made, 9, "wanted"), NOW + 1)
    # One of them still asks, and keeps what it has.
    ask(book, application(made, 1), late - 5)
    assert ask(InvitationBook(tmp_path), application(made, 9, "wanted"), late).name == "wanted"
    kept = InvitationBook(tmp_path).newcomers
    assert [one.key for one in kept] == [identity(1).key.hex(), identity(9).key.hex()]
    assert [one.asked_at for one in kept] == [late - 5, late]


def test_who_was_approved_keeps_its_name_however_long_it_is_away(tmp_path: Path) -> None:
    book = InvitationBook(tmp_path)
    book.invite("demo", ("tcp://north.example:7700",), 2, int(NOW + 10 * NAME_HELD_S), b"s" * 16)
    made = book.handed_out("north", NORTH.key)[-1][0]
    ask(book, application(made, 1, "taken"))
    book.decide("taken", approve=True)
    with pytest.raises(LocalError, match="another site already asked under the name"):
        ask(book, application(made, 2, "taken"), NOW + 2 * NAME_HELD_S)


def test_asking_every_second_writes_once_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = InvitationBook(tmp_path)
    book.invite("demo", ("tcp://north.example:7700",), 1, int(NOW + NAME_HELD_S), b"s" * 16)
    made = book.handed_out("north", NORTH.key)[-1][0]
    asked = application(made, 1)
    ask(book, asked)
    writes: list[object] = []
    keep = book._keep

    def counted(kept: Any) -> None:
        writes.append(kept)
        keep(kept)

    monkeypatch.setattr(book, "_keep", counted)
    for second in range(0, 7300, 4):
        ask(book, asked, NOW + second)
    assert len(writes) == 2
