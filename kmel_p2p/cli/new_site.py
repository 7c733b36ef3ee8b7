"""A site that is being set up by `kmel-peer invite` or `join`: its key, name, addresses and settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.options import DIRECTORY, FILE
from kmel_p2p.cli.projects import free_port, ports_beside

if TYPE_CHECKING:
    from kmel_p2p.agreement.endpoint import AssayEndpoint
    from kmel_p2p.agreement.identity import Identity
    from kmel_p2p.site.config import SiteConfig

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_PORT = 7700

NO_ANSWER = (
    "a question needs an answer, and there is nobody to give it: name all options (kmel-peer invite --help, "
    "kmel-peer join --help), and --yes for what has to be agreed to"
)


def new_site_options(command: F) -> F:
    """The options of a site that is being set up; whatever is missing is asked."""
    for option in (
        click.option("--yes", is_flag=True, help="Agree to what would be asked; needed where nobody can answer."),
        click.option("--smiles-column", help="Column of --data that holds the structures."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="ENDPOINT=COLUMN[:UNIT]",
            help="Column of --data that holds an assay endpoint, and its unit; repeat.",
        ),
        click.option(
            "--data", "data_file", type=FILE, help="Table with this site's measurements (CSV, Parquet, xlsx)."
        ),
        click.option("--bind", help="Where this site listens, if not on the port of --address."),
        click.option(
            "--address",
            "addresses",
            multiple=True,
            metavar="tcp://HOST:PORT",
            help="How the other sites reach this one; repeat. None: this site only dials out.",
        ),
        click.option(
            "--proxy",
            default="",
            metavar="socks5://HOST:PORT",
            help="SOCKS5 proxy through which this site dials the others.",
        ),
        click.option("--name", help="Name of this site: lower case, digits, - and _."),
        click.option("--directory", "-d", type=DIRECTORY, default=Path(), help="Of this site's files; default: here."),
    ):
        command = option(command)
    return command


@dataclass
class NewSite:
    """Options as given, and what is on disk already, which is never overwritten."""

    directory: Path
    name: str
    addresses: tuple[str, ...]
    bind: str
    data_file: Path | None
    columns: tuple[str, ...]
    smiles_column: str
    yes: bool
    config: SiteConfig | None
    """Settings that were there before."""
    proxy: str = ""
    """SOCKS5 proxy through which it dials; empty: none."""

    @property
    def proxy_address(self) -> str:
        """host:port of the proxy."""
        from kmel_p2p.site.config import proxy_address

        return proxy_address(self.proxy)

    @classmethod
    def opened(
        cls,
        directory: Path,
        name: str | None,
        addresses: tuple[str, ...],
        bind: str | None,
        data_file: Path | None,
        columns: tuple[str, ...],
        smiles_column: str | None,
        yes: bool,
        must_listen: bool,
        proxy: str = "",
    ) -> NewSite:
        """Read what is there, and ask for what is missing.

        Raises:
            ConfigError, UsageError: something of it is not possible.
        """
        from kmel_p2p.cli.init import site_template
        from kmel_p2p.net.address import check_advertised
        from kmel_p2p.site.config import load_config, parse_config

        settings = directory / "site.toml"
        config = load_config(settings) if settings.exists() else None
        if config is not None:
            if name is not None and name != config.site.name:
                raise click.UsageError(f"{settings} says that this site is {config.site.name!r}, not {name!r}")
            name = config.site.name
            addresses = addresses or config.network.advertise
            proxy = proxy or config.network.proxy
            bind = bind or ("" if config.network.outbound_only else config.network.bind)
        if name is None:
            name = answer(say("Name of this site (lower case, digits, - and _)"))
        parse_config(site_template(name, proxy=proxy), Path("command line"))
        taken = ports_beside(directory)
        free = free_port(taken, DEFAULT_PORT)
        only_dials = config is not None and config.network.outbound_only
        if not addresses and not only_dials:
            addresses = _asked_addresses(must_listen, yes, free)
        checked = tuple(str(check_advertised(address, roster_is_remote=False)) for address in addresses)
        bind = bind or _bound(checked, free)
        if checked:
            _note_port(bind.rpartition(":")[2], taken, free)
        return cls(
            directory=directory,
            name=name,
            addresses=checked,
            bind=bind,
            data_file=data_file,
            columns=columns,
            smiles_column=smiles_column or "smiles",
            yes=yes,
            config=config,
            proxy=proxy,
        )

    @property
    def settings(self) -> Path:
        """Where the settings are, or will be."""
        return self.directory / "site.toml"

    @property
    def state_dir(self) -> Path:
        """Of this site."""
        return self.config.site.state_dir if self.config else (self.directory / "state").absolute()

    @property
    def charter_path(self) -> Path:
        """Where the charter is, or will be."""
        return self.config.site.charter if self.config else (self.directory / "charter.toml").absolute()

    def require_data(self) -> None:
        """Look early whether the table and the columns that were named are there.

        Raises:
            ConfigError, DataError, UsageError: they are not.
        """
        from kmel_p2p.agreement.errors import ConfigError
        from kmel_p2p.cli.columns_asked import require_columns

        if self.data_file is None:
            return
        if not self.data_file.exists():
            raise ConfigError(f"{self.data_file}: no such file; name the table with this site's measurements")
        named = [text.partition("=")[2].partition(":")[0] for text in self.columns]
        if self.columns:
            require_columns(self.data_file, [self.smiles_column, *filter(None, named)])

    def identity(self) -> Identity:
        """The key that is there, or a new one.

        Raises:
            ConfigError: it cannot be read or written.
        """
        from kmel_p2p.agreement.errors import ConfigError
        from kmel_p2p.cli.init import site_template
        from kmel_p2p.site.config import parse_config
        from kmel_p2p.site.keys import create_key, load_key

        path = self.config.site.key_file if self.config else self.directory / "site.key"
        if path.exists() or self.config is not None:
            return load_key(path)
        parse_config(site_template(self.name), Path("command line"))
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.directory}: cannot create this directory: {error.strerror}") from error
        identity = create_key(path)
        click.echo(say("Wrote {path}: this site's identity. Keep it secret, and keep a copy.").format(path=path))
        return identity

    def confirm(self, question: str) -> bool:
        """Whether people agree."""
        if self.yes:
            click.echo(f"{question} {say('yes')} (--yes)")
            return True
        return agreed(question)

    def write_settings(self, endpoints: Sequence[AssayEndpoint], amendments: Sequence[Path] = ()) -> None:
        """Write `site.toml`, unless it is there: then say what in it does not fit.

        Raises:
            ConfigError, DataError, UsageError: the data cannot be read, or a value is not possible.
        """
        from kmel_p2p.cli.columns_asked import (
            asked_columns,
            given_columns,
            placeholder_columns,
            require_columns,
            unmapped,
        )
        from kmel_p2p.cli.init import site_template
        from kmel_p2p.files import write_new
        from kmel_p2p.site.config import parse_config

        if self.config is not None:
            if problem := unmapped(self.config.data.columns, endpoints):
                tell(f"Edit {self.settings} before the first run: {problem}")
            known = set(self.config.site.amendments)
            if missing := [str(path) for path in amendments if path.absolute() not in known]:
                tell(f"Add to [site] in {self.settings}: amendments = {missing}")
            return
        columns, smiles = given_columns(self.columns, endpoints), self.smiles_column
        path = self.data_file
        if path is None and not self.yes and not columns:
            given = answer(say("Table with this site's measurements (CSV, Parquet, xlsx; empty: later)"), "")
            path = Path(given) if given else None
        if path is not None and columns:
            require_columns(path, [smiles, *(column for column, _ in columns.values())])
        elif path is not None:
            smiles, columns = asked_columns(path, endpoints, lambda question, hint: answer(question, hint))
        text = site_template(
            self.name,
            bind=self.bind,
            advertise=self.addresses,
            outbound_only=not self.addresses,
            proxy=self.proxy,
            amendments=[_beside(path, self.directory) for path in amendments],
            path=_beside(path, self.directory) if path else "measurements.csv",
            smiles_column=smiles,
            columns=columns or placeholder_columns(endpoints),
        )
        parse_config(text, self.settings)
        write_new(self.settings, text.encode(), 0o644)
        click.echo(say("Wrote {path}.").format(path=self.settings))
        if path is None or not columns:
            click.echo(
                say("Edit [data] in it before the first run: file, columns and units; docs/data.md shows each form.")
            )


def answer(question: str, default: str | None = None) -> str:
    """What somebody at the terminal answers.

    Raises:
        UsageError: nobody is there.
    """
    _require_stdin()
    try:
        return str(click.prompt(question, default=default, show_default=bool(default)))
    except click.Abort:
        raise _nobody() from None


def agreed(question: str) -> bool:
    """Whether somebody at the terminal agrees.

    Raises:
        UsageError: nobody is there.
    """
    _require_stdin()
    try:
        return click.confirm(question, default=False)
    except click.Abort:
        raise _nobody() from None


def _require_stdin() -> None:
    """Python has none where the shell closed it (0<&-)."""
    import sys

    if sys.stdin is None:
        raise click.UsageError(NO_ANSWER)


def _nobody() -> Exception:
    """Ctrl-C at a terminal stays what it is; the end of the input means that nobody answers."""
    import sys

    click.echo()  # the question stands there, and the error begins a line
    return click.Abort() if sys.stdin.isatty() else click.UsageError(NO_ANSWER)


def _asked_addresses(must_listen: bool, yes: bool, port: int) -> tuple[str, ...]:
    if yes:
        if must_listen:
            raise click.UsageError("--address is missing: the sites that are invited have to reach this one")
        return ()
    question = say("Address at which the others reach this site, such as tcp://peer.example.org:{port}").format(
        port=port
    )
    nothing = "" if must_listen else say("; empty: none, this site only dials out")
    given = answer(question + nothing, "")
    if not given and must_listen:
        raise click.UsageError("without an address nobody can join here: let a site with an open port invite")
    return (given,) if given else ()


def _note_port(port: str, taken: Mapping[str, Path], free: int) -> None:
    """Say so where another project of this machine listens at the same port; its folder may be that of another one."""
    if (other := taken.get(port)) is not None:
        note = say("{other} has port {port}, too: on one machine each project needs a port of its own, such as {free}.")
        click.echo(note.format(other=other, port=port, free=free), err=True)


def _bound(addresses: Sequence[str], free: int) -> str:
    """Every interface at the port of the first address, or a free one; those of IPv6, too, where one is of these."""
    port = addresses[0].rpartition(":")[2] if addresses else str(free)
    host = "*" if any("[" in address for address in addresses) else "0.0.0.0"
    return f"tcp://{host}:{port}"


def _beside(path: Path, directory: Path) -> str:
    """A path as settings in `directory` write it: relative within it, else absolute."""
    whole, folder = Path(os.path.abspath(path)), Path(os.path.abspath(directory))
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)
