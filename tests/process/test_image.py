"""What `deploy/Dockerfile` builds runs a peer: its instructions in a chroot, the peer locked up as in a container."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.image import played
from tests.support.namespaces import require_namespaces

pytestmark = [pytest.mark.process, pytest.mark.namespace, pytest.mark.alone, pytest.mark.timeout(600)]

SETTINGS = """
site.name = "north"
data.path = "measurements.csv"
data.columns.logd.column = "LogD"
metrics.listen = "127.0.0.1:9477"
"""
CHECK = """
inside "${entry[@]}" --version
key=$(inside kmel-peer init /srv/kmel --name north | sed -n 's/ *--site //p')
inside kmel-peer charter new --federation demo --site "$key" --endpoint logd,head=shared
inside kmel-peer charter sign charter.toml --yes
cp measurements.csv site.toml image/srv/kmel/
inside "${entry[@]}" "${command[@]}" &
until inside "${health[@]}" 2>/dev/null; do kill -0 $!; sleep 0.3; done
inside kmel-peer status --json > status.json
inside id -u > user
inside grep Cap /proc/self/status > capabilities
! inside touch /opt/kmel/x /etc/x 2>/dev/null
inside kmel-peer stop --wait
wait $!
"""


def test_the_image_runs_a_peer_without_privileges(tmp_path: Path) -> None:
    require_namespaces()
    rows = (f"{'C' * length}O,{length / 10}" for length in range(1, 31))
    (tmp_path / "measurements.csv").write_text("\n".join(["smiles,LogD", *rows]) + "\n", "utf-8")
    (tmp_path / "site.toml").write_text(SETTINGS, "utf-8")
    script = tmp_path / "play.sh"
    script.write_text(played(tmp_path, CHECK), "utf-8")
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    done = subprocess.run([*apart, "bash", str(script)], capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "kmel-peer, version" in done.stdout
    status = json.loads((tmp_path / "status.json").read_text("utf-8"))
    assert (status["site"], status["federation"]) == ("north", "demo")
    assert int((tmp_path / "user").read_text("utf-8")) == 7700
    assert {line.split()[1] for line in (tmp_path / "capabilities").read_text("utf-8").splitlines()} == {"0" * 16}
