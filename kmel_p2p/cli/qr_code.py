"""An invitation as a QR code: in half blocks on a terminal, or in a file of its own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.style import Style
from rich.text import Text

from kmel_p2p.cli.language import say
from kmel_p2p.cli.options import FILE
from kmel_p2p.cli.screen import Screen

if TYPE_CHECKING:
    from segno import QRCode

KINDS = (".svg", ".png")

QUIET = 2
"""Light modules around the code on a terminal, where every line counts; files have the standard's four."""

PIXELS = 8
"""Of one module in a file; an SVG can be drawn at any size."""

BLOCKS = {(False, False): " ", (True, False): "\N{UPPER HALF BLOCK}", (False, True): "\N{LOWER HALF BLOCK}",
          (True, True): "\N{FULL BLOCK}"}  # fmt: skip
"""By whether the upper and the lower of two modules are light: light is what is drawn, so that a dark terminal without
colours shows the code as it should be."""

STYLE = Style(color="#ffffff", bgcolor="#000000")


def qr_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--qr` and `--qr-file`, which `QrWanted` takes."""
    command = click.option(
        "--qr-file", type=FILE, help="Write the invitation as a QR code to this new file, .svg or .png."
    )(command)
    return click.option("--qr", is_flag=True, help="Show the invitation as a QR code, too.")(command)


class QrWanted:
    """Where the operator wants to see an invitation as a QR code.

    Args:
        on_terminal: below the text.
        file: in this file; None: in none.

    Raises:
        UsageError: the file cannot be one, or is there already.
    """

    def __init__(self, on_terminal: bool, file: Path | None) -> None:
        self._on_terminal, self._file = on_terminal, file
        if file is None:
            return
        if file.suffix.lower() not in KINDS:
            raise click.UsageError(f"--qr-file {file}: a QR code is written as .svg or .png; give it such a name")
        if file.exists() or file.is_symlink():
            raise click.UsageError(f"--qr-file {file}: exists already; move it away or choose another name")
        if not file.absolute().parent.is_dir():
            raise click.UsageError(f"--qr-file {file}: there is no folder {file.absolute().parent}")

    def show(self, text: str) -> None:
        """Show an invitation's text, where that is wanted.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self._on_terminal:
            _draw(text)
        if self._file is not None:
            from kmel_p2p.files import write_new

            # Whoever reads the file may ask to join, as with the text.
            write_new(self._file, picture(text, self._file.suffix.lower()), 0o600)
            click.echo(say("The invitation is in {path}, too.").format(path=self._file))


def _draw(text: str) -> None:
    screen, rows = Screen(), half_blocks(text)
    wide, high = len(rows[0]), len(rows)
    elsewhere = say("--qr-file invitation.svg writes it to a file.")
    if "utf" not in (sys.stdout.encoding or "").lower():
        click.echo(say("This terminal has no letters to draw a QR code with.") + " " + elsewhere)
    elif screen.is_terminal and (screen.width < wide or screen.height <= high):
        told = say(
            "The QR code takes {wide} columns and {high} lines, and this terminal has {width} and {height}: enlarge it."
        )
        has = {"width": screen.width, "height": screen.height}
        click.echo(told.format(wide=wide, high=high + 1, **has) + " " + elsewhere)
    else:
        screen.print(Text("\n".join(rows), STYLE), no_wrap=True, overflow="ignore", crop=False)
        click.echo("")


def qr_code(text: str) -> QRCode:
    """The code of an invitation's text. Its corrections are what fits without making it larger."""
    import segno

    return segno.make(text, error="l", micro=False, boost_error=True)


def half_blocks(text: str) -> list[str]:
    """Lines of the same width, two rows of modules each."""
    modules = [[not dark for dark in row] for row in qr_code(text).matrix_iter(border=QUIET)]
    if len(modules) % 2:
        modules.append([True] * len(modules[0]))
    pairs = zip(modules[::2], modules[1::2], strict=True)
    return ["".join(BLOCKS[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]


def picture(text: str, kind: str) -> bytes:
    """A file of one of `KINDS`."""
    out = io.BytesIO()
    qr_code(text).save(out, kind=kind.removeprefix("."), scale=PIXELS, dark="#000000", light="#ffffff")
    return out.getvalue()
