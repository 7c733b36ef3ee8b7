"""What an averaging mode is to a site: everything outside `core` that depends on which one the charter chose.

`modes.mode_of` finds the mode. A further one is a room in `core` and a file here; nothing else names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.privacy import NoisePlan
from kmel_p2p.core.effects import Event, Message, Record
from kmel_p2p.core.rounds import Averaging, Members, StretchWork, Trunks
from kmel_p2p.core.types import Micros, Randomness, Vector
from kmel_p2p.core.wire import Schema
from kmel_p2p.delta import CodecParameters
from kmel_p2p.delta.layout import Layout
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.status import AveragingStatus, age_text
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.store import Store

OTHER_RUN = (
    "Give this site another state_dir; or move this one away, if that run is over: what it holds cannot be continued"
)


@dataclass(frozen=True, slots=True)
class OwnWork:
    """What a site has contributed to a finished run.

    Attributes:
        entries: own entries, or rounds.
        steps: optimiser steps over all of them.
        entry_bytes: size of each own entry kept, whole; empty where a mode keeps none.
        mean_bytes: of what carried own work to the other sites.
    """

    entries: int
    steps: int
    entry_bytes: list[int]
    mean_bytes: float


class Notes(Protocol):
    """Where events are noted for the operator: log, counts, alarms (`observe.reporting.Reporter`)."""

    @property
    def activity(self) -> Activity: ...
    def name(self, key: SiteKey | None) -> str: ...
    def endpoint(self, place: int) -> str: ...
    def say(self, what: str, **facts: object) -> None: ...
    def warn(self, what: str, **facts: object) -> None: ...


class SiteMode(ABC):
    """One averaging mode. Has no state: what a method works on is handed in."""

    name: ClassVar[Mode]
    messages: ClassVar[tuple[Schema, ...]]
    """Its rows of the message table."""
    keeps_entries: ClassVar[bool]
    """Whether sites keep signed entries, which `kmel-peer ledger` reads and amendments may take back."""
    one_trunk: ClassVar[bool]
    """Whether all sites end with the same trunk, to the last bit."""
    exposes: ClassVar[Mapping[str, str]]
    """Language (en, ko) -> what a site shows the others, in a few words for people; docs/privacy.md has figures."""

    # ---- from the site's files ----------------------------------------------------------------------------------

    @abstractmethod
    def check(self, config: SiteConfig, charter: Charter, own: SiteKey, layout: Layout) -> None:
        """Raise ConfigError where a site's settings do not go with this mode."""

    @abstractmethod
    def codec(self, charter: Charter) -> CodecParameters | None:
        """How the trainer compresses a round's delta; None: it hands over the whole drift."""

    def noise(self, charter: Charter) -> NoisePlan | None:
        """The noise that the trainer adds under differential privacy; None: there is none."""
        return None

    def needs(self, charter: Charter, layout: Layout, sites: int) -> list[str]:
        """What a run with so many sites takes at each of them, in words for those who read a draft; may say nothing."""
        return []

    @abstractmethod
    def max_payload_bytes(self, charter: Charter, layout: Layout) -> int:
        """No valid payload is larger."""

    # ---- store and protocol -------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, site: Site, store: Store) -> Any:
        """What averaging goes on from, for `averaging`; a first start is recorded.

        Raises:
            ConfigError: the store belongs to another charter or mode, or was altered.
        """

    @abstractmethod
    def averaging(
        self, site: Site, history: Any, members: Members, rng: Randomness, generation: int, now: Micros
    ) -> Averaging:
        """The state machine. `history`: from `open`; `generation`: the site's count of starts."""

    @abstractmethod
    def writing(self, record: Record, site: Site) -> Callable[[Store], None] | None:
        """How a record of this mode is stored; None for a record that is not of this mode."""

    @abstractmethod
    def own_state_file(self, site: Site, store: Store) -> str | None:
        """Name of the trainer state that belongs to the newest own round stored."""

    # ---- for the operator ---------------------------------------------------------------------------------------

    def label(self, message: Message) -> str:
        """What a message is, for the egress log: its kind and, after a colon, what it holds of the trunk."""
        return type(message).__name__

    @abstractmethod
    def report(self, event: Event, notes: Notes) -> bool:
        """Note an event of this mode; whether it was one."""

    @abstractmethod
    def status(self, site: Site, averaging: Averaging, activity: Activity, digest: str) -> AveragingStatus:
        """The mode's section of the status document. `digest`: hex, empty while it is being computed."""

    def behind(self, averaging: Averaging, key: SiteKey) -> int | None:
        """Entries held here that another site has not told that it holds; None: it told nothing, or there are none."""
        return None

    @abstractmethod
    def has_failed(self, site: Site, averaging: Averaging) -> bool:
        """Whether this site can contribute nothing more until people act."""

    @abstractmethod
    def check_amendment(self, site: Site, averaging: Averaging, document: AmendmentDocument) -> None:
        """Raise LocalError where an amendment cannot be put in force here."""

    # ---- the end of a run ---------------------------------------------------------------------------------------

    @abstractmethod
    def trunk_writer(self, site: Site, averaging: Averaging, folder: Path) -> Callable[[], bool] | None:
        """Work for another thread: writes the final trunk, unless it is there; whether it did. None: there is none.

        The work raises ConfigError when the disk does not take it.
        """

    def others_trunk(
        self, site: Site, averaging: Averaging, store: Path
    ) -> Callable[[], NDArray[np.float32] | None] | None:
        """Work for another thread: the final trunk without this site's own contribution, float32[d].

        None, here or from the work, where it cannot be told exactly; a mode that sums no entries never can.

        Args:
            store: its path.
        """
        return None

    def trunks_without(self, site: Site, averaging: Averaging, turn: int) -> Trunks | None:
        """Work for another thread: the trunk as it is now, and without each part that somebody else gave.

        None where the mode knows no parts, or there are none. A part is an author's; where authors' contributions are
        only known as sums, it is a sum.

        Args:
            turn: counts looks; where there are many authors, they take turns.
        """
        return None

    def stretch_since(self, site: Site, averaging: Averaging, mark: Vector) -> StretchWork | None:
        """Work for another thread: the trunk's way since `mark`, and each author's part of it.

        None where the mode knows no parts, or none came.
        """
        return None

    def own_rounds(self, averaging: Averaging, key: SiteKey) -> int:
        """Rounds of this site that are in the trunk. `key`: the site's."""
        return averaging.vector.get(key, 0)

    @abstractmethod
    def own_work(
        self, key: SiteKey, store: Store, section: AveragingStatus, sent: Mapping[str, tuple[int, int]]
    ) -> OwnWork:
        """What this site has contributed.

        Args:
            key: the site's.
            store: its store, read-only.
            section: its last status.
            sent: (messages, bytes) that left, by kind of message.
        """


def own_count(activity: Activity, count: int, text: str) -> str:
    """Own work in words: how much (`text`), how old the newest is, and what waits for approval."""
    held = ", 1 held for approval" if activity.held else ""
    return f"{text} (newest: {newest_text(count, activity.ages.published_s)}){held}"


def newest_text(count: int, age_s: float | None) -> str:
    """How old the newest of so many is. After a restart nobody knows it of what came before."""
    return "none since this start" if age_s is None and count else age_text(age_s)
