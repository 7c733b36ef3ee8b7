"""Real peers on this machine: a directory, key, port and process per site. No process outlives the simulation."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kmel_p2p.agreement.charter import CharterDocument, SiteRule
from kmel_p2p.agreement.columns import Column
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, digest
from kmel_p2p.files import write_whole
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.site.config import DataSection, LogSection, NetworkSection, ResourcesSection, SiteConfig, SiteSection
from kmel_p2p.site.control.client import ControlClient
from kmel_p2p.site.observe.status import StatusDocument

STOP_GRACE_S = 12.0
"""A peer ends within 10 s of SIGTERM; after this it is killed."""

OUTPUT_NAME = "output.log"
DATA_NAME = "measurements.csv"
LAST_LINES = 15

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class SiteProcess:
    """One site of a simulation: its directory, and its daemon while it runs."""

    def __init__(self, name: str, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.folder = folder
        self.prefix = tuple(prefix)
        """Put before the daemon's command, for example to run it in a network namespace."""
        self.process: subprocess.Popen[bytes] | None = None
        self.state_dir = folder / "state"

    @property
    def running(self) -> bool:
        """Whether the daemon's process is alive."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the daemon; None before it starts and while it runs."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Start (or restart) the daemon, with its output in the site's directory.

        Raises:
            LocalError: it is already running.
        """
        if self.running:
            raise LocalError(f"site {self.name!r} is already running")
        program = [sys.executable, "-m", "kmel_p2p.cli.main", "run", "--config", str(self.folder / "site.toml")]
        command = [*self.prefix, *program]
        with (self.folder / OUTPUT_NAME).open("ab") as output:
            # A session of its own: Ctrl-C at the terminal reaches the simulation, which ends the sites in order.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon, if it is still alive."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether the daemon ended within the time."""
        if self.process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        return not self.running

    def request(self, name: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 1.0) -> Any:
        """One request on the control socket.

        Raises:
            NotRunningError, NotAnsweringError, RefusedError: as `ControlClient`.
        """
        with ControlClient(self.state_dir, timeout_s) as client:
            return client.request(name, arguments)

    def status(self, timeout_s: float = 1.0) -> StatusDocument | None:
        """The status document; None when there is no answer."""
        try:
            with ControlClient(self.state_dir, timeout_s) as client:
                return client.status()
        except LocalError:
            return None

    def last_lines(self, count: int = LAST_LINES) -> str:
        """The last lines of the daemon's output."""
        try:
            with (self.folder / OUTPUT_NAME).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return "(no output)"
        return "\n".join(lines[-count:]) or "(no output)"


class LocalFederation:
    """Sites whose files are written and whose charter all have signed. Leaving the context ends every daemon."""

    def __init__(self, sites: Sequence[SiteProcess], document: CharterDocument) -> None:
        self.sites = tuple(sites)
        self.document = document

    def __getitem__(self, name: str) -> SiteProcess:
        return next(site for site in self.sites if site.name == name)

    def __iter__(self) -> Iterator[SiteProcess]:
        return iter(self.sites)

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every daemon."""
        for site in self.sites:
            site.start()

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End every daemon: ask first, kill after the grace period."""
        for site in self.sites:
            if site.running:
                site.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        for site in self.sites:
            if not site.wait(max(0.0, deadline - time.monotonic())):
                site.signal(signal.SIGKILL)
                site.wait(5.0)


def create_federation(
    simulation: Simulation,
    out: Path,
    parts: Sequence[Path],
    test: Path | None,
    reference_hash: str,
    on_complete: str = "stay",
    addresses: Sequence[str] = (),
) -> LocalFederation:
    """Write every site's directory: key, settings, and the charter signed by all.

    Args:
        simulation: settings.
        out: directory of the run; sites go to `out/sites/<name>`.
        parts: measurements of each site, in order.
        test: measurements used for scoring only, the same at every site; None: the sites' own test folds are used.
        reference_hash: of what this machine's featuriser computes.
        on_complete: what a peer does after the run.
        addresses: of each site, in order; free ports of the loopback interface when empty.
    """
    names = simulation.sites.names
    identities = [simulated_identity(simulation.seed, name) for name in names]
    if not addresses:
        addresses = [f"tcp://127.0.0.1:{port}" for port in free_ports(len(names))]
    rules = tuple(
        SiteRule(name=name, key=identity.key.hex(), addresses=(address,))
        for name, identity, address in zip(names, identities, addresses, strict=True)
    )
    document = CharterDocument(charter=simulation.charter_of(rules, reference_hash))
    for identity in identities:
        document = document.signed_by(identity)
    sites = []
    for at, (name, address) in enumerate(zip(names, addresses, strict=True)):
        folder = out / "sites" / name
        folder.mkdir(parents=True)
        write_whole(folder / "site.key", simulated_seed(simulation.seed, name).hex().encode() + b"\n")
        write_whole(folder / "charter.toml", document.render().encode(), mode=0o644)
        shutil.copyfile(parts[at], folder / DATA_NAME)
        config = _site_config(simulation, at, address, _relative(test, folder) if test else None)
        config = config.model_copy(update={"ledger": config.ledger.model_copy(update={"on_complete": on_complete})})
        write_whole(folder / "site.toml", config.render().encode(), mode=0o644)
        sites.append(SiteProcess(name, folder.absolute()))
    return LocalFederation(sites, document)


def simulated_seed(seed: int, name: str) -> bytes:
    """Secret key of a simulated site, derived from the seed of the run so that it can be repeated. Protects nothing."""
    return digest(b"kmel simulated site 1", seed.to_bytes(8, "big"), name.encode())


def simulated_identity(seed: int, name: str) -> Identity:
    """The identity of a simulated site."""
    return Identity(simulated_seed(seed, name))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are free at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _site_config(simulation: Simulation, at: int, address: str, test: Path | None) -> SiteConfig:
    return SiteConfig(
        # The first site supplies the trunk that was trained before; the others fetch it from there by its hash.
        site=SiteSection(name=simulation.sites.names[at], start_file=None if at else simulation.sites.start_file),
        network=NetworkSection(bind=address, preset=simulation.sites.preset),
        data=DataSection(
            path=Path(DATA_NAME),
            test=test,
            test_in_rounds=True,
            smiles_column=simulation.data.smiles_column,
            columns={e.name: Column(column=e.column, unit=e.unit) for e in simulation.charter.assay_endpoints},
        ),
        resources=ResourcesSection(threads=simulation.sites.threads, featurise_processes=1),
        log=LogSection(),
    )


def _relative(path: Path, folder: Path) -> Path:
    """Relative, so that a run's directory can be moved."""
    return Path(os.path.relpath(path, folder))


def _end_with_parent() -> None:
    """In the child: get SIGTERM when the simulation's process ends, however it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
