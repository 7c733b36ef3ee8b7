"""AdamW (Loshchilov and Hutter 2019), by torch's function for it.

The class `torch.optim.AdamW` does the same, but imports torch's compiler when the first one is made: one and a half
seconds of processor time at every start of a trainer, for what nothing here uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETA1, BETA2 = 0.9, 0.999
EPSILON = 1e-8


class AdamW:
    """Moves parameters by their gradients.

    Attributes:
        learning_rate, weight_decay: of the steps from now on.
        state: of each parameter that was moved: its moments `exp_avg` and `exp_avg_sq` in its own shape, and `step`,
            the number of steps they are of, float32[].
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> None:
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._parameters = list(parameters)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; parameters without a gradient stay as they are."""
        moved, gradients = [], []
        for parameter in self._parameters:
            if parameter.grad is not None:
                moved.append(parameter)
                gradients.append(parameter.grad)
        states = [self._state_of(parameter) for parameter in moved]
        adamw(
            moved,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        return self.state[parameter]
