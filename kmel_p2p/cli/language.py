"""The language of the command line: English, or Korean where the environment says so (LANG=ko_KR.UTF-8).

Translations are gettext's; the catalogue lies in the package and is read only where it is needed. Output for programs
(`--json`), logs and messages between sites are English everywhere.
"""

from __future__ import annotations

import functools
import gettext
import os

import click

from kmel_p2p.web.korean import CATALOGUES, DOMAIN, catalogue, in_korean

VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""The first that is set decides, as gettext does it."""


@functools.cache
def korean() -> bool:
    """Whether this process speaks Korean."""
    chosen = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "")
    return chosen.split(":")[0].lower().startswith("ko")


def say(text: str) -> str:
    """A text in the language of this process; English where the catalogue lacks it."""
    return catalogue().gettext(text) if korean() else text


def told(text: str) -> str:
    """A text that a peer made, in the language of this process: an alarm, a reason, what it waits for."""
    return in_korean(text) if korean() else text


def padded(text: str, width: int) -> str:
    """A text and blanks up to a width on the screen, where letters of Korean take two columns."""
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))


def tell(text: str, *, err: bool = False) -> None:
    """Print a line in the language of this process. `err`: on standard error."""
    click.echo(told(text), err=err)


def speak() -> None:
    """Have click's own words translated, too: it asks gettext's default domain."""
    if korean():
        gettext.bindtextdomain(DOMAIN, str(CATALOGUES))
        gettext.textdomain(DOMAIN)


def translated(command: click.Command) -> click.Command:
    """A command with its help in the language of this process, and so its options and the commands under it."""
    if korean():
        from kmel_p2p.cli.wide_help import WideContext

        command.context_class = WideContext
        if command.help:
            command.help = _paragraphs(command.help)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.help:
                parameter.help = say(parameter.help)
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                translated(inner)
    return command


def _paragraphs(text: str) -> str:
    """Each paragraph by itself, as the catalogue has them: in one line."""
    return "\n\n".join(say(" ".join(part.split())) for part in text.split("\n\n"))
