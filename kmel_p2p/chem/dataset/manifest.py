"""The dataset manifest: what a model was trained on. It stays at the site, as its name says."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import write_whole

if TYPE_CHECKING:
    # It loads RDKit, and the daemon reads what is written here.
    from kmel_p2p.chem.dataset.measurements import Measurements

MANIFEST = "dataset_STAYS.json"
APPROVAL = "dataset-approved.json"

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_LEADING_NUMBER = re.compile(r"^[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)? +")


def manifest(source: Source, measurements: Measurements) -> dict[str, Any]:
    """Files with their hashes, counts and ranges, JSON-ready."""
    endpoints = []
    for place, endpoint in enumerate(measurements.endpoints):
        labels = measurements.labels[:, place].astype(np.float64)
        values = endpoint.transformed(labels[np.isfinite(labels)])
        endpoints.append(
            {
                "name": endpoint.name,
                "unit": endpoint.reported_unit,
                **asdict(measurements.counts[place]),
                "censored": int(np.count_nonzero(measurements.relations[:, place])),
                "lowest": float(values.min()) if len(values) else None,
                "highest": float(values.max()) if len(values) else None,
                "units": dict(measurements.readings[place].units),
            }
        )
    return {
        "dataset_hash": measurements.dataset_hash(),
        "files": [{"name": path.name, "sha256": _sha256(path)} for path in files_of(source)],
        "settings": _settings(source),
        "rows_in": measurements.rows_in,
        "compounds": len(measurements),
        **asdict(measurements.total),
        "endpoints": endpoints,
        "refused_for": dict(Counter(reason_kind(r.reason) for r in measurements.rejects).most_common(50)),
    }


def _settings(source: Source) -> dict[str, Any]:
    """How the files were read, what was declared about columns, and what was withheld; defaults are left out."""
    return {
        "columns": {name: column.model_dump(exclude_defaults=True) for name, column in source.columns.items()},
        "text": source.model_dump(include={"separator", "decimal", "encoding", "header_line", "sheet", "missing"}),
        "time": source.time.model_dump(),
        "embargo": {"project_column": source.embargo.project_column, "projects": list(source.embargo.projects)},
    }


def reason_kind(reason: str) -> str:
    """A reason without its value, so that similar ones count together."""
    if match := _LEADING_NUMBER.match(reason):
        return f"... {reason[match.end() :]}".split(" (", 1)[0].split("; ", 1)[0]
    if reason.startswith(("SMILES is no valid structure", "RDKit cannot standardise")):
        # RDKit names atoms by number.
        return re.sub(r"\.\.\.(?: \.\.\.)+", "...", _NUMBER.sub("...", reason))
    return reason.split(" (", 1)[0].split("; ", 1)[0]


def write_json(path: Path, content: dict[str, Any], mode: int = 0o600) -> None:
    """Replace a file by JSON; readable by its owner alone unless `mode` says otherwise (see `files.write_whole`).

    Raises:
        ConfigError: the disk is full or not writable.
    """
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False).encode(), mode=mode)


def require_approved(state_dir: Path, dataset_hash: str) -> None:
    """Raises:
    DataError: this dataset is not the one that was approved.
    """
    path = state_dir / APPROVAL
    remedy = "look at `kmel-peer data check`, then run `kmel-peer data approve`"
    try:
        approved = parse_json(path.read_text(encoding="utf-8"))["dataset_hash"]
    except FileNotFoundError:
        raise DataError(f"data.require_approval is set and no dataset was approved yet; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    if approved != dataset_hash:
        raise DataError(
            f"the dataset has changed since its approval (now {dataset_hash[:16]}, then {str(approved)[:16]}); {remedy}"
        )


def files_of(source: Source) -> list[Path]:
    """Every file that measurements are read from, or that says which ones to leave out."""
    paths = (source.path, source.embargo.compounds, source.embargo.scaffolds, source.structures, source.assays)
    return [path for path in paths if path is not None]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
