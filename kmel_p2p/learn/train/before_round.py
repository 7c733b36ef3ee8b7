"""What a round that is abandoned goes back to, without a copy of the residual and the moments where a file has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.learn.tensor_file import read_into, read_piece
from kmel_p2p.learn.train.balance import Sums
from kmel_p2p.learn.train.optimise import LocalOptimiser, OptimiserState

MOMENTS = "first_moment", "second_moment"
"""Their names in a round file."""


@dataclass(slots=True)
class BeforeRound:
    """State before a round.

    Attributes:
        round: its number.
        drift, private: as they were.
        steps, fresh_at: of the optimiser.
        file: the round file that has residual and moments; None: `residual` and `moments` are copies, or None where
            all of them are zero.
        payload: what the round made.
    """

    round: int
    drift: Sums
    private: NDArray[np.float32]
    steps: int
    fresh_at: int
    file: Path | None
    residual: NDArray[np.float32] | None = None
    moments: OptimiserState | None = None
    payload: bytes = b""

    @classmethod
    def of(
        cls,
        number: int,
        file: Path | None,
        residual: NDArray[np.float32],
        drift: Sums,
        private: NDArray[np.float32],
        optimiser: LocalOptimiser,
    ) -> BeforeRound:
        """The state now.

        Args:
            number: of the round.
            file: what has residual and moments, if anything; it is looked for once more.
        """
        before = cls(number, drift.copy(), private, optimiser.steps, optimiser.fresh_at, file)
        if file is None or not file.exists():
            before.file = None
            before.residual = residual.copy() if residual.any() else None
            before.moments = optimiser.state() if optimiser.steps != optimiser.fresh_at else None
        return before

    def put_back(self, residual: NDArray[np.float32], optimiser: LocalOptimiser) -> None:
        """Write the residual back in place, and have the optimiser go on from before.

        Raises:
            ConfigError: the file is gone or damaged; the trainer has to start anew.
            LocalError: the residual is of another size.
        """
        if self.file is not None:
            read_into(self.file, "residual", residual)
        elif self.residual is None:
            residual[:] = 0.0
        elif len(self.residual) != len(residual):
            raise LocalError(f"a residual of {len(self.residual)} values for one of {len(residual)}")
        else:
            residual[:] = self.residual
        if self.moments is not None:
            optimiser.restore(self.moments)
        else:
            optimiser.go_on(self._read, self.steps, self.fresh_at)

    def _read(self, piece: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert self.file is not None, "moments that are all zero are not read"
        return read_moments(self.file, piece)


def read_moments(path: Path, piece: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A piece of both moments in a round file.

    Raises:
        ConfigError: it is gone or damaged.
    """
    first, second = (read_piece(path, name, piece) for name in MOMENTS)
    return first, second
