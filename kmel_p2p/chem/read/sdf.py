"""Records of SDF text: structure, title line and properties; what cannot be read keeps all but its structure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rdkit import Chem, rdBase

_DATA_HEADER = re.compile(r"^>.*?<([^>]*)>")


@dataclass(frozen=True, slots=True)
class SdfRecord:
    """One record.

    Attributes:
        line: where it starts, from 1.
        smiles: of its structure as RDKit reads it; empty where `reason` says why not.
        title: its first line.
        properties: name -> text of its data items.
        reason: why there is no structure; empty where there is one.
    """

    line: int
    smiles: str
    title: str
    properties: Mapping[str, str]
    reason: str


def sdf_records(lines: Iterable[str]) -> Iterator[SdfRecord]:
    """Every record of the lines of an SDF file, in order."""
    for line, block in _blocks(lines):
        supplier = Chem.SDMolSupplier()
        title = block[: block.find("\n")].strip()
        with rdBase.BlockLogs():
            supplier.SetData(block)
            molecule = next(iter(supplier), None)
        if molecule is None:
            yield SdfRecord(line, "", title, _properties(block), "the structure of this record cannot be read")
        else:
            properties = molecule.GetPropsAsDict(autoConvertStrings=False)
            yield SdfRecord(line, Chem.MolToSmiles(molecule), title, properties, "")


def _properties(block: str) -> dict[str, str]:
    """Data items of a record whose structure RDKit refuses: without them nobody could tell which compound it was."""
    found: dict[str, str] = {}
    lines = iter(block.splitlines())
    for text in lines:
        header = _DATA_HEADER.match(text)
        if header is None:
            continue
        values = []
        for value in lines:
            if not value.strip() or value.rstrip() == "$$$$":
                break
            values.append(value)
        found[header[1]] = "\n".join(values)
    return found


def _blocks(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each record, also of a last one without its end mark."""
    block: list[str] = []
    start = 1
    for number, text in enumerate(lines, start=1):
        block.append(text)
        if text.rstrip() == "$$$$":
            yield start, "".join(block)
            block, start = [], number + 1
    if any(text.strip() for text in block):
        yield start, "".join(block)
