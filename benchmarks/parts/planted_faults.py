"""Faults planted at a site, one at a time, and what `kmel-peer doctor` says of each."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.parts.companies import Company, NotSeenError
from benchmarks.parts.measure import say

Plant = Callable[[Company], AbstractContextManager[tuple[str, ...]]]
"""Plants a fault and mends it again; gives what runs the doctor, such as a shell with a limit."""


def plant_faults(site: Company, other: Company, most: int) -> dict[str, Any]:
    """Examine a site that is well, then with each fault; its peer is stopped for that.

    Args:
        site: of a federation whose other peers run.
        other: one of those, which is stopped for a fault.
        most: faults at most.

    Returns:
        `doctor_found`, `doctor_missed`, `doctor_false`, and `doctor_texts` by fault.
    """
    site.stop()
    false = [f"well: {check}" for check in faults(site, ())]
    missed, texts = [], {}
    planted = list(_planted(other))[:most]
    for name, check, plant in planted:
        with plant(site) as before:
            found = faults(site, before)
        texts[name] = found.get(check, "")
        if check not in found:
            missed.append(name)
        false += [f"{name}: {beside}" for beside in found if beside != check]
    say(f"missed: {missed}; false: {false}")
    return {
        "doctor_found": len(planted) - len(missed),
        "doctor_missed": missed,
        "doctor_false": len(false),
        "doctor_false_at": false,
        "doctor_texts": texts,
    }


def faults(site: Company, before: tuple[str, ...]) -> dict[str, str]:
    """What the doctor finds wrong: check -> text."""
    done = site.look("doctor", "-c", site.settings, "--json", before=before)
    try:
        findings = json.loads(done.out)["findings"]
    except ValueError:
        raise NotSeenError(f"no findings:\n{done.out}\n{done.err}") from None
    wrong = [finding for finding in findings if finding["level"] in ("problem", "warning")]
    return {finding["check"]: f"{finding['text']} -> {finding['todo']}" for finding in wrong}


def _planted(other: Company) -> Iterator[tuple[str, str, Plant]]:
    """Name, the check that has to find it, and how it is planted."""
    yield "key open to others", "key", _mode("site.key", 0o644)
    yield "setting misspelt", "settings", _edited("site.toml", "smiles_column", "smilescolumn")
    yield "key of somebody else", "roster", _edited("site.key", r"^..", "5a")
    yield "site misnamed", "roster", _edited("site.toml", r'^name = "\w+"', 'name = "nobody"')
    yield "charter without a signature", "charter", _edited("charter.toml", r"^(\w+ = \"[0-9a-f]{128}\"\n)", "")
    yield "state open to others", "state", _mode("state", 0o755)
    yield "table moved away", "data", _edited("site.toml", r'^path = "[^"]*"', 'path = "elsewhere.csv"')
    yield "column renamed", "data", _edited("assays.csv", "LogD", "LogD74")
    yield "assay endpoint not in the charter", "columns", _edited("site.toml", '^"logd" = ', '"logp" = ')
    yield "trainer cannot start", "trainer", _edited("site.toml", r"^threads = 1", 'threads = 1\ndevice = "cuda"')
    yield (
        "address that the machine lacks",
        "port",
        _edited("site.toml", r'^bind = "[^"]*"', 'bind = "tcp://192.0.2.9:7700"'),
    )
    yield "too few files", "files", _few_files
    yield "other peer stopped", f"to {other.name}", _stopped(other)


def _edited(name: str, pattern: str, to: str) -> Plant:
    @contextlib.contextmanager
    def plant(site: Company) -> Iterator[tuple[str, ...]]:
        with _kept(site.folder / name) as path:
            text, count = re.subn(pattern, to, path.read_text("utf-8"), count=1, flags=re.MULTILINE)
            if not count:
                raise NotSeenError(f"{path} has no {pattern}")
            path.write_text(text, "utf-8")
            yield ()

    return plant


def _mode(name: str, mode: int) -> Plant:
    @contextlib.contextmanager
    def plant(site: Company) -> Iterator[tuple[str, ...]]:
        path = site.folder / name
        before = path.stat().st_mode & 0o777
        path.chmod(mode)
        try:
            yield ()
        finally:
            path.chmod(before)

    return plant


@contextlib.contextmanager
def _few_files(site: Company) -> Iterator[tuple[str, ...]]:
    yield ("sh", "-c", 'ulimit -n 400; exec "$@"', "sh")


def _stopped(other: Company) -> Plant:
    @contextlib.contextmanager
    def plant(site: Company) -> Iterator[tuple[str, ...]]:
        other.stop()
        yield ()

    return plant


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[Path]:
    """The file, put back afterwards with its mode."""
    beside = path.with_name(path.name + ".kept")
    shutil.copy2(path, beside)
    try:
        yield path
    finally:
        shutil.copy2(beside, path)
        beside.unlink()
