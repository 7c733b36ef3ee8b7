"""Key, settings, charter, amendments and data of a site, each examined although another one is wrong."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import CharterDocument
from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.chem.read.table_file import table_rows
from kmel_p2p.site.config import SiteConfig, load_config, read_text
from kmel_p2p.site.doctor.findings import Area, Finding, good, problem
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
        yield problem(Area.FILES, "settings", str(error), f"correct {config_path}, then look again")
        return
    yield good(Area.FILES, "settings", f"{config_path} can be used")
    yield _key(own)
    yield _modes(own.config)
    yield from _charter(own)
    yield from _data(own)


def _key(own: OwnFiles) -> Finding:
    assert own.config is not None
    try:
        own.identity = load_key(own.config.site.key_file)
    except ConfigError as error:
        return problem(Area.FILES, "key", str(error), "do what the message says; the peer does not start before")
    return good(Area.FILES, "key", f"{own.config.site.key_file}, public key {own.identity.key.hex()[:16]}…")


def _modes(config: SiteConfig) -> Finding:
    folder = config.site.state_dir
    if not folder.exists():
        return Finding(Area.FILES, "state", "note", f"{folder} is made at the first start")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        return problem(Area.FILES, "state", f"{folder} is open to others (mode {mode:04o})", f"chmod 700 {folder}")
    return good(Area.FILES, "state", f"{folder} is this user's alone")


def _charter(own: OwnFiles) -> Iterator[Finding]:
    assert own.config is not None
    path = own.config.site.charter
    try:
        own.document = CharterDocument.parse(read_text(path, "kmel-peer join or invite brings it"), str(path))
    except ConfigError as error:
        yield problem(
            Area.FILES, "charter", str(error), "kmel-peer join TEXT, or ask another site for its charter.toml"
        )
        return
    charter = own.document.charter
    if problems := own.document.problems():
        yield problem(
            Area.FILES,
            "charter",
            f"{path} is not in force: {'; '.join(problems)}",
            "collect the signatures: kmel-peer invite or join, or kmel-peer charter merge",
        )
        return
    yield good(Area.FILES, "charter", f"{charter.federation}, {charter.id.hex()[:16]}, signed by all founders")
    try:
        constitution = _constitution(own.config, Constitution(charter))
    except (KmelError, OSError) as error:
        yield problem(Area.FILES, "amendments", str(error), "list all amendments in order under site.amendments")
        return
    own.constitution = constitution
    if own.identity is None:
        return
    rule = constitution.roster.get(own.identity.key)
    if rule is None:
        left = own.identity.key in constitution.everyone
        text = "an amendment has retired this key" if left else "neither charter nor amendments list this site's key"
        yield problem(
            Area.FILES,
            "roster",
            f"{text} ({own.identity.key.hex()[:16]}…)",
            "check that key and charter are those of one federation; a later site needs site.amendments",
        )
    elif rule.name != own.config.site.name:
        text = f"site.name is {own.config.site.name!r}, and the charter calls this key {rule.name!r}"
        yield problem(Area.FILES, "roster", text, f'write name = "{rule.name}" under [site]')
    else:
        yield good(Area.FILES, "roster", f"{rule.name} is one of {len(constitution.roster)} sites")
    number = constitution.number
    yield good(Area.FILES, "amendments", f"{number} in force" if number else "none in force")


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
    data, where = own.config.data, "[data] in the settings; docs/data.md shows each form"
    if own.document is not None:
        known = [endpoint.name for endpoint in own.document.charter.assay_endpoints]
        odd = [name for name in data.columns if name not in known]
        if odd:
            text = f"[data.columns] names {', '.join(map(repr, odd))}; the charter has {', '.join(map(repr, known))}"
            yield problem(Area.DATA, "columns", text, f"correct {where}")
    try:
        with data.path.open("rb"):
            pass
    except OSError as error:
        yield problem(Area.DATA, "data", f"{data.path} cannot be read: {error.strerror}", f"correct {where}")
        return
    if data.format != "wide":
        yield good(Area.DATA, "data", f"{data.path} is there; kmel-peer data check reads it")
        return
    try:
        header, _ = table_rows(data.path, data)
    except (DataError, ConfigError) as error:
        yield problem(Area.DATA, "data", str(error), f"correct the file, or {where}")
        return
    missing = [
        name for name in (data.smiles_column, *(rule.column for rule in data.columns.values())) if name not in header
    ]
    if missing:
        text = f"{data.path} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, header[:20]))}"
        yield problem(Area.DATA, "data", text, f"correct {where}")
    else:
        yield good(Area.DATA, "data", f"{data.path} has the columns; kmel-peer data check reads its values")
