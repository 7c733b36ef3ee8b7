"""The rich console of commands: what it draws is its own, the text in it has its control characters written out."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from kmel_p2p.agreement.shown import shown
from kmel_p2p.cli.language import told
from kmel_p2p.cli.plain_streams import PlainStream


class Screen(Console):
    """A rich console. Colours and the cursor are its own to steer; the text in it is not, nor does markup in it count:
    an address `tcp://evil:1[tcp://good]` is shown whole.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        stream = sys.stderr if stderr else sys.stdout
        super().__init__(
            file=stream.stream if isinstance(stream, PlainStream) else stream,
            width=width,
            markup=False,
            emoji=False,
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As `Console.render`, with control characters in text written out, and with titles and columns of tables in
        the language of this process.
        """
        if isinstance(renderable, Table):
            _translate(renderable)
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def _translate(table: Table) -> None:
    if isinstance(table.title, str):
        table.title = told(table.title)
    for column in table.columns:
        if isinstance(column.header, str):
            column.header = told(column.header)
