"""A signal ends a simulation, and a command says that it was interrupted, whatever a library made of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import click
import pytest
from pydantic_core import SchemaSerializer

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.cli import main
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.simulate.interrupts import Interrupts

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A shell that runs the tests in the background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@BOTH
def test_a_signal_that_a_library_makes_another_error_of_still_interrupts(number: signal.Signals) -> None:
    def work() -> None:
        with Interrupts():
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                raise ValueError("could not build the schema") from None

    with pytest.raises(KeyboardInterrupt):
        work()


@BOTH
def test_a_signal_that_a_library_drops_still_interrupts(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_without_a_signal_an_error_is_what_it_was_and_the_handlers_are_as_before() -> None:
    with pytest.raises(ValueError, match="mine"), Interrupts():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


class Named:
    """A descriptor that is interrupted while its class is made: Python 3.11 raises `RuntimeError` then."""

    def __set_name__(self, owner: type, name: str) -> None:
        signal.raise_signal(signal.SIGINT)


class Interrupting:
    """A value that is interrupted when it is looked at."""

    def __repr__(self) -> str:
        signal.raise_signal(signal.SIGINT)
        return "never"


def build_a_schema() -> None:
    SchemaSerializer({"type": "literal", "expected": [Interrupting()]})


def make_a_class() -> None:
    type("Made", (), {"part": Named()})


@pytest.mark.parametrize("work", [build_a_schema, make_a_class])
def test_a_command_interrupted_inside_a_library_is_no_bug(
    work: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: click.Command("work", callback=work))
    assert main.invoke(["work"]) == ExitCode.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_an_error_without_an_interrupt_behind_it_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: click.Command("work", callback=work))
    assert main.invoke(["work"]) == ExitCode.BUG
    assert "LookupError: a bug" in capsys.readouterr().err


def test_an_error_that_is_raised_from_its_own_wrapper_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            try:
                raise ConfigError("node a has another version")
            except ConfigError as error:
                raise LookupError("a task of the cluster failed") from error
        except LookupError as error:
            raise (error.__cause__ or error) from error

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: click.Command("work", callback=work))
    assert main.invoke(["work"]) == ExitCode.CONFIG
    assert "node a has another version" in capsys.readouterr().err
