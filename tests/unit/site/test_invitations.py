"""The book of invitations: counted, valid for a time, bounded, and the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.invitation import Application, Invitation
from kmel_p2p.site.desk.invitations import (
    INVITATIONS_NAME,
    MAX_INVITATIONS,
    MAX_REFUSED,
    WAITING_MAX,
    FoundingPlan,
    InvitationBook,
)

NORTH = Identity(b"n" * 32)
NOW, END = 1_000.0, 2_000


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def invited(book: InvitationBook, uses: int = 2, secret: bytes = b"s" * 16) -> Invitation:
    book.invite("demo", ("tcp://north.example:7700",), uses, END, secret)
    return book.handed_out("north", NORTH.key)[-1][0]


def application(invitation: Invitation, number: int, name: str = "") -> Application:
    return Application.made(identity(number), invitation, name or f"site{number}", ())


@pytest.fixture
def book(tmp_path: Path) -> InvitationBook:
    return InvitationBook(tmp_path)


def test_nobody_takes_part_before_the_operator_says_so(book: InvitationBook) -> None:
    invitation = invited(book)
    assert book.apply(invitation.id, application(invitation, 1), NOW).state == "asks"
    assert book.approved() == []
    book.decide("site1", approve=True)
    assert [one.name for one in book.approved()] == ["site1"]


def test_everything_is_there_after_a_restart(book: InvitationBook, tmp_path: Path) -> None:
    invitation = invited(book)
    book.apply(invitation.id, application(invitation, 1), NOW)
    book.decide("site1", approve=True)
    plan = FoundingPlan(federation="demo", sites=3, endpoints=("logd",), trunk="mlp", seed=1)
    book.plan_founding(plan)
    again = InvitationBook(tmp_path)
    assert again.plan == plan
    assert again.newcomers == book.newcomers
    assert again.handed_out("north", NORTH.key) == [(invitation, 1)]


def test_an_invitation_is_counted(book: InvitationBook) -> None:
    invitation = invited(book, uses=1)
    book.apply(invitation.id, application(invitation, 1), NOW)
    book.apply(invitation.id, application(invitation, 2), NOW)
    book.decide("site1", approve=True)
    with pytest.raises(LocalError, match="no place left"):
        book.decide("site2", approve=True)
    with pytest.raises(LocalError, match="used up"):
        book.apply(invitation.id, application(invitation, 3), NOW)


def test_an_invitation_ends_and_lets_those_go_on_who_were_approved(book: InvitationBook) -> None:
    invitation = invited(book)
    assert book.secrets(END - 1) == [b"s" * 16]
    assert book.secrets(END) == []
    with pytest.raises(LocalError, match="is over"):
        book.apply(invitation.id, application(invitation, 1), END)
    book.apply(invitation.id, application(invitation, 1), NOW)
    book.decide("site1", approve=True)
    assert book.secrets(END) == [b"s" * 16]
    assert book.apply(invitation.id, application(invitation, 1), END).state == "approved"


def test_who_holds_the_text_cannot_fill_the_book(book: InvitationBook) -> None:
    invitation = invited(book, uses=1)
    for number in range(1, WAITING_MAX + 1):
        book.apply(invitation.id, application(invitation, number), NOW)
    with pytest.raises(LocalError, match="used up"):
        book.apply(invitation.id, application(invitation, 99), NOW)
    for number in range(1, MAX_REFUSED + 9):
        book.apply(invitation.id, application(invitation, number), NOW)
        book.decide(f"site{number}", approve=False)
    assert len(book.newcomers) <= MAX_REFUSED + 2


def test_a_name_is_taken_once_and_a_refused_key_stays_refused(book: InvitationBook) -> None:
    invitation = invited(book)
    book.apply(invitation.id, application(invitation, 1, "south"), NOW)
    with pytest.raises(LocalError, match="already asked under the name"):
        book.apply(invitation.id, application(invitation, 2, "south"), NOW)
    book.decide("south", approve=False)
    assert book.apply(invitation.id, application(invitation, 2, "south"), NOW).state == "asks"
    assert book.apply(invitation.id, application(invitation, 1, "south"), NOW).state == "refused"


def test_a_key_that_did_not_sign_is_not_taken(book: InvitationBook) -> None:
    invitation = invited(book)
    stolen = application(invitation, 1).model_copy(update={"key": identity(2).key.hex()})
    with pytest.raises(LocalError, match="not signed"):
        book.apply(invitation.id, stolen, NOW)
    assert book.newcomers == ()


def test_withdrawing_ends_all_and_keeps_decisions(book: InvitationBook) -> None:
    invitation = invited(book)
    for number in (1, 2):
        book.apply(invitation.id, application(invitation, number), NOW)
    book.decide("site1", approve=True)
    assert book.withdraw() == 1
    assert [one.name for one in book.newcomers] == ["site1"]
    assert list(book.secrets(NOW)) == []


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
    book.apply(invitation.id, application(invitation, 1), NOW)
    with pytest.raises(LocalError, match="site1 did"):
        book.decide("south", approve=True)
