"""`kmel-peer completion`: a shell completes commands and options."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kmel_p2p.cli.language import tell

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "kmel-peer"
ASK = "_KMEL_PEER_COMPLETE"
"""Environment variable by which the shell asks the program what may come next."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.option("--install", is_flag=True, help="Write it to where the shell looks for it.")
def completion(shell: str, install: bool) -> None:
    """Print what makes SHELL complete commands, options and file names; or install it for this user.

    Without --install: eval "$(kmel-peer completion bash)" in the start-up file of bash or zsh; for fish, pipe it into
    source.
    """
    script = _script(shell)
    if not install:
        click.echo(script)
        return
    from kmel_p2p.files import write_whole

    path = _place(shell)
    write_whole(path, script.encode() + b"\n", mode=0o644)
    tell(f"Wrote {path}. {_after(shell, path)}")


def _script(shell: str) -> str:
    from click.shell_completion import get_completion_class

    from kmel_p2p.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, PROGRAM, ASK).source().strip("\n")


def _place(shell: str) -> Path:
    """Where the shell looks for completions of one user."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / PROGRAM,
        "zsh": data / "zsh" / "site-functions" / f"_{PROGRAM}",
        "fish": config / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]


def _after(shell: str, path: Path) -> str:
    """What is left to do."""
    if shell == "bash":
        return "It works in the next shell where the package bash-completion is installed; elsewhere, source it."
    if shell == "zsh":
        return f"Put `fpath+=({path.parent})` before `compinit` in ~/.zshrc."
    return "It works in the next shell."
