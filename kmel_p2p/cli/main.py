"""Entry point of `kmel-peer`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.exits import ExitCode, exit_code_of, report
from kmel_p2p.cli.language import say, speak, told, translated
from kmel_p2p.cli.plain_streams import plain_streams
from kmel_p2p.version import VERSION

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "init": ("kmel_p2p.cli.init:init", "Create this site's key and settings."),
    "invite": ("kmel_p2p.cli.invite:invite", "Invite other sites: to found a federation, or to join one."),
    "join": ("kmel_p2p.cli.join:join", "Answer an invitation."),
    "charter": ("kmel_p2p.cli.charter:charter", "Draft, sign and check the charter of a federation."),
    "config": ("kmel_p2p.cli.run:config_command", "Check the settings and print them with all defaults."),
    "run": ("kmel_p2p.cli.run:run", "Run the peer of this site."),
    "status": ("kmel_p2p.cli.status:status", "Show what the running peer is doing."),
    "doctor": ("kmel_p2p.cli.doctor:doctor", "Examine this site, and the ways to and from the others."),
    "stop": ("kmel_p2p.cli.run:stop", "Stop the running peer in order."),
    "listen": ("kmel_p2p.cli.run:listen", "Publish nothing more; keep relaying."),
    "begin": ("kmel_p2p.cli.run:begin", "Wait no longer for sites that are away."),
    "trust": ("kmel_p2p.cli.block:trust", "Take the ledger of one site on its word alone."),
    "claim": ("kmel_p2p.cli.run:claim", "Go on here where two processes run with this site's key."),
    "pause": ("kmel_p2p.cli.run:pause", "Train no more for now; stay a member."),
    "resume": ("kmel_p2p.cli.run:resume", "Train again after a pause."),
    "conclude": ("kmel_p2p.cli.run:conclude", "End the run here without waiting for other sites."),
    "block": ("kmel_p2p.cli.block:block", "Stop listening to a site, whatever it sends."),
    "unblock": ("kmel_p2p.cli.block:unblock", "Listen to a site again."),
    "held": ("kmel_p2p.cli.held:held", "Look at the entry that waits for approval, and decide on it."),
    "amendment": (
        "kmel_p2p.cli.amendment:amendment",
        "Add, retire or re-key a site; extend the run.",
    ),
    "campaign": ("kmel_p2p.cli.campaign:campaign", "Open the next run of a federation, and show all so far."),
    "board": ("kmel_p2p.cli.board:board", "Say what this site needs or offers, and see what others do."),
    "projects": ("kmel_p2p.cli.projects:projects", "Show every federation that this host has a part in."),
    "contribution": (
        "kmel_p2p.cli.contribution:contribution",
        "Show what each author's entries were worth to this site.",
    ),
    "backup": ("kmel_p2p.cli.backup:backup", "Write the state of this site to one file, also while it runs."),
    "restore": ("kmel_p2p.cli.backup:restore", "Put the state of this site back from a backup."),
    "audit": ("kmel_p2p.cli.audit:audit", "Say what this site's entries show of its compounds."),
    "trunk": ("kmel_p2p.cli.trunk:trunk", "Check trunks that come as packages, and draft with them."),
    "privacy": ("kmel_p2p.cli.privacy:privacy", "Plan differential privacy of single compounds."),
    "ledger": ("kmel_p2p.cli.ledger:ledger", "Read and verify the entries this site keeps."),
    "egress": ("kmel_p2p.cli.egress:egress", "Read and verify the record of what left this site."),
    "data": ("kmel_p2p.cli.data:data", "Check this site's measurements, and approve them."),
    "evaluate": ("kmel_p2p.cli.evaluate:evaluate", "Compare the models on this site's test fold, with intervals."),
    "export": ("kmel_p2p.cli.predict:export", "Copy the model for use elsewhere, also as ONNX."),
    "models": ("kmel_p2p.cli.models:models", "List, compare and choose versions of this site's models."),
    "predict": ("kmel_p2p.cli.predict:predict", "Predict assay endpoints for structures, offline."),
    "prospective": ("kmel_p2p.cli.prospective:prospective", "Say whether predictions were right on what came since."),
    "serve": ("kmel_p2p.cli.serve:serve", "Show predictions and why in a browser, on this machine."),
    "standardise": ("kmel_p2p.cli.standardise:standardise", "Standardise structures, and say what was changed."),
    "completion": ("kmel_p2p.cli.completion:completion", "Have a shell complete commands and options."),
    "simulate": ("kmel_p2p.cli.simulate:simulate", "Run a federation of real peers on this machine."),
}
"""Command -> (where it is, one line for --help). The line is here so that --help imports nothing."""


class LazyGroup(click.Group):
    """Loads a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return translated(command)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click does it, but without loading every command for its line of help."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(say("Commands")):
            formatter.write_dl([(name, say(line)) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, "--version", prog_name="kmel-peer")
def cli() -> None:
    """Train one ADMET model with other sites, without a server.

    Exit codes: 0 done, 1 bug, 2 usage, 3 settings, 4 data, 5 not running, 6 not answering, 7 refused,
    8 a check failed, 9 a simulated site failed, 10 network and 11 machine (doctor), 130 interrupted.
    """


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    speak()
    translated(cli)
    with plain_streams():
        return _invoke(arguments)


def _invoke(arguments: Sequence[str]) -> int:
    try:
        code = cli.main(args=list(arguments), prog_name="kmel-peer", standalone_mode=False)
    except click.ClickException as error:
        # What click says itself is translated already; ours is not, and click declares it final.
        vars(error)["message"] = told(error.message)
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt) as error:
        return report(KeyboardInterrupt(*error.args))
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        return report(KeyboardInterrupt() if _interrupted(error) else error)
    return int(code) if isinstance(code, int) else ExitCode.OK


def _interrupted(error: BaseException) -> bool:
    """Whether a library made this error of an interrupt: pydantic has only its text left, Python 3.11 has it as cause
    of the error of a class that was being made.
    """
    chain, waiting = {id(error)}, [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, KeyboardInterrupt) or (
            exit_code_of(one) is ExitCode.BUG and KeyboardInterrupt.__name__ in str(one)
        ):
            return True
        # An error that is raised again from what it was wrapped in comes before itself.
        before = [each for each in (one.__cause__, one.__context__) if each is not None and id(each) not in chain]
        chain |= set(map(id, before))
        waiting += before
    return False


def main() -> None:
    """Console script."""
    sys.exit(invoke(sys.argv[1:]))


if __name__ == "__main__":
    main()
