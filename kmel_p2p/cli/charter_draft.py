"""Drafts a charter from what a command line says: sites, assay endpoints, size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.options import F
from kmel_p2p.learn.models.registry import KINDS, TrunkKind

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import Charter, CharterDocument

BESIDE_CATALOGUE = ("head", "weight", "beyond_bound", "positive_weight")
"""Keys of `--endpoint` that leave what is measured, and so the catalogue's rules, as they are."""

START_ADVICE = (
    "The run begins when all founders are ready (pace.start_sites); kmel-peer begin starts without those who are late."
)

USUAL_TRUNK, PRIVATE_TRUNK = "mlp", "projected"
"""Of drafts, without and with differential privacy."""
PRIVATE_HIDDEN = (32, 16)
"""Layers of a trunk whose every value gets noise."""

NUMBERS = ("center", "scale", "weight", "low", "high", "beyond_bound", "positive_weight")
"""Keys of `--endpoint` whose value is a number."""


def _trunk_help(kind: TrunkKind) -> str:
    return f"{kind.name}: {kind.summary}" + (f" (extra {kind.extra} at every site)" if kind.extra else "")


def draft_options(command: F) -> F:
    """`--endpoint`, `--seed`, `--trunk` and `--compounds`: what a charter is drafted from, beside its sites."""
    command = click.option(
        "--compounds",
        type=click.IntRange(min=1),
        help="Compounds that a usual site announces to train on, roughly; size of the networks, learning rate, steps "
        "and patience are drafted for them. Default: a small site's.",
    )(command)
    command = click.option(
        "--epsilon",
        type=click.FloatRange(0.1, 100),
        help="Draft sealed rounds with differential privacy of single compounds, within this budget of the whole run.",
    )(command)
    command = click.option(
        "--trunk",
        metavar=f"[{'|'.join(KINDS)}|NAME]",
        help=f"Default: {USUAL_TRUNK}, or {PRIVATE_TRUNK} with --epsilon. "
        + "; ".join(map(_trunk_help, KINDS.values()))
        + "; another NAME: the installed package that brings it (kmel-peer trunk list).",
    )(command)
    command = click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the initial trunk."
    )(command)
    command = click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        metavar="NAME[,KEY=VALUE,...]",
        help="An assay endpoint; repeat. A name of the catalogue alone (with head, weight, beyond_bound, "
        "positive_weight) takes its rules from there. Keys: kind, unit, transform, center, scale, head, weight, low, "
        "high, beyond_bound, positive_weight.",
    )(command)
    return command


def draft_charter(
    federation: str,
    sites: Sequence[dict[str, Any]],
    endpoints: Sequence[str],
    *,
    trunk: str | None = None,
    seed: int = 0,
    compounds: int | None = None,
    epsilon: float | None = None,
    start_file: Path | None = None,
) -> tuple[CharterDocument, list[str]]:
    """An unsigned charter with default rules and this machine's reference hash, and the reasons for its settings.

    Args:
        sites: each with `name`, `key` and `addresses` (`site_of`).
        endpoints: as `--endpoint` takes them.
        trunk: kind of it; None: the usual one.
        compounds: of a usual site; None: nothing was announced.
        epsilon: budget of differential privacy; None: without it.
        start_file: that the trunk starts from; None: from the seed.

    Raises:
        ConfigError, UsageError: something of it is not possible.
    """
    from kmel_p2p.agreement.charter import Charter, CharterDocument
    from kmel_p2p.agreement.drafted import USUAL, private_sections, suggested
    from kmel_p2p.agreement.strict import build
    from kmel_p2p.site.loaded_site import check_noise, needs_of

    trunk = trunk or (USUAL_TRUNK if epsilon is None else PRIVATE_TRUNK)
    kind, rules = KINDS.get(trunk), [endpoint_of(text) for text in endpoints]
    if kind is None and epsilon is not None:
        raise click.UsageError(
            f"--trunk {trunk}: with --epsilon the gradient of every compound is clipped by itself, which needs one of "
            f"this program's trunks, such as {PRIVATE_TRUNK}"
        )
    suggestion = suggested(compounds or USUAL, any(rule.get("kind") == "classification" for rule in rules))
    raw: dict[str, Any] = {
        **suggestion.sections(perceptron=kind is not None and kind.perceptron),
        "federation": federation,
        "sites": list(sites),
        "assay_endpoints": rules,
    }
    raw["model"] |= {**(kind.drafted if kind is not None else packaged(trunk)), "seed": seed, "trunk": trunk}
    private = []
    if epsilon is not None:
        private = private_sections(raw, epsilon, compounds or USUAL, len(sites))
        raw["model"] |= {"hidden": PRIVATE_HIDDEN}
        raw["assay_endpoints"] = [{"head": "shared"} | rule for rule in rules]
    raw["pace"] |= {"start_sites": len(sites)}
    draft = build(Charter, raw, "command line")
    check_noise(draft)
    if start_file is not None:
        draft = _starting_from(draft, start_file)
    draft = with_reference_hash(draft)
    document = CharterDocument(charter=draft)
    CharterDocument.parse(document.render(), "command line")
    reason = private or suggestion.reason(compounds or USUAL, announced=compounds is not None)
    return document, [*reason, START_ADVICE, *needs_of(draft, len(sites))]


def _starting_from(draft: Charter, start_file: Path) -> Charter:
    """Raises ConfigError: the file does not fit the trunk."""
    from kmel_p2p.learn.models.layout import trunk_layout
    from kmel_p2p.learn.models.start_file import file_hash, started_trunk
    from kmel_p2p.site.loaded_site import architecture_of

    model = draft.model.changed(start=file_hash(start_file))
    started_trunk(model, trunk_layout(architecture_of(draft)), start_file)
    return draft.model_copy(update={"model": model})


def packaged(trunk: str) -> dict[str, Any]:
    """The charter's `[model]` for a trunk that an installed package brings.

    Raises:
        ConfigError: none does, or it cannot be used.
    """
    from kmel_p2p.learn.models.package_files import installed, package_with
    from kmel_p2p.learn.models.trunk_draft import drafted_model

    return dict(drafted_model(installed(package_with(trunk)), trunk))


def with_reference_hash(draft: Charter) -> Charter:
    """The charter with the hash of this machine's features of the reference molecules."""
    return draft.model_copy(
        update={"features": draft.features.model_copy(update={"reference_hash": reference_hash(draft)})}
    )


def reference_hash(draft: Charter) -> str:
    """Hash of this machine's features under a charter's rules."""
    from kmel_p2p.learn.models.reference import trunk_reference_hash

    return trunk_reference_hash(draft.features, draft.model)


def remarks(lines: list[str]) -> str:
    """TOML comments and an empty line."""
    return "".join(f"# {line}\n" for line in lines) + "\n"


def site_of(text: str) -> dict[str, Any]:
    """A site as written on the command line: NAME=KEY or NAME=KEY@ADDRESS,..."""
    name, equals, rest = text.partition("=")
    key, _, addresses = rest.partition("@")
    if not equals or not key:
        raise click.UsageError(f"{text}: expected NAME=KEY or NAME=KEY@ADDRESS,...")
    return {"name": name, "key": key, "addresses": tuple(part for part in addresses.split(",") if part)}


def endpoint_of(text: str) -> dict[str, Any]:
    name, *settings = text.split(",")
    raw: dict[str, Any] = {"name": name}
    if all(setting.partition("=")[0] in BESIDE_CATALOGUE for setting in settings):
        from kmel_p2p.chem.dataset.catalogue import charter_rules

        raw = charter_rules(name) or _unknown_endpoint(name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--endpoint {text}: expected KEY=VALUE, found {setting!r}")
        raw[key] = _number(key, value) if key in NUMBERS else value
    if "low" in raw or "high" in raw:
        raw["valid_range"] = (raw.pop("low", -1e9), raw.pop("high", 1e9))
    return raw


def _unknown_endpoint(name: str) -> dict[str, Any]:
    """Raises UsageError: a misspelt name without rules would otherwise accept any value in no unit."""
    from kmel_p2p.chem.dataset.catalogue import nearest

    near = nearest(name)
    hint = f"did you mean {near!r}? " if near else ""
    raise click.UsageError(
        f"--endpoint {name}: the catalogue has no such assay endpoint; {hint}`kmel-peer data catalogue` lists all. "
        "To define your own, give its rules: "
        f"--endpoint '{name},kind=regression,unit=...,transform=...,low=...,high=...'"
    )


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise click.UsageError(f"--endpoint: {key} is {value!r}, not a number") from None
