"""Text that is computed at its own speed and sent at the client's, so that one who does not read holds up nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

PIECE = 1 << 16
"""Bytes sent at once."""


async def spooled(pieces: AsyncGenerator[str, None], folder: Path) -> AsyncIterator[bytes]:
    """The same text, through an unnamed file.

    Computing begins at once, whether or not somebody iterates, and ends early where the iteration does.

    Args:
        pieces: taken as fast as they come.
        folder: for the file.

    Raises:
        whatever `pieces` raises, behind what it gave before.
    """
    file = await asyncio.to_thread(tempfile.TemporaryFile, dir=folder)
    grown = asyncio.Event()

    async def fill() -> None:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                await asyncio.to_thread(_append, file.fileno(), piece.encode())
                grown.set()

    filling = asyncio.create_task(fill())
    filling.add_done_callback(lambda _: grown.set())

    async def sent() -> AsyncIterator[bytes]:
        at = 0
        try:
            while True:
                await grown.wait()
                grown.clear()
                done = filling.done()
                while piece := await asyncio.to_thread(os.pread, file.fileno(), PIECE, at):
                    at += len(piece)
                    yield piece
                if done:
                    break
            await filling
        finally:
            filling.cancel()
            await asyncio.wait([filling])
            file.close()

    return sent()


def _append(descriptor: int, content: bytes) -> None:
    """All of it; `write` may take less."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
