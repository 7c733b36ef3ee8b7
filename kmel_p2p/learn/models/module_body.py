"""Any torch module as the body of a trunk: its parameters are views of the network's flat vector.

What is trained is what leaves the site, so the rules are strict:

- A parameter with `requires_grad` is trained and shared; without, it is frozen: a constant that is never sent.
- Floating point is float32 throughout; a module in another precision is converted. Autocast may compute in bfloat16.
- Buffers are constants, too. BatchNorm and InstanceNorm therefore normalise by their running statistics in training as
  in predicting and never update them: otherwise a site's prediction would depend on statistics of its own compounds
  that no entry carries, and two sites with one trunk would predict differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.device import device
from kmel_p2p.learn.models.graph_rows import GraphRows, parts_of
from kmel_p2p.learn.models.supplied import SuppliedTrunk, TrunkShape

CONSTRUCTION_SEED = 0
"""Of torch's generator while a module is made, so that frozen values drawn from it are the same at every site."""


def made_module(supplied: SuppliedTrunk, shape: TrunkShape, trunk: str, seed: int = CONSTRUCTION_SEED) -> nn.Module:
    """A package's module, on the CPU and in float32, without a trace in torch's generator.

    Raises:
        ConfigError: it cannot be made, or has parameters that cannot be trained.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = supplied.module(shape)
    except Exception as error:
        raise ConfigError(f"trunk {trunk}: module({shape}) failed: {error!r:.300}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"trunk {trunk}: module(shape) gave {type(module).__name__}, not a torch.nn.Module")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ConfigError(f"trunk {trunk}: parameter {name} has no shape yet; lazy modules are not possible")
        if parameter.requires_grad and not parameter.is_floating_point():
            raise ConfigError(f"trunk {trunk}: parameter {name} is {parameter.dtype}; real numbers can be trained")
    return module.float()


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained and shared, by name in the module's order; one that is used twice counts once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def constants_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """What is frozen, by name: parameters without gradients, and buffers that are part of the module's state.

    Buffers that are not (`persistent=False`) are tables that a module computes for itself.
    """
    frozen = {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}
    state = module.state_dict(keep_vars=True)
    kept = {name: buffer for name, buffer in module.named_buffers() if name in state}
    return {name: value.detach().cpu().numpy() for name, value in (frozen | kept).items()}


class ModuleBody:
    """A module over given parameters; see `registry.TrunkBody`.

    Args:
        module: of `made_module`; this body takes it over.
        tensors: values of `trained_parameters`, with their gradients; the module computes with this very memory.
        width: numbers for each compound that the heads read.
        described: whether the module takes a list of what the package describes molecules by, too.
    """

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor], width: int, described: bool) -> None:
        self._module, self._width, self._described = module.to(device()), width, described
        _adopt(module, tensors)
        self._set_mode(training=False)
        self._buffers = [(name, buffer, buffer._version) for name, buffer in module.named_buffers()]

    def parts(self, rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
        return parts_of(rows, most)

    def read(self, rows: NDArray[np.float32]) -> tuple[Any, ...]:
        features = torch.from_numpy(np.ascontiguousarray(np.asarray(rows))).to(device())
        if not self._described:
            return (features,)
        assert isinstance(rows, GraphRows), "attached by `Descriptions`"
        return features, list(rows.graphs)

    def __call__(self, reading: tuple[Any, ...], training: bool) -> Tensor:
        if self._module.training != training:
            self._set_mode(training)
        found = self._module(*reading)
        expected = (len(reading[0]), self._width)
        if not isinstance(found, Tensor) or found.shape != expected:
            gave = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"the trunk's module gave {gave} where [compounds, hidden[-1]] is {list(expected)}")
        for name, buffer, version in self._buffers:
            if buffer._version != version or self._module.get_buffer(name) is not buffer:
                raise ConfigError(
                    f"the trunk's module changed its buffer {name} in a pass: buffers are constants, as no entry "
                    "carries them; keep what is learned in parameters"
                )
        return found[None]

    def _set_mode(self, training: bool) -> None:
        self._module.train(training)
        for part in self._module.modules():
            if getattr(part, "running_mean", None) is not None:
                part.eval()


def _adopt(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let the module compute with these tensors in place of its parameters, also where one is used twice."""
    named = {id(parameter): tensors[name] for name, parameter in trained_parameters(module).items()}
    adopted: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if id(parameter) not in named:
            continue
        if id(parameter) not in adopted:
            view = named[id(parameter)]
            adopted[id(parameter)] = nn.Parameter(view.detach())
            adopted[id(parameter)].grad = view.grad
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, adopted[id(parameter)])
