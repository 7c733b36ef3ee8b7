"""Amendments of a running federation of real daemons, with the commands that docs/operate.md gives the operator."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.main import invoke
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess, free_ports
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes.stored_ledger import codec_of, open_ledger
from kmel_p2p.site.observe.status import SitePhase
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.local_run import PATIENCE_S, answer, log_times, published, small_federation, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

STEPS = 60
LONGEST_GAP_S = 10.0
"""Between two entries of who goes on; on a busy machine half of the time that the new site needs to come in, which is
what they would wait for."""
LISTENING = (SitePhase.LISTENING, SitePhase.COMPLETE)


class Operator:
    """Runs commands of kmel-peer in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        found = invoke([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert found == code, f"{arguments} ended with {found}, not {code}: {captured.err}"
        return captured.err if code else captured.out


@pytest.fixture
def operator(capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(capsys)


def settings(site: SiteProcess) -> Path:
    return site.folder / "site.toml"


def agree(operator: Operator, path: Path, signers: list[SiteProcess], *changes: object) -> None:
    """Draft at the first signer, sign at all of them, enact at the last one."""
    operator("amendment", "draft", "-c", settings(signers[0]), *changes, "-o", path)
    for site in signers:
        told = operator("amendment", "sign", path, "-c", settings(site))
    assert "A quorum has signed" in told
    operator("amendment", "enact", path, "-c", settings(signers[-1]))


def new_site(operator: Operator, federation: LocalFederation, name: str) -> tuple[SiteProcess, str, str]:
    """A site with files of its own and the data of another one; (site, key, address). Its amendments are not listed."""
    model = federation.sites[0]
    folder = model.folder.parent / name
    key = operator("init", folder, "--name", name).rsplit("=", 1)[1].strip()
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    text = settings(model).read_text().replace(f'name = "{model.name}"', f'name = "{name}"')
    old = next(rule.addresses[0] for rule in federation.document.charter.sites if rule.name == model.name)
    (folder / "site.toml").write_text(text.replace(old, address))
    for file in ("charter.toml", "measurements.csv"):
        shutil.copyfile(model.folder / file, folder / file)
    return SiteProcess(name, folder), key, address


def list_amendment(site: SiteProcess, *paths: Path) -> None:
    listed = ", ".join(f'"{path}"' for path in paths)
    text = re.sub(r"amendments = \[[^]]*\]", f"amendments = [{listed}]", settings(site).read_text())
    settings(site).write_text(text)


def amended(site: SiteProcess, number: int) -> bool:
    """Whether the amendment is durable at the site: what commands of the operator go by."""
    with contextlib.closing(Store(site.state_dir / STORE_NAME, read_only=True)) as store:
        return number in store.amendments()


def left_by(site: SiteProcess) -> tuple[Site, Ledger]:
    """The ledger of a stopped site, recomputed from its store."""
    made = load_site(load_config(settings(site)))
    with contextlib.closing(Store(site.state_dir / STORE_NAME, read_only=True)) as store:
        return made, open_ledger(made, store)


def without(site: Site, ledger: Ledger, author: bytes) -> np.ndarray:
    """The trunk as it would be had the author never contributed."""
    sum_ = Accumulator.from_trunk(initial_trunk(site.layout, site.charter.model.seed))
    for entry in ledger.entries():
        if entry.author != author:
            sum_.add(codec_of(site).decode(entry.payload), entry.weight, entry.head_weights)
    return sum_.trunk()


def ended(sites: list[SiteProcess]) -> bool:
    """Whether all compare their models, or are done with it: before, an open round may still bring an entry."""
    documents = [site.status() for site in sites]
    return all(d is not None and (d.trainer.state == "finishing" or d.phase == "complete") for d in documents)


def everyone_goes_by(number: int, sites: Iterable[SiteProcess], federation: LocalFederation) -> None:
    for site in sites:
        until(f"{site.name} goes by amendment {number}", lambda s=site: amended(s, number), federation)


def test_sites_come_go_and_change_keys_in_a_running_federation(tmp_path: Path, operator: Operator) -> None:
    federation = small_federation(tmp_path, 100_000, STEPS, retain_entries=1024)
    north, south, east = federation
    west, key, address = new_site(operator, federation, "west")
    everyone = LocalFederation([*federation.sites, west], federation.document)
    with everyone:
        federation.start()
        until("every site has published", lambda: all(published(s) >= 2 for s in federation), federation)
        add = let_in(operator, tmp_path, federation, west, f"west={key}@{address}")
        west.start()
        new = change_key(operator, tmp_path, federation, south, add)
        until("west publishes", lambda: published(west) >= 2, everyone)
        until("south publishes under its new key", lambda: published(south) >= 2, everyone)
        for site in (north, east):
            until("west counts", lambda s=site: _vector(s).get("west", 0) >= 1, everyone)
            until("south counts", lambda s=site: _vector(s).get("south", 0) >= 1, everyone)
            times = log_times(site, "entry published")
            gap = max(b - a for a, b in pairwise(times))
            assert gap < max(LONGEST_GAP_S, came_in_s(west) / 2), f"{site.name} had to wait"
            assert any(name.startswith("south (former key") for name in _vector(site))

        taken, kept = _vector(north)["west"], _vector(north)["east"]
        leave = ("--retire", f"west:{taken}:1", "--retire", f"east:{kept}")
        agree(operator, tmp_path / "leave.toml", [north, south, east, west], *leave)
        for site in (west, east):
            until("it is told", lambda s=site: getattr(s.status(), "phase", None) in LISTENING, everyone)
            assert "retired by an amendment" in (site.folder / "output.log").read_text()
        everyone_goes_by(4, (north, south), everyone)
        for site in (north, south):
            site.request("listen", timeout_s=PATIENCE_S)
        until("both have ended", lambda: ended([north, south]), everyone)
        assert [m.name for m in answer(north).members if m.state == "alive"] == ["south"]

    west_key, east_key = (load_key(site.folder / "site.key").key for site in (west, east))
    ends = []
    for site in (north, south):
        made, ledger = left_by(site)
        ends.append((ledger.vector, ledger.digest()))
        assert (ledger.head(west_key), ledger.head(east_key)) == (taken, kept)
        assert ledger.head(new) >= 2
        assert not any(ledger.accepted.floor.values()), "every entry is still there to be summed anew"
        np.testing.assert_array_equal(ledger.accumulator.trunk(), without(made, ledger, west_key))
        operator("ledger", "verify", "-c", settings(site))
        assert "west" in operator("ledger", "log", "-c", settings(site))
    assert ends[0] == ends[1]


def let_in(operator: Operator, folder: Path, federation: LocalFederation, site: SiteProcess, line: str) -> Path:
    """The founders add a site by majority; returns the amendment."""
    north, south, _ = federation
    path = folder / "add.toml"
    refused = operator("run", "-c", settings(site), code=ExitCode.CONFIG)
    assert "site.amendments" in refused
    operator("amendment", "draft", "-c", settings(north), "--add", line, "-o", path)
    assert "1 of 2 needed sites have signed" in operator("amendment", "sign", path, "-c", settings(north))
    early = operator("amendment", "enact", path, "-c", settings(north), code=ExitCode.REFUSED)
    assert "1 of 2 needed sites have signed" in early
    assert "south" in early
    operator("amendment", "sign", path, "-c", settings(south))
    operator("amendment", "enact", path, "-c", settings(south))
    everyone_goes_by(1, federation, federation)
    list_amendment(site, path)
    return path


def change_key(
    operator: Operator, folder: Path, federation: LocalFederation, site: SiteProcess, *before: Path
) -> SiteKey:
    """All must sign from now on, and a new key for `site`; it restarts with it, and with its old state directory."""
    north, _, east = federation
    west = SiteProcess("west", north.folder.parent / "west")
    quorum, rekey = folder / "quorum.toml", folder / "rekey.toml"
    agree(operator, quorum, [north, site, east], "--quorum", "all")
    everyone_goes_by(2, federation, federation)
    fresh = folder / "fresh"
    key = operator("init", fresh, "--name", site.name).rsplit("=", 1)[1].strip()
    operator("amendment", "draft", "-c", settings(north), "--rekey", f"{site.name}={key}", "-o", rekey)
    for signer in (north, east, site):
        told = operator("amendment", "sign", rekey, "-c", settings(signer))
    assert "3 of 4 needed sites have signed; missing among: west" in told
    missing = operator("amendment", "enact", rekey, "-c", settings(north), code=ExitCode.REFUSED)
    assert "missing among: west" in missing
    list_amendment(west, *before, quorum)
    operator("amendment", "sign", rekey, "-c", settings(west))
    operator("amendment", "enact", rekey, "-c", settings(north))
    everyone_goes_by(3, federation, federation)

    site.signal(signal.SIGTERM)
    assert site.wait(PATIENCE_S)
    shutil.copyfile(fresh / "site.key", site.folder / "site.key")
    unlisted = operator("run", "-c", settings(site), code=ExitCode.CONFIG)
    assert "site.amendments" in unlisted
    list_amendment(site, *before, quorum, rekey)
    site.start()
    return load_key(fresh / "site.key").key


def came_in_s(site: SiteProcess) -> float:
    """From a site's start to its first entry."""
    return log_times(site, "entry published")[0] - log_times(site, "peer started")[0]


def _vector(site: SiteProcess) -> dict[str, int]:
    status = site.status()
    return dict(status.averaging.vector) if status else {}
