"""Every command block of a tutorial runs as it stands, in order, in a shell.

Above a block, a comment says what it is: `<!-- file: NAME -->` for a file that the reader writes, `<!-- run -->` for
commands, `<!-- run: exit 8, TEXT -->` for commands that end so and say TEXT.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "bin" / "kmel-peer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kmel_p2p.cli.main "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_runs(page: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    blocks = BLOCK.findall(page.read_text("utf-8"))
    assert any(mark.startswith("run") for mark, _, _ in blocks)
    for mark, _, text in blocks:
        what, _, rest = mark.partition(": ")
        assert what in ("file", "run"), f"a block without a mark:\n{text}"
        if what == "file":
            (folder / rest).write_text(text, "utf-8")
            continue
        code, _, said = rest.removeprefix("exit ").partition(", ")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == int(code or 0), f"{text}\n{done.stdout}\n{done.stderr}"
        assert said in done.stdout + done.stderr
