"""One sealed round as one site knows it: the statements that it holds, what they prove, and what they open.

It keeps no time and sends nothing. Statements come in any order and any number of times; what does not fit what is here
raises `WireError`, and two statements of one site that exclude each other become a `Fault`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.admissible import check_group, check_vote
from kmel_p2p.core.sealed.ballots import Ballots, sole_choices
from kmel_p2p.core.sealed.faults import Faults, NotYet
from kmel_p2p.core.sealed.group import Group, OwnPart
from kmel_p2p.core.sealed.messages import (
    VOID,
    Included,
    SealClose,
    Sealed,
    SealKey,
    SealLoose,
    SealOpen,
    SealReveal,
    hash_of,
    is_signed,
    member_key,
)
from kmel_p2p.core.sealed.pairs import check_public
from kmel_p2p.core.sealed.sharing import deal

Said = SealKey | SealOpen | Sealed | SealClose | SealLoose | SealReveal


class SealedRound:
    """See the module docstring.

    Args:
        charter_id: 32 bytes.
        roster: sites in the order of keys.
        own: this site.
        number: of the round.
        chain: of the sums that it starts from.
        count: values that a member sends.
        levels: limit of a level.
        least: (fewest members, fewest vectors in a sum).
    """

    def __init__(
        self,
        charter_id: bytes,
        roster: Sequence[SiteKey],
        own: SiteKey,
        number: int,
        chain: bytes,
        count: int,
        levels: int,
        least: tuple[int, int],
    ) -> None:
        self.number, self.chain, self.roster = number, chain, tuple(roster)
        self.keys: dict[SiteKey, SealKey] = {}
        self.opens: dict[bytes, SealOpen] = {}
        self.group: Group | None = None
        """That this site goes by."""
        self.part: OwnPart | None = None
        """This site's in it; None: it is no member."""
        self.sealed: dict[SiteKey, Sealed] = {}
        self.closes: dict[tuple[int, SiteKey], dict[bytes, SealClose]] = {}
        self.loose: dict[SiteKey, dict[bytes, SealLoose]] = {}
        self.reveals: dict[tuple[int, SiteKey], dict[bytes, SealReveal]] = {}
        self.ballots = Ballots(own, len(self.roster))
        self.faults = Faults()
        self.left_out: SiteKey | None = None
        """Whose vector this site does not ask for as the opener, if the others are enough. See `spoilers`."""
        self.secret = b""
        """X25519, of this round; empty: this site has none."""
        self.self_seed = b""
        """Of this site's own vector; empty: it has sealed none."""
        self._charter_id, self._own, self._count, self._levels = charter_id, own, count, levels
        self._min_group, self._min_sum = least
        self._names: dict[SiteKey, bytes] = {}
        """Hashes of the vectors here."""
        self._included: dict[bytes, tuple[Included, ...]] = {}
        self._of_open: dict[bytes, bytes] = {}
        """Choice -> hash of its Open."""
        self._shares: dict[SiteKey, bytes] = {}
        """Dealt to this site, by dealer."""
        self._seeds: dict[SiteKey, bytes] = {}
        """Self seeds that are opened."""

    # ---- taking statements --------------------------------------------------------------------------------------

    def take(self, statement: Said) -> bool:
        """Take in a statement; whether it was news.

        Raises:
            WireError: it does not stand.
        """
        if statement.author not in self.roster:
            raise WireError("a statement of a site outside the roster")
        if statement.round != self.number:
            return False
        match statement:
            case SealKey():
                return self._take_key(statement)
            case SealOpen():
                return self._take_open(statement)
            case Sealed():
                return self._take_sealed(statement)
            case SealClose():
                return self._take_close(statement)
            case SealLoose():
                return self._take_loose(statement)
            case SealReveal():
                return self._take_reveal(statement)

    def _take_key(self, said: SealKey) -> bool:
        known = self.keys.get(said.author)
        if known == said:
            return False
        self._verify(said)
        check_public(said.public)
        if known is not None:
            self.faults.accuse(said.author, "two keys for one round", known, said)
            return False
        self.keys[said.author] = said
        return True

    def _take_open(self, said: SealOpen) -> bool:
        name = hash_of(self._charter_id, said)
        if name in self.opens:
            return False
        check_group(said, self.chain, self.roster, self._min_group)
        self._verify(said)
        for member in said.members:
            self._take_key(member_key(member, self.number))
        other = next((each for each in self.opens.values() if each.author == said.author), None)
        if other is not None:
            self.faults.accuse(said.author, "two groups for one round", other, said)
        if sum(each.author == said.author for each in self.opens.values()) < 2:
            self.opens[name] = said
            return True
        return False

    def _take_sealed(self, said: Sealed) -> bool:
        known = self.sealed.get(said.author)
        if self.group is None or said.open != self.group.hash or known == said:
            return False
        self.group.check(said)
        self._verify(said)
        if known is not None:
            self.faults.accuse(said.author, "two sealed vectors in one round", known, said)
        name = hash_of(self._charter_id, said)
        if known is not None and (not self.is_another(said.author) or self._asked_for(said.author) != name):
            return False
        self.sealed[said.author] = said
        self._names[said.author] = name
        self._shares.pop(said.author, None)
        if self.part is not None and said.author != self._own:
            try:
                self._shares[said.author] = self.part.share_from(said)
            except WireError as error:
                self.faults.accuse(said.author, f"it dealt this site {error}", said)
        return True

    def _take_close(self, said: SealClose) -> bool:
        choice, held = said.choice, self.closes.get((said.ballot, said.author), {})
        if choice in held or (len(held) > 1 and choice not in sole_choices(self.closes, said.ballot)):
            return False
        check_vote(said, self._min_sum)
        self._verify(said)
        for other in held.values():
            self.faults.accuse(said.author, "two votes in one ballot", other, said)
        for (_, author), earlier in self.closes.items():
            sets = [each for each in earlier.values() if author == said.author and each.included]
            if said.included and any(each.choice != choice for each in sets):
                self.faults.accuse(said.author, "votes for two sets of vectors in one round", sets[0], said)
        self.closes.setdefault((said.ballot, said.author), held)[choice] = said
        self._included.setdefault(choice, said.included)
        if said.included:
            self._of_open.setdefault(choice, said.open)
        self.ballots.close(said.ballot, said.author, choice)
        return True

    def _take_loose(self, said: SealLoose) -> bool:
        held = self.loose.get(said.author, {})
        known = held.get(said.choice)
        # Whoever gave nonsense first, here alone, must not keep out what opens the set that a quorum voted for.
        if known == said or (known is not None and not self.is_wrong(known)):
            return False
        if known is None and len(held) > 1 and said.choice != self.ballots.backed_set():
            return False
        self._verify(said)
        for other in held.values():
            self.faults.accuse(said.author, "pair seeds for two sets of vectors in one round", other, said)
        self.loose.setdefault(said.author, held)[said.choice] = said
        return True

    def _take_reveal(self, said: SealReveal) -> bool:
        held = self.reveals.get((said.ballot, said.author), {})
        if said.choice in held or (len(held) > 1 and said.choice not in sole_choices(self.reveals, said.ballot)):
            return False
        self._verify(said)
        self._check_shares(said)
        for other in held.values():
            self.faults.accuse(said.author, "two reveals in one ballot", other, said)
        for (_, author), earlier in self.reveals.items():
            sets = [each for each in earlier.values() if author == said.author and each.choice != VOID]
            if said.choice != VOID and any(each.choice != said.choice for each in sets):
                self.faults.accuse(said.author, "reveals for two sets of vectors in one round", sets[0], said)
        self.reveals.setdefault((said.ballot, said.author), held)[said.choice] = said
        self.ballots.reveal(said.ballot, said.author, said.choice)
        return True

    def _check_shares(self, said: SealReveal) -> None:
        """Raises WireError where it cannot be told yet, or where the shares are wrong: then their author is named."""
        if said.choice == VOID:
            if said.shares:
                raise WireError("shares where nothing is opened")
            return
        group, vectors = self.group, self._vectors(said.choice)
        if group is None or vectors is None:
            raise NotYet("a reveal of vectors that are not here yet")
        needed = len(vectors) if said.author in group.sites else 0
        pairs = zip(vectors, said.shares, strict=False)
        if len(said.shares) != needed or not all(group.share_stands(of, said.author, share) for of, share in pairs):
            self.faults.accuse(said.author, "it revealed shares that were not dealt to it", said)
            raise WireError("shares that were not dealt to their author")

    def _verify(self, said: Said) -> None:
        if not is_signed(self._charter_id, said):
            raise WireError(f"a {type(said).__name__} without its author's signature")

    # ---- the group ----------------------------------------------------------------------------------------------

    def follow(self, name: bytes) -> None:
        """Go by that Open from now on. Vectors of another group are forgotten."""
        group = Group(self.opens[name], name, self._count, self._levels)
        self.group, self.part = group, None
        self.sealed, self._names, self._shares, self._seeds = {}, {}, {}, {}
        if self._own in group.sites and self.secret:
            part = OwnPart(group, self._own, self.secret)
            self.part = part if part.is_own else None

    @property
    def is_stranger(self) -> bool:
        """Whether the group has this site in it with a key that this process does not hold, as beside a twin: then it
        has no shares to reveal."""
        return self.group is not None and self._own in self.group.sites and self.part is None

    def outvoted(self) -> bytes | None:
        """Hash of an Open that is here, that this site does not go by, and whose vectors a quorum voted for."""
        for ballot in range(self.ballots.ballot + 1):
            choice = self.ballots.closed(ballot)
            name = self._of_open.get(choice, VOID) if choice is not None else VOID
            if name in self.opens and (self.group is None or name != self.group.hash):
                return name
        return None

    def sets_complete(self) -> bool:
        """Whether every member's vector is here."""
        return self.group is not None and len(self.sealed) == len(self.group.sites)

    def enough(self) -> bool:
        """Whether a sum of the vectors here may be opened at all."""
        return self._are_enough(self.usable())

    def _are_enough(self, sites: Sequence[SiteKey]) -> bool:
        return self.group is not None and len(sites) >= max(self.group.threshold, self._min_sum)

    def usable(self) -> tuple[SiteKey, ...]:
        """Members whose vectors are here and, if this site is a member, whose shares for it stand."""
        return tuple(sorted(site for site in self.sealed if self._has_share(site)))

    def proposal(self) -> tuple[Included, ...]:
        """What an opener asks the roster to open: everything usable."""
        usable = self.usable()
        fewer = tuple(site for site in usable if site != self.left_out)
        return tuple(Included(site, self._names[site]) for site in (fewer if self._are_enough(fewer) else usable))

    def proposed(self) -> SealClose | None:
        """The first vote of the opener of the group that this site goes by."""
        if self.group is None:
            return None
        votes = self.closes.get((0, self.group.open.author), {})
        return next((vote for vote in votes.values() if vote.open in (self.group.hash, VOID)), None)

    def set_of(self, choice: bytes) -> tuple[Included, ...]:
        """The vectors that a choice stands for; none for one that nobody voted for here."""
        return self._included.get(choice, ())

    # ---- may this site vote for it, and open it -----------------------------------------------------------------

    def is_backed(self, choice: bytes) -> bool:
        """Whether this site holds the vectors of a choice, with good shares for itself: it may vote for it."""
        vectors = self._vectors(choice)
        return vectors is not None and all(self._has_share(of.author) for of in vectors)

    def is_supported(self, choice: bytes) -> bool:
        """Whether, besides, the pair seeds are here: what is revealed for it opens it. This site's own bind it."""
        if not {choice} >= self.loose.get(self._own, {}).keys():
            return False
        return self.is_backed(choice) and self._pair_seeds(choice) is not None

    def own_loose(self) -> SealLoose | None:
        """What this site gives, unsigned, once a quorum voted for a set that it is in; None: nothing, or not yet.

        It gives pair seeds for one set in a round, and never after it opened another.
        """
        choice = self.ballots.backed_set()
        if choice is None or self.part is None or not self.is_backed(choice) or self._own in self.loose:
            return None
        seeds = self.part.loose(self._included[choice])
        return SealLoose(self._own, self.number, choice, seeds) if seeds and self.ballots.may_open(choice) else None

    def own_shares(self, choice: bytes) -> tuple[bytes, ...]:
        """What this site reveals for a choice that is supported."""
        if self.part is None or self.group is None:
            return ()
        vectors = self._vectors(choice) or []
        return tuple(self._share_of(of) for of in vectors)

    def open(self, choice: bytes) -> NDArray[np.int64] | None:
        """The sum of a choice, int64[count]; None: something is missing still.

        Raises:
            WireError: it can never be opened, or is no sum of so many vectors; the same at every site.
        """
        vectors, pair_seeds, group = self._vectors(choice), self._pair_seeds(choice), self.group
        if vectors is None or pair_seeds is None or group is None:
            return None
        for place, of in enumerate(vectors):
            if of.author in self._seeds:
                continue
            shares = {
                author: held[choice].shares[place]
                for (_, author), held in self.reveals.items()
                if choice in held and author in group.sites
            }
            try:
                seed = group.self_seed(of, shares)
            except WireError as error:
                self.faults.accuse(of.author, "it dealt shares that are not those of one seed", of)
                self.ballots.dead.add(choice)
                raise WireError(f"a vector that nobody can open: {error}") from error
            if seed is None:
                return None
            self._seeds[of.author] = seed
        return group.sum(vectors, [self._seeds[of.author] for of in vectors], pair_seeds)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _vectors(self, choice: bytes) -> list[Sealed] | None:
        """The vectors of a choice; None: not all are here."""
        included = self._included.get(choice)
        if not included or self.group is None or self._of_open[choice] != self.group.hash:
            return None
        if any(self._names.get(sent.site) != sent.hash for sent in included):
            return None
        return [self.sealed[sent.site] for sent in included]

    def _pair_seeds(self, choice: bytes) -> dict[tuple[SiteKey, SiteKey], bytes] | None:
        """(included, member outside) -> seed; None: not all are here."""
        group, vectors = self.group, self._vectors(choice)
        if group is None or vectors is None:
            return None
        outside = self._outside(vectors)
        found: dict[tuple[SiteKey, SiteKey], bytes] = {}
        for of in vectors if outside else []:
            given = self.loose.get(of.author, {}).get(choice)
            seeds = self._standing(given, of, outside) if given is not None else None
            if seeds is None:
                return None
            found |= {(of.author, other): seed for other, seed in zip(outside, seeds, strict=True)}
        return found

    def is_another(self, site: SiteKey) -> bool:
        """Whether a quorum voted for a set with another vector of that member than the one here: it sealed two."""
        asked_for = self._asked_for(site)
        return site != self._own and asked_for is not None and self._names.get(site) not in (None, asked_for)

    def _asked_for(self, site: SiteKey) -> bytes | None:
        """Hash of that member's vector in the set that a quorum voted for; None: there is none."""
        included = self.set_of(self.ballots.backed_set() or VOID)
        return next((sent.hash for sent in included if sent.site == site), None)

    def is_wrong(self, given: SealLoose) -> bool:
        """Whether these are not the pair seeds that its author committed to, as far as can be told here."""
        vectors = self._vectors(given.choice) or []
        of = next((each for each in vectors if each.author == given.author), None)
        return of is not None and self._standing(given, of, self._outside(vectors)) is None

    def _outside(self, vectors: Sequence[Sealed]) -> list[SiteKey]:
        inside = {of.author for of in vectors}
        return [site for site in self.group.sites if site not in inside] if self.group is not None else []

    def _standing(self, given: SealLoose, of: Sealed, outside: Sequence[SiteKey]) -> tuple[bytes, ...] | None:
        group, seeds = self.group, given.pair_seeds
        if group is None or len(seeds) != len(outside):
            self.faults.accuse(given.author, "it gave another number of pair seeds than its set takes", given)
            return None
        pairs = zip(outside, seeds, strict=True)
        if not all(group.pair_seed_stands(of, other, seed) for other, seed in pairs):
            self.faults.accuse(given.author, "it gave pair seeds that it did not commit to", given)
            return None
        return seeds

    def _has_share(self, dealer: SiteKey) -> bool:
        held = bool(self.self_seed) if dealer == self._own else dealer in self._shares
        return self.part is None or held

    def _share_of(self, of: Sealed) -> bytes:
        if of.author != self._own or self.group is None:
            return self._shares[of.author]
        return deal(self.self_seed, len(self.group.sites), self.group.threshold)[self.group.number(self._own) - 1]

    def restore(self, said: SealReveal) -> None:
        """Take back what this site revealed before it was restarted: it binds, whatever else is here by now."""
        self.reveals.setdefault((said.ballot, said.author), {})[said.choice] = said
        self.ballots.reveal(said.ballot, said.author, said.choice)
