"""The payloads of this site's own entries, as commands look at them: those in the store, and the one that is held."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmel_p2p.site.config import SiteConfig
    from kmel_p2p.site.site import Site

NOTHING_HELD = "no entry waits for approval"


@dataclass(frozen=True, slots=True)
class Held:
    """The entry that waits for approval, and for how long it has."""

    number: int
    payload: bytes
    age_s: float


def held_entry(config: SiteConfig) -> Held | None:
    """Ask the running peer; None: nothing waits.

    Raises:
        NotRunningError, NotAnsweringError: as `ControlClient.request`.
    """
    from kmel_p2p.site.control.client import ControlClient

    with ControlClient(config.site.state_dir) as client:
        answer = client.request("held")
    if answer is None:
        return None
    return Held(answer["number"], base64.b64decode(answer["payload"]), answer["age_s"])


def kept_payloads(site: Site, config: SiteConfig) -> dict[int, bytes]:
    """By number, of the own entries that the store keeps; none where there is no store."""
    from kmel_p2p.site.state.own_state import own_entries
    from kmel_p2p.site.state.store import STORE_NAME, Store

    path = config.site.state_dir / STORE_NAME
    if not path.exists():
        return {}
    store = Store(path, read_only=True)
    try:
        return {number: entry.payload for number, entry in own_entries(site, store).items()}
    finally:
        store.close()
