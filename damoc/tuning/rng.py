"""The state of torch's random numbers, on the CPU and on every GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def random_state() -> dict[str, torch.Tensor]:
    """States by device, uint8 each."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_state(states: Mapping[str, torch.Tensor]) -> None:
    """Puts back what :func:`random_state` gave; a GPU that is not there is left out."""
    import torch

    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if (name := f"cuda:{index}") in states:
            torch.cuda.set_rng_state(states[name], index)
