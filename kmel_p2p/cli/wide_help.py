"""Help in letters that are two columns wide: click counts letters, so its lines would run over the screen."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.cells import cell_len

AS_IT_IS = "\b\n"
"""Before a paragraph that click is not to wrap."""


class WideFormatter(click.HelpFormatter):
    """Wraps texts by their width on the screen."""

    def write_text(self, text: str) -> None:
        """As click's."""
        super().write_text(wrapped(text, self.width - self.current_indent))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """As click's, whose first column is as wide as this."""
        given = list(rows)
        first = min(max(map(cell_len, (name for name, _ in given)), default=0), col_max) + col_spacing
        room = max(self.width - first - self.current_indent, 10)
        super().write_dl([(name, wrapped(text, room)) for name, text in given], col_max, col_spacing)


class WideContext(click.Context):
    """Of a command whose help has wide letters."""

    formatter_class = WideFormatter


def wrapped(text: str, width: int) -> str:
    """Each paragraph in lines of at most `width` columns, for click to leave as they are."""
    return "\n\n".join(AS_IT_IS + "\n".join(lines(part.split(), width)) for part in text.split("\n\n") if part)


def lines(words: Iterable[str], width: int) -> Iterable[str]:
    """The words in lines of at most `width` columns; one that is longer has a line of its own."""
    line = ""
    for word in words:
        longer = f"{line} {word}" if line else word
        if line and cell_len(longer) > width:
            yield line
            longer = word
        line = longer
    if line:
        yield line
