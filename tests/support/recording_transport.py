"""A transport that only notes what it is asked."""

from __future__ import annotations

from typing import Any

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Lane


class RecordingTransport:
    """Notes what it is asked; `accepts` says whether sends succeed."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.accepts = True

    def send(self, to: SiteKey, data: bytes, lane: Lane, *, label: str = "", digest: bytes | None = None) -> bool:
        self.calls.append(("send", to, data, lane, label))
        return self.accepts

    def dial(self, to: SiteKey, addresses: tuple[str, ...]) -> None:
        self.calls.append(("dial", to, addresses))

    def hangup(self, to: SiteKey, reason: str) -> None:
        self.calls.append(("hangup", to, reason))
