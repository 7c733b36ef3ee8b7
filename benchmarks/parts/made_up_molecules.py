"""Any number of different molecules of the size of drugs, made of common parts: benchmarks need no file for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

LEFT = (
    "CC", "CCC", "CC(C)", "CCCC", "C=CC", "COCC", "CN(C)CC", "FC(F)(F)C", "C1CC1", "C1CCCC1", "C1CCCCC1", "C1CCOCC1",
    "C1CCN(C)CC1", "c1ccccc1", "c1ccncc1", "c1ccc(F)cc1", "c1ccc(Cl)cc1", "c1ccc(OC)cc1", "c1ccc(C#N)cc1", "c1ccsc1",
    "c1ccoc1", "c1cn(C)nc1", "c1ccc2[nH]ccc2c1", "c1ccc2ncccc2c1", "c1cnc2ccccc2c1",
)  # fmt: skip
LINKS = (
    "C(=O)N", "NC(=O)", "S(=O)(=O)N", "OC", "NC", "C(=O)NC", "OCC(=O)N", "N(C)C(=O)", "C(=O)N(C)", "NC(=O)N", "SC",
    "C(C)NC(=O)",
)  # fmt: skip
MIDDLES = (
    "c7ccc({})cc7", "c7cc({})ccn7", "c7nc({})ccc7", "C7CCN({})CC7", "c7csc({})n7", "c7cc({})on7", "c7nnc({})s7",
    "c7ccc2c(c7)cn({})c2", "C7CN({})CCN7C", "c7c(F)cc({})cc7", "c7c(C)nc({})nc7", "C7CCC({})CC7",
)  # fmt: skip
RIGHTS = (
    "C", "CC", "C(F)(F)F", "OC", "Cc1ccccc1", "c1ccccc1", "c1ccncc1", "C(=O)OC", "C(=O)N", "CN(C)C", "CO", "C#N",
    "CC(=O)O", "C1CC1", "C1CCCC1", "CCc1c[nH]c2ccccc12", "Cc1ccc(Cl)cc1", "Cc1ccc(F)cc1", "CCN1CCOCC1", "CC(C)O",
    "c1ccc(C(C)(C)C)cc1", "c1cccc(C(F)(F)F)c1", "c1nccs1", "CC(N)=O", "CS(C)(=O)=O", "CCOC", "CC#C", "C1CCOCC1",
)  # fmt: skip
"""Parts: they make some 100,000 molecules, and nearly as many more with each further carbon after the link."""


def made_up_molecules() -> Iterator[str]:
    """SMILES, no text twice."""
    seen: set[str] = set()
    for further in itertools.count():
        for middle, left, link, right in itertools.product(MIDDLES, LEFT, LINKS, RIGHTS):
            smiles = left + link + "C" * further + middle.format(right)
            if smiles not in seen:
                seen.add(smiles)
                yield smiles
