"""The charter's `[split]`: folds by keyed scaffold hash, so that a compound falls into one fold at every site.

The idea is MELLODDY's (Simm et al., J Cheminform 2021, doi 10.1186/s13321-021-00576-2): the fold is a function of the
scaffold and a key that the charter fixes, never of what else a site holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated

import pydantic

from kmel_p2p.agreement.strict import StrictModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Fold(IntEnum):
    """What a compound is used for."""

    TRAIN = 0
    VALID = 1
    TEST = 2


class SplitRule(StrictModel):
    """Shares of scaffolds held out, and the key that shuffles them."""

    fold_key: Annotated[str, pydantic.Field(max_length=64)] = ""
    """Any text. Another key gives other folds; the sites of a federation share one."""
    valid_fraction: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.1
    """Of series, for choosing checkpoints and models, and for calibration."""
    test_fraction: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.2
    """Of series, for scoring only."""

    @pydantic.model_validator(mode="after")
    def _something_is_left(self) -> SplitRule:
        if not self.valid_fraction + self.test_fraction < 1:
            raise ValueError("valid_fraction and test_fraction leave nothing to train on")
        return self

    def fold(self, series: str) -> Fold:
        """Fold of every compound of this series (see `scaffold.series`)."""
        place = self.place(series)
        if place < self.test_fraction:
            return Fold.TEST
        if place < self.test_fraction + self.valid_fraction:
            return Fold.VALID
        return Fold.TRAIN

    def place(self, series: str) -> float:
        """Where a series stands between 0 and 1; the fractions held out begin at 0."""
        return self._place(series, b"kmel fold 1")

    def folds(self, series: Sequence[str]) -> NDArray[np.int8]:
        """`fold` of each, int8[n]."""
        import numpy as np  # here, so that commands that only read settings start without it

        known = {name: self.fold(name) for name in set(series)}
        return np.fromiter((known[name] for name in series), np.int8, len(series))

    def apart(self, series: Sequence[str]) -> NDArray[np.bool_]:
        """A half of all series, bool[n], unrelated to the folds: in the validation fold, those that calibrate."""
        import numpy as np

        known = {name: self._place(name, b"kmel apart 1") < 0.5 for name in set(series)}
        return np.fromiter((known[name] for name in series), np.bool_, len(series))

    def _place(self, series: str, purpose: bytes) -> float:
        """A number from 0 to 1 that only the key and the series decide."""
        key = self.fold_key.encode()
        if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
            key = hashlib.blake2b(key).digest()
        digest = hashlib.blake2b(series.encode(), digest_size=8, key=key, person=purpose).digest()
        return int.from_bytes(digest, "big") / 2**64
