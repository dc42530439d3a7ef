"""The declarative side of the zoo: which model is made of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenizerRecipe(_Strict):
    """A tokenizer and the corpora it is trained on."""

    kind: Literal["byte_level_bpe", "metaspace_bpe"]
    vocab_size: PositiveInt
    corpora: list[str]


class TrainingRecipe(_Strict):
    """Optimiser settings shared by all models (AdamW, cosine to a tenth of the peak rate)."""

    sequence_length: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup_fraction: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)


class ModelRecipe(_Strict):
    """One toy model: architecture, tokenizer, corpus mixture (shares add up to 1), length and seed."""

    architecture: str
    tokenizer: str
    corpora: dict[str, float]
    tokens: PositiveInt
    seed: int
    config: dict[str, Any]


class ZooRecipes(_Strict):
    """Everything that ``damoc zoo train`` reads."""

    tokenizers: dict[str, TokenizerRecipe]
    training: TrainingRecipe
    models: dict[str, ModelRecipe]


def load_recipes(path: Path) -> ZooRecipes:
    """Reads and validates a recipes file."""
    return ZooRecipes.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
