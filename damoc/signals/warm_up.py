"""The scorer briefly tuned on some rows: adapters kept in the signal cache, put on for a measurement and taken off."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.config import TuningConfig
from damoc.data.example import Example
from damoc.data.prompts import Encoded
from damoc.errors import CandidateError, DamocError
from damoc.hashing import sha256_json
from damoc.models.load import LoadedModel
from damoc.signals.identity import local_identity
from damoc.signals.likelihood import encode_pair
from damoc.signals.registry import SignalContext

if TYPE_CHECKING:
    import torch

_SCORER = "field data_compression.signals.scorer"


def chosen_by_hash(rows: Sequence[Example], share: float, at_least: int, seed: int) -> list[Example]:
    """A random sample that depends on what the rows say and not on where they stand.

    Args:
        rows: rows to draw from; of rows that say the same one is enough.
        share: of them to draw.
        at_least: rows to draw at least, or all there are.
        seed: of the draw.

    Returns:
        The sample in an order that is random in the same way.
    """
    drawn = {sha256_json([seed, row.content_hash()]): row for row in rows}
    return [drawn[key] for key in sorted(drawn)][: max(at_least, round(share * len(rows)))]


def encoded(context: SignalContext, rows: Iterable[Example]) -> list[Encoded]:
    """Rows as the likelihood signals read them, without the token that ends texts."""
    limit = min(context.max_length, context.scorer.max_length)
    return [encode_pair(context.scorer.tokenizer, row, limit) for row in rows]


def kept_tensors(
    context: SignalContext,
    purpose: str,
    recipe: Mapping[str, Any],
    rows: Sequence[Example],
    make: Callable[[], Mapping[str, torch.Tensor]],
) -> Path:
    """The file of tensors that a tuning of the scorer gives; made only where it is not there whole.

    Args:
        context: gives scorer, lengths, seed and the cache.
        purpose: what the tuning is for.
        recipe: its settings, JSON-able.
        rows: what is tuned on, in order.
        make: trains and returns the tensors by name.

    Returns:
        A safetensors file whose name is the content address of all that decides the tuning.
    """
    from safetensors.torch import save

    identity = {
        "scorer": local_identity(context.config.scorer),
        "max_length": context.max_length,
        "seed": context.seed,
        "rows": [row.content_hash() for row in rows],
        "recipe": dict(recipe),
    }
    path = context.cache / "tuned-scorer" / f"{purpose}-{sha256_json(identity)[:32]}.safetensors"
    if path.exists():
        return path
    tensors = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        stream.write(save(tensors))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)
    return path


def tuned_adapter(context: SignalContext, purpose: str, ids: Iterable[int], settings: TuningConfig) -> Path:
    """LoRA adapters of the scorer tuned on some rows, from the cache where they are known.

    Args:
        context: rows and scorer; the scorer is left as it was.
        purpose: what the tuning is for.
        ids: numbers of the rows to tune on; their order does not matter.
        settings: of the tuning.

    Returns:
        A safetensors file with the adapters' weights by parameter name.

    Raises:
        DamocError: the scorer cannot be tuned.
    """
    from damoc.tuning import fine_tune

    rows = sorted((context.rows[index] for index in ids), key=Example.content_hash)

    def make() -> dict[str, torch.Tensor]:
        scorer = context.scorer
        on_progress = context.progress(f"tuning for {purpose}")
        with _unchanged(scorer.model):
            try:
                outcome = fine_tune(
                    scorer.model,
                    encoded(context, rows),
                    [],
                    scorer.tokenizer.pad_token_id,
                    settings,
                    context.seed,
                    lambda step, steps, point: on_progress(step, steps),
                )
            except CandidateError as error:
                del context.scorer  # it still wears the adapters that failed; who needs a scorer next loads it anew
                raise DamocError(
                    f"the scorer cannot be tuned: {error}",
                    _SCORER,
                    "name another scorer, or a filter whose signals need no tuning",
                ) from error
            weights = {name: weight.detach().clone() for name, weight in lora_weights(outcome.model).items()}
            outcome.model.unload()
        return weights

    return kept_tensors(context, purpose, settings.model_dump(), rows, make)


@contextmanager
def adapted_scorer(context: SignalContext, adapter: Path, settings: TuningConfig) -> Iterator[LoadedModel]:
    """The scorer with the adapters of :func:`tuned_adapter` while open, and as it was afterwards."""
    from safetensors.torch import load_file

    with lora(context.scorer.model, settings.rank, settings.alpha, load_file(adapter)) as model:
        yield replace(context.scorer, model=model)


@contextmanager
def lora(
    model: Any, rank: int, alpha: int, weights: Mapping[str, torch.Tensor] | None = None, seed: int = 0
) -> Iterator[Any]:
    """LoRA adapters on every linear layer but the head while open; the model is left as it was.

    Args:
        model: causal language model.
        rank: of the adapters.
        alpha: their output is scaled by ``alpha / rank``.
        weights: of the adapters by parameter name; None draws new ones.
        seed: of new ones.

    Yields:
        The peft model, in evaluation mode.

    Raises:
        DamocError: there is nothing to attach adapters to.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    with _unchanged(model):
        try:
            adapted: Any = get_peft_model(model, config)
        except ValueError as error:
            raise DamocError(f"LoRA cannot be attached: {error}", _SCORER, "name another scorer") from error
        try:
            if weights is not None:
                put_weights(adapted, weights)
            yield adapted.eval()
        finally:
            adapted.unload()


def lora_weights(model: Any) -> dict[str, torch.Tensor]:
    """Parameters of the LoRA adapters of a peft model, by name."""
    return {name: weight for name, weight in model.named_parameters() if ".lora_" in name}


def put_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Sets the LoRA adapters of a peft model to given weights, by parameter name."""
    import torch

    with torch.no_grad():
        for name, weight in lora_weights(model).items():
            weight.copy_(weights[name])


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """Puts back which parameters are trainable, which attaching adapters changes."""
    trainable = {name: weight.requires_grad for name, weight in model.named_parameters()}
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(trainable.get(name, weight.requires_grad))
        model.eval()
