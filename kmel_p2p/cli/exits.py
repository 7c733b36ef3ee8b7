"""Exit codes of `kmel-peer`, and which error gets which.

0  done                               5  no daemon runs on this state directory
1  a bug in this program              6  the daemon runs but does not answer (yet)
2  wrong usage of the command line    7  the daemon refused the request
3  a file or setting is wrong         8  a check failed (signatures, chain, bounds)
4  measurements cannot be used        9  a simulated site failed
10 doctor: something of the network  11 doctor: something of this machine
130  interrupted
"""

from __future__ import annotations

import enum
import traceback

import click

from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError, LocalError
from kmel_p2p.cli.language import say, told


class ExitCode(enum.IntEnum):
    """See the module docstring."""

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    DATA = 4
    NOT_RUNNING = 5
    NOT_ANSWERING = 6
    REFUSED = 7
    DOES_NOT_HOLD = 8
    SITE_FAILED = 9
    NETWORK = 10
    MACHINE = 11
    INTERRUPTED = 130


class DoesNotHoldError(KmelError):
    """A check was made and failed."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The code for an error."""
    # Imported here: the control client loads ZeroMQ, which most commands do not need.
    from kmel_p2p.simulate import SiteFailedError
    from kmel_p2p.site.control.client import NotAnsweringError, NotRunningError, RefusedError

    by_kind = {"config": ExitCode.CONFIG, "data": ExitCode.DATA, "bug": ExitCode.BUG}
    if isinstance(error, RefusedError):
        return by_kind.get(error.kind, ExitCode.REFUSED)
    for kind, code in (
        (NotRunningError, ExitCode.NOT_RUNNING),
        (NotAnsweringError, ExitCode.NOT_ANSWERING),
        (ConfigError, ExitCode.CONFIG),
        (DataError, ExitCode.DATA),
        (DoesNotHoldError, ExitCode.DOES_NOT_HOLD),
        (SiteFailedError, ExitCode.SITE_FAILED),
        (LocalError, ExitCode.REFUSED),
        (KeyboardInterrupt, ExitCode.INTERRUPTED),
    ):
        if isinstance(error, kind):
            return code
    return ExitCode.BUG


def report(error: BaseException) -> ExitCode:
    """Print what went wrong on standard error; returns the exit code."""
    code = exit_code_of(error)
    if code is ExitCode.BUG:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
        click.echo(say("kmel-peer: this is a bug; please report it with the lines above"), err=True)
    elif code is ExitCode.INTERRUPTED:
        click.echo(say("kmel-peer: interrupted"), err=True)
    else:
        for line in str(error).splitlines():
            click.echo(f"kmel-peer: {told(line)}", err=True)
    return code
