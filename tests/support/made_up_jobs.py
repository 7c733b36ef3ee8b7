"""Jobs that need no models: quick, slow, failing and crashing. A fresh process imports this: nothing heavy."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError, DataError


class MadeUpJobs:
    def __init__(self, folder: Path) -> None:
        if folder.name == "missing":
            raise ConfigError(f"{folder}: no model here yet")
        if folder.name == "crashing":
            os._exit(3)
        self.asked = 0

    def about(self) -> dict[str, Any]:
        return {
            "labels": {"site": "<north>"},
            "digest": "ab" * 32,
            "assay_endpoints": [
                {"name": "logD", "kind": "regression", "unit": "", "no_values": "", "no_intervals": ""}
            ],
            "knows_own_compounds": False,
            "recorded": False,
        }

    def predict(self, smiles: list[str], level: float) -> list[dict[str, Any]]:
        self.asked += 1
        if smiles == ["crash"]:
            os._exit(9)
        if smiles == ["slow"]:
            threading.Event().wait(60)
        if smiles == ["bug"]:
            raise ZeroDivisionError("secret structure")
        if smiles == ["refused"]:
            raise DataError("this cannot be used")
        return [
            {
                "smiles": text,
                "standardised": text,
                "predictions": {
                    "logD": {"value": 1.0, "lower": None, "upper": None, "classes": None, "model": str(self.asked)}
                },
                "similarity": None,
                "applicability": "",
                "reason": "",
            }
            for text in smiles
        ]

    def where(self) -> int:
        return os.getpid()


class MadeUpTables(MadeUpJobs):
    """Also a table of 500 rows, whatever is sent."""

    def table_shape(self, path: Path, smiles_column: str) -> dict[str, Any]:
        return {"rows": 500, "head": "smiles,logD\n"}

    def table_rows(self, path: Path, smiles_column: str, start: int, size: int, level: float) -> str:
        return "C,1.0\n" * min(size, 500 - start)
