"""The live table of a simulation; a line every few seconds where there is no terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kmel_p2p.site.observe.status import SitePhase, StatusDocument

LINE_EVERY_S = 5.0


class View:
    """Shows the sites of a run. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._last_line_s = -LINE_EVERY_S

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def show(self, documents: Mapping[str, StatusDocument | None], elapsed_s: float) -> None:
        """Show the newest status documents; None for a site that does not answer."""
        if self._live is not None:
            self._live.update(_table(documents, elapsed_s), refresh=True)
        elif elapsed_s - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = elapsed_s
            parts = [f"{name} {_brief(document)}" for name, document in documents.items()]
            self._console.print(f"{elapsed_s:6.1f} s  " + "   ".join(parts), soft_wrap=True, highlight=False)


def _table(documents: Mapping[str, StatusDocument | None], elapsed_s: float) -> Table:
    table = Table(title=f"federation, {elapsed_s:.0f} s", title_justify="left")
    table.add_column("site", style="bold")
    table.add_column("phase", min_width=24)
    for column in ("published", "applied", "loss", "test", "out", "in", "alive", "digest"):
        table.add_column(column, justify="right")
    for name, document in documents.items():
        if document is None:
            table.add_row(name, Text("no answer yet", "dim"), *[""] * 8)
            continue
        averaging, egress = document.averaging, document.egress
        table.add_row(
            name,
            _phase(document),
            f"{averaging.published}/{averaging.entry_limit}",
            str(averaging.applied),
            "" if document.loss is None else f"{document.loss:.4f}",
            _test_score(document),
            f"{egress.bytes_out / 1e6:.2f} MB",
            f"{egress.bytes_in / 1e6:.2f} MB",
            f"{document.reachable}/{len(document.members)}",
            averaging.digest[:8],
        )
    return table


def _phase(document: StatusDocument) -> Text:
    phase, progress = document.phase, document.trainer.progress
    text = Text(phase.value, phase.style)
    if progress and phase in (SitePhase.PREPARING, SitePhase.LISTENING):
        text.append(f" {progress[0]} {progress[1]}/{progress[2]}", "dim")
    return text


def _brief(document: StatusDocument | None) -> str:
    if document is None:
        return "no answer yet"
    averaging = document.averaging
    return f"{document.phase} {averaging.published}/{averaging.entry_limit}+{averaging.applied}"


def _test_score(document: StatusDocument) -> str:
    values = [scores["test"] for scores in document.scores.values() if "test" in scores]
    return f"{sum(values) / len(values):.3f}" if values else ""
