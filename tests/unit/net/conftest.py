"""Fixtures of the transport's tests; what they are made of is in net_peers.py."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from kmel_p2p.agreement.identity import Identity
from tests.support.net_peers import Federation, Peer, Proxy, RawDealer


@pytest_asyncio.fixture
async def federation() -> AsyncIterator[Federation]:
    made = Federation()
    yield made
    await made.close()


@pytest.fixture
def pattern() -> Callable[[int], bytes]:
    """Reproducible bytes of a length."""
    return lambda size: random.Random(size).randbytes(size)


@pytest_asyncio.fixture
async def proxy_before() -> AsyncIterator[Callable[[str], Awaitable[Proxy]]]:
    """Starts proxies in front of addresses, and closes them."""
    made: list[Proxy] = []

    async def make(address: str) -> Proxy:
        made.append(await Proxy(address).start())
        return made[-1]

    yield make
    for proxy in made:
        await proxy.close()


@pytest.fixture
def raw_dealer() -> Iterator[Callable[..., RawDealer]]:
    """Opens programs that do not follow the rules, and closes them."""
    made: list[RawDealer] = []

    def make(identity: Identity, server: Peer, **options: Any) -> RawDealer:
        made.append(RawDealer(identity, server, **options))
        return made[-1]

    yield make
    for dealer in made:
        dealer.close()
