"""APPLY: which weights of a model are trained, and in what precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from damoc.config import TuningConfig
from damoc.errors import CandidateError


def make_trainable(model: Any, settings: TuningConfig) -> Any:
    """Marks what is trained.

    ``lora`` attaches adapters (Hu et al., ICLR 2022) to the linear layers and leaves the model's weights as they are;
    ``qlora`` does so on weights of 4 bits (Dettmers et al., NeurIPS 2023), with norms, embeddings and head in float32;
    ``full`` trains every weight.

    Args:
        model: causal language model.
        settings: method, rank, targets, gradient checkpointing.

    Returns:
        The model to train, a peft model where there are adapters.

    Raises:
        CandidateError: ``incompatible``, when there is nothing to attach adapters to.
    """
    if settings.method == "full":
        tuned = model.requires_grad_(True)
    else:
        tuned = _with_new_adapters(model, settings)
    if settings.gradient_checkpointing:
        tuned.enable_input_require_grads()
        tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return tuned


def settle(tuned: Any, settings: TuningConfig) -> None:
    """Ends what only training needed."""
    if settings.gradient_checkpointing:
        tuned.gradient_checkpointing_disable()
        tuned.disable_input_require_grads()
    tuned.eval()


def precision(settings: TuningConfig, device: str) -> AbstractContextManager[Any]:
    """The context of a forward pass: weights that are all trained stay in float32 and are computed with in bfloat16.

    A bfloat16 weight has eight bits of precision; most steps of a fine-tuning are smaller than its last one.
    """
    import torch

    if settings.method == "full" and settings.dtype == "bfloat16":
        return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)
    return nullcontext()


def _with_new_adapters(model: Any, settings: TuningConfig) -> Any:
    from peft import LoraConfig, get_peft_model
    from peft.utils import other

    if settings.method == "qlora":
        prepare: Any = other.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise CandidateError("incompatible", f"LoRA cannot be attached: {error}") from error
