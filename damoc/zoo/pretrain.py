"""Pre-trains one toy model from the mined corpora and writes it with a card and a training record."""

from __future__ import annotations

import functools
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from damoc.data.sources import corpus as mine_corpus
from damoc.hashing import derive_seed, sha256_file, sha256_text
from damoc.zoo.card import model_card
from damoc.zoo.recipes import ZooRecipes
from damoc.zoo.tokenizers import train_tokenizer

_CONTEXT = 1024
_HELD_OUT_TOKENS = 20_000
_TOKENIZER_CHARACTERS = 4_000_000
_corpus = functools.cache(mine_corpus)

OnStep = Callable[[int, int, float], None]


def pretrain(
    recipes: ZooRecipes, name: str, out: Path, on_step: OnStep = lambda step, steps, loss: None
) -> dict[str, Any]:
    """Makes one toy model; the same recipe, package versions and machine type give the same weights.

    Args:
        recipes: all recipes.
        name: which model.
        out: folder that receives ``NAME/`` (weights in bfloat16 safetensors, tokenizer, card, ``training.json``).
        on_step: called with (step, steps, loss in nats per token).

    Returns:
        The training record, also written as ``training.json``.
    """
    recipe, settings = recipes.models[name], recipes.training
    torch.manual_seed(recipe.seed)
    started = time.perf_counter()
    texts = {key: _corpus(key) for key in sorted(recipe.corpora)}
    tokenizer = _tokenizer(recipes, recipe.tokenizer)
    wanted = {key: int(recipe.tokens * share) + _HELD_OUT_TOKENS for key, share in recipe.corpora.items()}
    streams = {key: _stream(texts[key], tokenizer, wanted[key], derive_seed(recipe.seed, key)) for key in sorted(texts)}
    held_out = {key: stream[:_HELD_OUT_TOKENS] for key, stream in streams.items()}
    windows = _windows(
        {key: stream[_HELD_OUT_TOKENS:] for key, stream in streams.items()},
        recipe.corpora,
        recipe.tokens,
        settings.sequence_length,
        recipe.seed,
    )

    config = AutoConfig.for_model(
        recipe.architecture,
        vocab_size=len(tokenizer),
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **recipe.config,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    steps = len(windows) // settings.batch_size
    warmup = max(1, int(steps * settings.warmup_fraction))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps, warmup))
    losses: list[float] = []
    model.train()
    for step in range(steps):
        rows = windows[step * settings.batch_size : (step + 1) * settings.batch_size]
        batch = torch.from_numpy(rows.astype(np.int64))
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        on_step(step + 1, steps, losses[-1])

    model = model.to(torch.bfloat16).eval()
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    every = max(1, steps // 50)
    record = {
        "name": name,
        "recipe": recipe.model_dump(),
        "training": settings.model_dump(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "steps": steps,
        "train_loss_nats": [[i + 1, round(float(np.mean(losses[i : i + every])), 4)] for i in range(0, steps, every)],
        "held_out_bits_per_token": {
            key: round(_bits_per_token(model, tokens, settings.sequence_length), 4) for key, tokens in held_out.items()
        },
        "corpora_sha256": {key: sha256_text("\x00".join(value)) for key, value in texts.items()},
        "weights_sha256": sha256_file(folder / "model.safetensors"),
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seconds": round(time.perf_counter() - started),
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(record), encoding="utf-8")
    return record


def _tokenizer(recipes: ZooRecipes, name: str) -> PreTrainedTokenizerFast:
    recipe = recipes.tokenizers[name]
    share = _TOKENIZER_CHARACTERS // len(recipe.corpora)
    sample: list[str] = []
    for key in recipe.corpora:
        texts, size = _corpus(key), 0
        for index in np.random.default_rng(derive_seed(0, name, key)).permutation(len(texts)):
            piece = texts[index][: share // 20]
            sample.append(piece)
            size += len(piece)
            if size >= share:
                break
    return train_tokenizer(recipe, sample)


def _stream(texts: list[str], tokenizer: PreTrainedTokenizerFast, wanted: int, seed: int) -> NDArray[Any]:
    """Token ids of shuffled texts, an end token after each, until ``wanted`` tokens are there (or no text is left)."""
    pieces: list[list[int]] = []
    size = 0
    for index in np.random.default_rng(seed).permutation(len(texts)):
        ids = tokenizer(texts[index][:200_000], add_special_tokens=False, verbose=False)["input_ids"]
        pieces.append([*ids, tokenizer.eos_token_id])
        size += len(pieces[-1])
        if size >= wanted:
            break
    return np.concatenate([np.asarray(piece, dtype=np.int32) for piece in pieces])


def _windows(
    streams: dict[str, NDArray[Any]], shares: dict[str, float], tokens: int, length: int, seed: int
) -> NDArray[Any]:
    """Shuffled training windows, int32 of shape (tokens // length, length), drawn from each stream by its share."""
    rng = np.random.default_rng(derive_seed(seed, "windows"))
    drawn = []
    for key in sorted(streams):
        count = int(tokens * shares[key]) // length
        starts = rng.integers(0, len(streams[key]) - length, size=count)
        drawn.append(np.stack([streams[key][start : start + length] for start in starts]))
    windows: NDArray[Any] = np.concatenate(drawn)
    shuffled: NDArray[Any] = windows[rng.permutation(len(windows))]
    return shuffled


def _cosine(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def _bits_per_token(model: torch.nn.Module, tokens: NDArray[Any], length: int) -> float:
    count = len(tokens) // length
    rows = torch.from_numpy(tokens[: count * length].reshape(count, length).astype(np.int64))
    losses = [float(model(input_ids=batch, labels=batch, use_cache=False).loss) for batch in rows.split(16)]
    return float(np.mean(losses)) / math.log(2)
