"""The assay endpoints of a campaign: the charter's, and those that later campaigns added; some of them retired.

Each has its place for good, whatever comes and goes: votes, reports and the heads of networks name it by this place. So
a new one stands behind all others, a retired one stays where it is, and no name is given twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kmel_p2p.agreement.endpoint import MAX_ENDPOINTS, AssayEndpoint


@dataclass(frozen=True, slots=True)
class AssayEndpoints:
    """See the module docstring.

    Attributes:
        every: by place, the retired ones included.
        founding: how many of them, from the first on, are the charter's.
        retired: name -> number of the campaign that retired it.
    """

    every: tuple[AssayEndpoint, ...] = ()
    founding: int = 0
    retired: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def first(cls, every: tuple[AssayEndpoint, ...]) -> AssayEndpoints:
        """Those of a charter."""
        return cls(every, len(every))

    @property
    def added(self) -> int:
        """How many of them, up to the last, came with later campaigns."""
        return len(self.every) - self.founding

    @property
    def names(self) -> list[str]:
        """By place."""
        return [endpoint.name for endpoint in self.every]

    @property
    def current(self) -> tuple[AssayEndpoint, ...]:
        """Those that are trained now, in order."""
        return tuple(endpoint for endpoint in self.every if endpoint.name not in self.retired)

    def knows(self, names: Collection[str]) -> bool:
        """Whether all of these are or were assay endpoints."""
        return set(names) <= set(self.names)

    def unknown(self, columns: Iterable[str]) -> list[str]:
        """Names of columns that are no assay endpoint, or none yet."""
        names = set(self.names)
        return [name for name in columns if name not in names]

    def unmapped(self, columns: Collection[str]) -> list[str]:
        """Those that later campaigns added and that are trained now, for which a site names no column."""
        added = self.every[self.founding :]
        return [e.name for e in added if e.name not in self.retired and e.name not in columns]

    def followed_by(self, add: Sequence[AssayEndpoint], retire: Sequence[str], campaign: int) -> AssayEndpoints:
        """Those of the next campaign; `problem` has none."""
        retired = {**self.retired, **dict.fromkeys(retire, campaign)}
        return AssayEndpoints((*self.every, *add), self.founding, retired)

    def problem(self, add: Sequence[AssayEndpoint], retire: Sequence[str]) -> str:
        """Why the next campaign cannot add and retire these, in words; empty where it can."""
        known, coming = self.names, [endpoint.name for endpoint in add]
        for name in retire:
            if name not in known:
                return f"it retires assay endpoint {name!r}, which there is not; there are: {', '.join(known)}"
            if name in self.retired:
                return f"assay endpoint {name!r} was retired in campaign {self.retired[name]} already"
            if retire.count(name) > 1:
                return f"it retires assay endpoint {name!r} twice"
        for endpoint in add:
            name = endpoint.name
            if name in known:
                was = f"was retired in campaign {self.retired[name]}" if name in self.retired else "is there already"
                return f"assay endpoint {name!r} {was}; what is measured otherwise needs a name of its own"
            if coming.count(name) > 1:
                return f"it adds assay endpoint {name!r} twice"
            if endpoint.head != "private":
                return (
                    f"assay endpoint {name!r} has a shared head, which would change the shape of the trunk that the "
                    "entries of all campaigns add up to; give it head = 'private', or found a federation with it"
                )
        if len(known) + len(coming) > MAX_ENDPOINTS:
            return f"there were {len(known)} assay endpoints so far; with former ones there may be {MAX_ENDPOINTS}"
        if len(self.current) + len(coming) == len(retire):
            return "no assay endpoint would be left"
        return ""
