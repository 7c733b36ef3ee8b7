"""Shells complete commands and options: a real bash is asked for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kmel_p2p.cli.main import COMMANDS
from tests.support.cli_harness import Run

ASKED = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_kmel_peer_completion kmel-peer
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def completed(home: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    program = home / "bin" / "kmel-peer"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kmel_p2p.cli.main "$@"\n')
    program.chmod(0o755)
    script = home / ".local/share/bash-completion/completions/kmel-peer"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-c", ASKED, "bash", str(script), *words],
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_and_options_once_it_is_installed(home: Path, run: Run) -> None:
    assert run("completion", "bash", "--install").code == 0
    assert set(completed(home, "kmel-peer", "")) == set(COMMANDS)
    assert completed(home, "kmel-peer", "cha") == ["charter"]
    assert {"--json", "--bundle"} <= set(completed(home, "kmel-peer", "doctor", "--"))
    assert completed(home, "kmel-peer", "completion", "z") == ["zsh"]


@pytest.mark.parametrize(
    ("shell", "place", "holds"),
    [
        ("bash", ".local/share/bash-completion/completions/kmel-peer", "complete -o nosort"),
        ("zsh", ".local/share/zsh/site-functions/_kmel-peer", "#compdef kmel-peer"),
        ("fish", ".config/fish/completions/kmel-peer.fish", "complete --no-files --command kmel-peer"),
    ],
)
def test_each_shell_finds_it_where_it_looks(home: Path, run: Run, shell: str, place: str, holds: str) -> None:
    done = run("completion", shell, "--install")
    assert str(home / place) in done.out
    assert holds in (home / place).read_text()
    assert run("completion", shell).out == (home / place).read_text()


def test_a_folder_that_cannot_be_written_is_named(home: Path, run: Run) -> None:
    (home / ".local").write_text("a file, no folder")
    done = run("completion", "bash", "--install")
    assert done.code == 3
    assert str(home / ".local") in done.err
