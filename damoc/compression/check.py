"""MEASURE: whether a model is sound, before and after surgery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from damoc.compression.architecture import find_layers
from damoc.compression.layer_config import pattern
from damoc.errors import CandidateError
from damoc.models.load import input_device

if TYPE_CHECKING:
    import torch

PROMPT_LENGTHS = (1, 40)
NEW_TOKENS = 4


def check_surgery(model: Any, pad_id: int) -> None:
    """Makes sure that a model generates what it predicts, and that its config describes it.

    Generation with the key-value cache has to give the logits of a forward pass without it, on a prompt of one token
    and on one of forty; and a model built from its config alone has to have the same parts, weight shapes and
    per-layer settings, so that saving and loading gives the same model.

    Args:
        model: causal language model in evaluation mode.
        pad_id: padding token.

    Raises:
        CandidateError: ``incompatible``, with what differs.
    """
    check_config(model)
    for length in PROMPT_LENGTHS:
        _check_cache(model, length, pad_id)


def check_config(model: Any) -> None:
    """Makes sure that a model is what its config describes; no weight is read and nothing is run.

    Args:
        model: causal language model.

    Raises:
        CandidateError: ``incompatible``, with what differs.
    """
    import torch

    try:
        with torch.device("meta"):
            skeleton = type(model)(type(model.config).from_dict(model.config.to_dict()))
    except Exception as error:
        raise CandidateError(
            "incompatible", f"{type(model).__name__} cannot be built from its own config: {_first_line(error)}"
        ) from error
    built, found = dict(_description(skeleton)), dict(_description(model))
    if different := sorted(name for name in built.keys() | found.keys() if built.get(name) != found.get(name)):
        name = different[0]
        raise CandidateError(
            "incompatible",
            f"{type(model).__name__} is not what its config describes, so it cannot be saved: {name} is "
            f"{found.get(name)}, by the config it is {built.get(name)} ({len(different)} differences); "
            f"{_reason(model, found.get(name))}",
        )


def _reason(model: Any, value: Any) -> str:
    if why := pattern(vars(model.config.get_text_config())):
        return f"layers cannot be left out one by one: {why}"
    if isinstance(value, float):
        return "what a layer computes depends on its position or on the depth, so none can be left out"
    return "teach damoc.compression.layer_config this family"


def _description(model: Any) -> Iterator[tuple[str, Any]]:
    yield from ((name, tuple(weight.shape)) for name, weight in model.named_parameters())
    for path, module in model.get_submodule(find_layers(model)).named_modules():
        yield from (
            (f"{path}.{name}", value)
            for name, value in vars(module).items()
            if isinstance(value, bool | int | float | str) and not name.startswith("_") and name != "training"
        )


def _check_cache(model: Any, length: int, pad_id: int) -> None:
    import torch

    try:
        logits, whole = _generate(model, length, pad_id)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CandidateError(
            "incompatible", f"{type(model).__name__} fails to generate with a key-value cache: {_first_line(error)}"
        ) from error
    cached = torch.stack(logits, dim=1).float()
    expected = whole[:, length - 1 : -1].float()
    if not (torch.isfinite(cached).all() and torch.isfinite(expected).all()):
        raise CandidateError("incompatible", f"logits are not finite on a prompt of {length} tokens")
    if (difference := _relative_error(cached, expected)) > (limit := _tolerance(whole.dtype)):
        raise CandidateError(
            "incompatible",
            f"{type(model).__name__} with a key-value cache does not generate what it predicts without one: the "
            f"logits differ by {difference:.1e} of their spread (at most {limit:.1e}) on a prompt of {length} tokens",
        )


def _generate(model: Any, length: int, pad_id: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Logits of each generated token (1, vocabulary), and of all tokens at once (1, tokens, vocabulary)."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.arange(3, 3 + 7 * length, 7) % vocabulary
    prompt = torch.where(tokens == pad_id, (tokens + 1) % vocabulary, tokens)[None].to(input_device(model))
    with torch.inference_mode():
        generated = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pad_token_id=pad_id,
            do_sample=False,
            num_beams=1,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        sequence = generated.sequences
        whole = model(input_ids=sequence, attention_mask=torch.ones_like(sequence), use_cache=False).logits
    return list(generated.logits), whole


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:200]}"


def _relative_error(cached: torch.Tensor, expected: torch.Tensor) -> float:
    spread = (expected - expected.mean(dim=-1, keepdim=True)).square().mean().sqrt().clamp_min(1e-6)
    return float((cached - expected).square().mean().sqrt() / spread)


def _tolerance(dtype: torch.dtype) -> float:
    import torch

    return max(1e-3, 8 * torch.finfo(dtype).eps)
