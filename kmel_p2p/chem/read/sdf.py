"""SDF files record by record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rdkit import Chem, rdBase

_DATA_HEADER = re.compile(r"^>.*?<(.*)>")


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
    return (sdf_record(line, text) for line, text in sdf_blocks(lines))


def sdf_blocks(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each record, including a last one without end mark."""
    block: list[str] = []
    start = 1
    for number, text in enumerate(lines, start=1):
        block.append(text)
        if text.rstrip() == "$$$$":
            yield start, "".join(block)
            block, start = [], number + 1
    if any(text.strip() for text in block):
        yield start, "".join(block)


def sdf_record(line: int, text: str) -> SdfRecord:
    """The record that starts at `line` with this text."""
    supplier = Chem.SDMolSupplier()
    with rdBase.BlockLogs():
        supplier.SetData(text)
        molecule = next(iter(supplier), None)
    smiles = "" if molecule is None else Chem.MolToSmiles(molecule)
    reason = "the structure of this record cannot be read" if molecule is None else ""
    return SdfRecord(line, smiles, title_of(text), sdf_properties(text), reason)


def title_of(text: str) -> str:
    """The first line of a record."""
    return text[: text.find("\n")].strip()


def sdf_properties(text: str) -> dict[str, str]:
    """Data items of a record, which also say which compound it was where RDKit refuses its structure."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        header = _DATA_HEADER.match(line)
        if header is None:
            continue
        values = []
        for value in lines:
            if not value.strip() or value.rstrip() == "$$$$":
                break
            values.append(value)
        found[header[1]] = "\n".join(values)
    return found
