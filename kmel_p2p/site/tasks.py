"""Ending a task of the event loop, in order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait until it has ended; None and one that has ended are left alone."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
