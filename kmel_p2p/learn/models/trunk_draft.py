"""Drafts the charter's `[model.package]` from a package that is installed. Imports the package."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import Distribution

import torch
from torch import nn

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.agreement.strict import build
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.agreement.trunk_package import PackagedTensor
from kmel_p2p.learn.models.module_body import CONSTRUCTION_SEED, made_module, trained_parameters
from kmel_p2p.learn.models.package_files import GROUP, files_hash, installed
from kmel_p2p.learn.models.packaged import supplied_by
from kmel_p2p.learn.models.supplied import SuppliedTrunk, TrunkShape


def trunk_of(package: str, name: str = "") -> tuple[Distribution, str]:
    """An installed package and the trunk of it that is meant.

    Args:
        name: of the trunk; empty: the only one that the package has.

    Raises:
        ConfigError: it is not installed, or has no such trunk, or several.
    """
    distribution = installed(package)
    names = sorted(point.name for point in distribution.entry_points if point.group == GROUP)
    if name in names or (not name and len(names) == 1):
        return distribution, name or names[0]
    has = ", ".join(names) or "none"
    which = f"no trunk {name!r}; it has: {has}" if name else f"several trunks or none: {has}. Name one with --trunk"
    raise ConfigError(f"the package {distribution.name} has {which}")


def drafted_model(
    distribution: Distribution,
    trunk: str,
    hidden: tuple[int, ...] = ModelRule.model_fields["hidden"].default,
    dropout: float = ModelRule.model_fields["dropout"].default,
    options: Iterable[str] = (),
    features: FeatureRule | None = None,
) -> ModelRule:
    """The charter's `[model]` with exactly this package.

    Args:
        options: each KEY=VALUE.
        features: of the charter; None: the usual ones.

    Raises:
        ConfigError: the package makes no such module.
    """
    supplied, given = supplied_by(distribution, trunk), tuple(options)
    settings = dict(option.partition("=")[::2] for option in given)
    shape = TrunkShape((features or FeatureRule()).width, len(descriptor_constants()), tuple(hidden), dropout, settings)
    module, again = (made_module(supplied, shape, trunk, seed) for seed in (CONSTRUCTION_SEED, CONSTRUCTION_SEED + 1))
    raw = {
        "trunk": trunk,
        "hidden": tuple(hidden),
        "dropout": dropout,
        "package": {
            "name": distribution.name,
            "version": distribution.version,
            "sha256": files_hash(distribution),
            "options": given,
            "tensors": tuple(tensor.text for tensor in drafted_tensors(module, again, supplied)),
        },
    }
    return build(ModelRule, raw, f"package {distribution.name}")


def drafted_tensors(module: nn.Module, again: nn.Module, supplied: SuppliedTrunk) -> list[PackagedTensor]:
    """The module's tensors with their initial values: the supplier's `initial` where it has some, else the usual ones.

    Args:
        again: the same module, made with another seed.

    Raises:
        ConfigError: nothing is trained, or `initial` gives no pair of numbers.
    """
    initial, found = getattr(supplied, "initial", lambda name, shape: None), []
    others = trained_parameters(again)
    for name, parameter in trained_parameters(module).items():
        shape = tuple(parameter.shape)
        given = initial(name, shape)
        try:
            center, bound = usual_start(parameter, others[name]) if given is None else map(float, given)
        except (TypeError, ValueError):
            raise ConfigError(
                f"initial({name!r}, {shape}) gave {given!r:.80}; expected (center, bound) or None"
            ) from None
        found.append(PackagedTensor(name, shape, center, bound))
    if not found:
        raise ConfigError(
            "the module has no parameter that is trained (requires_grad): there would be nothing to share"
        )
    return found


def usual_start(parameter: nn.Parameter, again: nn.Parameter) -> tuple[float, float]:
    """Center and bound of a parameter's initial values.

    Where the module gives all of its values one number, whatever the seed (scales and shifts of a norm, biases of
    zero), that number; for other vectors zero, as biases; for everything else zero ± 1/sqrt(fan-in) (LeCun et al.
    1998), which for an embedding is its width.
    """
    values = parameter.detach()
    if values.numel() and bool((values == values.flatten()[0]).all()) and torch.equal(values, again.detach()):
        return float(values.flatten()[0]), 0.0
    if values.dim() < 2:
        return 0.0, 0.0
    return 0.0, 1 / math.sqrt(math.prod(values.shape[1:]))
