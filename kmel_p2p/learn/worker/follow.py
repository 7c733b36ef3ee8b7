"""Ranks on another machine than the daemon's: what torchrun runs there.

    torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-id=kmel --rdzv-endpoint=HOST:PORT \\
        -m kmel_p2p.learn.worker.follow

They need neither the site's settings nor its data: what they train on comes from the rank that leads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.learn.worker.launch import Follower, join


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow until the leader ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="kmel_p2p.learn.worker.follow", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="as resources.device")
    parser.add_argument("--threads", type=int, default=0, help="of each process; 0: its share of the cores")
    parser.add_argument("--nice", type=int, default=5, help="priority given up")
    given = parser.parse_args(arguments)
    try:
        return join(Follower(given.device, given.threads or usable_cores(), given.nice))
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 3


if __name__ == "__main__":
    sys.exit(main())
