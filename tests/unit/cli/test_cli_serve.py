"""What `kmel-peer serve` refuses before it serves anything."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from kmel_p2p.cli.exits import ExitCode
from tests.support.cli_harness import Run


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8410", "somewhere.example:80"])
def test_beyond_this_machine_needs_a_flag_and_a_token(listen: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123\n")
    for given in ([], ["--allow-remote"], ["--token-file", tmp_path / "token"]):
        done = run("serve", "--listen", listen, "--model-dir", tmp_path, *given)
        assert done.code == ExitCode.CONFIG
        assert "--allow-remote and --token-file" in done.err


@pytest.mark.parametrize("text", ["", "short", "with blanks in between it", "ä" * 30])
def test_a_token_that_can_be_guessed_is_refused(text: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "token").write_text(text)
    done = run("serve", "--token-file", tmp_path / "token", "--model-dir", tmp_path)
    assert done.code == ExitCode.CONFIG
    assert "a token has 20 or more" in done.err


@pytest.mark.parametrize("listen", ["8410", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x"])
def test_an_address_needs_a_port(listen: str, tmp_path: Path, run: Run) -> None:
    done = run("serve", "--listen", listen, "--model-dir", tmp_path)
    assert done.code == ExitCode.CONFIG
    assert "127.0.0.1:8410" in done.err


def test_a_taken_port_and_a_missing_model_are_named(tmp_path: Path, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--model-dir", tmp_path)
    assert done.code == ExitCode.CONFIG
    assert "cannot listen there" in done.err
    done = run("serve", "--listen", "127.0.0.1:0", "--model-dir", tmp_path)
    assert done.code == ExitCode.CONFIG
    assert "no model here yet" in done.err


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else found(name))
    done = run("serve", "--model-dir", tmp_path)
    assert done.code == ExitCode.CONFIG
    assert "needs uvicorn: pip install 'kmel-p2p[serve]'" in done.err
