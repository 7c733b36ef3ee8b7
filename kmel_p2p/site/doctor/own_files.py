"""Key, settings, charter, amendments and data of a site, each examined although another one is wrong."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.charter import CharterDocument
from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.chem.read.table_file import table_rows
from kmel_p2p.site.config import SiteConfig, load_config, read_text
from kmel_p2p.site.doctor.findings import Area, Finding, good, note, problem
from kmel_p2p.site.doctor.mapped_columns import examine_columns, unfit_settings
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.state.store import STORE_NAME, Store


@dataclass
class OwnFiles:
    """What could be read; None where it could not."""

    config: SiteConfig | None = None
    identity: Identity | None = None
    document: CharterDocument | None = None
    constitution: Constitution | None = None


def examine_files(config_path: Path, own: OwnFiles) -> Iterator[Finding]:
    """Examine them in turn, and fill in `own`."""
    try:
        own.config = load_config(config_path)
    except ConfigError as error:
        yield problem(
            Area.FILES, "settings", "{error}", "correct {file}, then look again", error=error, file=config_path
        )
        return
    yield good(Area.FILES, "settings", "{file} can be used", file=config_path)
    yield _key(own)
    yield _modes(own.config)
    yield from _charter(own)
    yield from _data(own)


def _key(own: OwnFiles) -> Finding:
    assert own.config is not None
    try:
        own.identity = load_key(own.config.site.key_file)
    except ConfigError as error:
        advice = "do what the message says; the peer does not start before"
        return problem(Area.FILES, "key", "{error}", advice, error=error)
    return good(Area.FILES, "key", "{file}, public key {key}…", file=own.config.site.key_file, key=_short(own.identity))


def _modes(config: SiteConfig) -> Finding:
    folder = config.site.state_dir
    if not folder.exists():
        return note(Area.FILES, "state", "{folder} is made at the first start", folder=folder)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        says = "{folder} is open to others (mode {mode})"
        return problem(Area.FILES, "state", says, "chmod 700 {folder}", folder=folder, mode=f"{mode:04o}")
    return good(Area.FILES, "state", "{folder} is this user's alone", folder=folder)


def _charter(own: OwnFiles) -> Iterator[Finding]:
    assert own.config is not None
    path = own.config.site.charter
    try:
        own.document = CharterDocument.parse(read_text(path, "kmel-peer join or invite brings it"), str(path))
    except ConfigError as error:
        advice = "kmel-peer join TEXT, or ask another site for its charter.toml"
        yield problem(Area.FILES, "charter", "{error}", advice, error=error)
        return
    charter = own.document.charter
    if problems := own.document.problems():
        says = "{file} is not in force: {problems}"
        advice = "collect the signatures: kmel-peer invite or join, or kmel-peer charter merge"
        yield problem(Area.FILES, "charter", says, advice, file=path, problems="; ".join(problems))
        return
    says = "{federation}, {id}, signed by all founders"
    yield good(Area.FILES, "charter", says, federation=charter.federation, id=charter.id.hex()[:16])
    try:
        constitution = _constitution(own.config, Constitution(charter))
    except (KmelError, OSError) as error:
        advice = "list all amendments in order under site.amendments"
        yield problem(Area.FILES, "amendments", "{error}", advice, error=error)
        return
    own.constitution = constitution
    if own.identity is None:
        return
    yield _roster(own.config.site.name, own.identity, constitution)
    number = constitution.number
    yield good(Area.FILES, "amendments", "{count} in force" if number else "none in force", count=number)


def _roster(name: str, identity: Identity, constitution: Constitution) -> Finding:
    """Whether charter and amendments have this site, by its name."""
    rule = constitution.roster.get(identity.key)
    if rule is None:
        says = "neither charter nor amendments list this site's key ({key}…)"
        if identity.key in constitution.everyone:
            says = "an amendment has retired this key ({key}…)"
        advice = "check that key and charter are those of one federation; a later site needs site.amendments"
        return problem(Area.FILES, "roster", says, advice, key=_short(identity))
    if rule.name != name:
        says = "site.name is {written!r}, and the charter calls this key {name!r}"
        return problem(Area.FILES, "roster", says, 'write name = "{name}" under [site]', written=name, name=rule.name)
    return good(Area.FILES, "roster", "{name} is one of {count} sites", name=rule.name, count=len(constitution.roster))


def _short(identity: Identity) -> str:
    return identity.key.hex()[:16]


def _constitution(config: SiteConfig, constitution: Constitution) -> Constitution:
    """With what the site's files and its store know."""
    for path in config.site.amendments:
        text = read_text(path, "ask another site for it")
        constitution = constitution.followed_by(AmendmentDocument.parse(text, str(path)))
    store_path = config.site.state_dir / STORE_NAME
    if not store_path.exists():
        return constitution
    store = Store(store_path, read_only=True)
    try:
        stored = store.amendments()
    finally:
        store.close()
    while (encoded := stored.get(constitution.number + 1)) is not None:
        constitution = constitution.followed_by(AmendmentDocument.decode(encoded))
    return constitution


def _data(own: OwnFiles) -> Iterator[Finding]:
    assert own.config is not None
    data, advice = own.config.data, "correct [data] in the settings; docs/data.md shows each form"
    unfit = ""
    if own.document is not None:
        charter = own.document.charter
        endpoints = AssayEndpoints.first(charter.assay_endpoints)
        if own.constitution is not None:
            endpoints = own.constitution.campaign.assay_endpoints
        yield from examine_columns(data, endpoints, advice)
        unfit = unfit_settings(data, endpoints, charter.features)
    if unfit:
        yield problem(Area.DATA, "data", "{error}", advice, error=unfit)
        return
    try:
        with data.path.open("rb"):
            pass
    except OSError as error:
        says = "{file} cannot be read: {reason}"
        yield problem(Area.DATA, "data", says, advice, file=data.path, reason=error.strerror)
        return
    if data.format != "wide":
        yield good(Area.DATA, "data", "{file} is there; kmel-peer data check reads it", file=data.path)
        return
    try:
        header, _ = table_rows(data.path, data)
    except (DataError, ConfigError) as error:
        yield problem(Area.DATA, "data", "{error}", "correct the file, or [data] in the settings", error=error)
        return
    missing = [
        name for name in (data.smiles_column, *(rule.column for rule in data.columns.values())) if name not in header
    ]
    if missing:
        says, there = "{file} has no column {missing}; it has {there}", _listed(header[:20])
        yield problem(Area.DATA, "data", says, advice, file=data.path, missing=_listed(missing), there=there)
    else:
        says = "{file} has the columns; kmel-peer data check reads its values"
        yield good(Area.DATA, "data", says, file=data.path)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
