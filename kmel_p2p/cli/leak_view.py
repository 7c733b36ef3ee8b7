"""What own entries show of this site's compounds, measured and in words: `audit leak` and `held show` share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kmel_p2p.cli.language import told
from kmel_p2p.cli.options import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kmel_p2p.learn.audit.own_entries import LeakAudit, Shown
    from kmel_p2p.site.site import Site

NOT_PRIVATE = (
    "These are attacks that need nothing but the entries and the charter. A figure of 0 is no proof that others fail."
)

NOTHING = "nothing that can be measured: there are no other compounds to compare with"


def measured(
    site: Site, payloads: Mapping[int, bytes], as_json: bool
) -> tuple[LeakAudit, dict[int, NDArray[np.float64]]]:
    """Look at payloads as another member could. Reads this site's data.

    Args:
        payloads: by number.
        as_json: without a progress bar.

    Raises:
        ConfigError, DataError: the data cannot be read.
    """
    from kmel_p2p.learn.audit.own_entries import LeakAudit
    from kmel_p2p.learn.worker.prepare import prepare
    from kmel_p2p.site.loaded_site import trainer_plan

    with progress_bar("structures", as_json) as progress:
        dataset, _ = prepare(trainer_plan(site, 0), lambda p: progress(p.done, p.total))
    looked = LeakAudit(site.architecture, dataset)
    return looked, _energies(site, looked, payloads)


def _energies(site: Site, looked: LeakAudit, payloads: Mapping[int, bytes]) -> dict[int, NDArray[np.float64]]:
    from kmel_p2p.site.modes.stored_ledger import codec_of

    codec, size = codec_of(site), site.layout.size
    return {number: looked.energies(codec.decode(payload).dense(size)) for number, payload in sorted(payloads.items())}


def leak_in_words(shown: Shown) -> str:
    """In one line, in the language of this process."""
    parts = []
    if shown.bits is not None and shown.own_share is not None:
        right = f"{shown.right / shown.bits:.1%} right" if shown.bits and shown.right is not None else "none"
        parts.append(f"{shown.own_share:.1%} of the own bits ({right}), {shown.compounds:,} compounds whole")
    if shown.picked_at_1pct is not None:
        parts.append(f"picks out {shown.picked_at_1pct:.1%} at 1 % false alarms (AUROC {shown.picked_auroc:.3f})")
    return "; ".join(map(told, parts or [NOTHING]))
