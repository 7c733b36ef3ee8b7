"""What the operator ordered and a restart must not undo: blocked sites, approved entries, a pause, a run begun
without all founders, or concluded.

Kept in a file of its own beside the store, written whole before an order takes force.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydantic

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import KEY_BYTES, SiteKey
from kmel_p2p.agreement.in_words import fault_in_words
from kmel_p2p.core.rounds import ApproveUntil, Begin, Conclude
from kmel_p2p.files import private_directory, write_whole

ORDERS_NAME = "orders.json"

MAX_REASON = 200
"""Characters of a reason: two or three lines of `status`."""


@dataclass(frozen=True, slots=True)
class Block:
    """Why the operator blocked a site, and when (seconds since 1970)."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Orders:
    """See the module docstring.

    Attributes:
        blocked: by site.
        concluded: why the run is concluded here; None: it is not.
        approved_until: entries up to this number leave without being asked about.
        paused: why the operator paused training; None: it is not paused.
        concluded_in: the campaign that was concluded; it says nothing about a later one.
        begun: why the operator had the run begin without all founders; None: it waits for them.
    """

    blocked: Mapping[SiteKey, Block] = field(default_factory=dict)
    concluded: str | None = None
    approved_until: int = 0
    paused: str | None = None
    begun: str | None = None
    concluded_in: int = 1


class _Document(pydantic.BaseModel):
    """The file: hex keys."""

    model_config = pydantic.ConfigDict(extra="forbid")

    blocked: dict[str, Block] = {}
    concluded: str | None = None
    approved_until: int = pydantic.Field(0, ge=0)
    paused: str | None = None
    begun: str | None = None
    concluded_in: int = pydantic.Field(1, ge=1)


class OrderBook:
    """The orders of one state directory: read once, written whole at each change.

    Raises:
        ConfigError: the file cannot be read, or says something else.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / ORDERS_NAME
        self.orders = self._read()

    @property
    def blocked(self) -> frozenset[SiteKey]:
        """Sites that are blocked."""
        return frozenset(self.orders.blocked)

    def first_commands(self) -> Iterator[Any]:
        """What the protocol is told of them right after a start; blocked sites it knows from the beginning."""
        if self.orders.approved_until:
            yield ApproveUntil(self.orders.approved_until)
        if self.orders.begun is not None:
            yield Begin(self.orders.begun, again=True)
        if self.orders.concluded is not None:
            yield Conclude(self.orders.concluded, self.orders.concluded_in)

    def block(self, site: SiteKey, reason: str) -> None:
        """Keep that a site is blocked; the reason of one that is blocked already is replaced.

        Raises:
            ConfigError: the file cannot be written; nothing changed.
        """
        at = self.orders.blocked[site].at if site in self.orders.blocked else time.time()
        block = Block(_whole(reason), at)
        self._keep(replace(self.orders, blocked={**self.orders.blocked, site: block}))

    def unblock(self, site: SiteKey) -> None:
        """Keep that a site is blocked no longer.

        Raises:
            LocalError: it is not blocked.
            ConfigError: the file cannot be written; nothing changed.
        """
        if site not in self.orders.blocked:
            raise LocalError("that site is not blocked here; kmel-peer status shows which are")
        self._keep(replace(self.orders, blocked={k: b for k, b in self.orders.blocked.items() if k != site}))

    def conclude(self, reason: str, campaign: int) -> None:
        """Keep that the run is concluded here, in its present campaign.

        Raises:
            ConfigError: the file cannot be written; nothing changed.
        """
        self._keep(replace(self.orders, concluded=_whole(reason), concluded_in=campaign))

    def begin(self, reason: str) -> None:
        """Keep that the run begins without the founders that are away.

        Raises:
            ConfigError: the file cannot be written; nothing changed.
        """
        self._keep(replace(self.orders, begun=_whole(reason)))

    def approve_until(self, number: int) -> None:
        """Keep that entries up to this number leave without being asked about; 0: none.

        Raises:
            ConfigError: the file cannot be written; nothing changed.
        """
        self._keep(replace(self.orders, approved_until=number))

    def pause(self, reason: str | None) -> None:
        """Keep that training is paused, or with None that it goes on.

        Raises:
            ConfigError: the file cannot be written; nothing changed.
        """
        self._keep(replace(self.orders, paused=None if reason is None else _whole(reason)))

    def _read(self) -> Orders:
        try:
            document = _Document.model_validate_json(self._path.read_bytes())
            blocked = {_key(text): block for text, block in document.blocked.items()}
            return Orders(
                blocked, document.concluded, document.approved_until, document.paused, document.begun,
                document.concluded_in,
            )  # fmt: skip
        except FileNotFoundError:
            return Orders()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self._path}: cannot be read: {_problem(error)}. It says which sites are blocked here, which "
                "entries may leave unasked, and whether training is paused or the run was begun or concluded; restore "
                "it, or move it away and give those orders again"
            ) from None

    def _keep(self, orders: Orders) -> None:
        blocked = {key.hex(): {"reason": block.reason, "at": block.at} for key, block in sorted(orders.blocked.items())}
        private_directory(self._path.parent)
        kept = {
            "blocked": blocked,
            "concluded": orders.concluded,
            "approved_until": orders.approved_until,
            "paused": orders.paused,
            "begun": orders.begun,
            "concluded_in": orders.concluded_in,
        }
        write_whole(self._path, json.dumps(kept, indent=1).encode())
        self.orders = orders


def _problem(error: OSError | ValueError) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {fault_in_words(first)}"
    return str(error)


def _whole(reason: str) -> str:
    """A reason as it is kept and shown; a longer one is refused rather than cut in silence.

    Raises:
        LocalError: it is too long.
    """
    if len(reason) > MAX_REASON:
        raise LocalError(f"a reason has at most {MAX_REASON} characters, and this one has {len(reason)}: shorten it")
    return reason


def _key(text: str) -> SiteKey:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError(f"a site's key has {KEY_BYTES} bytes, not {len(key)}")
    return SiteKey(key)
