"""Read by Python at its start where this folder is on its path: has a daemon note what keeps its event loop."""

import os
import sys

if "kmel_p2p.cli.main" in sys.orig_argv and "LOOP_BLOCKS" in os.environ:
    from tests.testbed.loop_blocks import watch

    watch(os.environ["LOOP_BLOCKS"])
