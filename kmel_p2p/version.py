"""Version of this program, declared once: the package, model cards, reports and `--version` take it from here."""

from __future__ import annotations

VERSION = "0.1.0"
