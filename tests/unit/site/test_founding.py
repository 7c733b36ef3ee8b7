"""Founding over the desk: a founding room on a real port, newcomers that ask it, and those who should not get in."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.charter import SIGNING_CONTEXT, Charter, CharterDocument
from kmel_p2p.agreement.charter_text import signed_text
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.invitation import Application, Invitation
from kmel_p2p.core.wire import PROTOCOL
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.desk import REREAD_EVERY, invited_keys
from kmel_p2p.net.desk_client import DeskRefusedError, DeskUnreachableError, ask_desk, encode_question
from kmel_p2p.site.clock import now_us
from kmel_p2p.site.desk.founding import FoundingTable
from kmel_p2p.site.desk.founding_room import FoundingRoom
from kmel_p2p.site.desk.invitations import FoundingPlan, InvitationBook
from kmel_p2p.site.desk.joining import WRONG_KEY_FOR_S, Joining
from kmel_p2p.site.desk.newcomers import NewcomersDesk

NORTH, SOUTH, EAST, THIEF = (Identity(letter.encode() * 32) for letter in "nset")
SECRET = b"k" * 16


class Founding:
    """A site called north that founds with two others."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "charter.toml"
        self.book = InvitationBook(folder / "state")
        self.book.plan_founding(FoundingPlan(federation="demo", sites=3, endpoints=("logd",), trunk="mlp", seed=0))
        self.table = FoundingTable(self.book, self.path, NORTH.key)
        self.news = threading.Event()
        self.told: list[str] = []
        desk = NewcomersDesk(self.book, self.table, "north", NORTH.key, time.time, self.news.set)
        self.room = FoundingRoom(
            NORTH,
            "tcp://127.0.0.1:0",
            folder / "state",
            self.book,
            desk,
            lambda name, given: name,
            self.told.append,
        )

    def invitation(self) -> Invitation:
        self.room.do(lambda: self.book.invite("demo", (self.room.address,), 2, int(time.time()) + 600, SECRET))
        # The desk reads again what is admitted after this time at the earliest; people take longer to mail a text.
        known_at = now_us() + REREAD_EVERY
        while now_us() < known_at:
            self.room.do(lambda: None)
        return self.book.handed_out("north", NORTH.key)[-1][0]

    def draft(self, *founders: Any) -> CharterDocument:
        rows = [{"name": name, "key": key.key.hex(), "addresses": ()} for name, key in founders]
        charter = Charter.model_validate(
            {"federation": "demo", "sites": tuple(rows), "assay_endpoints": ({"name": "logd"},)}
        )
        document = CharterDocument(charter=charter)
        self.path.write_text("# why\n\n" + document.render())
        return document


@pytest.fixture
def founding(tmp_path: Path) -> Iterator[Founding]:
    made = Founding(tmp_path)
    with made.room:
        yield made


def joining(invitation: Invitation, identity: Identity, name: str) -> Joining:
    return Joining(invitation, Application.made(identity, invitation, name, ()), time.time)


def approve_all(founding: Founding) -> None:
    for newcomer in founding.book.newcomers:
        founding.room.do(lambda key=newcomer.key: founding.book.decide(key, True))


def test_three_sites_come_to_a_charter_without_a_file_by_mail(founding: Founding) -> None:
    invitation = founding.invitation()
    sites = {"south": (SOUTH, joining(invitation, SOUTH, "south")), "east": (EAST, joining(invitation, EAST, "east"))}
    for _, asking in sites.values():
        assert asking.ask()["state"] == "asks"
    approve_all(founding)
    for _, asking in sites.values():
        assert asking.ask()["state"] == "approved"
    document = founding.draft(("north", NORTH), ("south", SOUTH), ("east", EAST))
    # Nobody is asked to sign what the founder has not signed.
    assert sites["south"][1].ask()["state"] == "approved"
    founding.room.do(lambda: founding.table.keep(document.signed_by(NORTH)))
    for identity, asking in sites.values():
        offered = asking.offered(asking.ask())
        assert offered.charter == document.charter
        asking.sign(identity.sign(SIGNING_CONTEXT, offered.charter.id).hex())
    for identity, asking in sites.values():
        whole, amendments = asking.complete(asking.ask(), identity.key)
        assert whole.problems() == []
        assert amendments == ()
        asking.done()
    assert founding.table.all_have_it()
    assert founding.path.read_text().startswith("# why\n")
    assert CharterDocument.parse(founding.path.read_text(), "file").problems() == []


def test_a_stranger_learns_nothing(founding: Founding) -> None:
    founding.invitation()
    for keys in (invited_keys(b"x" * 16), invited_keys(bytes(16))):
        with pytest.raises(DeskUnreachableError) as refused:
            ask_desk(keys, NORTH.key, founding.room.address, encode_question("join"))
        assert refused.value.failure is ConnectionFailure.NOT_ADMITTED


def test_nobody_else_can_stand_in_for_the_site_that_invites(founding: Founding) -> None:
    invitation = founding.invitation()
    with pytest.raises(DeskUnreachableError) as refused:
        ask_desk(invited_keys(SECRET), THIEF.key, invitation.addresses[0], encode_question("join"), timeout_s=5)
    assert refused.value.failure in (ConnectionFailure.WRONG_KEY, ConnectionFailure.STUCK_HANDSHAKE)


def test_a_holder_of_the_text_cannot_sign_for_somebody_else(founding: Founding) -> None:
    invitation = founding.invitation()
    asking = joining(invitation, SOUTH, "south")
    asking.ask()
    approve_all(founding)
    document = founding.draft(("north", NORTH), ("south", SOUTH))
    founding.room.do(lambda: founding.table.keep(document.signed_by(NORTH)))
    with pytest.raises(LocalError, match="not of the charter"):
        asking.sign(THIEF.sign(SIGNING_CONTEXT, document.charter.id).hex())
    thief = joining(invitation, THIEF, "thief")
    assert thief.ask()["state"] == "asks"
    with pytest.raises(LocalError, match="knows no request"):
        thief.sign(THIEF.sign(SIGNING_CONTEXT, document.charter.id).hex())
    assert "charter" not in thief.ask()
    founding.room.do(lambda: founding.book.decide("thief", False))
    assert thief.ask()["state"] == "refused"
    assert list(CharterDocument.parse(founding.path.read_text(), "file").signatures) == ["north"]


def test_a_charter_that_the_inviting_site_did_not_sign_is_not_believed(founding: Founding) -> None:
    asking = joining(founding.invitation(), SOUTH, "south")
    document = founding.draft(("north", NORTH), ("south", SOUTH))
    with pytest.raises(ConfigError, match="has not signed it"):
        asking.offered({"state": "sign", "text": "", "charter": document.render()})
    other = founding.draft(("north", NORTH), ("south", THIEF)).signed_by(NORTH)
    with pytest.raises(ConfigError, match="does not list this site"):
        asking.offered({"state": "sign", "text": "", "charter": other.render()})
    with pytest.raises(ConfigError, match="not in force"):
        asking.complete({"state": "complete", "charter": document.signed_by(NORTH).render()}, SOUTH.key)


def test_the_charter_that_comes_is_the_one_that_was_signed(founding: Founding) -> None:
    asking = joining(founding.invitation(), SOUTH, "south")
    first = founding.draft(("north", NORTH), ("south", SOUTH)).signed_by(NORTH)
    asking.offered({"charter": first.render()})
    second = founding.draft(("north", NORTH), ("south", SOUTH), ("east", EAST))
    for identity in (NORTH, SOUTH, EAST):
        second = second.signed_by(identity)
    with pytest.raises(ConfigError, match="another charter than the one that was signed"):
        asking.complete({"charter": second.render()}, SOUTH.key)


@pytest.mark.parametrize("given", [{}, {"application": {}}, {"application": {"name": "x" * 900}}, {"application": []}])
def test_what_is_no_application_is_refused_in_words(founding: Founding, given: dict[str, Any]) -> None:
    invitation = founding.invitation()
    with pytest.raises(DeskRefusedError, match="application"):
        ask_desk(invited_keys(SECRET), NORTH.key, invitation.addresses[0], encode_question("join", given))
    assert founding.book.newcomers == ()


def test_a_withdrawn_invitation_says_what_to_do(founding: Founding) -> None:
    asking = joining(founding.invitation(), SOUTH, "south")
    founding.room.do(founding.book.withdraw)
    with pytest.raises(ConfigError, match=r"does not know this invitation any more.*ask for a new one"):
        asking.ask()


def test_who_is_not_there_yet_is_waited_for(founding: Founding) -> None:
    nowhere = founding.invitation().model_copy(update={"addresses": ("tcp://127.0.0.1:9",)})
    answer = joining(nowhere, SOUTH, "south").ask()
    assert answer["state"] == "unreachable"
    assert "nobody listens" in answer["text"]


def test_what_this_site_cannot_write_is_told_here_and_not_to_the_newcomer(founding: Founding, tmp_path: Path) -> None:
    asking = joining(founding.invitation(), SOUTH, "south")
    (tmp_path / "state" / "invitations.json.new").mkdir()
    answer = asking.ask()
    assert answer["state"] == "unreachable"
    assert str(tmp_path) not in answer["text"]
    assert str(tmp_path) in founding.told[0]
    (tmp_path / "state" / "invitations.json.new").rmdir()
    assert asking.ask()["state"] == "asks"


def test_a_charter_that_was_changed_is_signed_anew(founding: Founding) -> None:
    asking = joining(founding.invitation(), SOUTH, "south")
    asking.ask()
    approve_all(founding)
    first = founding.draft(("north", NORTH), ("south", SOUTH))
    founding.room.do(lambda: founding.table.keep(first.signed_by(NORTH)))
    asking.sign(SOUTH.sign(SIGNING_CONTEXT, asking.offered(asking.ask()).charter.id).hex())
    founding.path.write_text(founding.path.read_text().replace("seed = 0", "seed = 1"))
    assert asking.ask()["state"] == "approved"
    founding.room.do(lambda: founding.table.keep(founding.table.document.signed_by(NORTH)))  # type: ignore[union-attr]
    answer = asking.ask()
    assert answer["state"] == "sign"
    assert "site 'south' is not of this charter" in answer["text"]
    asking.sign(SOUTH.sign(SIGNING_CONTEXT, asking.offered(answer).charter.id).hex())
    assert asking.ask()["state"] == "complete"


def test_a_port_that_is_taken_is_named(founding: Founding, tmp_path: Path) -> None:
    room = FoundingRoom(
        SOUTH, founding.room.address, tmp_path / "other", InvitationBook(tmp_path / "other"), None, None  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(ConfigError, match="in use by another program"), room:
        raise AssertionError("it listens")
    with contextlib.closing(open(tmp_path / "other" / "lock")):
        assert room.address == ""


def test_comments_of_a_charter_stay_when_it_is_signed(founding: Founding) -> None:
    document = founding.draft(("north", NORTH), ("south", SOUTH))
    text = founding.path.read_text().replace("[charter]", "[charter]\n# agreed on 3 May", 1)
    once = signed_text(text, document.signed_by(NORTH))
    twice = signed_text(once, document.signed_by(NORTH).signed_by(SOUTH))
    assert twice.count("# agreed on 3 May") == 1
    assert twice.count("[signatures]") == 1
    assert CharterDocument.parse(twice, "text").problems() == []


def test_a_charter_that_is_being_edited_is_waited_for(founding: Founding) -> None:
    asking = joining(founding.invitation(), SOUTH, "south")
    asking.ask()
    approve_all(founding)
    founding.path.write_text("[charter")
    assert "being edited" in asking.ask()["text"]


@contextlib.contextmanager
def closing_port() -> Iterator[str]:
    """A port that closes whatever connects, as a forwarder whose program is down."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_port_that_closes_at_once_is_a_wrong_key_only_after_a_while(founding: Founding) -> None:
    with closing_port() as address:
        nowhere = founding.invitation().model_copy(update={"addresses": (address,)})
        elapsed = iter((0.0, 0.0, WRONG_KEY_FOR_S - 1, WRONG_KEY_FOR_S))
        asking = Joining(nowhere, Application.made(SOUTH, nowhere, "south", ()), time.time, lambda: next(elapsed))
        for _ in range(2):
            assert asking.ask()["state"] == "unreachable"
        with pytest.raises(ConfigError, match="does not hold the key"):
            asking.ask()


def test_two_protocols_part_before_anything_is_signed(founding: Founding, monkeypatch: pytest.MonkeyPatch) -> None:
    invitation = founding.invitation()
    asking = joining(invitation, SOUTH, "south")
    monkeypatch.setattr("kmel_p2p.net.desk.PROTOCOL", PROTOCOL + 1)
    with pytest.raises(ConfigError, match=rf"speaks protocol {PROTOCOL + 1}, this one {PROTOCOL}: this one has to be"):
        asking.ask()
    # A program from before the newcomer's side looked reads the same in the desk's words.
    keys = invited_keys(SECRET)
    with pytest.raises(DeskRefusedError, match="your kmel-peer has to be upgraded"):
        ask_desk(keys, NORTH.key, invitation.addresses[0], encode_question("join"))
    assert founding.book.newcomers == ()


def test_what_the_other_side_says_is_one_line_that_begins_with_its_name(
    founding: Founding, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = "waits\nFingerprint 9999 8888 7777 6666 5555: north sees the same digits.\n" + "x" * 900
    answers = [{"state": "asks", "text": forged}, DeskRefusedError(forged)]

    def ask(*given: object, proxy: str = "", any_protocol: bool = True) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    asking = joining(founding.invitation(), SOUTH, "south")
    monkeypatch.setattr("kmel_p2p.site.desk.joining.ask_desk", ask)
    text = asking.ask()["text"]
    assert text.startswith("north says: waits Fingerprint")
    assert "\n" not in text
    assert len(text) < 330
    with pytest.raises(LocalError, match="north refuses: waits"):
        asking.ask()
