"""Records what `kmel-peer predict` and `serve` answer, where the settings ask for it (`[predictions] record`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.cli.language import tell

if TYPE_CHECKING:
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.values import Prediction
    from kmel_p2p.learn.register.register import Register
    from kmel_p2p.site.config import SiteConfig


class Registering:
    """A register that is being added to.

    A register that cannot be written costs nobody the predictions: they are made all the same, and `tell` raises.
    """

    def __init__(self, register: Register, loaded: Model) -> None:
        from kmel_p2p.learn.register.recording import medians_of
        from kmel_p2p.learn.register.register import Recorded

        self._register, self._loaded = register, loaded
        self._medians = medians_of(loaded)
        self._kept = Recorded()
        self._problem: ConfigError | None = None

    def take(self, predictions: Sequence[Prediction], level: float) -> None:
        """Record a block.

        Args:
            level: of its intervals and classes.
        """
        from kmel_p2p.learn.register.recording import registered

        if self._problem is not None:
            return
        card = self._loaded.card
        rows = registered(predictions, card.features, card.version, self._medians, level, int(time.time()))
        try:
            self._kept += self._register.keep(rows)
        except ConfigError as error:
            self._problem = error

    def tell(self) -> None:
        """Say what was recorded.

        Raises:
            ConfigError: as `require_kept`.
        """
        kept = self._kept
        if kept.new or kept.again or kept.left_out:
            again = f", {kept.again} were there already" if kept.again else ""
            tell(f"{kept.new} predictions recorded in the register{again}", err=True)
        self.require_kept()

    def require_kept(self) -> None:
        """Raises:
        ConfigError: not everything was recorded; the predictions themselves are whole.
        """
        if self._problem is not None:
            raise ConfigError(f"all rows were predicted, but not all are in the register: {self._problem}")
        if self._kept.left_out:
            raise ConfigError(
                f"all rows were predicted, but {self._kept.left_out} predictions are not in the register, which is "
                "full: raise [predictions] most, or delete old ones with kmel-peer prospective --forget-before"
            )


@contextlib.contextmanager
def registering(config: SiteConfig, loaded: Model) -> Iterator[Registering | None]:
    """For the models of this site; None where nothing is to be recorded. Tells at the end what was.

    Raises:
        ConfigError: at the end, after everything was predicted: not all of it is in the register.
    """
    if not config.predictions.record:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            register = stack.enter_context(open_register(config))
            see_measured(register, config, quiet=True)
        except (ConfigError, DataError) as error:
            problem = error
        else:
            one = Registering(register, loaded)
            yield one
            one.tell()
            return
    yield None
    # Without knowing what is measured already, nothing could be recorded as predicted ahead of it.
    raise ConfigError(f"all rows were predicted, but nothing was recorded in the register: {problem}")


def open_register(config: SiteConfig) -> Register:
    """The register of a site; made if it is missing."""
    from kmel_p2p.learn.register.register import FILE, Register

    return Register(config.site.state_dir / FILE, config.predictions.most)


def see_measured(register: Register, config: SiteConfig, *, quiet: bool) -> None:
    """Note what the site has measured by now, unless its files are as they were the last time.

    Raises:
        ConfigError, DataError: they cannot be read.
    """
    from kmel_p2p.cli.data import read_measurements
    from kmel_p2p.learn.register.recording import measured_by

    files = files_now(config)
    if register.seen == files:
        return
    _, own, test = read_measurements(config, quiet, retired=True)
    register.see(measured_by([own, *([test] if test else [])]), files)


def files_now(config: SiteConfig) -> dict[str, Any]:
    """What measurements depend on, ready for JSON: settings, charter, and each file's size and time of change."""
    from kmel_p2p.chem.dataset.manifest import files_of

    sources = [config.data, *([config.data.test_source] if config.data.test_source else [])]
    paths = {path for source in sources for path in files_of(source)} | {config.site.charter}
    return {"data": config.data.model_dump(mode="json"), "files": {str(path): _stamp(path) for path in sorted(paths)}}


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return [found.st_size, found.st_mtime_ns, found.st_ino]
