"""What was measured, kept beside what was trained on it, and what has changed since."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.shown import cell
from kmel_p2p.chem.dataset.manifest import files_of
from kmel_p2p.files import write_whole

if TYPE_CHECKING:
    # It loads RDKit, and the daemon reads what is written here.
    from kmel_p2p.chem.dataset.measurements import Measurements

KEPT = "measured_STAYS.csv.gz"
"""In the state directory and beside each version of the models. It names compounds, so it stays at the site."""

HEADER = ("compound", "assay_endpoint", "relation", "value")
SAME = 1e-6
"""Values that differ by less, in labels, are the same: they are stored in 32 bits."""

CHANGES = "changes_STAYS.csv"
"""Every measurement that is new, different or gone (`changes_table`). It names compounds, too."""

Measured = Mapping[tuple[str, str], tuple[int, float]]
"""(compound, assay endpoint) -> (relation, label), as in `Measurements`."""


@dataclass(frozen=True, slots=True)
class DataChange:
    """One measurement that is not what it was.

    Attributes:
        compound: identity (`chem.structures.standardise.Structure`).
        endpoint: name of the assay endpoint.
        before, now: relation and label; None where there was none, or is none any more.
    """

    compound: str
    endpoint: str
    before: tuple[int, float] | None
    now: tuple[int, float] | None

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""
        return "added" if self.before is None else "removed" if self.now is None else "changed"


def measured_in(measurements: Measurements) -> dict[tuple[str, str], tuple[int, float]]:
    """Every measurement, replicates merged."""
    found = {}
    for place, endpoint in enumerate(measurements.endpoints):
        for row in np.flatnonzero(np.isfinite(measurements.labels[:, place])):
            relation, label = int(measurements.relations[row, place]), float(measurements.labels[row, place])
            found[measurements.structures.identities[row], endpoint.name] = relation, label
    return found


def write_measured(path: Path, measurements: Measurements) -> None:
    """Keep all measurements of a dataset; the first line names its hash.

    Raises:
        ConfigError: the disk is full or not writable.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", measurements.dataset_hash()])
    writer.writerow(HEADER)
    for (compound, endpoint), (relation, label) in sorted(measured_in(measurements).items()):
        writer.writerow([compound, endpoint, relation, repr(label)])
    write_whole(path, gzip.compress(text.getvalue().encode(), mtime=0))


def read_measured(path: Path) -> tuple[str, dict[tuple[str, str], tuple[int, float]]]:
    """(dataset hash, measurements) of a file that `write_measured` wrote.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            (_, dataset), header = next(rows), next(rows)
            if tuple(header) != HEADER:
                raise ValueError(f"its columns are {header}")
            return dataset, {(row[0], row[1]): (int(row[2]), float(row[3])) for row in rows}
    except FileNotFoundError:
        raise ConfigError(f"{path}: was not kept: this version is of an earlier program") from None
    except (OSError, EOFError, ValueError, IndexError, StopIteration, zlib.error, csv.Error) as error:
        raise ConfigError(f"{path}: is damaged ({error}); restore it from a backup") from None


def changes(before: Measured, now: Measured) -> list[DataChange]:
    """What is new, gone or different, in order of assay endpoint and compound."""
    found = []
    for compound, endpoint in sorted(before.keys() | now.keys(), key=lambda key: (key[1], key[0])):
        old, new = before.get((compound, endpoint)), now.get((compound, endpoint))
        if old is None or new is None or old[0] != new[0] or abs(old[1] - new[1]) > SAME:
            found.append(DataChange(compound, endpoint, old, new))
    return found


def counted(found: Sequence[DataChange], endpoints: Sequence[str]) -> dict[str, dict[str, int]]:
    """Assay endpoint -> kind of change -> how many; also of assay endpoints that are no longer among these."""
    names = [*endpoints, *sorted({change.endpoint for change in found} - set(endpoints))]
    counts = {name: dict.fromkeys(("added", "changed", "removed"), 0) for name in names}
    for change in found:
        counts[change.endpoint][change.kind] += 1
    return counts


def learned_from(removed: Sequence[DataChange], versions: Mapping[str, Measured]) -> dict[str, int]:
    """Version -> how many of the removed measurements its models had, for those that had any.

    Whoever withdrew them wants to know what was made with them.
    """
    counts = {name: sum((one.compound, one.endpoint) in known for one in removed) for name, known in versions.items()}
    return {name: count for name, count in counts.items() if count}


def changes_table(found: Sequence[DataChange], endpoints: Sequence[AssayEndpoint]) -> str:
    """Every change as CSV: compound, assay endpoint, kind, and the native values before and now."""
    known = {endpoint.name: endpoint for endpoint in endpoints}
    signs = {-1: "<", 0: "", 1: ">"}

    def shown(name: str, value: tuple[int, float] | None) -> str:
        if value is None or name not in known:
            return ""
        return f"{signs[value[0]]}{float(known[name].native(np.array([value[1]]))[0]):.6g}"

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["compound", "assay_endpoint", "kind", "before", "now"])
    for one in found:
        writer.writerow(
            [
                cell(one.compound),
                cell(one.endpoint),
                one.kind,
                shown(one.endpoint, one.before),
                shown(one.endpoint, one.now),
            ]
        )
    return out.getvalue()


def file_stamps(sources: Iterable[Source | None]) -> dict[str, tuple[int, ...] | None]:
    """Path of each data file -> inode, bytes, and times of the last changes in ns; None where it cannot be looked at.

    A file with the same stamp has the same content: nobody sets the time of the last change of an inode.
    """
    stamps: dict[str, tuple[int, ...] | None] = {}
    for path in (path for source in sources if source is not None for path in files_of(source)):
        try:
            found = path.stat()
        except OSError:
            stamps[str(path)] = None
        else:
            stamps[str(path)] = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return stamps
