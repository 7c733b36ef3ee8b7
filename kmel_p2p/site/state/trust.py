"""What a site's ledger rests on beside its own checks: an adopted snapshot, and claims of others that do not hold here.

Entries that a site holds are checked again whenever it starts, and by `kmel-peer ledger verify`. A snapshot cannot be:
what is in it was taken on the word of the site that gave it and of those that attested it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.site.state.store import TRUSTED, Store

DIVERGENCE = "divergence"
AGREEMENT = "agreement"
"""Series of the history: claims that do not hold here, and sites whose claims hold again."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """The newest snapshot that this site adopted.

    Attributes:
        vector: author -> newest entry in it.
        server: who gave it.
        attested: who signed that they hold the same sum.
        at: when, seconds since 1970.
    """

    vector: Mapping[SiteKey, int]
    server: SiteKey
    attested: tuple[SiteKey, ...]
    at: float

    def encode(self) -> bytes:
        """For the store."""
        plain = {
            "vector": {key.hex(): number for key, number in self.vector.items()},
            "server": self.server.hex(),
            "attested": [key.hex() for key in self.attested],
            "at": self.at,
        }
        return json.dumps(plain).encode()

    @classmethod
    def of(cls, store: Store) -> Trusted | None:
        """What a store holds; None: no snapshot was adopted, every entry was checked here.

        Raises:
            ConfigError: it cannot be read.
        """
        stored = store.get_blob(TRUSTED)
        if stored is None:
            return None
        try:
            plain = parse_json(stored)
            return cls(
                {_key(key): int(number) for key, number in plain["vector"].items()},
                _key(plain["server"]),
                tuple(_key(key) for key in plain["attested"]),
                float(plain["at"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{store.path}: the note of whose word the snapshot rests on cannot be read: {error!r}; the store was "
                "altered. Move the state directory away and start again: the others will send the ledger"
            ) from None


def diverging(store: Store) -> list[SiteKey]:
    """Sites that claimed another sum of the same entries, and have not claimed the one held here since."""
    newest: dict[SiteKey, tuple[float, bool]] = {}
    for kind in (DIVERGENCE, AGREEMENT):
        for row in store.history(kind):
            at = float(row["at"])
            if at >= newest.get(row["site"], (0.0, False))[0]:
                newest[SiteKey(row["site"])] = (at, kind == DIVERGENCE)
    return sorted(key for key, (_, differs) in newest.items() if differs)


def _key(text: str) -> SiteKey:
    return SiteKey(bytes.fromhex(text))
