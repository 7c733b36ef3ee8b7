"""The multilayer perceptron: a trunk that every site shares and one output per assay endpoint.

All exchanged parameters are views of one flat vector in the order of `exchanged_layout`, all private ones of another.
Gradients are laid out the same way, so that optimiser, residual and codec work on flat vectors without copying.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.architecture import Architecture, exchanged_layout, private_layout


class Network:
    """Trunk and heads with flat parameter vectors.

    Attributes:
        exchanged: float32[d] leaf tensor of the trunk and the shared heads; its `.grad` is filled by `backward`.
        private: float32[p] leaf tensor of the private heads.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.exchanged, shared = _flat(exchanged_layout(architecture))
        self.private, private = _flat(private_layout(architecture))
        self._tensors = shared | private
        order = [*architecture.shared, *architecture.private]
        self._order = torch.tensor([order.index(place) for place in range(len(order))])
        self._heads = [whose for whose in ("shared", "private") if f"head.{whose}.weight" in self._tensors]

    def forward(self, inputs: Tensor, training: bool = False) -> Tensor:
        """float32[n, E] outputs in the charter's order of assay endpoints (labels, or logits for classes)."""
        hidden = self.hidden(inputs, training)
        outputs = [
            functional.linear(hidden, self._tensors[f"head.{whose}.weight"], self._tensors[f"head.{whose}.bias"])
            for whose in self._heads
        ]
        if "calibration.gain" in self._tensors:
            # Shared heads come first.
            outputs[0] = outputs[0] * (1 + self._tensors["calibration.gain"]) + self._tensors["calibration.shift"]
        return torch.cat(outputs, dim=1)[:, self._order]

    def hidden(self, inputs: Tensor, training: bool = False) -> Tensor:
        """float32[n, hidden[-1]] activations of the last layer of the trunk."""
        dropout = self.architecture.dropout
        for layer in range(len(self.architecture.hidden)):
            inputs = functional.linear(
                inputs, self._tensors[f"trunk.{layer}.weight"], self._tensors[f"trunk.{layer}.bias"]
            )
            inputs = functional.dropout(functional.relu(inputs), dropout, training)
        return inputs

    def load(self, exchanged: NDArray[np.float32]) -> None:
        """Take over trunk and shared heads; private heads and any optimiser's state stay as they are."""
        with torch.no_grad():
            self.exchanged.copy_(torch.from_numpy(exchanged))

    def load_private(self, private: NDArray[np.float32]) -> None:
        """Take over private heads."""
        with torch.no_grad():
            self.private.copy_(torch.from_numpy(private))

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        for flat in (self.exchanged, self.private):
            assert flat.grad is not None
            flat.grad.zero_()

    @torch.no_grad()
    def predict(self, inputs: NDArray[np.float32], batch: int = 1024) -> NDArray[np.float64]:
        """float64[n, E] outputs without dropout."""
        parts = [
            self.forward(torch.from_numpy(np.ascontiguousarray(inputs[start : start + batch]))).double().numpy()
            for start in range(0, len(inputs), batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.architecture.endpoints)))


def _flat(layout: Layout) -> tuple[Tensor, dict[str, Tensor]]:
    """A flat leaf tensor and named leaf views of it whose gradients are views of the flat gradient."""
    flat = torch.zeros(layout.size, requires_grad=True)
    flat.grad = torch.zeros(layout.size)
    named = {}
    for spec in layout.specs:
        place = layout.slices[spec.name]
        view = flat.detach()[place].view(spec.shape).requires_grad_()
        view.grad = flat.grad[place].view(spec.shape)
        named[spec.name] = view
    return flat, named
