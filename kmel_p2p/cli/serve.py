"""`kmel-peer serve`: the models of this site in a browser, on this machine."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import DIRECTORY, FILE, config_option, model_folder

if TYPE_CHECKING:
    from kmel_p2p.net.address import Address

PACKAGES = ("fastapi", "python_multipart", "uvicorn")
"""Of the extra `serve`."""

MAX_CONNECTIONS = 64
GRACE_S = 3


@click.command()
@click.option("--listen", default="127.0.0.1:8410", show_default=True, help="Address and port; port 0 takes any.")
@click.option("--allow-remote", is_flag=True, help="Listen beyond this machine, with --token-file; not encrypted.")
@click.option("--token-file", type=FILE, help="File with the token that every request must carry.")
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@config_option
def serve(listen: str, allow_remote: bool, token_file: Path | None, model_dir: Path | None, config_path: Path) -> None:
    """Serve a page with predictions, and why, to browsers on this machine; /openapi.json describes it for programs.

    Paste SMILES or upload a table. Nothing is loaded from elsewhere, and nothing that is entered is kept, but values of
    this site's own models are recorded where its settings say so ([predictions] record). Needs the extra `serve`. The
    models are those of the directory when the server starts.

    Whoever reaches the page sees own compounds with measured values. Beyond this machine it is served only with
    --allow-remote and a token, and without encryption: put it behind a proxy with TLS, or use an SSH tunnel instead.
    """
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.web.local_pages import read_token

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"kmel-peer serve needs {', '.join(missing)}: pip install 'kmel-p2p[serve]'")
    address = _address(listen)
    token = read_token(token_file)
    if not address.loopback and not (allow_remote and token):
        raise ConfigError(
            f"--listen {listen} is reached from other machines: give --allow-remote and --token-file, or listen on "
            "127.0.0.1 and use an SSH tunnel"
        )
    folder = model_folder(model_dir, config_path)
    with _socket(address, listen) as bound:
        try:
            asyncio.run(_serve(bound, folder, token, _jobs(model_dir, config_path)))
        except KeyboardInterrupt:
            tell("Ended.", err=True)


def _jobs(model_dir: Path | None, config_path: Path) -> Callable[[Path], Any]:
    """Makes the jobs in their process; recording ones for this site's own models, where its settings say so."""
    from kmel_p2p.serve.worker import load_jobs
    from kmel_p2p.site.config import load_config

    if model_dir is not None or not load_config(config_path).predictions.record:
        return load_jobs
    return functools.partial(_recording_jobs, config_path=config_path)


def _recording_jobs(folder: Path, config_path: Path) -> Any:
    from kmel_p2p.cli.recording_jobs import RecordingJobs

    return RecordingJobs(folder, config_path)


async def _serve(bound: socket.socket, folder: Path, token: str, make: Callable[[Path], Any]) -> None:
    import uvicorn

    from kmel_p2p.serve.app import application
    from kmel_p2p.serve.worker import ModelWorker

    tell(f"Loading {folder} ...", err=True)
    async with application(ModelWorker(folder, make), token) as app:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        tell(f"Serving at http://{shown}:{port}/ until Ctrl-C{', with the token' if token else ''}.", err=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S,
        )
        await uvicorn.Server(config).serve(sockets=[bound])


def _address(listen: str) -> Address:
    from kmel_p2p.agreement.errors import ConfigError, LocalError
    from kmel_p2p.net.address import parse_address

    try:
        return parse_address(listen, bindable=True)
    except LocalError:
        raise ConfigError(
            f"--listen {listen!r:.80} is no address with a port, such as 127.0.0.1:8410 or [::1]:8410"
        ) from None


def _socket(address: Address, listen: str) -> socket.socket:
    from kmel_p2p.agreement.errors import ConfigError

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"--listen {listen}: cannot listen there: {error.strerror or error}") from None
    return bound
