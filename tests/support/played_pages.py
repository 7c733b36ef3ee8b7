"""Plays the command blocks of a page as a reader would: files are saved, commands typed, answers given at terminals.

An invisible comment above a block says what it is:

    <!-- file: NAME -->             a file that the reader saves
    <!-- run -->                    commands, one after the other in one shell, that end well
    <!-- run: exit 8, TEXT -->      the same, ending with this code and saying TEXT
    <!-- at: NAME -->               what is seen at the terminal NAME, see `Terminal`
    <!-- not run: WHY -->           commands that no test can run

A comment of its own that starts with one of these does what readers need not be told:

    <!-- unseen: COMMANDS -->       in a shell, such as making a table that a reader has anyway
    <!-- until: REGEX in kmel-peer COMMAND -->     asking the same again and again until a line of the answer matches
    <!-- continues: PAGE -->        that page is played before, in the same folder

Peers, servers and watches stay until the page ends, and have to live until then; every other command has to end well.
A page's addresses become ports of loopback, one for each host it names, and the text of an invitation is the last one
that a terminal showed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmel_p2p.simulate.sites import free_ports

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
"""For anything that is waited for: the machine may be busy."""

PART = re.compile(
    r"^<!-- (?P<unseen>unseen|until|continues): (?P<text>.*?) -->$"
    r"|^(?:<!-- (?P<mark>.*?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<block>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
ADDRESS = re.compile(r"tcp://([\w.-]+):7700")
INVITATION = re.compile(r"kmel-invitation-1:[\w-]{40,}")
SHORTENED = re.compile(r"kmel-invitation-1:\S*?(?:…|\.\.\.)")
ANSWER = re.compile(r"^(.*\]: )(.+)$")
LOOK_AGAIN_S = 0.5
LOOKING = f"""
import contextlib, io, re, sys, time
from kmel_p2p.cli.main import invoke
end = time.monotonic() + {PATIENCE_S}
while True:
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        invoke(sys.argv[2:])
    if re.search(sys.argv[1], said.getvalue()):
        break
    if time.monotonic() > end:
        sys.exit(said.getvalue() + errors.getvalue())
    time.sleep({LOOK_AGAIN_S})
"""
"""Asks in one process: starting one for every look was a good part of a page's time."""

COMMAND_LANGUAGES = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Part:
    """A block, or a comment that does something by itself.

    Attributes:
        kind: file, run, at, not run, unseen, until, continues, or "": a block of something else.
        rest: what the comment says beside the kind.
        text: of the block.
    """

    kind: str
    rest: str
    text: str = ""


def parts(page: Path) -> list[Part]:
    """What a page has to play.

    Raises:
        ValueError: a block of commands is unmarked, a mark is unknown, or a block that is not run gives no reason.
    """
    found = []
    for match in PART.finditer(page.read_text("utf-8")):
        if match["unseen"]:
            found.append(Part(match["unseen"], match["text"]))
            continue
        kind, _, rest = (match["mark"] or "").partition(":")
        if kind not in ("", "file", "run", "at", "not run"):
            raise ValueError(f"{page.name}: no such mark: {kind}")
        if not kind and match["language"] in COMMAND_LANGUAGES:
            raise ValueError(f"{page.name}: a block of commands without a mark:\n{match['block']}")
        if kind == "not run" and len(rest.split()) < 3:
            raise ValueError(f"{page.name}: why is this not run?\n{match['block']}")
        text = re.sub(rf"^{match['indent']}", "", match["block"], flags=re.MULTILINE)
        found.append(Part(kind, rest.strip(), text))
    return found


class NotAsWrittenError(Exception):
    """A command did something else than its page says; the text ends with what it printed."""


@dataclass
class Terminal:
    """A terminal of a page: blocks of it are played one after the other.

    A line `$ COMMAND` is typed when the command before has ended well. Other lines have to be seen, in this order;
    `…` stands for anything. What follows `]: ` answers a question.
    """

    name: str
    folder: Path
    environment: Mapping[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    read: int = 0
    """Up to where the screen of the command was looked at."""

    def type(self, command: str) -> None:
        """Type a command, once the former has ended."""
        if self.processes:
            self.ended_well()
        self.read = 0
        self.commands.append(command)
        with self._screen(len(self.processes)).open("wb") as screen:
            self.processes.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=screen,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def shown(self) -> str:
        """What the newest command has printed."""
        return self._screen(len(self.processes) - 1).read_text("utf-8", "replace")

    def see(self, line: str) -> None:
        """Wait for a line, and answer it where it has an answer."""
        question = ANSWER.match(line)
        words = (question[1] if question else line).split()
        wanted = re.compile(r"\s+".join(".*?".join(map(re.escape, word.split("…"))) for word in words), re.DOTALL)
        end = time.monotonic() + PATIENCE_S
        while (match := wanted.search(self.shown(), self.read)) is None:
            if time.monotonic() > end or self._last.poll() is not None:
                if wanted.search(self.shown(), self.read):
                    continue  # it was the last thing that it said
                raise NotAsWrittenError(f"at {self.name}: not seen: {line}\n{self.shown()}")
            time.sleep(0.1)
        self.read = match.end()
        if question:
            assert self._last.stdin is not None
            self._last.stdin.write(question[2].encode() + b"\n")
            self._last.stdin.flush()

    def ended_well(self) -> None:
        """Wait for the end of the newest command."""
        if self._last.wait(PATIENCE_S):
            raise NotAsWrittenError(f"at {self.name}: ended with {self._last.returncode}\n{self.shown()}")

    def end_of_page(self) -> None:
        """Wait for the newest command, unless it is one that stays."""
        if not _stays(self.commands[-1]) or self._last.poll() is not None:
            self.ended_well()

    def close(self) -> None:
        """End what runs, and wait for it."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdin is not None
            process.stdin.close()

    @property
    def _last(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    def _screen(self, number: int) -> Path:
        return self.folder.parent / f"{self.name.replace(' ', '-')}.{number}.screen"


class Reader:
    """Somebody who follows a page, in `folder`, on one machine."""

    def __init__(self, folder: Path, modules: str = "") -> None:
        """`modules`: PYTHONPATH beside the project's own place."""
        self.folder = folder / "reader"
        self.folder.mkdir()
        program = folder / "bin" / "kmel-peer"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m kmel_p2p.cli.main "$@"\n')
        program.chmod(0o755)
        path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        spoken = {name: text for name, text in os.environ.items() if not name.startswith(("LC_", "LANG"))}
        self._environment = {
            **spoken,
            "PATH": path,
            "PYTHONPATH": os.pathsep.join(filter(None, (modules, str(ROOT)))),
            "LANG": "C.UTF-8",
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._terminals: dict[str, Terminal] = {}
        self._addresses: dict[str, str] = {}

    def play(self, page: Path) -> None:
        """Do all that a page says.

        Raises:
            NotAsWrittenError: something else happened.
        """
        for part in parts(page):
            text = self._here(part.text)
            match part.kind:
                case "continues":
                    self.play(page.parent / part.rest)
                case "file":
                    (self.folder / part.rest).write_text(text, "utf-8")
                case "run":
                    code, _, said = part.rest.removeprefix("exit ").partition(", ")
                    self._run(text, int(code or 0), said)
                case "unseen":
                    self._run(self._here(part.rest), 0, "")
                case "until":
                    self._wait(part.rest)
                case "at":
                    self._look_at(part.rest, text)
        for terminal in self._terminals.values():
            terminal.end_of_page()

    def close(self) -> None:
        """End what still runs."""
        for terminal in self._terminals.values():
            terminal.close()

    def _run(self, text: str, code: int, said: str) -> None:
        if any(map(_stays, _lines(text))):
            for line in _lines(text):
                self._terminal(f"unnamed {len(self._terminals)}").type(line) if _stays(line) else self._run(line, 0, "")
            return
        done = self._ended(["bash", "-euo", "pipefail", "-c", text], PATIENCE_S)
        shown = f"{text}\n{done.stdout}\n{done.stderr}"
        if done.returncode != code:
            raise NotAsWrittenError(f"ended with {done.returncode}, not {code}: {shown}")
        if said not in done.stdout + done.stderr:
            raise NotAsWrittenError(f"does not say {said!r}: {shown}")

    def _wait(self, rest: str) -> None:
        wanted, _, command = rest.partition(" in kmel-peer ")
        # It ends by itself, and says then what it saw last.
        done = self._ended([sys.executable, "-c", LOOKING, wanted, *shlex.split(command)])
        if done.returncode or not command:
            raise NotAsWrittenError(f"not seen: {rest}\n{done.stdout}\n{done.stderr}")

    def _ended(self, command: Sequence[str], timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """What a command said until it ended, run as the reader runs it."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _look_at(self, name: str, text: str) -> None:
        terminal = self._terminal(name)
        for line in _lines(text):
            if line.startswith("$ "):
                terminal.type(line[2:])
            elif line.strip() not in ("", "…"):
                terminal.see(line)

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = Terminal(name, self.folder, self._environment)
        return self._terminals[name]

    def _here(self, text: str) -> str:
        """A text with addresses of this machine, and the invitation that was shown."""
        shown = [
            found for one in self._terminals.values() if one.processes for found in INVITATION.findall(one.shown())
        ]
        if shown:
            text = "\n".join(SHORTENED.sub(shown[-1], line) if "join" in line else line for line in text.split("\n"))
        return ADDRESS.sub(lambda match: self._address(match[1]), text)

    def _address(self, host: str) -> str:
        if host not in self._addresses:
            self._addresses[host] = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        return self._addresses[host]


def _stays(command: str) -> bool:
    return any(word in command for word in ("kmel-peer run ", "kmel-peer serve ", " --watch"))


def _lines(text: str) -> Iterator[str]:
    """Lines, those that end with a backslash joined with the next."""
    yield from re.sub(r"\\\n\s*", "", text).splitlines()
