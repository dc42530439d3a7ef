"""MEASURE: the gradient of every row's own loss, for all rows of a batch in one backward pass.

The gradient of a linear layer ``y = W x`` by row ``b`` is ``sum over t of g[b, t] (outer) x[b, t]``, where ``g`` is the
gradient that reaches its output. Both factors pass by in a batched backward pass anyway, so hooks on the two small
linear layers of every LoRA adapter give the gradients of single rows at the price of the gradient of their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from damoc.errors import DamocError
from damoc.models.likelihood import token_losses

if TYPE_CHECKING:
    import torch

Consume = Callable[[str, "torch.Tensor"], None]


def row_losses(model: Any, padded: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean nats per answer token of each row of a padded batch: float32 (rows,), 0 for a row without answer tokens."""
    supervised = (padded["labels"][:, 1:] != -100).sum(dim=1).clamp(min=1)
    return token_losses(model, padded).sum(dim=1) / supervised


@contextmanager
def per_example_gradients(model: Any, consume: Consume) -> Iterator[None]:
    """While open, a backward pass through a sum of row losses hands over each row's gradient of each LoRA weight.

    The adapter's weights are frozen meanwhile: autograd need not sum what is handed over row by row. Each gradient is
    computed when it is handed over and kept by nobody, so the memory needed is that of one weight.

    Args:
        model: peft model with LoRA adapters on linear layers.
        consume: called with the weight's parameter name and its gradients, (rows, elements of the weight), in the
            order in which the backward pass meets the weights.

    Raises:
        DamocError: in the forward pass, where a layer mixes rows (a mixture of experts), so that no row has a gradient
            of its own.
    """
    layers = {name: module for name, module in model.named_modules() if ".lora_A." in name or ".lora_B." in name}
    trainable = {name: module.weight.requires_grad for name, module in layers.items()}
    hooks = [
        module.register_forward_hook(partial(_watch, f"{name}.weight", consume)) for name, module in layers.items()
    ]
    try:
        for module in layers.values():
            module.weight.requires_grad_(False)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, module in layers.items():
            module.weight.requires_grad_(trainable[name])


def _watch(name: str, consume: Consume, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    import torch

    if output.dim() != 3:
        raise DamocError(
            f"{name} mixes the rows of a batch, so that no row has a gradient of its own",
            "field data_compression.signals.scorer",
            "name a scorer without experts",
        )
    held = [inputs[0].detach()]

    def hand_over(outward: torch.Tensor) -> None:
        consume(name, torch.bmm(outward.transpose(1, 2), held.pop()).flatten(1))

    if not output.requires_grad:  # the first layer: nothing before it is trained
        output.requires_grad_()
    output.register_hook(hand_over)
