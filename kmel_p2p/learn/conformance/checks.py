"""The conformance kit: looks at a trunk in two processes (`probe`) and says what of it a federation cannot use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule

APART = 1e-4
"""Most that the outputs of a row may change with its neighbours in a batch, relative to their spread: rounding."""

PATIENCE_S = 900.0
"""For one process. A trunk that takes longer for a dozen structures trains nowhere."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, whether it holds, and what was found."""

    name: str
    holds: bool
    found: str


@dataclass(frozen=True, slots=True)
class Conformance:
    """What the kit says of one trunk.

    Attributes:
        checks: in the order in which people read them.
        values: numbers that are trained and shared, without heads.
        train_us, predict_us: processor time per row on this machine, one thread.
        bytes_per_row: memory that a training pass keeps for each row.
        positions: what the first layer shows of fingerprints (`positions.Positions`); None: no tensor counts positions.
    """

    checks: tuple[Check, ...]
    values: int
    train_us: float
    predict_us: float
    bytes_per_row: float
    positions: dict[str, Any] | None

    @property
    def holds(self) -> bool:
        """Whether a federation can use the trunk."""
        return all(check.holds for check in self.checks)


def conformance(model: ModelRule, structures: Sequence[str], seed: int = 0) -> Conformance:
    """Look at the trunk of a `[model]` with a package.

    Args:
        structures: SMILES to try it on.
        seed: of the initial trunk.

    Raises:
        ConfigError: the module cannot be made or run at all.
    """
    return conformance_of(*(_look(model, structures, seed, noise) for noise in (1, 2)))


def conformance_of(one: dict[str, Any], other: dict[str, Any]) -> Conformance:
    """What two processes found, each a `probe.Probed` as a dictionary."""
    return Conformance(
        checks=tuple(_checks(one, other)),
        values=one["values"],
        train_us=round(min(one["train_us"], other["train_us"]), 1),
        predict_us=round(min(one["predict_us"], other["predict_us"]), 1),
        bytes_per_row=round(one["bytes_per_row"]),
        positions=one["positions"],
    )


def _checks(one: dict[str, Any], other: dict[str, Any]) -> list[Check]:
    found = []
    for what, digest in one["digests"].items():
        between = digest == other["digests"][what]
        within = digest == one["again"][what]
        where = "in two processes" if within else "twice in one process"
        text = f"{digest[:16]} every time" if between and within else f"not the same {where}: {_ADVICE[what]}"
        found.append(Check(f"{what}: the same bits everywhere", between and within, text))
    bad = one["not_finite"]
    found.append(Check("everything is finite", not bad, f"not finite: {', '.join(bad)}" if bad else "it is"))
    still = one["unmoved"]
    text = "every tensor has a gradient"
    if still:
        text = f"no gradient reaches {', '.join(still[:5])}{' ...' if still[5:] else ''}: freeze or remove them"
    found.append(Check("everything that is shared is trained", not still, text))
    apart = one["apart"]
    text = f"outputs differ by {apart:.1e} of their spread with other rows in the batch"
    if not apart <= APART:
        text += ": normalise over features and not over the batch (LayerNorm)"
    found.append(Check("a row does not depend on its neighbours", apart <= APART, text))
    return found


_ADVICE = {
    "layout": "names and shapes of parameters must follow from shape alone",
    "initial values": "give the same numbers in initial(name, shape)",
    "outputs": "predicting must not draw random numbers or depend on the order of a set",
    "gradient of a training pass": "draw random numbers from torch's generator alone, which is seeded",
    "frozen values and descriptions": "load frozen values from a file of the package, and describe molecules alike",
}


def _look(model: ModelRule, structures: Sequence[str], seed: int, noise: int) -> dict[str, Any]:
    task = {"model": model.model_dump(mode="json"), "structures": list(structures), "seed": seed, "noise": noise}
    command = [sys.executable, "-m", "kmel_p2p.learn.conformance.probe"]
    try:
        ended = subprocess.run(
            command,
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PYTHONHASHSEED": str(noise)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the trunk took more than {PATIENCE_S:g} s for {len(structures)} structures") from None
    last = ended.stdout.strip().splitlines()[-1:]
    if ended.returncode or not last:
        told = "\n".join(ended.stderr.strip().splitlines()[-5:])
        raise ConfigError(f"the process that tried the trunk ended with {ended.returncode}:\n{told}")
    found: dict[str, Any] = json.loads(last[0])
    if "error" in found:
        raise ConfigError(found["error"])
    return found


def plain(found: Conformance) -> dict[str, Any]:
    """For programs."""
    return {**asdict(found), "holds": found.holds}
