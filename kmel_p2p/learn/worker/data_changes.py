"""What has changed in a site's measurements, for its people: counts, a list, and which models knew what is gone."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.dataset.refresh import (
    CHANGES,
    KEPT,
    Measured,
    changes,
    changes_table,
    counted,
    learned_from,
    measured_in,
    read_measured,
)
from kmel_p2p.files import write_whole
from kmel_p2p.learn.predict.versions import versions
from kmel_p2p.learn.worker.session import DataChanges


def changed_since(
    before: Measured, own: Measurements, retired: Collection[str], state_dir: Path, folder: Path
) -> DataChanges:
    """Compare, and list every change in a file of `folder`.

    Args:
        before: the measurements as they were.
        own: as they are now.
        retired: assay endpoints that are trained no more: their measurements were not withdrawn.
        state_dir: has the versions of the models.

    Raises:
        ConfigError: the list cannot be written, or measurements kept with a version are damaged.
    """
    found = [change for change in changes(before, measured_in(own)) if change.endpoint not in retired]
    removed = [change for change in found if change.kind == "removed"]
    kept = [other for other in versions(state_dir) if (other.folder / KEPT).exists()] if removed else []
    known = {other.name: read_measured(other.folder / KEPT)[1] for other in kept}
    path = folder / CHANGES
    write_whole(path, changes_table(found, own.endpoints).encode())
    return DataChanges(
        endpoints=counted(found, [endpoint.name for endpoint in own.endpoints]),
        trained_on_removed=learned_from(removed, known),
        before=sum(endpoint not in retired for _, endpoint in before),
        path=path,
    )
