"""The notebook of the documentation runs as it is written, on the data it names, and is kept without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "first_model.ipynb"

RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""
"""Apart from this process, whose warnings are errors: those of a kernel are its own."""

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def test_the_notebook_runs_to_its_ranked_list(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK), "done.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    text = json.dumps(made)
    assert "Advice: " in text
    assert "ideas are likely above 1 mM" in text
    assert "image/svg+xml" in text
    assert "Spearman" in text
    assert (tmp_path / "first_model" / "evaluation" / "evaluation.html").exists()


def test_it_is_kept_without_outputs() -> None:
    kept = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert NOTEBOOK.stat().st_size < 40_000
