"""What `import kmel_p2p` offers: few names, all documented, nothing heavy loaded before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kmel_p2p
from kmel_p2p.agreement.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_every_public_name_exists_and_has_a_place_in_the_docs() -> None:
    page = PAGE.read_text("utf-8")
    assert len(kmel_p2p.__all__) <= 30
    for name in kmel_p2p.__all__:
        assert getattr(kmel_p2p, name) is not None
        assert f"`{name}" in page, f"docs/models.md does not mention {name}"
    assert set(kmel_p2p.__all__) <= set(dir(kmel_p2p))


def test_names_are_those_of_their_modules() -> None:
    assert kmel_p2p.ConfigError is ConfigError
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kmel_p2p.nothing  # noqa: B018


def test_importing_the_package_loads_neither_torch_nor_chemistry() -> None:
    script = "import sys, kmel_p2p; print(sorted({'torch', 'rdkit', 'numpy', 'zmq'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
