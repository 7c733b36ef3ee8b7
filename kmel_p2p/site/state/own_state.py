"""The trainer's state beside the own entries: does it belong to the newest one, and do the books balance?

Reads what a stopped peer left, or what a running one has at the moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.learn.train.balance import Sums, sums, sums_of
from kmel_p2p.site.modes.stored_ledger import codec_of
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.set_aside import EPOCH
from kmel_p2p.site.state.store import Store, StoredEntry

TRAINER_DIRECTORY = "trainer"

GAP_SHARE = 1e-3
"""Largest gap that float32 rounding explains, relative to the drift of a mean round; losing one round gives about 1."""


@dataclass(frozen=True, slots=True)
class OwnState:
    """What the round file says, and how it fits the own entries.

    Attributes:
        round: own entry that the file was stored with.
        first: first own entry that its sums count; 1 unless the site lost its trainer's files.
        steps: optimiser steps over all own entries.
        residual_norm: L2 norm of what is not published yet.
        gap: largest difference between published plus residual and the sum of the drifts, as a share of the drift of a
            mean round; None where entries needed for it are no longer kept, or the log went on in another epoch.
        file: the round file.
    """

    round: int
    first: int
    steps: int
    residual_norm: float
    gap: float | None
    file: Path

    @property
    def problem(self) -> str:
        """What does not fit, in words; empty when all does."""
        if self.gap is not None and not self.gap <= GAP_SHARE:
            return (
                f"{self.file}: published entries and residual do not add up to what was trained (the gap is "
                f"{self.gap:.2g} of a round's drift): it is not the file that was stored with entry {self.round}"
            )
        return ""


def own_entries(site: Site, store: Store) -> dict[int, Entry]:
    """Own entries still kept, by number.

    Raises:
        ConfigError: one does not decode.
    """
    return {
        stored.number: _decoded(store, stored) for stored in store.load_entries() if stored.author == site.identity.key
    }


def own_state(site: Site, store: Store, entries: Mapping[int, Entry]) -> OwnState | None:
    """State stored with the newest own entry; None before the first.

    Args:
        entries: own entries by number, for the balance.

    Raises:
        ConfigError: the file is missing, damaged, or of another round.
    """
    while True:
        name = store.own_state_file(site.identity.key)
        if name is None:
            return None
        try:
            # Numbers mean other entries once the log went on in another epoch.
            known = {} if store.blobs(f"{EPOCH}{site.identity.key.hex()} ") else entries
            return _read(site, site.config.site.state_dir / TRAINER_DIRECTORY / name, known)
        except ConfigError:
            # Beside a running peer the file may be replaced between the two looks.
            if name == store.own_state_file(site.identity.key):
                raise


def _read(site: Site, path: Path, entries: Mapping[int, Entry]) -> OwnState:
    try:
        with safe_open(path, framework="np") as handle:
            facts = parse_json((handle.metadata() or {})["facts"])
            residual = np.asarray(handle.get_tensor("residual"), np.float32)
        number, steps = int(facts["round"]), int(facts["steps"])
        first = int(facts["first"])
        drift = np.array(facts["drift"], np.float64)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: the trainer's state that was stored with the newest own entry cannot be read: {error}. Restore "
            "it from a backup made together with the store; without it, what was not published yet is lost"
        ) from error
    counted = range(first, number + 1)
    gap = None
    if all(number in entries for number in counted):
        gap = _gap(site, [entries[number] for number in counted], residual, drift)
    return OwnState(number, first, steps, float(np.linalg.norm(residual)), gap, path)


def _gap(site: Site, entries: list[Entry], residual: np.ndarray, drift: Sums) -> float:
    accounted = sums(residual)
    magnitude = 0.0
    for entry in entries:
        part = sums_of(codec_of(site).decode(entry.payload))
        accounted += part
        magnitude += float(np.abs(part).max())
    difference = float(np.abs(accounted - drift).max())
    if difference == 0.0:
        return 0.0
    return difference * len(entries) / magnitude if magnitude else math.inf


def _decoded(store: Store, stored: StoredEntry) -> Entry:
    try:
        return decode(stored.encoded)
    except WireError as error:
        raise ConfigError(f"{store.path}: own entry {stored.number} does not decode: {error}") from error
