"""A federation whose sites are upgraded one after the other, from an earlier state of the code to this one.

Before the first release there is no former version to install: the code of `FORMER` is taken from the history of the
repository, where that is there.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from kmel_p2p.agreement.charter import CharterDocument
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from tests.support.local_run import PATIENCE_S, published, settled, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
FORMER = "793eb76a056592e36556486be893753ebc52bbad"
"""The earliest commit with today's protocol, store and charter. With the first release, its tag takes this place."""
ENTRY_LIMIT, STEPS = 100_000, 100
"""A limit out of reach: a fast machine must not end the run before the last site is upgraded, nor a slow one go on for
hundreds of entries after it."""
SITES = ("north", "south")
FOUND = """
import sys, pathlib
from tests.support.local_run import small_federation
small_federation(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), names=tuple(sys.argv[4:]))
"""


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A directory with the former code."""
    shown = subprocess.run(
        ["git", "archive", FORMER, "kmel_p2p", "tests/support"], cwd=ROOT, capture_output=True, check=False
    )
    if shown.returncode:
        pytest.skip("the history of this checkout does not reach back to the former version (git fetch --unshallow)")
    with tarfile.open(fileobj=io.BytesIO(shown.stdout)) as archive:
        archive.extractall(tmp_path / "former", filter="data")
    (tmp_path / "former" / "tests" / "__init__.py").touch()
    return tmp_path / "former"


def test_sites_are_upgraded_one_after_the_other_while_the_others_go_on(former: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(former)}
    out = tmp_path / "run"
    made = [sys.executable, "-c", FOUND, str(out), str(ENTRY_LIMIT), str(STEPS), *SITES]
    subprocess.run(made, cwd=former, env=environment, check=True, timeout=PATIENCE_S)
    before = ("env", "-C", str(former), f"PYTHONPATH={former}")
    sites = [SiteProcess(name, out / "sites" / name, before) for name in SITES]
    document = CharterDocument.parse((sites[0].folder / "charter.toml").read_text("utf-8"), "charter.toml")
    with LocalFederation(sites, document) as federation:
        federation.start()
        until("every site has published", lambda: all(published(site) >= 2 for site in sites), federation)
        for site in sites:
            others = [other for other in sites if other is not site]
            site.signal(signal.SIGTERM)
            assert site.wait(PATIENCE_S)
            assert site.exit_code == 0, site.last_lines()
            at = {other.name: published(other) for other in others}
            until(
                f"the others go on without {site.name}",
                lambda: all(published(other) > at[other.name] for other in others),  # noqa: B023
                federation,
            )
            site.prefix = ()
            site.start()
            kept = until(f"{site.name} answers", lambda: published(site), federation)  # noqa: B023
            until(f"{site.name} publishes again", lambda: published(site) > kept, federation)  # noqa: B023

        for site in sites:
            site.request("listen", timeout_s=PATIENCE_S)
        documents = until("all sites hold the same", lambda: settled(federation), federation)
        assert len({one.averaging.digest for one in documents}) == 1
        vectors = [one.averaging.vector for one in documents]
        assert all(vector == vectors[0] for vector in vectors)
        assert set(vectors[0]) == set(SITES)
        assert min(vectors[0].values()) >= 3
        assert all(not one.averaging.facts["ended"] for one in documents)
        for site in sites:
            assert _trainer_went_on(site)
    settings = str(sites[0].folder / "site.toml")
    verified = [sys.executable, "-m", "kmel_p2p.cli.main", "ledger", "verify", "--config", settings]
    done = subprocess.run(verified, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _trainer_went_on(site: SiteProcess) -> bool:
    """Whether the newer trainer began with what the former one had stored."""
    lines = (site.state_dir / "peer.log").read_text("utf-8").splitlines()
    started = [record for record in map(json.loads, lines) if record["event"] == "trainer started"]
    return len(started) == 2 and started[-1]["resume"] is not None
