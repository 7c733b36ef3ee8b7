"""The report of `kmel-peer predict --explain`: why the first rows of the input are predicted as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import progress_bar

if TYPE_CHECKING:
    from kmel_p2p.chem.read.structure_file import StructureFile
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.shift import Shift


def write_report(
    report: Path,
    source: Path,
    file: StructureFile,
    rows: tuple[int, int],
    loaded: Model,
    shift: Shift | None,
    model: str | None,
    level: float,
) -> None:
    """Write the report, its owner's alone where it shows own compounds, and say how many rows it explains.

    Args:
        rows: of the file that were predicted, the second excluded.
        shift: what is warned of for all of them.

    Raises:
        ConfigError: the disk is full or not writable.
    """
    from kmel_p2p.chem.read.structure_file import name_place
    from kmel_p2p.files import BY_UMASK, write_whole
    from kmel_p2p.learn.predict.explain import explain
    from kmel_p2p.learn.predict.explanation_page import MOST, explanation_page
    from kmel_p2p.learn.predict.explanation_view import compound_view

    start, stop = rows
    blocks = list(file.blocks(start, min(start + MOST, stop), MOST))
    table = [row for block in blocks for row in block.rows]
    reasons = [block.refused.get(at, "") for block in blocks for at in range(len(block.rows))]
    shown = loaded.predictions([row[file.smiles_at] for row in table], model=model, level=level)
    endpoints = loaded.card.architecture.endpoints
    at = name_place(file.header)
    compounds = []
    with progress_bar("explanations", False) as progress:
        for row, prediction in enumerate(shown):
            made = explain(loaded, [prediction], model)[0]
            name = table[row][at].strip() if at is not None else ""
            compounds.append(compound_view(made, endpoints, name, reason=reasons[row]))
            progress(row + 1, len(shown))
    warning = shift if model is None else None
    page = explanation_page(
        loaded,
        compounds,
        source="standard input" if str(source) == "-" else source.name,
        total=stop - start,
        level=level if model is None else None,
        warning="" if warning is None else str(warning),
    )
    secret = any(compound.neighbours for compound in compounds)
    write_whole(report, page.encode(), mode=0o600 if secret else BY_UMASK)
    stays = "; it shows own compounds with measured values, so it stays at the site" if secret else ""
    tell(f"{len(shown)} of {stop - start} rows explained in {report}{stays}", err=True)
    for note in dict.fromkeys(note for compound in compounds for note in compound.notes):
        tell(f"{report.name}: {note}", err=True)
