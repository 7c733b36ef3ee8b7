"""What this site measured of the contributions of authors, added up over the run; one JSON document in the store.

How sure a sum is follows from groups of held-out compounds that say different things: see `learn.evaluate.worth`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import KEY_BYTES, SiteKey
from kmel_p2p.core.rounds import Stretch
from kmel_p2p.learn.worker.session import EndpointWorth

BLOB = "contributions"
"""Under this name the store keeps it."""

VERSION = 1

MOST_SPANS = 16
"""Pieces of the run that are told apart, of about equal length; neighbours are joined when there are more."""

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57}
"""Number of groups -> how many standard errors of the mean a 95 % interval reaches (Student's t)."""


SPOILT, SPOILT_EACH = 0.1, 0.025
"""Parts of the present loss by which an author that never helped must have made it larger to have spoilt it: in all,
and for each of its entries. What is sent to do harm does more than twice as much with each; honest authors whose
chemistry is far from this site's mostly half as much."""

ERRORS = 2.0
"""Standard errors by which an author's entries must have made the loss larger, in all or since they never helped."""

EARLY = 3
"""Number up to which an entry is one of an author's first."""

SOON = 16
"""Entry of an author up to which it is asked whether it never helped: of honest ones that measured other assay
endpoints, some do not help either, but take longer to do harm."""

DECLINE = 0.05
"""Part of the present loss by which an author's entries must have made it larger."""


@dataclass(slots=True)
class AuthorSums:
    """Of one author.

    Attributes:
        weight: of its entries, in whole deltas.
        worth: place of the assay endpoint -> by group of compounds: by how much its entries made the loss smaller.
    """

    weight: float = 0.0
    entries: int = 0
    payload_bytes: int = 0
    copies: int = 0
    alike: int = 0
    worth: dict[int, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class Span:
    """A piece of the run.

    Attributes:
        entries: of all authors together.
        worth: author -> place of the assay endpoint -> by group of compounds.
    """

    entries: int = 0
    worth: dict[SiteKey, dict[int, list[float]]] = field(default_factory=dict)

    def join(self, later: Span) -> Span:
        """This piece and the next one as one."""
        joined = Span(self.entries + later.entries)
        for span in (self, later):
            for author, places in span.worth.items():
                mine = joined.worth.setdefault(author, {})
                for place, groups in places.items():
                    mine[place] = _added(mine.get(place, []), groups)
        return joined


@dataclass(slots=True)
class Decline:
    """What an author's entries did since they last had the loss as small as it came by them.

    A cumulative sum that begins anew wherever it would be above zero (Page, Biometrika 41, 1954): what the author gave
    before does not hide it.

    Attributes:
        first, number: the first of these entries, and the newest.
        early: whether it was among the first ones of all authors.
        worth: place of the assay endpoint -> by group of compounds; together below zero.
    """

    first: int
    early: bool = False
    number: int = 0
    worth: dict[int, list[float]] = field(default_factory=dict)

    def add(self, number: int, new: Mapping[int, list[float]]) -> bool:
        """Go on up to entry `number`; whether the sum is still below zero."""
        self.number = number
        for place, groups in new.items():
            self.worth[place] = _added(self.worth.get(place, []), groups)
        return _total(self.worth)[0] < 0


@dataclass(frozen=True, slots=True)
class Worth:
    """A sum with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, groups: list[float]) -> Worth:
        """The mean of what groups of compounds say."""
        mean, count = fmean(groups), len(groups)
        reach = T_95[min(max(count, 2), 6)] * stdev(groups) / count**0.5 if count > 1 else float("inf")
        return cls(mean, mean - reach, mean + reach)


@dataclass(slots=True)
class ContributionBook:
    """See the module docstring.

    Attributes:
        mark: author -> newest entry measured.
        stretches: measured so far.
        compounds: place of the assay endpoint -> held-out compounds with a value.
        losses: place of the assay endpoint -> mean loss in the first and in the newest stretch.
        spans: pieces of the run, one after the other.
        reachable: site -> samples in which it was reachable, and samples in all.
        sizes: site -> size class of its data, as it last described itself.
        declines: author -> since its entries last had the loss as small as it came by them; where that is now, none.
    """

    mark: dict[SiteKey, int] = field(default_factory=dict)
    authors: dict[SiteKey, AuthorSums] = field(default_factory=dict)
    stretches: int = 0
    compounds: dict[int, int] = field(default_factory=dict)
    losses: dict[int, tuple[float, float]] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    reachable: dict[SiteKey, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[SiteKey, int] = field(default_factory=dict)
    declines: dict[SiteKey, Decline] = field(default_factory=dict)

    def saw(self, site: SiteKey, *, reachable: bool, size_class: int = 0) -> None:
        """Whether another site is reachable at this moment, and how much data it has; 0: it does not say."""
        up, samples = self.reachable.get(site, (0, 0))
        self.reachable[site] = (up + reachable, samples + 1)
        if size_class:
            self.sizes[site] = size_class

    def uptime(self, author: SiteKey) -> float | None:
        """Share of the samples in which a site was reachable; None without any."""
        up, samples = self.reachable.get(author, (0, 0))
        return up / samples if samples else None

    def add(self, stretch: Stretch, endpoints: Mapping[int, EndpointWorth]) -> None:
        """Take in what the trainer found along a stretch."""
        self.mark = {**self.mark, **stretch.until}
        self.stretches += 1
        span = Span(sum(part.number - part.first + 1 for part in stretch.parts))
        early = all(part.first <= EARLY for part in stretch.parts)
        for at, part in enumerate(stretch.parts):
            sums = self.authors.setdefault(part.author, AuthorSums())
            sums.weight += part.weight
            sums.entries += part.number - part.first + 1
            sums.payload_bytes += part.payload_bytes
            sums.copies += part.copies
            sums.alike += part.alike
            new = {place: [group[at] for group in found.worth] for place, found in endpoints.items()}
            for place, groups in new.items():
                sums.worth[place] = _added(sums.worth.get(place, []), groups)
                span.worth.setdefault(part.author, {})[place] = groups
            if not self.declines.setdefault(part.author, Decline(part.first, early)).add(part.number, new):
                del self.declines[part.author]
        self._append(span)
        for place, found in endpoints.items():
            self.compounds[place] = found.compounds
            self.losses[place] = (self.losses.get(place, (found.loss, 0.0))[0], found.loss)

    def worth(self, author: SiteKey, place: int) -> Worth | None:
        """Of an author for an assay endpoint; None where nothing was measured."""
        sums = self.authors.get(author)
        groups = sums.worth.get(place) if sums is not None else None
        return Worth.of(groups) if groups else None

    def raised_loss(self, author: SiteKey) -> bool:
        """Whether an author's entries, of all assay endpoints together, made the loss larger by `ERRORS`; not where
        nothing was measured."""
        sums = self.authors.get(author)
        total, error = _total(sums.worth if sums is not None else {})
        return total < -ERRORS * error

    def spoilt(self, author: SiteKey) -> bool:
        """Whether an author's entries never helped, from the first of the federation on, and soon (`SOON`) made the
        loss larger by `SPOILT` of what it is now, by `SPOILT_EACH` for each of them, and by `ERRORS`.

        One that joins a trained trunk may never help, and be honest; of it this says nothing.
        """
        decline = self.declines.get(author)
        if decline is None or not decline.early or decline.number > SOON:
            return False
        total, error = _total(decline.worth)
        loss = sum(self.losses[place][1] for place in decline.worth)
        entries = decline.number - decline.first + 1
        return total < -max(SPOILT * loss, SPOILT_EACH * entries * loss, ERRORS * error)

    def declining_since(self, author: SiteKey, oldest: int) -> int | None:
        """The entry of an author since which its entries made the loss larger again, by `DECLINE` of it at least; None
        where they did not.

        Args:
            oldest: entry from which on its entries are looked at. A decline that began before begins anew: an amendment
                may have decided about these entries.
        """
        decline = self.declines.get(author)
        if decline is None:
            return None
        if decline.first < oldest:
            del self.declines[author]
            return None
        loss = sum(self.losses[place][1] for place in decline.worth)
        return decline.first if -_total(decline.worth)[0] >= DECLINE * loss else None

    def late(self, author: SiteKey, place: int) -> Worth | None:
        """The same over the second half of the run, by entries; None where nothing was measured of it.

        At first every author brings the loss down in the same way. What one brings that the others do not shows later.
        """
        found: list[float] = []
        whole, passed = sum(span.entries for span in self.spans), 0
        for span in self.spans:
            if 2 * passed + span.entries >= whole:
                found = _added(found, span.worth.get(author, {}).get(place, []))
            passed += span.entries
        return Worth.of(found) if found else None

    def _append(self, span: Span) -> None:
        self.spans.append(span)
        if len(self.spans) > MOST_SPANS:
            # The two neighbours that are shortest together: pieces stay about equally long.
            at = min(range(MOST_SPANS), key=lambda i: self.spans[i].entries + self.spans[i + 1].entries)
            self.spans[at : at + 2] = [self.spans[at].join(self.spans[at + 1])]

    def beyond_weight(self, author: SiteKey, place: int) -> Worth | None:
        """The same beyond what its weight alone would account for: what would be missed if others took its place.

        Without an author the others' weights grow, and the trunk moves about as far; so its worth is that of its
        entries less that of all entries for each unit of weight, times its weight.
        """
        sums = self.authors.get(author)
        groups = sums.worth.get(place) if sums is not None else None
        if sums is None or not groups:
            return None
        everybody = [each for each in self.authors.values() if len(each.worth.get(place, ())) == len(groups)]
        weight = sum(each.weight for each in everybody)
        share = sums.weight / weight if weight > 0 else 0.0
        total = [sum(each.worth[place][at] for each in everybody) for at in range(len(groups))]
        return Worth.of([value - share * whole for value, whole in zip(groups, total, strict=True)])

    def encode(self) -> bytes:
        """The bytes that `decode` reads."""
        plain = {
            "version": VERSION,
            "mark": {key.hex(): number for key, number in self.mark.items()},
            "authors": {key.hex(): asdict(sums) for key, sums in self.authors.items()},
            "stretches": self.stretches,
            "compounds": self.compounds,
            "losses": self.losses,
            "spans": [
                {"entries": span.entries, "worth": {key.hex(): places for key, places in span.worth.items()}}
                for span in self.spans
            ],
            "reachable": {key.hex(): counts for key, counts in self.reachable.items()},
            "sizes": {key.hex(): size for key, size in self.sizes.items()},
            "declines": {key.hex(): asdict(decline) for key, decline in self.declines.items()},
        }
        return json.dumps(plain).encode()

    @classmethod
    def decode(cls, data: bytes | None) -> ContributionBook:
        """Read what the store kept; None: nothing yet.

        Raises:
            ConfigError: it is damaged, or of a later version.
        """
        if data is None:
            return cls()
        try:
            raw = json.loads(data)
            if raw["version"] != VERSION:
                raise ValueError(f"version {raw['version']}")
            return cls(
                {_key(key): int(number) for key, number in raw["mark"].items()},
                {_key(key): _sums(each) for key, each in raw["authors"].items()},
                int(raw["stretches"]),
                {int(place): int(count) for place, count in raw["compounds"].items()},
                {int(place): (float(first), float(newest)) for place, (first, newest) in raw["losses"].items()},
                [
                    Span(int(span["entries"]), {_key(key): _worth(places) for key, places in span["worth"].items()})
                    for span in raw["spans"]
                ],
                {_key(key): (int(up), int(samples)) for key, (up, samples) in raw["reachable"].items()},
                {_key(key): int(size) for key, size in raw["sizes"].items()},
                # Earlier versions kept none.
                {_key(key): _decline(each) for key, each in raw.get("declines", {}).items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"the store's account of contributions cannot be read ({error}); it is of another version or damaged: "
                "restore the state directory from a backup, or start with another one"
            ) from None


def _key(text: str) -> SiteKey:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("not a site's key")
    return SiteKey(key)


def _worth(raw: Mapping[str, Any]) -> dict[int, list[float]]:
    return {int(place): [float(value) for value in groups] for place, groups in raw.items()}


def _decline(raw: Mapping[str, Any]) -> Decline:
    return Decline(int(raw["first"]), bool(raw["early"]), int(raw["number"]), _worth(raw["worth"]))


def _total(worth: Mapping[int, list[float]]) -> tuple[float, float]:
    """Of all assay endpoints together, and its standard error."""
    found = [groups for groups in worth.values() if len(groups) > 1]
    return sum(map(fmean, found)), math.sqrt(sum(stdev(groups) ** 2 / len(groups) for groups in found))


def _added(one: list[float], other: list[float]) -> list[float]:
    """Group by group. Other data since a restart may be divided into fewer groups: what is longer stays as it is."""
    width = max(len(one), len(other))
    return [(one[i] if i < len(one) else 0.0) + (other[i] if i < len(other) else 0.0) for i in range(width)]


def _sums(raw: Mapping[str, Any]) -> AuthorSums:
    counts = {name: int(raw[name]) for name in ("entries", "payload_bytes", "copies", "alike")}
    return AuthorSums(weight=float(raw["weight"]), worth=_worth(raw["worth"]), **counts)
