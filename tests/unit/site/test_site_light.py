"""What the daemon loads decides its memory: torch and RDKit belong to the trainer process."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys
import kmel_p2p.site.daemon
heavy = {"torch", "rdkit", "sklearn", "scipy", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_daemon_loads_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
