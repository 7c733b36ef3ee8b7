"""The group of one round as its Open fixes it, and what one member seals to it and takes from the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.averaging import quorum_of
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.masking import mask_bits, open_sum, packed_bytes, seal, sign, unpack
from kmel_p2p.core.sealed.messages import Included, Sealed, SealOpen
from kmel_p2p.core.sealed.pairs import SEALED_SHARE_BYTES, Pair, decrypt_share, encrypt_share, pair, public_key
from kmel_p2p.core.sealed.sharing import COMMITMENT_BYTES, combine, commitment, deal, is_committed

_PAIR = b"kmel sealed pair commitment"


@dataclass(frozen=True)
class Group:
    """What follows from an Open.

    Attributes:
        open: it.
        hash: its hash.
        count: values that each member sends.
        levels: limit of a level.
    """

    open: SealOpen
    hash: bytes
    count: int
    levels: int
    sites: tuple[SiteKey, ...] = field(init=False)
    """Members in the order of keys; shares are numbered from 1 in it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(member.site for member in self.open.members))

    @property
    def threshold(self) -> int:
        """Shares that open a self seed: of more than two thirds of the members."""
        return quorum_of(len(self.sites))

    @property
    def bits(self) -> int:
        """Of a masked value."""
        return mask_bits(len(self.sites), self.levels)

    def number(self, site: SiteKey) -> int:
        """Of the share that a member holds of every seed."""
        return self.sites.index(site) + 1

    def others(self, site: SiteKey) -> tuple[SiteKey, ...]:
        """All members but that one."""
        return tuple(each for each in self.sites if each != site)

    def check(self, sealed: Sealed) -> None:
        """Refuse what no member can have sealed.

        Raises:
            WireError: its author is no member, or a part has another size or spelling than it must have.
        """
        if sealed.author not in self.sites:
            raise WireError("a sealed vector of a site outside the group")
        members = len(self.sites)
        sizes = {
            "payload": (len(sealed.payload), packed_bytes(self.count, self.bits)),
            "shares": (len(sealed.shares), (members - 1) * SEALED_SHARE_BYTES),
            "commitments": (len(sealed.commitments), members * COMMITMENT_BYTES),
            "pair_commitments": (len(sealed.pair_commitments), (members - 1) * COMMITMENT_BYTES),
        }
        for name, (found, needed) in sizes.items():
            if found != needed:
                raise WireError(f"a sealed vector with {name} of {found} bytes where {needed} are needed")
        unpack(sealed.payload, self.count, self.bits)

    def commitments(self, sealed: Sealed) -> list[bytes]:
        """To the shares of a member's self seed, by number."""
        return _cut(sealed.commitments, COMMITMENT_BYTES)

    def context(self, site: SiteKey) -> bytes:
        """Of the commitments of a member."""
        return self.hash + site

    def share_stands(self, of: Sealed, holder: SiteKey, share: bytes) -> bool:
        """Whether that is the share which the author of `of` gave to `holder`."""
        return is_committed(self.context(of.author), self.number(holder), share, self.commitments(of))

    def pair_seed_stands(self, of: Sealed, other: SiteKey, seed: bytes) -> bool:
        """Whether that is the pair seed with `other` that the author of `of` committed to."""
        committed = _cut(of.pair_commitments, COMMITMENT_BYTES)[self.others(of.author).index(other)]
        return _pair_commitment(self.hash, of.author, other, seed) == committed

    def self_seed(self, of: Sealed, shares: Mapping[SiteKey, bytes]) -> bytes | None:
        """The self seed of a member from shares that stand; None: too few.

        Raises:
            WireError: the member dealt shares that are not those of one seed.
        """
        if len(shares) < self.threshold:
            return None
        numbered = {self.number(site): share for site, share in shares.items()}
        return combine(numbered, self.context(of.author), self.threshold, self.commitments(of))

    def sum(
        self,
        vectors: Sequence[Sealed],
        self_seeds: Sequence[bytes],
        pair_seeds: Mapping[tuple[SiteKey, SiteKey], bytes],
    ) -> NDArray[np.int64]:
        """The sum of the levels in those vectors, int64[count].

        Args:
            vectors: of the sites that are included.
            self_seeds: theirs, in the same order.
            pair_seeds: (included site, member outside) -> their seed.

        Raises:
            WireError: a value beyond what so many sites can send.
        """
        loose = [(sign(here, outside), seed) for (here, outside), seed in pair_seeds.items()]
        payloads = (sealed.payload for sealed in vectors)
        return open_sum(payloads, self.count, self.levels, self.bits, self_seeds, loose)


class OwnPart:
    """This site as a member of a group: its pairs, and the shares that the others dealt to it.

    Args:
        group: it is a member.
        own: this site.
        secret: X25519, of this round.
    """

    def __init__(self, group: Group, own: SiteKey, secret: bytes) -> None:
        self._group = group
        self._own = own
        public = {member.site: member.public for member in group.open.members}
        self.is_own = public[own] == public_key(secret)
        """Whether the group goes by the key that this site has the secret of."""
        self.pairs: dict[SiteKey, Pair] = {
            other: pair(secret, public[other], own, other, group.hash) for other in group.others(own)
        }

    def seal(self, round_number: int, q: NDArray[np.int64], self_seed: bytes) -> Sealed:
        """The masked levels, unsigned.

        Args:
            round_number: of the round.
            q: levels, int64[count].
            self_seed: 32 random bytes that are used for nothing else.
        """
        group = self._group
        seeds = {other: each.mask_seed for other, each in self.pairs.items()}
        shares = deal(self_seed, len(group.sites), group.threshold)
        others = group.others(self._own)
        context = group.context(self._own)
        dealing = b"".join(commitment(context, number, share) for number, share in enumerate(shares, 1))
        dealt = ((self.pairs[other].out_key, shares[group.number(other) - 1]) for other in others)
        return Sealed(
            self._own,
            round_number,
            group.hash,
            seal(q, group.levels, group.bits, self._own, self_seed, seeds),
            b"".join(encrypt_share(key, share, dealing) for key, share in dealt),
            dealing,
            b"".join(_pair_commitment(group.hash, self._own, other, seeds[other]) for other in others),
        )

    def share_from(self, sealed: Sealed) -> bytes:
        """The share that another member dealt to this site.

        Raises:
            WireError: it does not decrypt, or is not what the member committed to.
        """
        group = self._group
        at = group.others(sealed.author).index(self._own)
        dealt = _cut(sealed.shares, SEALED_SHARE_BYTES)[at]
        share = decrypt_share(self.pairs[sealed.author].in_key, dealt, sealed.commitments)
        if not group.share_stands(sealed, self._own, share):
            raise WireError("a share that its dealer did not commit to")
        return share

    def loose(self, included: Sequence[Included]) -> tuple[bytes, ...]:
        """This site's pair seeds with the members that are not included, if it is itself."""
        inside = {sent.site for sent in included}
        if self._own not in inside:
            return ()
        return tuple(self.pairs[site].mask_seed for site in self._group.sites if site not in inside)


def _pair_commitment(group: bytes, author: SiteKey, other: SiteKey, seed: bytes) -> bytes:
    return hashlib.blake2b(_PAIR + group + author + other + seed, digest_size=COMMITMENT_BYTES).digest()


def _cut(joined: bytes, size: int) -> list[bytes]:
    return [joined[at : at + size] for at in range(0, len(joined), size)]
