"""MEASURE: what a training step costs, in floating-point operations."""

from __future__ import annotations

from typing import Any


def flops_per_token(model: Any) -> float:
    """Floating-point operations of forward and backward pass for one token.

    Two for each weight that a token is multiplied with, two more for the gradient that goes back through it, and two
    more where the weight is trained: six times the parameters when all are trained (Kaplan et al. 2020), about four
    when adapters are. Embeddings that are only looked up cost nothing, of a mixture of experts the chosen ones count,
    and the products inside attention are left out.

    Args:
        model: causal language model, its trained parameters marked as such; weights of 4 bits count whole.
    """
    from torch import nn

    head = model.get_output_embeddings()
    looked_up = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight)
    }
    share = _expert_share(model.config.get_text_config())
    total = 0.0
    for name, weight in model.named_parameters():
        if id(weight) not in looked_up:
            state = getattr(weight, "quant_state", None)
            size = weight.numel() if state is None else state.shape.numel()
            total += size * (share if ".experts." in name else 1.0) * (6 if weight.requires_grad else 4)
    return total


def _expert_share(config: Any) -> float:
    """Share of its experts that a token goes through."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return chosen / experts if experts and chosen else 1.0
