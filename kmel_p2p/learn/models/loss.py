"""Multi-task loss over what was measured: Huber, one-sided where a value is a bound, cross entropy for classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.device import device

HUBER_DELTA = 1.0
"""In labels, that is in units of the charter's scale: beyond it an error counts linearly (Huber 1964)."""


class MultiTaskLoss:
    """Mean loss per measurement, weighted by assay endpoint."""

    def __init__(self, endpoints: Sequence[AssayEndpoint]) -> None:
        weights = [endpoint.weight for endpoint in endpoints]
        self._weights = torch.tensor(weights, dtype=torch.float32, device=device())
        self._classes = torch.tensor([e.kind == "classification" for e in endpoints], device=device())
        self._any_class = bool(self._classes.any())
        beyond = [endpoint.beyond_bound for endpoint in endpoints]
        self._beyond_bound = torch.tensor(beyond, dtype=torch.float32, device=device())
        positive = [endpoint.positive_weight for endpoint in endpoints]
        self._positive = torch.tensor(positive, dtype=torch.float32, device=device())

    def __call__(self, outputs: Tensor, labels: Tensor, relations: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            outputs: float32[n, E]; labels for regressions, logits for classifications.
            labels: float32[n, E], NaN where nothing was measured.
            relations: int8[n, E]; -1: the true value is below the label, so only predicting too high is an error, but
                for the assay endpoint's `beyond_bound`.
        """
        outputs, labels, relations = (part.to(device()) for part in (outputs, labels, relations))
        measured = torch.isfinite(labels)
        targets = torch.where(measured, labels, outputs.detach())
        error = outputs - targets
        # A bound is violated on one side only (Tobit-like hinge, as in SparseChem's censored regression).
        satisfied = ((relations < 0) & (error < 0)) | ((relations > 0) & (error > 0))
        terms = functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=HUBER_DELTA)
        terms = torch.where(satisfied, terms * self._beyond_bound, terms)
        if self._any_class:
            classes = targets.clamp(0.0, 1.0)
            entropy = functional.binary_cross_entropy_with_logits(
                outputs, classes, pos_weight=self._positive, reduction="none"
            )
            terms = torch.where(self._classes, entropy, terms)
        weights = measured * self._weights
        return (terms * weights).sum() / weights.sum().clamp_min(1e-12)
