"""Damaged inputs: bytes changed blindly, and formats changed by those who know them.

Blind changes find what a reader does about noise; most of them end at its first check. So the structure of a sample is
changed as well and written out again: a msgpack tree, the JSON head of a safetensors file, the words of a text.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""Generator, a sample, and all samples of the format."""

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    *(b"", b"0", b"-1", b"1e999", b"nan", b"inf", b"1_0", b"0x10", b"2026-02-30", b"true", b"null", b"[]", b"{}", b'"'),
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", "\u202e".encode(), "\ud7ff".encode(), b"\r", b"\n", b",", b";", b"\t", b"'"),
    *(b"9" * 400, b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"a" * 5000, b"=1+1", b"C" * 300, b"[13C@@H+9]", b"%99"),
)
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+|\"[^\"\n]*\"|\s+|.", re.DOTALL)
LARGEST = 1 << 20
"""No input grows beyond it: what a size does is a test of its own."""


def flipped(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """Some bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((rng.randrange(256), 0, 0x7F, 0x80, 0xFF))
    return bytes(changed)


def cut(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """The end is missing, the beginning, or a part of the middle."""
    if not data:
        return b"\x00"
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice((data[:a], data[a:], data[:a] + data[b:]))


def spliced(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """The beginning of one sample and the end of another; or a part twice."""
    other = rng.choice(samples)
    a, b = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    return (data[:a] + other[b:] if rng.random() < 0.7 else data[:a] + data[:a] + data[a:])[:LARGEST]


def noise(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """Nothing of the sample at all."""
    return rng.randbytes(rng.choice((0, 1, 2, 5, 16, 64, 300, 2000)))


def inserted(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """A word that has meant trouble elsewhere, somewhere in it."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(WORDS) + data[at + rng.choice((0, 0, 1, 4)) :]


BLIND: tuple[Change, ...] = (flipped, flipped, cut, spliced, inserted, noise)


def msgpack_changed(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """A tree of msgpack with one to three nodes changed; byte strings that are msgpack themselves are entered."""
    try:
        tree = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return flipped(rng, data, samples)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _changed(rng, tree)
    try:
        packed: bytes = msgpack.packb(tree, use_bin_type=True)
    except (ValueError, OverflowError, TypeError):
        return flipped(rng, data, samples)
    return packed[:LARGEST]


def text_changed(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """Words of a text replaced, dropped, doubled or exchanged; lines moved."""
    words = _WORD.findall(data)
    if rng.random() < 0.3:
        words = data.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not words:
            break
        at, other = rng.randrange(len(words)), rng.randrange(len(words))
        match rng.randrange(5):
            case 0:
                words[at] = rng.choice(WORDS)
            case 1:
                del words[at]
            case 2:
                words.insert(at, words[other])
            case 3:
                words[at], words[other] = words[other], words[at]
            case 4:
                words[at] = str(rng.choice((*NUMBERS, 0.5, -1e300))).encode()
    return b"".join(words)[:LARGEST]


def safetensors_changed(rng: random.Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """The JSON head of a safetensors file changed, with a length that fits it."""
    size = int.from_bytes(data[:8], "little")
    try:
        head = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return flipped(rng, data, samples)
    facts: Any = head.get("__metadata__") if isinstance(head, dict) else None
    for name, text in list(facts.items()) if isinstance(facts, dict) else []:
        if rng.random() < 0.5 and isinstance(text, str):
            facts[name] = text_changed(rng, text.encode(), samples).decode("utf-8", "replace")
    written = json.dumps(_changed(rng, head) if rng.random() < 0.7 else head, default=repr).encode()
    written = written if rng.random() < 0.8 else text_changed(rng, written, samples)
    return len(written).to_bytes(8, "little") + written + data[8 + size :]


def _changed(rng: random.Random, tree: Any) -> Any:
    """`tree` with one node changed; goes down with a chance at every level."""
    if isinstance(tree, (list, dict)) and tree and rng.random() < 0.85:
        places = list(tree) if isinstance(tree, dict) else range(len(tree))
        at = rng.choice(list(places))
        copy = tree.copy()
        match rng.randrange(8):
            case 0:
                del copy[at]
            case 1 if isinstance(copy, list):
                copy.insert(at, copy[rng.randrange(len(copy))])
            case 2 if isinstance(copy, dict):
                copy[rng.choice(("", "a", "v", at * 2 if isinstance(at, str) else 0, 7))] = copy.pop(at)
            case 3 if isinstance(copy, list):
                # Only flat lists grow: lists of lists of lists would take the memory that readers are tested for.
                flat = not any(isinstance(item, (list, dict)) for item in copy)
                copy = copy * rng.choice((2, 20, 300) if flat and len(copy) < 50 else (2,))
            case _:
                copy[at] = _changed(rng, copy[at])
        return copy
    if isinstance(tree, bytes) and len(tree) > 16 and rng.random() < 0.7:
        return msgpack_changed(rng, tree, (tree,))
    return _other(rng, tree)


def _other(rng: random.Random, leaf: Any) -> Any:
    """Another leaf: a bound, another length, another type."""
    if isinstance(leaf, bool) and rng.random() < 0.5:
        return not leaf
    if isinstance(leaf, int) and rng.random() < 0.7:
        return max(-(2**63), min(rng.choice((*NUMBERS, leaf + 1, leaf - 1, leaf * 2, -leaf)), 2**64 - 1))
    if isinstance(leaf, bytes) and rng.random() < 0.7:
        return rng.choice((leaf[:-1], leaf + b"\x00", leaf * 2, bytes(len(leaf)), flipped(rng, leaf, (leaf,)), b""))
    if isinstance(leaf, str) and rng.random() < 0.7:
        return rng.choice((leaf[:-1], leaf + "x", leaf * 50, "", "\x1b[31m", "\u0000", leaf.upper(), "F64", "I8"))
    return rng.choice(
        (None, True, rng.choice(NUMBERS), -1.5, float("nan"), "", "x" * 300, b"", bytes(32), [], {}, [[]])
    )
