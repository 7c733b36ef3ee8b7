"""One spelling per document: msgpack with sorted keys, and its decoding within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from kmel_p2p.agreement.errors import WireError

MAX_DEPTH = 6

MAX_TEXT_BYTES = 64 * 1024
"""Of one string in a message. A string takes up to four times its bytes in memory."""

MAX_CONTAINERS = 65_536
"""Lists and maps in one document: an empty list is one byte on the wire and 56 in memory."""

MAX_LENGTH = 16_384
"""Items of one list or map in a document, unless the caller knows better: four for each site of a charter."""


def canonical(value: Any) -> bytes:
    """msgpack with sorted keys, so that equal documents have equal bytes."""
    packed: bytes = msgpack.packb(_sorted(value), use_bin_type=True)
    return packed


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def plain(value: Any) -> Any:
    """Without tuples and other mappings than dict: what TOML and msgpack can write."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def unpack_bounded(
    data: bytes | memoryview, maximum: int, *, containers: int = MAX_CONTAINERS, length: int = MAX_LENGTH
) -> Any:
    """msgpack decoding that raises only `WireError` and stops where a bound is passed, before it takes the memory.

    Args:
        data: what to decode.
        maximum: bytes at most.
        containers: lists and maps at most.
        length: items of each at most.

    Raises:
        WireError: too large, too many containers, truncated, trailing bytes, too deep, or not msgpack.
    """
    if len(data) > maximum:
        raise WireError(f"{len(data)} bytes where at most {maximum} are allowed")
    left = containers

    def counted(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("too many lists and maps")
        return container

    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            use_list=True,
            list_hook=counted,
            object_hook=counted,
            max_array_len=length,
            max_map_len=length,
            max_ext_len=0,
        )
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise WireError(f"not msgpack: {type(error).__name__}") from None
    _check_depth(value, MAX_DEPTH)
    return value


def reader(data: bytes | memoryview) -> Any:
    """A `msgpack.Unpacker` over `data` whose `unpack` gives single values only.

    Containers are entered by `read_array_header`, which tells their length before anything of them is decoded. So who
    reads decides what memory is taken, whatever the bytes say.
    """
    unpacker = msgpack.Unpacker(
        raw=False,
        use_list=True,
        max_buffer_size=max(1, len(data)),
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
        max_str_len=MAX_TEXT_BYTES,
        max_bin_len=max(1, len(data)),
    )
    unpacker.feed(data)
    return unpacker


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, (list, dict)):
        if left == 0:
            raise WireError("nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
