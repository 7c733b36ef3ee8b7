"""What people are asked while a federation is founded: answers count for what was shown, and for nothing else."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest
from click.testing import CliRunner

from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.invitation import PREFIX, Application, Invitation
from kmel_p2p.cli import invite as inviting
from kmel_p2p.cli import new_site
from kmel_p2p.cli.charter_view import charter_view
from kmel_p2p.cli.columns_asked import asked_columns, given_columns
from kmel_p2p.cli.founding_plan import given_of, require_open
from kmel_p2p.cli.init import site_template
from kmel_p2p.cli.invite_decisions import line_of
from kmel_p2p.cli.join import _given
from kmel_p2p.cli.main import cli
from kmel_p2p.cli.new_site import NewSite, _bound, agreed, answer
from kmel_p2p.cli.qr_code import QrWanted
from kmel_p2p.cli.screen import Screen
from kmel_p2p.site.desk.decisions import Decisions
from kmel_p2p.site.desk.founding import FoundingTable
from kmel_p2p.site.desk.invitations import FoundingPlan, InvitationBook, Newcomer

NORTH, SOUTH, THIEF = (Identity(letter.encode() * 32) for letter in "nst")
SECRET = b"k" * 16
V = TypeVar("V")


class Room:
    """Does the work at once."""

    def do(self, work: Callable[[], V]) -> V:
        return work()


class Founding:
    """North founds with one other site; `confirm` is what people answer."""

    def __init__(self, folder: Path) -> None:
        self.book = InvitationBook(folder / "state")
        self.plan = FoundingPlan(federation="demo", sites=2, endpoints=("logd,head=shared",), trunk="mlp", seed=0)
        self.book.plan_founding(self.plan)
        self.book.invite("demo", ("tcp://127.0.0.1:7700",), 1, 2000, SECRET)
        self.here = NewSite(
            folder, "north", ("tcp://127.0.0.1:7700",), "tcp://127.0.0.1:0", None, (), "smiles", False, None
        )
        self.table = FoundingTable(self.book, self.here.charter_path, NORTH.key)
        self.decisions = Decisions("north", NORTH, self.book, lambda: None)

    @property
    def invitation(self) -> Invitation:
        return self.book.handed_out("north", NORTH.key)[-1][0]

    def ask(self, identity: Identity, name: str, *addresses: str) -> Newcomer:
        application = Application.made(identity, self.invitation, name, addresses)
        return self.book.apply(self.invitation.id, application, 1000.0, NORTH.key, {NORTH.key: "north"})

    def answering(self, monkeypatch: pytest.MonkeyPatch, *answers: Callable[[], bool]) -> None:
        waiting = iter(answers)
        monkeypatch.setattr(self.here, "confirm", lambda question: next(waiting)())

    def gather(self) -> None:
        inviting._gather(self.here, Room(), self.decisions, self.table, threading.Event())  # type: ignore[arg-type]

    def sign(self) -> None:
        inviting._sign(self.here, NORTH, Room(), self.table, self.plan)  # type: ignore[arg-type]


@pytest.fixture
def founding(tmp_path: Path) -> Founding:
    return Founding(tmp_path)


def test_an_answer_does_not_undo_what_was_decided_at_another_terminal(
    founding: Founding, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    founding.ask(SOUTH, "south")
    founding.answering(monkeypatch, lambda: founding.book.decide("south", True).state == "nothing")
    founding.gather()
    assert [one.state for one in founding.book.newcomers] == ["approved"]
    assert "it was approved meanwhile" in capsys.readouterr().out


def test_who_was_refused_withdrawn_or_asks_anew_meanwhile_does_not_end_the_founding(
    founding: Founding, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> bool:
        return founding.book.decide("south", False).state == "refused"

    def anew() -> bool:
        return founding.ask(THIEF, "thief", "tcp://other.example:1").state == "asks"

    founding.ask(SOUTH, "south")
    founding.ask(THIEF, "thief")
    founding.answering(monkeypatch, refused, anew, lambda: True)
    founding.gather()
    said = capsys.readouterr().out
    assert "it was refused meanwhile" in said
    assert "it asks anew since" in said
    assert [(one.name, one.addresses) for one in founding.book.approved()] == [("thief", ("tcp://other.example:1",))]


def test_what_is_signed_is_what_was_shown(
    founding: Founding, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    founding.ask(SOUTH, "south")
    founding.book.decide("south", True)

    def edited() -> bool:
        text = founding.here.charter_path.read_text()
        assert "seed = 0" in text
        founding.here.charter_path.write_text(text.replace("seed = 0", "seed = 7", 1))
        return True

    def seen() -> bool:
        return "seed 7" in capsys.readouterr().out

    founding.answering(monkeypatch, edited, seen)
    founding.sign()
    assert founding.table.is_signed()


def test_another_federation_is_not_founded_over_a_charter(founding: Founding) -> None:
    charter = Charter.model_validate(
        {
            "federation": "demo",
            "sites": ({"name": "north", "key": NORTH.key.hex(), "addresses": ()},),
            "assay_endpoints": ({"name": "logd"},),
        }
    )
    founding.here.charter_path.write_text(CharterDocument(charter=charter).signed_by(NORTH).render())
    with pytest.raises(ConfigError, match="is of 'demo'; found 'other' in another"):
        inviting._found(
            founding.here, NORTH, founding.book, founding.plan.changed(federation="other"), 7, QrWanted(False, None)
        )


def test_a_name_means_who_was_not_refused(founding: Founding, monkeypatch: pytest.MonkeyPatch) -> None:
    founding.ask(THIEF, "south")
    founding.book.decide("south", False)
    founding.ask(SOUTH, "south")

    def ask(settings: Path, name: str, arguments: Any = None) -> Any:
        return founding.decisions.answer(name, arguments or {})

    monkeypatch.setattr("kmel_p2p.cli.invite_decisions.ask_peer", ask)
    result = CliRunner().invoke(inviting.invite, ["-d", str(founding.here.directory), "approve", "south", "--yes"])
    assert result.exit_code == 0, result.output
    assert [one.key for one in founding.book.approved()] == [SOUTH.key.hex()]


def test_the_digits_have_a_line_of_their_own(founding: Founding) -> None:
    founding.ask(SOUTH, "south", *[f"tcp://{'s' * 250}{number}:7700" for number in range(8)])
    row = founding.decisions.listed()["sites"][0]
    assert line_of(row).splitlines()[-1].strip() == f"fingerprint {row['fingerprint']}"


@pytest.mark.parametrize("width", [80, 200])
def test_a_charter_is_shown_whole_and_markup_in_it_is_text(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    address, unit = "tcp://evil.example:1[tcp://good]", "mol[red]/L :smile: [/]"
    charter = Charter.model_validate(
        {
            "federation": "demo",
            "sites": ({"name": "north", "key": NORTH.key.hex(), "addresses": (address, "[/tcp]://x")},),
            "assay_endpoints": ({"name": "logd", "unit": unit, "center": 0.123456789},),
            "features": {"reference_hash": "5a" * 32},
            "amendments": {"quorum": "two-thirds"},
        }
    )
    Screen(width=width).print(charter_view(CharterDocument(charter=charter)))
    shown = "".join(capsys.readouterr().out.replace("│", " ").split())
    for whole in ("5a" * 32, "mol[red]/L:smile:[/]", "0.123456789", "two-thirds", "beyond_bound", "positive_weight"):
        assert whole in shown
    assert "…" not in shown.replace(f"{NORTH.key.hex()[:16]}…", "")
    assert "[tcp://good]" in shown


def test_where_nobody_can_answer_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    for asked in (lambda: answer("Name"), lambda: agreed("Sure?")):
        with pytest.raises(click.UsageError, match="nobody to give it"):
            asked()


def test_a_site_with_an_address_of_ipv6_listens_there() -> None:
    assert _bound(("tcp://[2001:db8::1]:7700",), 7702) == "tcp://*:7700"
    assert _bound(("tcp://north.example:7701",), 7702) == "tcp://0.0.0.0:7701"
    assert _bound((), 7702) == "tcp://0.0.0.0:7702"


CLEARANCE = AssayEndpoint(name="hlm_clint", unit="uL/min/mg", transform="log10", valid_range=(0.1, 1e4))


def test_a_unit_that_cannot_become_the_charters_is_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "assays.csv"
    table.write_text("SMILES,HLM\nCC,1.2\n")
    answers = iter(["SMILES", "HLM", "uL/mn/mg", "log(uL/min/mg)", "mL/min/kg", "log10(uL/min/mg)"])
    assert asked_columns(table, [CLEARANCE], lambda question, hint: next(answers)) == (
        "SMILES",
        {"hlm_clint": ("HLM", "log10(uL/min/mg)")},
    )
    told = capsys.readouterr().out
    assert "is not known" in told
    assert "Write log10(...)" in told
    assert "per kg of body weight" in told
    assert not list(answers)


def test_a_unit_of_the_command_line_that_cannot_become_the_charters_is_refused() -> None:
    assert given_columns(["hlm_clint=HLM:nL/min/mg"], [CLEARANCE]) == {"hlm_clint": ("HLM", "nL/min/mg")}
    assert given_columns(["hlm_clint=HLM"], [CLEARANCE]) == {"hlm_clint": ("HLM", "uL/min/mg")}
    with pytest.raises(click.UsageError, match=r"--column hlm_clint=HLM:uM: column 'HLM' .* measure different things"):
        given_columns(["hlm_clint=HLM:uM"], [CLEARANCE])


def test_a_port_that_another_project_of_this_machine_has_is_told_and_a_free_one_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(folder: str, *addresses: str, bind: str | None = None) -> NewSite:
        return NewSite.opened(
            directory=tmp_path / folder, name="north", addresses=addresses, bind=bind, data_file=None, columns=(),
            smiles_column=None, yes=True, must_listen=False,
        )  # fmt: skip

    for folder, port in (("logd", 7700), ("herg", 7701), ("dials", 7702)):
        (tmp_path / folder).mkdir()
        text = site_template("north", bind=f"tcp://0.0.0.0:{port}", outbound_only=folder == "dials")
        (tmp_path / folder / "site.toml").write_text(text)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "site.toml").write_text("[site")
    assert made("new", "tcp://north.example:7702").bind == "tcp://0.0.0.0:7702"
    assert made("new").bind == "tcp://0.0.0.0:7702"
    assert made("logd").bind == "tcp://0.0.0.0:7700"
    assert capsys.readouterr().err == ""
    assert made("new", "tcp://north.example:7701").bind == "tcp://0.0.0.0:7701"
    told = capsys.readouterr().err
    assert str(tmp_path / "herg" / "site.toml") in told
    assert "port 7701" in told
    assert "such as 7702" in told


TEXT = f"{PREFIX}abcdef"


def test_an_invitation_comes_from_argument_file_input_or_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _given(TEXT) == TEXT
    (tmp_path / "mail.txt").write_text(f"  {TEXT}\n")
    assert _given(str(tmp_path / "mail.txt")).strip() == TEXT
    # The lines after it answer questions.
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TEXT}\nnorth\n"))
    assert _given("-").strip() == TEXT
    assert sys.stdin.readline() == "north\n"
    monkeypatch.setattr(new_site, "answer", lambda question: f"{question}: {TEXT}")
    assert _given(None) == f"Invitation: {TEXT}"


@pytest.mark.parametrize("given", ["", "\n"])
def test_an_empty_input_and_a_file_that_cannot_be_read_are_named(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    with pytest.raises(ConfigError, match="no invitation on standard input"):
        _given("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="no invitation on standard input"):
        _given("-")
    (tmp_path / "key.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"key\.bin: cannot be read"):
        _given(str(tmp_path / "key.bin"))
    # Neither a text nor a file: the text's own reader says what it should be.
    assert _given("mail.txt") == "mail.txt"


def test_a_founding_that_goes_on_takes_what_is_given_anew_until_the_charter_is_drafted(tmp_path: Path) -> None:
    kept = FoundingPlan(federation="demo", sites=3, endpoints=("logd,head=shared",), trunk="mlp", seed=1)
    fresh = kept.changed(endpoints=("logp,head=shared",), seed=2)
    charter = tmp_path / "charter.toml"
    require_open(charter, kept, fresh)
    charter.write_text("drafted")
    require_open(charter, kept, kept.changed())
    require_open(charter, None, fresh)
    with pytest.raises(click.UsageError, match=r"drafted already, so --endpoint, --seed would change nothing"):
        require_open(charter, kept, fresh)


def test_only_what_stands_on_the_command_line_counts_as_given() -> None:
    found: list[list[str]] = []

    @click.command()
    @click.option("--sites", "count", type=int)
    @click.option("--seed", type=int, default=1)
    @click.option("--days", default=7)
    @click.pass_context
    def command(context: click.Context, /, **_: Any) -> None:
        found.append(given_of(context, ["sites", "seed", "days"]))

    for arguments in ([], ["--sites", "2"], ["--seed", "1", "--days", "7"]):
        command.main(arguments, standalone_mode=False)
    assert found == [[], ["sites"], ["seed", "days"]]


WITHOUT_A_SITE = {
    "charter diff", "charter merge", "charter show", "charter sign", "charter verify", "completion", "data catalogue",
    "init", "join", "privacy plan", "projects", "simulate", "standardise",
    "trunk check", "trunk draft", "trunk list",
}  # fmt: skip
"""Commands that act on no site that is there, or on several."""


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{above}{name}", command


def test_every_command_of_a_site_is_told_alike_which_one() -> None:
    without = {
        name
        for name, command in commands(cli)
        if not any("-c" in parameter.opts and "--config" in parameter.opts for parameter in command.params)
    }
    assert without == WITHOUT_A_SITE


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["list", "-c", "a/peer.toml"], "a/peer.toml"),
        (["-d", "b", "list"], "b/site.toml"),
        (["-c", "a/peer.toml", "list"], "a/peer.toml"),
        (["-d", "b", "list", "-c", "a/peer.toml"], "a/peer.toml"),
        (["list"], "c/site.toml"),
    ],
)
def test_decisions_are_those_of_the_site_that_was_named(
    given: list[str], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    nothing: dict[str, list[Any]] = {"invitations": [], "sites": []}

    def ask(path: Path, name: str) -> Any:
        seen.append(path)
        return nothing

    monkeypatch.setattr("kmel_p2p.cli.invite_decisions.ask_peer", ask)
    result = CliRunner().invoke(inviting.invite, given, env={"KMEL_CONFIG": "c/site.toml"})
    assert result.exit_code == 0, result.output
    assert seen == [Path(asked)]


def test_settings_of_no_federation_found_none(tmp_path: Path) -> None:
    named = ["--config", str(tmp_path / "peer.toml")]
    for more, told in (([], "--directory"), (["-d", str(tmp_path)], "leave one of them out")):
        result = CliRunner().invoke(inviting.invite, [*named, *more])
        assert result.exit_code == 2
        assert told in result.output
    assert list(tmp_path.iterdir()) == []
