"""Fixtures of the transport's tests; what they are made of is in net_peers.py."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from net_peers import Federation


@pytest_asyncio.fixture
async def federation() -> AsyncIterator[Federation]:
    made = Federation()
    yield made
    await made.close()


@pytest.fixture
def pattern() -> Callable[[int], bytes]:
    """Reproducible bytes of a length."""
    return lambda size: random.Random(size).randbytes(size)
