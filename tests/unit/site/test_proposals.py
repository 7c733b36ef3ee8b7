"""Amendments on their way to a quorum: what is kept of what others bring, and how a newcomer comes to be added."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.errors import ConfigError, KmelError, LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.invitation import Application, Invitation
from kmel_p2p.cli import join as joining
from kmel_p2p.cli.new_site import NewSite
from kmel_p2p.core.rounds import Amend
from kmel_p2p.net.desk import DeskGuest
from kmel_p2p.site.desk.joining import Joining
from kmel_p2p.site.desk.proposals import MAX_PROPOSALS_OF_ONE, PROPOSALS_NAME, Proposals
from kmel_p2p.site.desk.reception import Reception
from kmel_p2p.site.observe.activity import Activity

NAMES = ("north", "south", "east")
IDENTITIES = {name: Identity(name.ljust(32).encode()) for name in (*NAMES, "west", "thief")}
CHARTER = Charter.model_validate(
    {
        "federation": "demo",
        "sites": tuple(
            {"name": name, "key": IDENTITIES[name].key.hex(), "addresses": (f"tcp://{name}.example:7700",)}
            for name in NAMES
        ),
        "assay_endpoints": ({"name": "logd"},),
    }
)
FOUNDED = Constitution(CHARTER)


def adding(name: str = "west", number: int = 0) -> AmendmentDocument:
    """Adds `name`; another `number` makes another amendment."""
    key = IDENTITIES["west"].key if not number else Identity(number.to_bytes(32, "big")).key
    return FOUNDED.draft(add=[{"name": name, "key": key.hex(), "addresses": ()}])


def signed(document: AmendmentDocument, *names: str) -> AmendmentDocument:
    for name in names:
        document = document.signed_by(IDENTITIES[name], FOUNDED)
    return document


@pytest.fixture
def proposals(tmp_path: Path) -> Proposals:
    return Proposals(tmp_path, lambda: FOUNDED)


def test_signatures_that_come_apart_are_joined_and_outlast_a_restart(proposals: Proposals, tmp_path: Path) -> None:
    proposals.take(signed(adding(), "north"), IDENTITIES["north"].key)
    proposal, is_new = proposals.take(signed(adding(), "south"), IDENTITIES["south"].key)
    assert is_new
    assert FOUNDED.signed(proposal.document) == sorted(("north", "south"), key=lambda name: IDENTITIES[name].key)
    assert Proposals(tmp_path, lambda: FOUNDED).waiting() == [proposal]
    assert proposals.take(signed(adding(), "north"), IDENTITIES["east"].key) == (proposal, False)


def test_what_no_site_has_signed_is_not_kept(proposals: Proposals) -> None:
    forged = adding().model_copy(update={"signatures": {"south": "ab" * 64, "stranger": "cd" * 64}})
    for document in (adding(), forged):
        with pytest.raises(LocalError, match="no current site has signed"):
            proposals.take(document, IDENTITIES["north"].key)
    kept, _ = proposals.take(signed(forged, "north"), IDENTITIES["north"].key)
    assert list(kept.document.signatures) == ["north"]


def test_a_site_cannot_fill_the_list(proposals: Proposals) -> None:
    proposals.take(signed(adding(), "south"), IDENTITIES["south"].key)
    for number in range(1, 30):
        proposals.take(signed(adding(f"x{number}", number), "north"), IDENTITIES["north"].key)
    assert [one.document.amendment.add[0].name for one in proposals.waiting()] == ["west", "x29"]


def names(proposals: Proposals) -> list[str]:
    return [one.document.amendment.add[0].name for one in proposals.waiting()]


def test_nobody_pushes_out_what_another_site_proposed(proposals: Proposals) -> None:
    norths, souths = signed(adding(), "north"), signed(adding("x1", 1), "south")
    north, south = IDENTITIES["north"].key, IDENTITIES["south"].key
    proposals.take(norths, south)
    proposals.take(norths, north)
    proposals.take(souths, south)
    assert sorted(names(proposals)) == ["west", "x1"]
    # South signs it, too, and then signs something else instead.
    proposals.take(signed(norths, "south"), south)
    proposals.take(signed(adding("x2", 2), "south"), south)
    assert sorted(names(proposals)) == ["west", "x2"]
    # South repeats what north had signed before.
    proposals.take(signed(adding("old", 3), "north"), south)
    proposals.take(signed(adding("older", 4), "north"), south)
    assert sorted(names(proposals)) == ["older", "west", "x2"]
    assert len(proposals.waiting()) <= MAX_PROPOSALS_OF_ONE * len(NAMES)


def test_who_hands_on_what_others_signed_brings_all_of_it(proposals: Proposals, tmp_path: Path) -> None:
    for document in (signed(adding(), "north"), signed(adding("x1", 1), "south")):
        proposals.take(document, IDENTITIES["east"].key)
    assert names(proposals) == ["west", "x1"]
    assert names(Proposals(tmp_path, lambda: FOUNDED)) == ["west", "x1"]


def test_what_cannot_be_the_next_one_is_refused_and_what_was_overtaken_forgotten(tmp_path: Path) -> None:
    constitution = FOUNDED
    proposals = Proposals(tmp_path, lambda: constitution)
    proposals.take(signed(adding("x1", 1), "north"), IDENTITIES["north"].key)
    constitution = FOUNDED.followed_by(signed(adding(), "north", "south"))
    assert proposals.waiting() == []
    with pytest.raises(LocalError, match="the next one is 2"):
        proposals.take(signed(adding("x1", 1), "north"), IDENTITIES["north"].key)


def test_a_damaged_file_is_named_with_what_to_do(proposals: Proposals, tmp_path: Path) -> None:
    (tmp_path / PROPOSALS_NAME).write_text("[1")
    with pytest.raises(ConfigError, match=r"proposals\.json.*move it away"):
        Proposals(tmp_path, lambda: FOUNDED)


class Here:
    """One site's reception, without a network."""

    def __init__(self, name: str, folder: Path) -> None:
        self.identity, self.constitution = IDENTITIES[name], FOUNDED
        whole = CharterDocument(charter=CHARTER)
        for other in NAMES:
            whole = whole.signed_by(IDENTITIES[other])
        (folder / name).mkdir()
        charter = folder / name / "charter.toml"
        charter.write_text(whole.render())
        rule = CHARTER.site_named(name)
        section = SimpleNamespace(state_dir=folder / name, charter=charter)
        network = SimpleNamespace(advertise=rule.addresses, outbound_only=False, proxy_address="")
        self.activity = Activity(time.monotonic)
        self.reception = Reception(
            site=lambda: SimpleNamespace(  # type: ignore[arg-type, return-value]
                config=SimpleNamespace(site=section, network=network),
                identity=self.identity,
                charter=CHARTER,
                mode="ledger",
                constitution=self.constitution,
                rule=rule,
            ),
            averaging=Mock(),
            command=self.command,
            addresses=lambda key: (),
            blocked=frozenset,
            activity=self.activity,
            record=lambda egress: True,
        )

    def command(self, command: Any) -> None:
        assert isinstance(command, Amend)
        self.constitution = self.constitution.followed_by(AmendmentDocument.decode(command.encoded))

    @property
    def alarms(self) -> dict[str, str]:
        return {alarm.what: alarm.text for alarm in self.activity.alarms}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Here]:
    monkeypatch.setattr("kmel_p2p.site.modes.ledger.LedgerMode.check_amendment", Mock())
    return lambda name: Here(name, tmp_path)


async def apply(here: Here, text: str, name: str, called: str = "") -> tuple[Joining, dict[str, Any]]:
    invitation = Invitation.parse(text)
    application = Application.made(IDENTITIES[name], invitation, called or name, ())
    given = {"application": application.model_dump(mode="json")}
    answer = await here.reception.answer(DeskGuest(invitation=invitation.id), "join", given)
    return Joining(invitation, application, time.time), answer


async def bring(source: Here, target: Here) -> None:
    """What two receptions say to each other over their desks."""
    waiting = await source.reception.operate("proposals", {})
    documents = [AmendmentDocument.parse(row["document"], "row").encode() for row in waiting]
    await target.reception.answer(DeskGuest(site=source.identity.key), "propose", {"documents": documents})


async def test_a_later_partner_is_added_by_a_quorum_without_a_file_by_mail(here: Callable[[str], Here]) -> None:
    north, south, east = here("north"), here("south"), here("east")
    text = (await north.reception.operate("invite", {"uses": 1, "days": 1.0}))["text"]
    _, answer = await apply(north, text, "west")
    assert answer["state"] == "asks"
    assert "west asks to join" in north.alarms
    decided = await north.reception.operate("decide", {"site": "west", "approve": True})
    assert "1 of 2 needed sites have signed" in decided["text"]
    _, answer = await apply(north, text, "west")
    assert answer["state"] == "approved"
    assert "charter" not in answer
    await bring(north, south)
    assert south.constitution.number == 0
    assert "adds west" in south.alarms["amendment 1 proposed"]
    done = await south.reception.operate("sign_proposal", {"which": ""})
    assert done["missing"] == "it is in force"
    assert south.constitution.number == 1
    assert "amendment 1 proposed" not in south.alarms
    # It came in force without this site's signature, which is not asked for any more.
    await bring(north, east)
    assert "amendment 1 proposed" in east.alarms
    east.constitution = south.constitution
    east.reception.amended()
    assert east.alarms == {}
    north.constitution = south.constitution
    asking, answer = await apply(north, text, "west")
    _, amendments = asking.complete(answer, IDENTITIES["west"].key)
    assert [document.amendment.add[0].name for document in amendments] == ["west"]


async def test_what_guests_bring_is_written_beside_the_event_loop(
    here: Callable[[str], Here], monkeypatch: pytest.MonkeyPatch
) -> None:
    north = here("north")
    text = (await north.reception.operate("invite", {"uses": 1, "days": 1.0}))["text"]
    loops_thread, written_by, real = threading.get_ident(), list[int](), os.fsync

    def fsync(descriptor: int) -> None:
        written_by.append(threading.get_ident())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    await apply(north, text, "west")
    documents = [signed(adding("x1", 1), "south").encode()]
    await north.reception.answer(DeskGuest(site=IDENTITIES["south"].key), "propose", {"documents": documents})
    assert len(written_by) >= 4
    assert loops_thread not in written_by
    assert sorted(north.alarms) == ["amendment 1 proposed", "west asks to join"]


async def test_nobody_is_added_by_what_a_member_brings_alone(here: Callable[[str], Here]) -> None:
    north = here("north")
    guest = DeskGuest(site=IDENTITIES["south"].key)
    await north.reception.answer(guest, "propose", {"documents": [signed(adding(), "south").encode()]})
    assert north.constitution.number == 0
    for wrong in ("text", [1], [b"\x00"], [adding("x1", 1).encode()], None):
        with pytest.raises(KmelError):
            await north.reception.answer(guest, "propose", {"documents": wrong})
    assert list(north.alarms) == ["amendment 1 proposed"]


async def test_a_member_cannot_have_amendment_after_amendment_written(here: Callable[[str], Here]) -> None:
    north = here("north")
    guest = DeskGuest(site=IDENTITIES["south"].key)
    await north.reception.answer(guest, "propose", {"documents": [signed(adding(), "south").encode()]})
    for number in range(1, 9):
        document = signed(adding(f"x{number}", number), "south").encode()
        with pytest.raises(LocalError, match="one at a time"):
            await north.reception.answer(guest, "propose", {"documents": [document]})
    await north.reception.answer(guest, "propose", {"documents": [signed(adding(), "south", "east").encode()]})
    assert north.constitution.number == 1


async def test_an_old_key_that_would_be_let_in_for_long_is_not_signed_for(here: Callable[[str], Here]) -> None:
    north = here("north")
    rule = {"name": "south", "key": IDENTITIES["west"].key.hex(), "last": 3, "until": "2999-01-01"}
    with pytest.raises(LocalError, match="name a day from today to"):
        await north.reception.operate("propose", {"document": FOUNDED.draft(rekey=[rule]).render()})
    assert await north.reception.operate("proposals", {}) == []


async def test_two_amendments_of_one_number_are_never_both_signed_here(here: Callable[[str], Here]) -> None:
    north = here("north")
    guest = DeskGuest(site=IDENTITIES["south"].key)
    await north.reception.answer(guest, "propose", {"documents": [signed(adding(), "south").encode()]})
    await north.reception.operate("propose", {"document": adding("x1", 1).render()})
    with pytest.raises(LocalError, match="one would be overruled"):
        await north.reception.operate("sign_proposal", {"which": adding().amendment.hash.hex()})
    assert north.constitution.number == 0


async def test_a_member_is_told_of_no_newcomer_and_an_invited_of_no_proposal(here: Callable[[str], Here]) -> None:
    north = here("north")
    text = (await north.reception.operate("invite", {"uses": 1, "days": 1.0}))["text"]
    invited = DeskGuest(invitation=Invitation.parse(text).id)
    for name in ("propose", "facts", "look"):
        with pytest.raises(LocalError):
            await north.reception.answer(invited, name, {})
    with pytest.raises(LocalError, match="knows no request 'join'"):
        await north.reception.answer(DeskGuest(site=IDENTITIES["south"].key), "join", {})


async def test_a_newcomer_that_no_amendment_can_add_takes_no_place(here: Callable[[str], Here]) -> None:
    north = here("north")
    text = (await north.reception.operate("invite", {"uses": 1, "days": 1.0}))["text"]
    with pytest.raises(LocalError, match="called 'east'"):
        await apply(north, text, "west", called="east")
    await apply(north, text, "west")
    # Another site has it added under its name meanwhile.
    north.constitution = FOUNDED.followed_by(signed(adding("west", 1), "north", "south"))
    with pytest.raises(KmelError, match="west"):
        await north.reception.operate("decide", {"site": "west", "approve": True})
    assert [row["state"] for row in (await north.reception.operate("invitations", {}))["sites"]] == ["asks"]


async def test_an_alarm_shows_the_digits_of_who_asks_now(here: Callable[[str], Here]) -> None:
    north = here("north")
    text = (await north.reception.operate("invite", {"uses": 1, "days": 1.0}))["text"]
    await apply(north, text, "west")
    honest = north.alarms["west asks to join"]
    await north.reception.operate("withdraw", {})
    assert north.alarms == {}
    text = (await north.reception.operate("invite", {"uses": 1, "days": 1.0}))["text"]
    await apply(north, text, "thief", called="west")
    (row,) = (await north.reception.operate("invitations", {}))["sites"]
    assert row["fingerprint"] in north.alarms["west asks to join"] != honest
    await north.reception.operate("decide", {"site": row["key"], "approve": False})
    await apply(north, text, "west")
    assert row["fingerprint"] not in north.alarms["west asks to join"]
    shown = {"site": "west", "approve": True, "fingerprint": row["fingerprint"]}
    with pytest.raises(LocalError, match="asks anew since"):
        await north.reception.operate("decide", shown)


def test_joining_overwrites_no_amendment_and_no_remark_of_the_users(tmp_path: Path) -> None:
    amended = signed(adding(), "north", "south")
    whole = CharterDocument(charter=CHARTER)
    for other in NAMES:
        whole = whole.signed_by(IDENTITIES[other])

    class Asking:
        def complete(self, answer: Any, own: Any) -> Any:
            return whole, (amended,)

        def done(self) -> None: ...

    here = NewSite(tmp_path, "west", (), "tcp://127.0.0.1:0", None, (), "smiles", True, None)
    mine = tmp_path / "amendment-1.toml"
    mine.write_text("# my own draft\n")
    with pytest.raises(ConfigError, match=r"amendment-1\.toml.*move it away"):
        joining._finish(here, IDENTITIES["west"], Asking(), {})  # type: ignore[arg-type]
    assert mine.read_text() == "# my own draft\n"
    assert not here.charter_path.exists()
    mine.write_text("# as I got it by mail\n" + amended.render())
    here.charter_path.write_text("# our remarks\n" + whole.render())
    joining._finish(here, IDENTITIES["west"], Asking(), {})  # type: ignore[arg-type]
    assert mine.read_text() == "# as I got it by mail\n" + amended.render()
    assert here.charter_path.read_text().startswith("# our remarks\n")
    assert CharterDocument.parse(here.charter_path.read_text(), "file").problems() == []
