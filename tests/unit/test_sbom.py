"""The bill of materials lists every pinned package, and is what CycloneDX 1.6 requires."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def made(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "sbom", *arguments], check=True, capture_output=True)
    return dict(json.loads(done.stdout))


def script() -> Any:
    loader = SourceFileLoader("kmel_sbom", str(ROOT / "scripts" / "sbom"))
    spec = spec_from_loader("kmel_sbom", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["kmel_sbom"] = module
    loader.exec_module(module)
    return module


def test_the_bill_is_what_the_format_requires() -> None:
    """Fields, enumerations and patterns of bom-1.6.schema.json."""
    bill = made()
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    own = bill["metadata"]["component"]
    assert (own["type"], own["name"]) == ("application", "kmel-p2p")
    references = [own["bom-ref"], *(component["bom-ref"] for component in bill["components"])]
    assert len(references) == len(set(references))
    for component in bill["components"]:
        assert component["type"] == "library"
        assert component["name"]
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[A-Za-z0-9.+!]+", component["purl"])
        (wheels,) = component["externalReferences"]
        assert wheels["type"] == "distribution"
        assert wheels["hashes"]
        for entry in wheels["hashes"]:
            assert entry["alg"] == "SHA-256"
            assert re.fullmatch(r"[0-9a-f]{64}", entry["content"])
    (dependency,) = bill["dependencies"]
    assert {dependency["ref"], *dependency["dependsOn"]} == set(references)


def test_every_pinned_package_is_in_it() -> None:
    pinned = set()
    for name in ("demo", "torch-cuda"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        pinned |= {tuple(match) for match in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)}
    assert {(component["name"], component["version"]) for component in made()["components"]} == pinned
    assert made() == made()
    assert made("demo")["serialNumber"] != made()["serialNumber"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("numpy>=1\n", "line 1"), ("numpy==1 \\\n", "no hash of numpy"), ("numpy==1 \\\n  --hash=md5:00\n", "line 2")],
)
def test_what_is_not_pinned_is_refused_rather_than_left_out(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        script().read(path)
