"""What a store keeps of amendments that gave way to others with their numbers, and what follows for its entries."""

from __future__ import annotations

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.core.ledger.events import AmendmentsOverruled
from kmel_p2p.site.state.database import sound
from kmel_p2p.site.state.store import AMENDMENT, Store

OVERRULED = "overruled amendment "
"""Blobs that hold amendments that gave way, by number and hash."""


def overrule(store: Store, record: AmendmentsOverruled) -> None:
    """Keep what gave way apart; where it had been in force here, put in force what overruled it.

    Entries that no longer stand are set aside, and all ends of logs are forgotten: what still holds is recorded anew.

    Raises:
        ConfigError: the store cannot take it; nothing was changed.
    """
    with store.transaction("overrule"):
        for encoded in record.overruled:
            amendment = AmendmentDocument.decode(encoded).amendment
            store.put_blob(f"{OVERRULED}{amendment.number:010d} {amendment.hash.hex()}", encoded)
        if record.kept is None:
            return
        for number in store.amendments():
            if number >= record.first:
                store.drop_blob(f"{AMENDMENT}{number:010d}")
        for number, encoded in enumerate(record.documents, record.first):
            store.add_amendment(number, encoded)
        store.forget_ends()
        for author in store.authors():
            store.set_aside(author, record.kept.get(author, 0) + 1)


def overruled_amendments(store: Store) -> dict[bytes, AmendmentDocument]:
    """Amendments that gave way, by hash."""
    with sound(store.path, "an amendment that was overruled"):
        documents = [AmendmentDocument.decode(encoded) for encoded in store.blobs(OVERRULED).values()]
    return {document.amendment.hash: document for document in documents}
