"""The likeliest mistakes of a first hour, made on purpose, with the text that each gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.companies import Company, Done, NotSeenError


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake.

    Attributes:
        what: was done wrong.
        make: does it.
        next_step: words of the text that say what to do.
    """

    what: str
    make: Callable[[], Done]
    next_step: str


def make_mistakes(folder: Path, host: Company, most: int) -> list[dict[str, Any]]:
    """Make them, each in a directory of its own.

    Args:
        host: a site of a federation that runs.
        most: so many at most.

    Raises:
        NotSeenError: one of them was not noticed.
    """
    rows = []
    for _, mistake in zip(range(most), mistakes(folder, host), strict=False):
        done = mistake.make()
        if done.code == 0:
            raise NotSeenError(f"nobody noticed: {mistake.what}\n{done.out}")
        text = done.err.strip() or done.out.strip()
        if "Traceback" in text:
            raise NotSeenError(f"{mistake.what}:\n{text}")
        named = mistake.next_step in text
        rows.append({"what": mistake.what, "text": text, "names_the_next_step": named})
    return rows


def mistakes(folder: Path, host: Company) -> Iterator[Mistake]:
    """All of them, the cheapest first."""
    invited = host.look("invite", "-d", host.folder).found(r"kmel-invitation-1:\S+")

    def join(name: str, *more: object, text: str = invited) -> Done:
        table = ("--data", host.table) if "--data" not in more else ()
        return host.look("join", text, "-d", folder / name, "--name", name, "--yes", "--wait", 0, *table, *more)

    def init(name: str) -> Path:
        host.look("init", folder / name, "--name", name)
        return folder / name

    yield Mistake("half of the invitation is pasted", lambda: join("a", text=invited[:80]), "paste all of it")
    yield Mistake("the address has no port", lambda: join("b", "--address", "tcp://b.example"), "write host:port")
    yield Mistake("the table is misspelt", lambda: join("c", "--data", "asays.csv"), "name the table")
    yield Mistake("a column is misspelt", lambda: join("d", "--column", "logd=LogDD"), "it has: smiles, LogD")
    yield Mistake("a name with a capital letter", lambda: join("East"), "lower-case letters")
    yield Mistake(
        "status before the peer runs", lambda: host.look("status", "-c", init("f") / "site.toml"), "kmel-peer run"
    )
    yield Mistake(
        "run before there is a charter", lambda: host.look("run", "-c", init("g") / "site.toml"), "kmel-peer join"
    )
    yield Mistake(
        "an assay endpoint is misspelt",
        lambda: host.look(
            *("invite", "-d", folder / "h", "--name", "h", "--address", host.address, "--federation", "x"),
            *("--sites", 2, "--endpoint", "logdd", "--yes"),
        ),
        "did you mean 'logd'",
    )

    def open_key() -> Done:
        home = init("i")
        (home / "site.key").chmod(0o644)
        return host.look("charter", "sign", host.folder / "charter.toml", "--key", home / "site.key")

    yield Mistake("the key is open to others", open_key, "chmod 600")
    yield Mistake("the peer is started twice", lambda: host.look("run", "-c", host.settings), "kmel-peer stop")

    def withdrawn() -> Done:
        host.look("invite", "-d", host.folder, "withdraw")
        return join("k")

    yield Mistake("the invitation was withdrawn", withdrawn, "ask for a new one")
