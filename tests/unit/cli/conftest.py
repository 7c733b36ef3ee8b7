"""A command line run in this process, for a fresh site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmel_p2p.cli.main import invoke
from tests.support.cli_harness import FakeDaemon, Output, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Output:
        code = invoke([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Output(int(code), captured.out, captured.err)

    return call


@pytest.fixture
def site(tmp_path: Path, run: Run) -> Path:
    """Settings of a fresh site called north."""
    assert run("init", tmp_path / "north", "--name", "north").code == 0
    (tmp_path / "north" / "state").mkdir()
    return tmp_path / "north" / "site.toml"


@pytest.fixture
def daemon(site: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(site.parent / "state")
    fake.start()
    yield fake
    fake.close()
