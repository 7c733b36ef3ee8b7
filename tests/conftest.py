"""Fixtures and paths shared by all tests."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("unit/core", "process"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
