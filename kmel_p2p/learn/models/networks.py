"""The network: a trunk that all sites share, and one output per assay endpoint; or an ensemble of such networks.

All parameters of the trunk are views of one flat vector, all private ones of another. Gradients are laid out the same
way, so that the optimiser works on flat vectors without copying. Tensors come in the order of `trunk_layout`, but the
values of those that are kept by input (`TrunkKind.by_input`) do not: `trunk_values` and `load` translate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmel_p2p.delta.layout import Layout, TensorSpec, check_flat
from kmel_p2p.learn.device import device
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.own_order import OwnOrder
from kmel_p2p.learn.models.perceptron import Perceptron, linear
from kmel_p2p.learn.models.registry import kind_of


class Network:
    """Trunk and heads with flat parameter vectors.

    Attributes:
        trunk: float32[d] leaf tensor of the trunk and the shared heads; its `.grad` is filled by `backward`. In the
            network's own order: see `trunk_values`.
        private: float32[p] leaf tensor of the private heads.
        gradients: float32[d + p + 1], the memory of both gradients, so that several processes add theirs up at once;
            the last place takes whatever scalar is added up with them.
        order: of `trunk`, and of what belongs to its values.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        kind, layout, own = kind_of(architecture), trunk_layout(architecture), private_layout(architecture)
        self.gradients = torch.zeros(layout.size + own.size + 1, device=device())
        self.trunk, shared = _flat(layout, self.gradients[: layout.size], kind.by_input)
        self.private, private = _flat(own, self.gradients[layout.size : -1])
        self.order = OwnOrder(layout, kind.by_input)
        self._tensors = shared | private
        order = [*architecture.shared, *architecture.private]
        self._order = torch.tensor([order.index(place) for place in range(len(order))], device=device())
        self._body = kind.body(architecture, self._tensors)
        self._heads = [whose for whose in ("shared", "private") if f"head.{whose}.weight" in self._tensors]

    def read(self, rows: NDArray[np.float32]) -> Any:
        """The trunk's input for rows of features (`dataset.Inputs.rows`)."""
        return self._body.read(rows)

    def parts(self, rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
        """All rows of inputs in order, at most `most` at a time, with what the trunk reads beside the features."""
        return self._body.parts(rows, most)

    def forward(self, inputs: Any, training: bool = False) -> Tensor:
        """float32[n, E] outputs in the charter's order of assay endpoints (labels, or logits for classes).

        The mean over the members of an ensemble.
        """
        return self.member_outputs(inputs, training).mean(dim=0)

    def member_outputs(self, inputs: Any, training: bool = False) -> Tensor:
        """float32[members, n, E]: `forward` of each member."""
        return self._read_out(self._body(inputs, training))

    def trunk_tensors(self) -> dict[str, Tensor]:
        """The tensors of trunk and shared heads by name, in the order of `trunk_layout`."""
        return {spec.name: self._tensors[spec.name].detach() for spec in trunk_layout(self.architecture).specs}

    def outputs_with(self, trunk: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """`member_outputs` with other values of the trunk, as a function of these, without dropout.

        For kinds of trunk with `TrunkKind.compound_gradients`, which are perceptrons over what `read` gives.
        """
        tensors = {**self._tensors, **trunk}
        return self._read_out(Perceptron(self.architecture, tensors)(inputs, training=False), tensors)

    def _read_out(self, hidden: Tensor, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        members, tensors = self.architecture.members, self._tensors if tensors is None else tensors
        outputs = [linear(tensors, f"head.{whose}", hidden, members) for whose in self._heads]
        if "calibration.gain" in tensors:
            # Shared heads come first.
            outputs[0] = outputs[0] * (1 + tensors["calibration.gain"]) + tensors["calibration.shift"]
        return torch.cat(outputs, dim=2)[:, :, self._order]

    def trunk_values(self) -> NDArray[np.float32]:
        """A copy of trunk and shared heads, float32[d] as `trunk_layout` says, in main memory."""
        return self.laid_out(self.trunk)

    def laid_out(self, values: Tensor) -> NDArray[np.float32]:
        """A copy of values in the order of `trunk`, float32[d] as `trunk_layout` says, in main memory."""
        found, values = np.empty(self.order.size, np.float32), values.detach().cpu()
        for piece in self.order.pieces:
            found[piece] = self.order.take(values, piece)
        return found

    def private_values(self) -> NDArray[np.float32]:
        """A copy of the private parameters, float32[p], in main memory."""
        values: NDArray[np.float32] = self.private.detach().cpu().numpy().copy()
        return values

    def load(self, trunk: NDArray[np.float32]) -> None:
        """Copy in trunk and shared heads; private heads and any optimiser's state are left alone."""
        check_flat(trunk, self.order.size, "trunk")
        for piece in self.order.pieces:
            self.order.put(self.trunk, piece, trunk[piece])

    def load_private(self, private: NDArray[np.float32]) -> None:
        """Copy in private heads."""
        with torch.no_grad():
            self.private.copy_(torch.from_numpy(private))

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        self.gradients.zero_()

    @torch.no_grad()
    def predict(self, inputs: NDArray[np.float32], batch: int = 1024) -> NDArray[np.float64]:
        """float64[n, E] outputs without dropout."""
        parts = [self.forward(self.read(part)).double().cpu().numpy() for part in self._body.parts(inputs, batch)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.architecture.endpoints)))

    @torch.no_grad()
    def activations(
        self, inputs: NDArray[np.float32], batch: int = 1024
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """What learners read of the network, in one pass without dropout.

        Returns:
            float32[n, hidden[-1]], the last layer below the heads (the mean over members), and what `predict` gives.
        """
        shape = self.architecture
        last, outputs = [np.empty((0, shape.hidden[-1]), np.float32)], [np.empty((0, len(shape.endpoints)))]
        for part in self._body.parts(inputs, batch):
            hidden = self._body(self.read(part), training=False)
            last.append(hidden.mean(dim=0).float().cpu().numpy())
            outputs.append(self._read_out(hidden).mean(dim=0).double().cpu().numpy())
        return np.concatenate(last), np.concatenate(outputs)


def _flat(layout: Layout, gradient: Tensor, by_input: frozenset[str] = frozenset()) -> tuple[Tensor, dict[str, Tensor]]:
    """A flat leaf tensor with this gradient, and named leaf views of it whose gradients are views of that."""

    def view(values: Tensor, spec: TensorSpec) -> Tensor:
        part, shape = values[layout.slices[spec.name]], spec.shape
        return part.view(shape[-1:] + shape[:-1]).movedim(0, -1) if spec.name in by_input else part.view(shape)

    flat = torch.zeros(layout.size, requires_grad=True, device=device())
    flat.grad = gradient
    named = {}
    for spec in layout.specs:
        named[spec.name] = view(flat.detach(), spec).requires_grad_()
        named[spec.name].grad = view(flat.grad, spec)
    return flat, named
