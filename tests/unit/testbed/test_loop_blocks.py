"""What keeps an event loop is found by name, and so is a file that the loop's thread makes durable."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from kmel_p2p.files import write_whole
from tests.testbed.loop_blocks import ROOT, WORTH_NOTING_S, LoopBlocks

PROGRAM = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.unit.testbed.test_loop_blocks import keep_the_loop
from tests.testbed.loop_blocks import watch
folder = Path(sys.argv[1])
watch(str(folder / "blocks.json"))
asyncio.run(keep_the_loop(folder))
"""


def busy() -> None:
    end = time.thread_time() + 2 * WORTH_NOTING_S
    while time.thread_time() < end:
        pass


async def keep_the_loop(folder: Path) -> None:
    asyncio.get_running_loop().call_soon(busy)
    await asyncio.sleep(0)
    await asyncio.to_thread(write_whole, folder / "beside", b"beside the loop")
    write_whole(folder / "on", b"on it")


def test_blocks_are_named_and_work_in_threads_is_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, timeout=300)
    found = json.loads((tmp_path / "blocks.json").read_text())
    longest = {row["callback"]: row["cpu_ms"] for row in found["callbacks"]}
    assert longest["busy"] >= 2000 * WORTH_NOTING_S
    assert sum(found["durable"].values()) == 2, "the file and its folder, on the loop"


def test_a_quiet_process_has_none(tmp_path: Path) -> None:
    blocks = LoopBlocks(str(tmp_path / "none.json"))
    blocks.write()
    assert json.loads((tmp_path / "none.json").read_text()) == {"callbacks": [], "durable": {}}
    assert os.path.getsize(tmp_path / "none.json") > 0
