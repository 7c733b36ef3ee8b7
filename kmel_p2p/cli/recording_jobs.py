"""What `kmel-peer serve` computes where the settings of the site say that predictions are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.cli.language import tell
from kmel_p2p.cli.registering import Registering, open_register, see_measured
from kmel_p2p.learn.predict.values import Prediction
from kmel_p2p.serve.jobs import ModelJobs
from kmel_p2p.site.config import load_config


class RecordingJobs(ModelJobs):
    """The jobs of `kmel-peer serve` with a register: what they answer is recorded, whoever asked.

    What was measured is looked at when they begin. What cannot be recorded is told on standard error, once.
    """

    def __init__(self, folder: Path, config_path: Path) -> None:
        """Raises:
        ConfigError: the models cannot be loaded, or the register or the measurements cannot be read.
        """
        super().__init__(folder)
        config = load_config(config_path)
        register = open_register(config)
        try:
            see_measured(register, config, quiet=True)
        except (ConfigError, DataError) as error:
            raise ConfigError(f"[predictions] record needs the measurements of this site: {error}") from None
        self._registering: Registering | None = Registering(register, self.model)

    def about(self) -> dict[str, Any]:
        return super().about() | {"recorded": True}

    def predictions(self, smiles: Sequence[str], level: float) -> list[Prediction]:
        found = super().predictions(smiles, level)
        if self._registering is not None:
            self._registering.take(found, level)
            try:
                self._registering.require_kept()
            except ConfigError as error:
                tell(f"Warning: {error}. Start again when that is mended", err=True)
                self._registering = None
        return found
