"""Companies that operate a site by its command line alone: commands, screens, answers, and somebody at the phone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.parts.daemons import RINGS
from benchmarks.parts.installations import build_wheel, install
from kmel_p2p.cli.main import invoke
from tests.testbed.hosts import Hosts

NAMES = ("north", "south", "east", "west")
PORT = 7700
PATIENCE_S = 180.0
"""For anything that is waited for: the machine may be busy."""

COMMAND = (sys.executable, "-m", "kmel_p2p.cli.main")
"""Of the source tree, where a company has no installation of its own."""


class NotSeenError(Exception):
    """Something did not happen in time; the text ends with what was on the screen."""


def until(what: str, condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Wait until `condition()`.

    Raises:
        NotSeenError: not in time.
    """
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise NotSeenError(f"not within {within_s:g} s: {what}")
        time.sleep(0.2)


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def found(self, pattern: str) -> str:
        """What its output has of a pattern: the first group, or all."""
        match = re.search(pattern, self.out)
        if match is None:
            raise NotSeenError(f"no {pattern} in:\n{self.out}\n{self.err}")
        return match[match.lastindex or 0]


@dataclass
class Screen:
    """A command that runs, its output in a file, and who types on it."""

    process: subprocess.Popen[bytes]
    path: Path

    def text(self) -> str:
        """What was printed so far."""
        return self.path.read_text("utf-8", "replace")

    def wait_for(self, pattern: str) -> str:
        """What is printed that matches: the first group, or all.

        Raises:
            NotSeenError: not in time, or the command ended before.
        """
        end = time.monotonic() + PATIENCE_S
        while (match := re.search(pattern, self.text())) is None:
            if time.monotonic() > end or self.process.poll() is not None:
                raise NotSeenError(f"no {pattern} in:\n{self.text()}")
            time.sleep(0.1)
        return match[match.lastindex or 0]

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and type."""
        self.wait_for(re.escape(question))
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def ended_well(self) -> None:
        """Wait for the end, with code 0."""
        code = self.process.wait(PATIENCE_S)
        if code:
            raise NotSeenError(f"ended with {code}:\n{self.text()}")


@dataclass
class Company:
    """One company.

    Attributes:
        folder: of its site.
        table: its measurements.
        address: at which the others reach it.
        prefix: runs a command on its host.
        command: its `kmel-peer`.
        commands: what its operator has typed.
    """

    name: str
    folder: Path
    table: Path
    address: str
    prefix: tuple[str, ...] = ()
    command: tuple[str, ...] = COMMAND
    commands: list[str] = field(default_factory=list)
    screens: list[Screen] = field(default_factory=list)

    @property
    def settings(self) -> Path:
        """Its `site.toml`."""
        return self.folder / "site.toml"

    def begin(self, *given: object) -> Screen:
        """Type a command that goes on."""
        self.commands.append(str(given[0]))
        path = self.folder.parent / f"{self.name}.{len(self.screens)}.screen"
        with path.open("wb") as out:
            process = subprocess.Popen(
                self._line(given),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self._cwd,
            )
        self.screens.append(Screen(process, path))
        return self.screens[-1]

    def must(self, *given: object, answers: str = "") -> Done:
        """Type a command, which has to end well."""
        self.commands.append(str(given[0]))
        done = self.look(*given, answers=answers)
        if done.code:
            raise NotSeenError(f"{given[0]} ended with {done.code}:\n{done.out}\n{done.err}")
        return done

    def look(self, *given: object, answers: str = "", before: Sequence[str] = ()) -> Done:
        """Run a command that counts for nothing. `before`: runs it, such as a shell with a limit."""
        done = subprocess.run(
            [*before, *self._line(given)],
            input=answers,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=self._environment(),
            cwd=self._cwd,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def shown(self, *given: object) -> str:
        """What a command that counts for nothing prints, run in this process: for what is asked until it is so.

        Processes started for every look took the cores from peers that are kind to the machine.
        """
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            code = invoke([str(word) for word in given])
        return "" if code else printed.getvalue()

    def run(self) -> Screen:
        """Start the peer, kindly to the machine."""
        text = self.settings.read_text("utf-8")
        text = re.sub(r"^threads = 0", "threads = 1", text, flags=re.MULTILINE)
        self.settings.write_text(re.sub(r"^nice = 5", "nice = 19", text, flags=re.MULTILINE), "utf-8")
        return self.begin("run", "-c", self.settings)

    def reaches(self, others: int) -> bool:
        """Whether its peer counts so many other sites as alive."""
        answer = self.shown("status", "-c", self.settings, "--json")
        members = json.loads(answer)["members"] if answer else []
        return sum(member["state"] == "alive" for member in members) >= others

    def stop(self) -> None:
        """Stop its peer."""
        self.look("stop", "-c", self.settings)

    def end(self) -> None:
        """End every command that still runs."""
        for screen in self.screens:
            if screen.process.poll() is None:
                screen.process.terminate()
        for screen in self.screens:
            try:
                screen.process.wait(20)
            except subprocess.TimeoutExpired:
                screen.process.kill()
                screen.process.wait()
            assert screen.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                screen.process.stdin.close()

    def _line(self, given: Sequence[object]) -> list[str]:
        return [*self.prefix, *self.command, *map(str, given)]

    @property
    def _cwd(self) -> Path | None:
        """Not the source tree, which Python would look into first."""
        return None if self.command == COMMAND else self.folder

    def _environment(self) -> dict[str, str]:
        own = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
        if self.command != COMMAND:
            own.pop("PYTHONPATH", None)
        return own


def companies(folder: Path, count: int, hosts: Hosts | None, installed: bool = False) -> list[Company]:
    """So many, each with a table of its own, on a host of its own or a port of this one.

    Args:
        installed: whether each has a virtual environment of its own with the wheel, instead of the source tree.
    """
    made = []
    wheel = build_wheel(folder) if installed else None
    for number, name in enumerate(NAMES[:count]):
        home = folder / name
        home.mkdir(parents=True)
        table = home / "assays.csv"
        rows = [f"{'C' * (1 + at)}{RINGS[(at + number) % len(RINGS)]},{at % 5 + number / 10}" for at in range(24)]
        table.write_text("\n".join(["smiles,LogD", *rows]) + "\n", "utf-8")
        address = f"tcp://{hosts.address(number)}:{PORT}" if hosts else f"tcp://127.0.0.1:{free_port()}"
        command = (str(install(wheel, folder / f"{name}-venv")),) if wheel else COMMAND
        made.append(Company(name, home, table, address, hosts.prefix(number) if hosts else (), command))
    return made


def compare_and_agree(inviting: Screen, joining: Mapping[str, Screen]) -> None:
    """Two people read digits to each other; where they agree, the one who invited says so.

    Raises:
        NotSeenError: the digits differ.
    """
    digits = {name: screen.wait_for(r"Fingerprint (\d{4}(?: \d{4}){4})") for name, screen in joining.items()}
    for number in range(len(joining)):
        until("the next one is asked about", partial(_has_asked_about, inviting, number + 1))
        name = _asked_about(inviting)[number]
        shown = inviting.wait_for(rf"{name} +asks[^?]*?fingerprint (\d{{4}}(?: \d{{4}}){{4}})")
        if shown != digits[name]:
            raise NotSeenError(f"{name} reads {digits[name]}, and {shown} is on the screen")
        inviting.answer(f"Does {name} read the same digits to you", "y")


def _has_asked_about(inviting: Screen, count: int) -> bool:
    return len(_asked_about(inviting)) >= count


def _asked_about(inviting: Screen) -> list[str]:
    return re.findall(r"Does (\w+) read the same digits to you", inviting.text())


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
