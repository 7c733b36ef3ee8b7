"""One spelling per document: msgpack with sorted keys, and its decoding within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from kmel_p2p.agreement.errors import WireError

MAX_DEPTH = 6


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


def unpack_bounded(data: bytes | memoryview, maximum: int) -> Any:
    """msgpack decoding that raises only `WireError`, bounded in size before and in depth after decoding.

    Raises:
        WireError: too large, truncated, trailing bytes, too deep, or not msgpack.
    """
    if len(data) > maximum:
        raise WireError(f"{len(data)} bytes where at most {maximum} are allowed")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
    except (msgpack.exceptions.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise WireError(f"not msgpack: {type(error).__name__}") from None
    _check_depth(value, MAX_DEPTH)
    return value


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, (list, dict)):
        if left == 0:
            raise WireError("nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
