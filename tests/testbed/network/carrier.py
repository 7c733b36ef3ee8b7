"""How a message travels inside the simulator: as real bytes, or as an object with a known size (faster)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from kmel_p2p.core.effects import Message
from kmel_p2p.core.wire import Wire


class Carrier(Protocol):
    """Turns a message into what is queued, and back."""

    def pack(self, message: Message) -> Any: ...
    def size(self, packed: Any) -> int: ...
    def unpack(self, packed: Any) -> Message:
        """Raises WireError when the bytes were damaged or made up."""
        ...


class BytesCarrier:
    """Every message is encoded and decoded by the protocol's own wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def pack(self, message: Message) -> bytes:
        return message.data if isinstance(message, RawBytes) else self._wire.encode(message)

    def size(self, packed: bytes) -> int:
        return len(packed)

    def unpack(self, packed: bytes) -> Message:
        return self._wire.decode(packed)


class ObjectCarrier:
    """Messages are immutable, so handing over the object is the same as copying it."""

    def __init__(self, size_of: Callable[[Message], int]) -> None:
        self._size_of = size_of

    def pack(self, message: Message) -> Message:
        return message

    def size(self, packed: Message) -> int:
        return self._size_of(packed)

    def unpack(self, packed: Message) -> Message:
        return packed


class RawBytes(Message):
    """Bytes that a hostile host sends as they are. Only `BytesCarrier` can carry them."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data
