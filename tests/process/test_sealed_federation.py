"""Averaging mode sealed in real daemons: one trunk, a killed daemon goes on, and no plain delta leaves a site."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kmel_p2p.core.sealed.masking import packed_bytes
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, verify
from tests.support.local_run import PATIENCE_S, killed, log_times, published, settled, small_federation, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

NAMES = ("north", "south", "east", "west")
SUMS, STEPS = 6, 5


def test_a_killed_daemon_goes_on_and_all_hold_one_trunk(tmp_path: Path) -> None:
    with small_federation(tmp_path, SUMS, STEPS, names=NAMES, mode="sealed", min_group=4, min_sum=3) as federation:
        federation.start()
        _, south, *_ = federation
        until("sums were added", lambda: all(published(site) >= 2 for site in federation), federation)
        killed(south)
        south.start()
        documents = until("all sites hold all sums", lambda: settled(federation), federation)

        sections = [document.averaging for document in documents]
        assert [document.mode for document in documents] == ["sealed"] * len(NAMES)
        assert {section.digest for section in sections} == {sections[0].digest}
        assert [section.applied for section in sections] == [SUMS] * len(NAMES)
        assert [section.refused for section in sections] == [0] * len(NAMES)
        assert documents[1].process.generation == 2
        for site in federation:
            assert not log_times(site, "site accused")
        layout = load_site(load_config(south.folder / "site.toml")).layout
        shown = subprocess.run(
            [sys.executable, "-m", "kmel_p2p.cli.main", "status", "--config", str(south.folder / "site.toml")],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert f"{SUMS} of {SUMS}" in shown.stdout

        federation.stop(PATIENCE_S)
        assert [site.exit_code for site in federation] == [0] * len(NAMES)
        for site in federation:
            assert verify(site.state_dir / EGRESS_NAME).problem == ""
            lines = [json.loads(line) for line in (site.state_dir / EGRESS_NAME).read_text().splitlines()]
            kinds = {line["kind"] for line in lines}
            assert "Sealed" in kinds
            assert not kinds & {"Bodies", "MassTransfer"}
            # A quarter of the values, six bits each for four members.
            vectors = [line for line in lines if line["kind"] == "Sealed"]
            assert all(line["bytes"] < packed_bytes(layout.size // 4, 6) + 1500 for line in vectors)
