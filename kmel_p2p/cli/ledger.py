"""`kmel-peer ledger`: the entries this site keeps, read from its store, whether or not the daemon runs."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.agreement.identity import SiteKey
    from kmel_p2p.core.ledger.log.entry import Entry
    from kmel_p2p.core.roster_vector import RosterOrder
    from kmel_p2p.site.config import SiteConfig
    from kmel_p2p.site.site import Site
    from kmel_p2p.site.state.store import Store, StoredEntry


@click.group()
def ledger() -> None:
    """Read and verify the entries this site keeps."""


@ledger.command()
@config_option
@click.option("--site", "only", help="Only entries of this site.")
@click.option("--arrival", is_flag=True, help="In the order of arrival here; default: by author and number.")
@json_option
def log(config_path: Path, only: str | None, arrival: bool, as_json: bool) -> None:
    """List the entries: author, number, base, weight, steps, bytes, hash."""
    config, names, order = _open(config_path)
    store, weight, steps = _store(config), say("weight"), say("steps")
    try:
        for row in _rows(store, names, order, arrival):
            if only not in (None, row["author"]):
                continue
            if as_json:
                click.echo(json.dumps(row, ensure_ascii=False))
            else:
                base = " ".join(f"{name}:{number}" for name, number in row["base"].items()) or "-"
                click.echo(
                    f"{row['author']:<16} {row['number']:>6}  {weight} {row['weight']:.4f}  {row['steps']:>5} {steps}"
                    f"  {row['bytes']:>9} B  {row['hash'][:12]}  {say('on {base}').format(base=base)}"
                )
    finally:
        store.close()


@ledger.command()
@click.argument("author")
@click.argument("number", type=click.IntRange(min=1))
@config_option
@json_option
def show(author: str, number: int, config_path: Path, as_json: bool) -> None:
    """Show entry NUMBER of site AUTHOR in full, without its values."""
    from kmel_p2p.agreement.errors import LocalError

    config, names, order = _open(config_path)
    store = _store(config)
    try:
        found = next(
            (e for e in store.load_entries() if e.number == number and author in (names.get(e.author), e.author.hex())),
            None,
        )
    finally:
        store.close()
    if found is None:
        raise LocalError(f"{store.path}: keeps no entry {number} of {author!r}; kmel-peer ledger log lists them")
    entry = _decoded(store, found)
    facts = {
        "author": names.get(entry.author, entry.author.hex()),
        "key": entry.author.hex(),
        "number": entry.number,
        "charter": entry.charter_id.hex(),
        "hash": entry.hash.hex(),
        "previous": entry.previous.hex(),
        "base": _named(order.named(entry.base), names),
        "weight": _weight(entry.weight),
        "head_weights": _head_weights(entry),
        "steps": entry.steps,
        "codec": entry.codec_id,
        "payload_bytes": len(entry.payload),
        "entry_bytes": len(found.encoded),
        "signature_good": entry.signature_is_good(),
        "arrival": found.arrival,
        "own_state_file": found.own_state_file,
    }
    if as_json:
        echo_json(facts)
        return
    for name, value in facts.items():
        click.echo(f"{name:<16} {value}")


@ledger.command()
@config_option
@json_option
def verify(config_path: Path, as_json: bool) -> None:
    """Check every stored entry again, from the charter's initial trunk: signatures, chains, rules and the sum.

    Also checks that the trainer's state belongs to the newest own entry: what was published plus the residual must be
    all that was trained. Says what cannot be checked because it came in a snapshot: from whom, and who attested it.
    Exits with 8 if something does not stand, or if another site claims another sum of the same entries.
    """
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.site.loaded_site import load_site

    config, names, _ = _open(config_path)
    site = load_site(config)
    store = _store(config)
    try:
        facts = _recompute(site, store, names)
    finally:
        store.close()
    if as_json:
        echo_json(facts)
    if facts["problems"]:
        raise DoesNotHoldError(f"{store.path}: " + "; ".join(facts["problems"]))
    if not as_json:
        _say_trusted(facts["trusted"])
        heads = " ".join(f"{name}:{number}" for name, number in facts["vector"].items()) or "empty"
        tell(f"{facts['entries']} entries stand, vector {heads}, digest {facts['digest']}")
        if facts["own"] is not None:
            own = facts["own"]
            balance = (
                "balance not checked: own entries are compacted into the snapshot, or newly arrived"
                if own["gap"] is None
                else "balances"
            )
            tell(f"own state of entry {own['round']}: residual norm {own['residual_norm']:.4g}, {balance}")


@ledger.command()
@config_option
@json_option
def faults(config_path: Path, as_json: bool) -> None:
    """List the authors whose log was ended: before which entry, why, and what evidence is kept."""
    config, names, _ = _open(config_path)
    store = _store(config)
    try:
        rows = [
            {
                "author": names.get(author, author.hex()),
                "number": number,
                "reason": reason,
                "proofs": sum(kind == "proof" for _, kind, _ in store.evidence(author)),
                "retracted": sum(kind == "retracted" for _, kind, _ in store.evidence(author)),
            }
            for author, (number, reason) in store.log_ends().items()
        ]
    finally:
        store.close()
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        click.echo(
            f"{row['author']:<16} ends before {row['number']:>6}  {row['proofs']} proofs, "
            f"{row['retracted']} entries retracted: {row['reason']}"
        )
    if not rows:
        tell("no author's log was ended")


@ledger.command()
@click.argument("other", type=FILE)
@config_option
@json_option
def diff(other: Path, config_path: Path, as_json: bool) -> None:
    """Compare with another site's store (a copy of its store.sqlite). Exits with 8 if one number has two entries."""
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.site.state.store import Store

    config, names, _ = _open(config_path)
    here, there = _store(config), Store(other, read_only=True)
    try:
        ours, theirs = _hashes(here), _hashes(there)
    finally:
        here.close()
        there.close()
    rows = []
    for author in sorted(ours.keys() | theirs.keys()):
        mine, its = ours.get(author, {}), theirs.get(author, {})
        split = min((number for number in mine.keys() & its.keys() if mine[number] != its[number]), default=None)
        name = names.get(author, author.hex())
        rows.append({"author": name, "here": max(mine, default=0), "there": max(its, default=0), "differs_from": split})
    if as_json:
        echo_json(rows)
    else:
        for row in rows:
            difference = f"  two entries number {row['differs_from']}" if row["differs_from"] else ""
            click.echo(f"{row['author']:<16} here {row['here']:>6}  there {row['there']:>6}{difference}")
    torn = [f"{row['author']} from {row['differs_from']}" for row in rows if row["differs_from"]]
    if torn:
        raise DoesNotHoldError(f"{other}: the logs differ: {', '.join(torn)}")


def _hashes(store: Store) -> dict[SiteKey, dict[int, bytes]]:
    found: dict[SiteKey, dict[int, bytes]] = {}
    for stored in store.load_entries():
        found.setdefault(stored.author, {})[stored.number] = stored.hash
    return found


def _recompute(site: Site, store: Store, names: dict[SiteKey, str]) -> dict[str, Any]:
    """Recompute the ledger from the stored entries, and list what is wrong with them."""
    from kmel_p2p.agreement.errors import ConfigError, WireError
    from kmel_p2p.site.modes.stored_ledger import open_ledger
    from kmel_p2p.site.state.own_state import own_entries, own_state
    from kmel_p2p.site.state.trust import Trusted, diverging

    kept = store.vector()
    problems = store.check()
    own = None
    try:
        made = open_ledger(site, store)
    except (ConfigError, WireError) as error:
        problems.append(str(error))
        return {"entries": 0, "vector": {}, "digest": "", "own": None, "trusted": None, "problems": problems}
    if made.vector != kept:
        problems.append(f"the entries lead to {_named(made.vector, names)}, the store counts {_named(kept, names)}")
    try:
        own = own_state(site, store, own_entries(site, store))
    except ConfigError as error:
        problems.append(str(error))
    if own is not None and own.problem:
        problems.append(own.problem)
    trusted = Trusted.of(store)
    for key in diverging(store):
        problems.append(
            f"site {names.get(key, key.hex())} claims another sum of the same entries: one of the two ledgers is "
            "damaged. If this one is, it is fetched again by itself while the peer runs; otherwise ask that site's "
            "operator"
        )
    return {
        "entries": sum(made.vector.values()),
        "vector": _named(made.vector, names),
        "digest": made.digest().hex(),
        "own": None if own is None else {"round": own.round, "residual_norm": own.residual_norm, "gap": own.gap},
        "trusted": None
        if trusted is None
        else {
            "vector": _named(trusted.vector, names),
            "server": names.get(trusted.server, trusted.server.hex()),
            "attested": [names.get(key, key.hex()) for key in trusted.attested],
            "other_sites": len(made.rules.current) - 1,
            "at": trusted.at,
        },
        "problems": problems,
    }


def _say_trusted(trusted: dict[str, Any] | None) -> None:
    if trusted is None:
        tell("nothing was taken on trust: every entry was checked here")
        return
    heads = " ".join(f"{name}:{number}" for name, number in trusted["vector"].items())
    on = datetime.datetime.fromtimestamp(trusted["at"], datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    given, others = trusted["attested"], trusted["other_sites"]
    by_order = "" if 2 * len(given) > others else "; by order of this site's operator, for they are no majority"
    tell(
        f"taken on trust: the sum up to {heads}, in a snapshot that {trusted['server']} gave on {on}, attested by "
        f"{', '.join(given)} ({len(given)} of {others} other sites{by_order})"
    )


def _open(config_path: Path) -> tuple[SiteConfig, dict[SiteKey, str], RosterOrder]:
    """Settings, site names by key, including those that amendments added, and the order in which bases count."""
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.core.roster_vector import RosterOrder
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.modes import mode_of
    from kmel_p2p.site.site import names_of, stored_constitution

    config = load_config(config_path)
    site = load_site(config)
    if not mode_of(site.charter).keeps_entries:
        raise LocalError(
            f"{config.site.charter}: this federation averages in mode {site.mode}: sites exchange shares "
            "of their trunks and keep no ledger. `kmel-peer status` shows where this site stands, `kmel-peer egress` "
            "what left it"
        )
    store = _store(config)
    try:
        constitution = stored_constitution(site, store)
        return config, names_of(constitution), RosterOrder(constitution.order)
    finally:
        store.close()


def _store(config: SiteConfig) -> Store:
    from kmel_p2p.site.state.store import STORE_NAME, Store

    return Store(config.site.state_dir / STORE_NAME, read_only=True)


def _rows(store: Store, names: dict[SiteKey, str], order: RosterOrder, arrival: bool) -> Iterator[dict[str, Any]]:
    for stored in store.load_entries("arrival" if arrival else "author"):
        entry = _decoded(store, stored)
        yield {
            "author": names.get(entry.author, entry.author.hex()),
            "number": entry.number,
            "weight": _weight(entry.weight),
            "steps": entry.steps,
            "bytes": len(stored.encoded),
            "hash": entry.hash.hex(),
            "base": _named(order.named(entry.base), names),
            "arrival": stored.arrival,
        }


def _decoded(store: Store, stored: StoredEntry) -> Entry:
    from kmel_p2p.agreement.errors import ConfigError, WireError
    from kmel_p2p.core.ledger.log.entry import decode

    try:
        return decode(stored.encoded)
    except WireError as error:
        raise ConfigError(
            f"{store.path}: entry {stored.number} of {stored.author.hex()[:16]} does not decode ({error}); "
            "either another version of kmel-peer wrote it, or it was altered: see kmel-peer ledger verify"
        ) from error


def _head_weights(entry: Entry) -> dict[str, float] | None:
    """By number among the charter's shared heads; None: the weight holds for them too."""
    if not entry.head_weights:
        return None
    return {str(head): _weight(units) for head, units in entry.head_weights.items()}


def _weight(units: int) -> float:
    from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE

    return units / WEIGHT_ONE


def _named(vector: Any, names: dict[SiteKey, str]) -> dict[str, int]:
    return {names.get(key, key.hex()): number for key, number in vector.items()}
