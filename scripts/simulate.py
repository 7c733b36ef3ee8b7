"""Run a federation of real peers on this machine: the same as `kmel-peer simulate`."""

from __future__ import annotations

import sys

from kmel_p2p.cli.main import invoke

if __name__ == "__main__":
    sys.exit(invoke(["simulate", *sys.argv[1:]]))
