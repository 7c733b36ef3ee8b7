"""What goes along when a site asks for help: findings, settings, agreement, status and log. No secret, no measurement.

Left out are keys, invitations, store, trainer, models, caches, tables and the egress log. Of the settings, the names of
projects and files under `[data.embargo]`, and the values that rows are matched with, are left out, too.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.files import write_whole
from kmel_p2p.site.config import SiteConfig, load_config, read_text
from kmel_p2p.site.doctor.findings import Finding
from kmel_p2p.site.observe.logs import LOG_NAME
from kmel_p2p.version import VERSION

LOG_BYTES = 512 * 1024
"""Of the end of the log."""

PACKAGES = ("numpy", "pyzmq", "PyNaCl", "pydantic", "rdkit", "torch", "scikit-learn", "psutil", "click", "rich")

LEFT_OUT = "(left out)"


def bundle_contents(
    config_path: Path, findings: Sequence[Finding], status: Mapping[str, Any] | None
) -> dict[str, bytes]:
    """Name -> content of each file of a bundle; what cannot be read says why in its place."""
    contents = {
        "doctor.json": _json([finding.plain() for finding in findings]),
        "versions.json": _json(_versions()),
        "status.json": _json(status),
    }
    try:
        config = load_config(config_path)
    except ConfigError as error:
        contents["settings.txt"] = f"{error}\n".encode()
        return contents
    contents["settings.toml"] = _settings(config)
    for name, path in (
        ("charter.toml", config.site.charter),
        *((f"amendments/{path.name}", path) for path in config.site.amendments),
    ):
        try:
            contents[name] = read_text(path, "").encode()
        except ConfigError as error:
            contents[f"{name}.txt"] = f"{error}\n".encode()
    contents[LOG_NAME] = _tail(config.site.state_dir / LOG_NAME)
    return contents


def write_bundle(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write them as one .tar.gz.

    Raises:
        ConfigError: it cannot be written.
    """
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w") as tar:
        for name, content in contents.items():
            facts = tarfile.TarInfo(f"kmel-peer-doctor/{name}")
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))
    write_whole(path, packed.getvalue())


def _settings(config: SiteConfig) -> bytes:
    plain = json.loads(config.model_dump_json(exclude_none=True))
    if embargo := plain["data"].get("embargo"):
        plain["data"]["embargo"] = dict.fromkeys(embargo, LEFT_OUT)
    for column in plain["data"]["columns"].values():
        column["match"] = dict.fromkeys(column.get("match", {}), LEFT_OUT)
    return tomli_w.dumps(plain).encode()


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(0, io.SEEK_END)
            file.seek(max(0, file.tell() - LOG_BYTES))
            return file.read(LOG_BYTES)
    except OSError as error:
        return f"{path}: {error.strerror}\n".encode()


def _versions() -> dict[str, str]:
    found = {"kmel-peer": VERSION, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
