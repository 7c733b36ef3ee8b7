"""Predictions as a DataFrame: for SMILES, molecules, a DataFrame or a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdkit import Chem

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.chem.read.structure_file import SDF_SUFFIXES, SMILES_SUFFIXES, InputForm, StructureFile, smiles_place
from kmel_p2p.chem.read.table_file import PARQUET_SUFFIXES, InputFile
from kmel_p2p.chem.read.workbook import SUFFIXES as WORKBOOK_SUFFIXES
from kmel_p2p.learn.predict.columns import added_columns, columns_of, require_room
from kmel_p2p.learn.predict.model_directory import Card
from kmel_p2p.learn.predict.values import Prediction

if TYPE_CHECKING:
    import pandas as pd

FILE_SUFFIXES = (".csv", ".tsv", ".txt", *SMILES_SUFFIXES, *SDF_SUFFIXES, *PARQUET_SUFFIXES, *WORKBOOK_SUFFIXES)

SMILES = "smiles"
"""Column of the answer with structures that were given without a table."""


def frame_of(
    compounds: object, smiles_column: str, card: Card, predict: Callable[[Sequence[str]], Sequence[Prediction]]
) -> pd.DataFrame:
    """What was given, with the columns of `columns.added_columns`.

    Args:
        compounds: as for `Model.predict`.
        smiles_column: of a table.
        predict: one prediction for each SMILES.

    Raises:
        TypeError: `compounds` is nothing of the kind.
        DataError: there is no such column, one of the added ones is there already, or a file cannot be read.
    """
    import pandas as pd

    table, smiles, refused = _table(compounds, smiles_column)
    require_room([str(name) for name in table.columns], card)
    predictions = predict(smiles)
    columns = columns_of(predictions, card, refused)
    kinds = added_columns(card)
    added = pd.DataFrame(
        {name: pd.Series(column, index=table.index, dtype=kinds[name]) for name, column in columns.items()}
    )
    return pd.concat([table, added], axis=1)


def _table(compounds: object, smiles_column: str) -> tuple[pd.DataFrame, list[str], dict[int, str]]:
    """The table that the answer extends, its structures as SMILES, and row -> why it has none."""
    import pandas as pd

    if isinstance(compounds, pd.DataFrame):
        header = [str(name) for name in compounds.columns]
        at = smiles_place("the table", header, smiles_column, "Name it with smiles_column.")
        return compounds, list(map(_smiles_of, compounds.iloc[:, at])), {}
    if isinstance(compounds, os.PathLike):
        return _file(Path(compounds), smiles_column)
    if isinstance(compounds, str | Chem.Mol):
        if isinstance(compounds, str) and compounds.lower().endswith(FILE_SUFFIXES):
            raise TypeError(f"a text is a SMILES; a file is given as a path: predict(Path({compounds!r:.80}))")
        smiles = [_smiles_of(compounds)]
        return pd.DataFrame({SMILES: smiles}), smiles, {}
    if isinstance(compounds, Iterable) and not isinstance(compounds, bytes | dict):
        smiles = list(map(_smiles_of, compounds))
        index = compounds.index if isinstance(compounds, pd.Series) else None
        return pd.DataFrame({SMILES: pd.Series(smiles, index=index, dtype=str)}), smiles, {}
    raise TypeError(
        f"predict takes SMILES, RDKit molecules, several of them, a DataFrame or a path, not {type(compounds).__name__}"
    )


def _file(path: Path, smiles_column: str) -> tuple[pd.DataFrame, list[str], dict[int, str]]:
    import pandas as pd

    file = StructureFile(InputFile(path), InputForm(smiles_column=smiles_column))
    blocks = list(file.blocks(0, file.count, 65_536))
    rows = [row for block in blocks for row in block.rows]
    smiles = [row[file.smiles_at] for row in rows]
    refused = dict(_refused([(len(block.rows), block.refused) for block in blocks]))
    if file.schema is not None:
        import pyarrow

        stored = [block.stored for block in blocks if block.stored is not None]
        return pyarrow.Table.from_batches(stored, file.schema).to_pandas(), smiles, refused
    if len(set(file.header)) < len(file.header):
        raise DataError(f"{path}: names a column twice; rename one")
    return pd.DataFrame(rows, columns=file.header, dtype=str), smiles, refused


def _refused(blocks: Iterable[tuple[int, dict[int, str]]]) -> Iterator[tuple[int, str]]:
    start = 0
    for count, refused in blocks:
        yield from ((start + at, reason) for at, reason in refused.items())
        start += count


def _smiles_of(compound: Any) -> str:
    """Empty where there is no structure, as in an empty cell of a table."""
    if isinstance(compound, str):
        return compound
    return str(Chem.MolToSmiles(compound)) if isinstance(compound, Chem.Mol) else ""
