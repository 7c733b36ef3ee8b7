"""One small message of every kind of sealed rounds, made from fixed secrets; run as a script it writes the golden file.

Run it only for a new version of the formats: bytes already in use never change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.sealed.group import Group, OwnPart
from kmel_p2p.core.sealed.messages import (
    SCHEMAS,
    VOID,
    GroupMember,
    Included,
    SealClose,
    SealHave,
    SealKey,
    SealLoose,
    SealOpen,
    SealPast,
    SealReveal,
    SealSum,
    SealWant,
    hash_of,
    signed,
)
from kmel_p2p.core.sealed.pairs import public_key
from kmel_p2p.core.sealed.sums import SumLog
from kmel_p2p.core.wire import Wire

GOLDEN = Path(__file__).parent / "golden" / "sealed.toml"

CHARTER_ID = bytes(range(32, 64))
SITES = sorted((Identity(bytes(range(n, n + 32))) for n in range(3)), key=lambda site: site.key)
SECRETS = [bytes([0xA0 + n]) * 32 for n in range(3)]
SELF_SEEDS = [bytes([0xB0 + n]) * 32 for n in range(3)]
LEVELS = 7
LOG = SumLog(CHARTER_ID, np.zeros(16, np.float32), 0.25, LEVELS, -10)
Q = [np.array(q) for q in ([1, -7, 0, 3], [2, 7, 0, -3], [-1, 4, 5, 0])]
"""Levels of the three sites at the four positions of round 1."""

WIRE = Wire(CHARTER_ID, SCHEMAS)


def messages() -> dict[str, Any]:
    """A round of three sites of which the last never sealed, and what is said around it."""
    keys = [
        signed(site, CHARTER_ID, SealKey(site.key, 1, public_key(secret)))
        for site, secret in zip(SITES, SECRETS, strict=True)
    ]
    members = tuple(GroupMember(key.author, key.public, key.signature) for key in keys)
    opened = signed(SITES[0], CHARTER_ID, SealOpen(SITES[0].key, 1, LOG.chain, members))
    group = Group(opened, hash_of(CHARTER_ID, opened), LOG.count, LEVELS)
    parts = [OwnPart(group, site.key, secret) for site, secret in zip(SITES, SECRETS, strict=True)]
    sealed = [signed(SITES[n], CHARTER_ID, parts[n].seal(1, Q[n], SELF_SEEDS[n])) for n in (0, 1)]
    included = tuple(Included(each.author, hash_of(CHARTER_ID, each)) for each in sealed)
    close = signed(SITES[0], CHARTER_ID, SealClose(SITES[0].key, 1, 0, group.hash, included))
    share = parts[2].share_from(sealed[0]), parts[2].share_from(sealed[1])
    reveal = signed(SITES[2], CHARTER_ID, SealReveal(SITES[2].key, 1, 0, close.choice, share))
    entry = LOG.entry(1, 0b011, close.choice, Q[0] + Q[1])
    return {
        "seal_key": keys[0],
        "seal_open": opened,
        "sealed": sealed[0],
        "seal_close": close,
        "seal_close_void": signed(SITES[1], CHARTER_ID, SealClose(SITES[1].key, 1, 1, VOID, ())),
        "seal_loose": signed(SITES[0], CHARTER_ID, SealLoose(SITES[0].key, 1, close.choice, parts[0].loose(included))),
        "seal_reveal": reveal,
        "seal_sum": signed(SITES[0], CHARTER_ID, SealSum(SITES[0].key, 1, 1, LOG.chain)),
        "seal_have": SealHave(1, 0, 1, 0b111, group.hash, 0b011, (0b001 << 16,), 0b001, bytes(8), b""),
        "seal_want": SealWant(1, SITES[1].key, 0),
        "seal_past": SealPast(1, (entry.encode(),)),
    }


def golden() -> dict[str, str]:
    """Name -> bytes, in hex."""
    return {name: WIRE.encode(message).hex() for name, message in messages().items()}


if __name__ == "__main__":
    GOLDEN.write_bytes(tomli_w.dumps(golden()).encode())
