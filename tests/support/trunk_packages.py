"""Packages with a trunk, as pip installs them: written by hand where a test needs many, built where it needs one."""

from __future__ import annotations

import base64
import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

TEMPLATE = Path(__file__).parents[2] / "examples" / "trunk-template"

LINEAR = """
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(shape.inputs, shape.hidden[-1])

    def forward(self, features):
        return torch.relu(self.layer(features))


def module(shape):
    return Linear(shape)
"""
"""The least that is a trunk."""


def write_package(folder: Path, name: str, code: str = LINEAR, version: str = "1.0", trunk: str = "") -> Path:
    """A package with one module, as installed from a wheel: its trunk is called like it. Returns the module's file."""
    place, facts = folder / f"{name}.py", folder / f"{name}-{version}.dist-info"
    facts.mkdir(parents=True)
    place.write_text(code)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text(f"[kmel_p2p.trunks]\n{trunk or name} = {name}\n")
    (facts / "INSTALLER").write_text("pip\n")
    files = [place, *sorted(facts.iterdir())]
    lines = [f"{file.relative_to(folder)},sha256={_recorded(file)},{file.stat().st_size}" for file in files]
    (facts / "RECORD").write_text(
        "\n".join([*lines, f"{facts.name}/RECORD,,", f"__pycache__/{name}.cpython.pyc,,", ""])
    )
    importlib.invalidate_caches()
    return place


def install_template(folder: Path) -> Path:
    """Build examples/trunk-template as its supplier does and install the wheel; returns what goes on Python's path."""
    built, installed = folder / "dist", folder / "installed"
    for command in (
        ["hatchling", "build", "-t", "wheel", "-d", str(built)],
        ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed), "--find-links", str(built),
         "--disable-pip-version-check", "trunk-template"],
    ):  # fmt: skip
        subprocess.run([sys.executable, "-m", *command], cwd=TEMPLATE, check=True, capture_output=True, timeout=300)
    return installed


def _recorded(file: Path) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
