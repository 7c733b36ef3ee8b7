"""The device of this process: a GPU if there is one, with bfloat16 where it is as good as float32.

Chosen once per process, before the first network. On the CPU everything is float32 and reproducible bit for bit. On a
GPU sums may differ in their last bits between runs; no other site depends on that, as entries carry what was computed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

from kmel_p2p.agreement.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(slots=True)
class _Choice:
    device: torch.device
    mixed: bool


_choice = _Choice(torch.device("cpu"), False)


def use_device(name: DeviceName, mixed: bool | None = None) -> torch.device:
    """Choose the device of this process.

    Args:
        name: `auto` means a GPU if torch can use one, else the CPU.
        mixed: whether forward passes of training run in bfloat16 (automatic mixed precision); None means on GPUs that
            support it.

    Raises:
        ConfigError: `cuda` was chosen, and there is no GPU.
    """
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise ConfigError(
            "resources.device is 'cuda', but torch finds no GPU it can use; install a CUDA build of torch and the "
            "driver, or set device = 'auto'"
        )
    _choice.device = torch.device("cuda" if present and name != "cpu" else "cpu")
    on_gpu = _choice.device.type == "cuda"
    _choice.mixed = (on_gpu and torch.cuda.is_bf16_supported()) if mixed is None else mixed
    return _choice.device


def device() -> torch.device:
    """The device of this process; the CPU unless `use_device` said otherwise."""
    return _choice.device


def seed_generator(seed: int) -> None:
    """Seed torch's generator on this process's device."""
    if _choice.device.type == "cpu":
        # `torch.manual_seed` also prepares to seed GPUs, which takes a tenth of a small optimiser step.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def training_precision() -> contextlib.AbstractContextManager[object]:
    """Context for the forward pass of training. bfloat16 has float32's range, so gradients need no scaling."""
    if not _choice.mixed:
        return contextlib.nullcontext()
    return torch.autocast(_choice.device.type, torch.bfloat16)
