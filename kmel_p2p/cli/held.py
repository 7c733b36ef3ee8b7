"""`kmel-peer held`: the entry that waits for the operator before it leaves, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import tell, told
from kmel_p2p.cli.options import config_option, echo_json, json_option
from kmel_p2p.cli.own_payloads import NOTHING_HELD, Held, held_entry, kept_payloads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kmel_p2p.site.config import SiteConfig
    from kmel_p2p.site.site import Site


@click.group()
def held() -> None:
    """Look at the entry that waits for approval, and decide on it.

    Entries wait where `[ledger] hold = true`. Nothing is trained while one waits.
    """


@held.command("list")
@config_option
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """Say what waits, and which entries leave without being asked about."""
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.observe.status import bytes_text, span_text
    from kmel_p2p.site.state.orders import OrderBook

    config = load_config(config_path)
    waits = held_entry(config)
    unasked = OrderBook(config.site.state_dir).orders.approved_until
    if as_json:
        facts = [] if waits is None else [_facts(waits)]
        echo_json({"held": facts, "hold": config.ledger.hold, "approved_until": unasked})
        return
    if waits is None:
        tell(NOTHING_HELD)
    else:
        tell(f"entry {waits.number}  {bytes_text(len(waits.payload))}  held for {span_text(waits.age_s)}")
    tell(_unasked(config, unasked))


@held.command()
@config_option
@click.option("--no-leak", is_flag=True, help="Leave out what it shows of own compounds; the data are not read.")
@json_option
def show(config_path: Path, no_leak: bool, as_json: bool) -> None:
    """Say what would leave: bytes, tensors, norms, how it compares with the entry before, and what it shows.

    What it shows of this site's compounds is measured as `kmel-peer audit leak --held` does; that command also compares
    it with a limit, for scripts.
    """
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site

    config = load_config(config_path)
    waits = held_entry(config)
    if waits is None:
        raise LocalError(NOTHING_HELD)
    site = load_site(config)
    facts = {**_facts(waits), **_content(site, config, waits.payload)}
    if not no_leak:
        facts |= _leak(site, waits, as_json)
    if as_json:
        echo_json(facts)
    else:
        _say(facts)


@held.command()
@config_option
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--all", "every", is_flag=True, help="This and all later ones, without being asked again.")
@click.option("--until", type=click.IntRange(min=1), metavar="N", help="All up to number N, without being asked again.")
def approve(config_path: Path, number: int | None, every: bool, until: int | None) -> None:
    """Let held entry NUMBER leave the site; or all, or all up to a number, also over restarts."""
    from kmel_p2p.cli.run import ask
    from kmel_p2p.site.control.requests import ALL_ENTRIES

    if (number is not None) + every + (until is not None) != 1:
        raise click.UsageError("name one of: NUMBER, --all, --until N")
    if number is not None:
        ask(config_path, "approve", {"number": number})
        tell(f"entry {number} approved")
        return
    ask(config_path, "approve_until", {"number": ALL_ENTRIES if until is None else until})
    tell(f"entries {'of this run' if until is None else f'up to {until}'} leave without being asked about")
    tell("kmel-peer held ask takes that back")


@held.command("ask")
@config_option
def ask_again(config_path: Path) -> None:
    """Ask about every entry again, after `approve --all` or `--until`."""
    from kmel_p2p.cli.run import ask

    ask(config_path, "approve_until", {"number": 0})
    tell("every entry waits for approval again")


@held.command()
@config_option
@click.argument("number", type=click.IntRange(min=1))
@click.option(
    "--defer", is_flag=True, help="Keep what was trained in the residual: later entries may hold parts of it."
)
@click.option("--reason", default="rejected by the operator", show_default=True, help="Kept in the log.")
def reject(config_path: Path, number: int, defer: bool, reason: str) -> None:
    """Keep held entry NUMBER back for good.

    What it was trained on is forgotten, and the round is trained again on other batches: an entry of the same number
    but with other content will be held.
    """
    from kmel_p2p.cli.run import ask

    ask(config_path, "reject", {"number": number, "reason": reason, "deferred": defer})
    kept = "what was trained stays in the residual" if defer else "what was trained is forgotten"
    tell(f"entry {number} rejected: {kept}, and the round is trained on other batches")


def _facts(waits: Held) -> dict[str, Any]:
    return {"number": waits.number, "bytes": len(waits.payload), "age_s": waits.age_s}


def _unasked(config: SiteConfig, until: int) -> str:
    from kmel_p2p.site.control.requests import ALL_ENTRIES

    if not config.ledger.hold:
        return "every entry leaves without being asked about: [ledger] hold is false"
    if until >= ALL_ENTRIES:
        return "every entry leaves without being asked about (kmel-peer held ask takes that back)"
    if until:
        return f"entries up to {until} leave without being asked about (kmel-peer held ask takes that back)"
    return "every entry waits for approval"


def _content(site: Site, config: SiteConfig, payload: bytes) -> dict[str, Any]:
    """What a payload changes, by tensor, and beside the newest own entry."""
    import numpy as np

    delta = _dense(site, payload)
    tensors = [
        {"name": name, "values": part.size, "sent": int(np.count_nonzero(part)), "norm": float(np.linalg.norm(part))}
        for name, part in ((name, delta[place]) for name, place in site.layout.slices.items())
    ]
    norm = float(np.linalg.norm(delta))
    before = _newest_own(site, config)
    last = None
    if before is not None:
        number, other = before
        length = float(np.linalg.norm(other))
        cosine = float(delta @ other) / (norm * length) if norm and length else 0.0
        last = {"number": number, "norm": length, "cosine": cosine}
    return {"norm": norm, "sent": int(np.count_nonzero(delta)), "values": delta.size, "tensors": tensors, "last": last}


def _leak(site: Site, waits: Held, as_json: bool) -> dict[str, Any]:
    """`shows`: figures (`learn.audit.own_entries.Shown`), or null and `not_measured`, why."""
    from dataclasses import asdict

    from kmel_p2p.agreement.errors import KmelError
    from kmel_p2p.cli.leak_view import measured
    from kmel_p2p.site.modes import mode_of

    if not mode_of(site.charter).keeps_entries:
        return {"shows": None, "not_measured": f"sites keep no entries in averaging mode {site.mode}"}
    try:
        looked, energies = measured(site, {waits.number: waits.payload}, as_json)
    except KmelError as error:
        # Whoever decides needs the rest all the same.
        return {"shows": None, "not_measured": str(error)}
    return {"shows": asdict(looked.shown(energies.values()))}


def _dense(site: Site, payload: bytes) -> NDArray[np.float32]:
    """float32[d]; a mode without entries hands over the whole change."""
    import numpy as np

    from kmel_p2p.site.modes import mode_of
    from kmel_p2p.site.modes.stored_ledger import codec_of

    if mode_of(site.charter).keeps_entries:
        return codec_of(site).decode(payload).dense(site.layout.size)
    return np.frombuffer(payload, "<f4").astype(np.float32)


def _newest_own(site: Site, config: SiteConfig) -> tuple[int, NDArray[np.float32]] | None:
    """Number and delta of the newest own entry that the store keeps."""
    from kmel_p2p.site.modes import mode_of

    kept = kept_payloads(site, config) if mode_of(site.charter).keeps_entries else {}
    return (max(kept), _dense(site, kept[max(kept)])) if kept else None


def _say(facts: Mapping[str, Any]) -> None:
    from kmel_p2p.site.observe.status import bytes_text, span_text

    number, sent, values = facts["number"], facts["sent"], facts["values"]
    tell(f"entry {number}, {bytes_text(facts['bytes'])}, held for {span_text(facts['age_s'])}")
    changed = f"changes {sent:,} of {values:,} values of the trunk ({100 * sent / values:.1f} %)"
    tell(f"{changed}; norm {facts['norm']:.3g}")
    width = max(len(tensor["name"]) for tensor in facts["tensors"])
    for tensor in facts["tensors"]:
        share = f"{tensor['sent']:,} of {tensor['values']:,}"
        click.echo(f"  {tensor['name']:<{width}}  {share:>22}  norm {tensor['norm']:.3g}")
    if (last := facts["last"]) is not None:
        ratio = facts["norm"] / last["norm"] if last["norm"] else 0.0
        tell(f"beside entry {last['number']}: {ratio:.2f} times as long, cosine {last['cosine']:+.2f}")
    if facts.get("shows") is not None:
        from kmel_p2p.cli.leak_view import NOT_PRIVATE, leak_in_words
        from kmel_p2p.learn.audit.own_entries import Shown

        words = f"of this site's compounds it shows: {leak_in_words(Shown(**facts['shows']))}."
        click.echo(click.wrap_text(f"{told(words)} {told(NOT_PRIVATE)}", 79))
    elif why := facts.get("not_measured"):
        click.echo(click.wrap_text(told(f"what it shows of this site's compounds was not measured: {why}"), 79))
    else:
        tell("what it shows of this site's compounds: leave out --no-leak")
    tell(f"to decide: kmel-peer held approve {number}, kmel-peer held reject {number}")
