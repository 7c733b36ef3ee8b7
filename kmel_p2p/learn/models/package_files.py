"""Which package of a trunk is installed, and whether it is the charter's: its files, read and never run.

The charter has a hash of what is installed and not of the wheel, because what is installed is what runs: a peer can
hash it anew at every start. The daemon does, before it opens a socket; whoever imports the package does again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint, PackagePath
from pathlib import Path

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.trunk_package import TrunkPackage

GROUP = "kmel_p2p.trunks"
"""Entry points of this group are trunks; their names are what `model.trunk` says."""

_HASHED_FACTS = ("METADATA", "entry_points.txt")
"""What of `*.dist-info` comes with the wheel and is the same whoever installed it: the dependencies among it."""

_BLOCK = 1 << 20


def offered() -> dict[str, list[str]]:
    """Names of the trunks that installed packages bring -> packages."""
    found: dict[str, list[str]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.dist is not None:
            found.setdefault(point.name, []).append(point.dist.name)
    return found


def installed(package: str) -> Distribution:
    """An installed package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"the package {package} is not installed: pip install {package}") from None


def package_with(trunk: str) -> str:
    """The one installed package that brings a trunk of this name.

    Raises:
        ConfigError: none does, or several do.
    """
    packages = offered().get(trunk, [])
    if not packages:
        raise ConfigError(
            f"there is no trunk {trunk!r} here, neither this program's nor an installed package's: kmel-peer trunk "
            "list shows which there are"
        )
    if len(packages) > 1:
        raise ConfigError(
            f"several packages have a trunk {trunk!r}: {', '.join(packages)}. Draft the charter with another one, and "
            "put in its place what kmel-peer trunk draft PACKAGE prints"
        )
    return packages[0]


def entry_point(distribution: Distribution, trunk: str) -> EntryPoint:
    """Where a package has a trunk.

    Raises:
        ConfigError: it has none of that name.
    """
    points = {point.name: point for point in distribution.entry_points if point.group == GROUP}
    if trunk not in points:
        has = f"it has: {', '.join(sorted(points))}" if points else "it has none"
        raise ConfigError(
            f"the package {distribution.name} {distribution.version} has no trunk {trunk!r} among its entry points of "
            f"the group {GROUP}; {has}"
        )
    return points[trunk]


def files_hash(distribution: Distribution) -> str:
    """SHA-256 (hex) of the files that a wheel of this package put here, by name and content.

    Without compiled bytecode, scripts of commands and the installer's own notes, which differ from machine to machine.

    Raises:
        ConfigError: the package was not installed from a wheel, or a file is missing.
    """
    whole = hashlib.sha256(b"kmel trunk package 1\n")
    for path in _hashed(distribution):
        own = hashlib.sha256()
        place = Path(str(distribution.locate_file(path)))
        try:
            with place.open("rb") as file:
                while block := file.read(_BLOCK):
                    own.update(block)
        except OSError as error:
            raise ConfigError(
                f"{place}: cannot be read ({error.strerror}), though the package {distribution.name} lists it: "
                f"install it again with pip install --force-reinstall --no-deps {distribution.name}"
            ) from error
        whole.update(f"{own.hexdigest()} {path.as_posix()}\n".encode())
    return whole.hexdigest()


def own_files(distribution: Distribution) -> set[Path]:
    """Where the files are that `files_hash` covers."""
    return {Path(str(distribution.locate_file(path))).resolve() for path in _hashed(distribution)}


def check_installed(rule: TrunkPackage, trunk: str) -> Distribution:
    """The charter's package, if this machine has exactly that one.

    Raises:
        ConfigError: it has not; says what to install.
    """
    wanted = f"the charter's trunk {trunk} needs the package {rule.name} {rule.version}"
    try:
        distribution = importlib.metadata.distribution(rule.name)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"{wanted} (sha256 {rule.sha256[:16]}), which is not installed: pip install {rule.name}=={rule.version}, "
            "from where its supplier told the federation to take it"
        ) from None
    if distribution.version != rule.version:
        raise ConfigError(f"{wanted}, and {distribution.version} is installed: pip install {rule.name}=={rule.version}")
    found = files_hash(distribution)
    if found != rule.sha256:
        raise ConfigError(
            f"{wanted} with files of sha256 {rule.sha256[:16]}, and the files that are installed under that version "
            f"have {found[:16]}: they were changed, or are another build. Get the wheel that the federation agreed on, "
            f"and pip install --force-reinstall --no-deps it"
        )
    entry_point(distribution, trunk)
    return distribution


def _hashed(distribution: Distribution) -> Iterator[PackagePath]:
    if distribution.files is None or _editable(distribution):
        raise ConfigError(
            f"the package {distribution.name} is not installed from a wheel, so nothing says which files are its own: "
            "build it (python -m build, or pip wheel --no-deps .) and pip install the wheel"
        )
    for path in sorted(distribution.files, key=lambda path: path.as_posix()):
        facts = path.parts[0].endswith(".dist-info")
        if path.suffix == ".pyc" or path.parts[0] == ".." or (facts and path.name not in _HASHED_FACTS):
            continue
        yield path


def _editable(distribution: Distribution) -> bool:
    told = distribution.read_text("direct_url.json")
    try:
        return bool(told and json.loads(told).get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False
