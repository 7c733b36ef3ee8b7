"""A hash over everything that happened, and the last lines of it for people."""

from __future__ import annotations

import hashlib
import struct
from collections import deque

from kmel_p2p.core.types import Micros

KEPT_LINES = 50
_PACK = struct.Struct("<qhiiq").pack
_BATCH = 512


class Trace:
    """Two runs with equal hashes took the same steps at the same times."""

    __slots__ = ("_hash", "_lines", "_pending", "steps")

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending: list[bytes] = []
        self._lines: deque[tuple[Micros, str, int, int, int]] = deque(maxlen=KEPT_LINES)
        self.steps = 0

    def note(self, now: Micros, kind: int, who: int, other: int, size: int, word: str) -> None:
        """Record one step: its kind, the host, the other host (or -1) and a size or value."""
        self.steps += 1
        self._pending.append(_PACK(now, kind, who, other, size))
        self._lines.append((now, word, who, other, size))
        if len(self._pending) >= _BATCH:
            self._flush()

    def note_bytes(self, data: bytes) -> None:
        """Record content, where the carrier has it as bytes."""
        self._pending.append(data)

    def _flush(self) -> None:
        self._hash.update(b"".join(self._pending))
        self._pending.clear()

    @property
    def hash(self) -> str:
        """32 hex digits."""
        self._flush()
        return self._hash.hexdigest()

    def lines(self) -> list[str]:
        """The newest steps, oldest first."""
        return [
            f"{now / 1e6:14.6f}  host {who:<4} {word:<14} {'' if other < 0 else f'host {other}':<9} {size}"
            for now, word, who, other, size in self._lines
        ]
