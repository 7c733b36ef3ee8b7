"""A site in averaging mode pushsum: what its files may say, what its store holds, what it makes of both."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from rich.console import Console

from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.cli.main import invoke
from kmel_p2p.cli.status_view import status_view
from kmel_p2p.core.effects import Compute, Computed, Effect, Emit, Persist, Persisted, Send
from kmel_p2p.core.peer import make_wire
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.pushsum.events import RoundCounted
from kmel_p2p.core.pushsum.messages import MassTransfer
from kmel_p2p.core.pushsum.state import PushSumState
from kmel_p2p.core.rounds import Approve, EntryHeld, Ready, RoundAbandoned, RoundOpened, RoundTrained
from kmel_p2p.core.types import Lane
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.net.driver import BadMessage, Driver
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.sites import create_federation
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import describe_tensors, load_site, trainer_plan
from kmel_p2p.site.modes import MODES, mode_of
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.metrics import StatusCollector
from kmel_p2p.site.observe.status import ProcessStatus, SitePhase, StatusDocument, TrainerStatus
from kmel_p2p.site.page.view import page_values
from kmel_p2p.site.peer_machine import make_peer
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.recording import work_of
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.page_sample import facts
from tests.support.recording_transport import RecordingTransport

SECOND = 1_000_000


def simulation(mode: str) -> Simulation:
    return Simulation.model_validate(
        {
            "task": "trial",
            "data": {"kind": "csv", "train": Path("t.csv"), "test": Path("t.csv")},
            "sites": {"names": ("north", "south", "east")},
            "charter": {
                "federation": "trial",
                "model": {"hidden": (8,)},
                "features": {"bits": 64},
                "averaging": {"mode": mode, "entry_limit": 9},
                "pace": {"start_sites": 1},
                "assay_endpoints": ({"name": "solubility", "column": "logS", "head": "shared"},),
            },
        }
    )


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The directory of site north under a charter of each mode."""
    (tmp_path / "t.csv").write_text("smiles,logS\nCCO,1\n")
    made = {}
    for mode in ("ledger", "pushsum"):
        out = tmp_path / mode
        create_federation(simulation(mode), out, [tmp_path / "t.csv"] * 3, tmp_path / "t.csv", "0" * 64)
        made[mode] = out / "sites" / "north"
    return made


def load(folder: Path, changes: tuple[str, str] = ("", "")) -> Site:
    path = folder / "site.toml"
    path.write_text(path.read_text().replace(*changes))
    return load_site(load_config(path))


def opened(site: Site) -> Store:
    site.config.site.state_dir.mkdir(exist_ok=True)
    return Store(site.config.site.state_dir / STORE_NAME)


NONE, ALL = "neighbours = []", "neighbours = {}"


@pytest.mark.parametrize(
    ("mode", "names", "message"),
    [
        ("pushsum", '["west"]', "no site 'west'; it lists: north, south, east"),
        ("pushsum", '["north"]', "names 'north', which is this site itself"),
        ("ledger", '["south"]', r"network\.neighbours belongs to averaging mode pushsum"),
    ],
)
def test_neighbours_are_checked_against_the_charter(
    folders: dict[str, Path], mode: str, names: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(folders[mode], (NONE, f"neighbours = {names}"))


def test_amendments_have_no_place_in_this_mode(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders["pushsum"]
    (folder / "a.toml").write_text("")
    refused = invoke(["amendment", "draft", "--quorum", "all", "--config", str(folder / "site.toml")])
    assert refused == 7
    assert "a charter is not amended" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="in averaging mode pushsum a charter is not amended"):
        load(folder, ("amendments = []", 'amendments = ["a.toml"]'))


@pytest.mark.parametrize("command", [["log"], ["show", "north", "1"], ["verify"], ["faults"], ["diff", "other.sqlite"]])
def test_there_is_no_ledger_to_read_in_this_mode(
    folders: dict[str, Path], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = folders["pushsum"] / "site.toml"
    assert invoke(["ledger", *command, "--config", str(config)]) == 7
    assert "averages in mode pushsum: sites exchange shares" in capsys.readouterr().err


def test_what_follows_from_the_mode(folders: dict[str, Path]) -> None:
    ledger, pushsum = load(folders["ledger"]), load(folders["pushsum"])
    assert (ledger.mode, pushsum.mode) == ("ledger", "pushsum")
    plans: list[TrainerPlan] = [trainer_plan(site, 1) for site in (ledger, pushsum)]
    assert plans[0].codec is not None
    assert plans[1].codec is None
    assert [plan.labels["averaging"] for plan in plans] == ["ledger", "pushsum"]
    # The exchanges after everybody's last round have 16 bits per value.
    assert mode_of(pushsum.charter).max_payload_bytes(pushsum.charter, pushsum.layout) >= 2 * pushsum.layout.size
    text = describe_tensors(pushsum.layout)
    assert all(spec.name in text for spec in pushsum.layout.specs)
    assert pushsum.layout.hash.hex()[:16] in text


def test_a_store_goes_on_where_it_was_and_belongs_to_one_charter(folders: dict[str, Path]) -> None:
    site, other = load(folders["pushsum"]), load(folders["ledger"])
    store = opened(site)
    first = mode_of(site.charter).open(site, store)
    assert isinstance(first, PushSumState)
    again = mode_of(site.charter).open(site, store)
    assert isinstance(again, PushSumState)
    assert again.life == first.life
    assert mode_of(site.charter).own_state_file(site, store) is None
    with pytest.raises(ConfigError, match="holds a run in mode pushsum; this charter's mode is ledger"):
        mode_of(other.charter).open(other, store)
    store.averaging.put_state(b"x" * 32, 0, first.encode(), None)
    with pytest.raises(ConfigError, match="holds a run under charter 7878"):
        mode_of(site.charter).open(site, store)
    store.averaging.put_state(site.charter.id, 0, b"nonsense", None)
    with pytest.raises(ConfigError, match="does not stand"):
        mode_of(site.charter).open(site, store)
    store.close()


class Rig:
    """The averaging machine of a lone site beside its real store; records are kept as they come."""

    def __init__(self, site: Site) -> None:
        self.site, self.store = site, opened(site)
        history = mode_of(site.charter).open(site, self.store)
        peer = make_peer(site, history, self.store.bump_generation(), (), random.Random(1), 0)
        assert isinstance(peer.averaging, PushSumAveraging)
        self.machine = peer.averaging
        self.events: list[Any] = []
        self.now = 0

    def feed(self, command: Any, stored: bool = True) -> None:
        self.now += 10 * SECOND
        self.machine.command(command, self.now)
        while (effect := self.machine.poll()) is not None:
            self._carry_out(effect, stored)

    def _carry_out(self, effect: Effect, stored: bool) -> None:
        match effect:
            case Emit(event):
                self.events.append(event)
            case Persist(record, ticket) if stored:
                work_of(record, self.site)(self.store)
                if ticket is not None:
                    self.machine.command(Persisted(ticket), self.now)
            case Compute(ticket, work):
                self.machine.command(Computed(ticket, work()), self.now)
            case Send():
                raise AssertionError("there is nobody to send to")

    def trained(self, number: int) -> RoundTrained:
        drift = np.full(self.site.layout.size, 0.25, "<f4")
        return RoundTrained(number, drift.tobytes(), 20, SECOND, f"round-{number}.safetensors")


def test_a_held_round_moves_nothing_before_it_is_approved_and_survives_a_restart_after(
    folders: dict[str, Path],
) -> None:
    site = load(folders["pushsum"], ("hold = false", "hold = true"))
    rig = Rig(site)
    rig.feed(Ready())
    rig.feed(SimpleNamespace())  # nothing known: time passes
    assert [e.number for e in rig.events if isinstance(e, RoundOpened)] == [1]
    start = rig.machine.trunk()
    rig.feed(rig.trained(1))
    assert [e.number for e in rig.events if isinstance(e, EntryHeld)] == [1]
    np.testing.assert_array_equal(rig.machine.trunk(), start)
    rig.feed(Approve(1))
    assert [e.number for e in rig.events if isinstance(e, RoundCounted)] == [1]
    assert not any(isinstance(e, RoundAbandoned) for e in rig.events)
    moved = rig.machine.trunk()
    np.testing.assert_allclose(moved - start, 0.125, atol=1e-6)
    rig.store.close()

    later = Rig(site)
    np.testing.assert_array_equal(later.machine.trunk(), moved)
    assert later.machine.digest_work()() == rig.machine.digest_work()()
    assert mode_of(site.charter).own_state_file(site, later.store) == "round-1.safetensors"
    later.store.close()


def test_a_crash_before_the_round_is_stored_leaves_the_state_before_it(folders: dict[str, Path]) -> None:
    site = load(folders["pushsum"])
    rig = Rig(site)
    rig.feed(Ready())
    rig.feed(SimpleNamespace())
    mass = rig.machine.state.holding.mass
    rig.feed(rig.trained(1), stored=False)
    rig.store.close()
    later = Rig(site)
    assert later.machine.state.rounds == 0
    assert later.machine.state.holding.mass == mass > 0
    assert mode_of(site.charter).own_state_file(site, later.store) is None
    later.store.close()


def test_status_page_metrics_and_terminal_show_the_mode(folders: dict[str, Path]) -> None:
    site = load(folders["pushsum"])
    north, south = (site.charter.site_named(name).site_key for name in ("north", "south"))
    averaging = Mock(
        spec=PushSumAveraging,
        vector={north: 3, south: 4},
        reached=5,
        state=SimpleNamespace(
            rounds=3,
            holding=SimpleNamespace(mass=1536),
            weight=1024,
            level=3,
            age=3,
            owed={south: SimpleNamespace(mass=512)},
        ),
    )
    activity = Activity(lambda: 0.0)
    activity.shares_sent, activity.shares_received, activity.entry_bytes, activity.held = 4, 2, 400, 3
    document = StatusDocument(
        site="north",
        key="ab",
        federation="trial",
        charter_id="cd",
        phase=SitePhase.TRAINING,
        reason="",
        process=ProcessStatus(pid=1, rss_bytes=2, uptime_s=3.0),
        trainer=TrainerStatus("training"),
        mode="pushsum",
        averaging=mode_of(site.charter).status(site, averaging, activity, "ef" * 32),
    )
    plain = document.as_dict()
    assert "ledger" not in plain
    assert plain["pushsum"]["mass"] == 1536
    assert plain["pushsum"]["outstanding"] == {"south": 512}
    assert plain["pushsum"]["payload_bytes_mean"] == 100
    assert StatusDocument.parse(json.loads(json.dumps(plain))).averaging.facts["reached"] == 5
    limit = site.charter.averaging.entry_limit
    page = " ".join(text for _, text in page_values(facts(document), "en")["facts"])
    assert f"3 of {limit} rounds" in page
    figures = {m.name: m.samples[0].value for m in StatusCollector(lambda: document, {}).collect() if m.samples}
    assert figures["kmel_rounds_trained"] == 3
    assert figures["kmel_mass"] == 1536
    assert figures["kmel_trunk_age_rounds"] == 2
    assert figures["kmel_transfers_outstanding"] == 1
    assert "kmel_entries_published" not in figures
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(status_view(document))
    shown = console.export_text()
    for text in (
        "pushsum",
        f"3 of {limit} rounds (newest: ",
        "), 1 held for approval",
        "4 sent, 2 received",
        "1.50 of its weight",
        "shares for south",
        "the federation is at 5",
    ):
        assert text in shown


async def test_a_share_that_reaches_a_ledger_site_is_refused_and_counted(folders: dict[str, Path]) -> None:
    """Charters differ by mode, so only a defect or malice sends one; the bytes are of this very charter."""
    site = load(folders["ledger"])
    store = opened(site)
    peer = make_peer(site, mode_of(site.charter).open(site, store), 1, (), random.Random(1), 0)
    store.close()
    faults: list[Any] = []
    bad: list[BadMessage] = []

    stored: list[Any] = []

    async def keep(record: Any) -> None:
        stored.append(record)

    driver = Driver(
        peer,
        make_wire(site.charter.id, mode_of(site.charter).messages),
        clock=lambda: 10 * SECOND,
        on_emit=faults.append,
        store=keep,
        on_fault=lambda where, error: faults.append((where, error)),
        on_bad_message=bad.append,
    )
    south = site.charter.site_named("south").site_key
    share = MassTransfer(1, b"l" * 8, b"m" * 8, 5, 1, True, b"\x04")
    driver.start(RecordingTransport())  # type: ignore[arg-type]
    before = len(stored)
    driver.message(south, make_wire(site.charter.id, MODES["pushsum"].messages).encode(share), Lane.BULK)
    assert driver.bad_messages[south] == 1
    assert isinstance(bad[0].error, WireError)
    assert "unknown message type 41" in str(bad[0].error)
    await driver.stop()
    assert len(stored) == before
    assert [what for what in faults if isinstance(what, tuple)] == []
