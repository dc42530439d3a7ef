"""Content addresses of the models that signals are measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from damoc.config import DataCompression, LanguageModel, LocalModel
from damoc.hashing import sha256_json
from damoc.models.load import model_identity
from damoc.signals.embedding import encoder_identity


def identities(models: Iterable[str], config: DataCompression) -> dict[str, str]:
    """SHA-256 (64 hex digits) of what each of some models is.

    Args:
        models: of ``encoder``, ``scorer``, ``judge`` and ``reward``.
        config: says which model is which, and how it is run.
    """
    return {name: sha256_json([_IDENTITY[name](config), config.signals.max_length]) for name in models}


def local_identity(model: LocalModel) -> list[str | bool]:
    """What decides the numbers of a model loaded here."""
    return [model_identity(model.model, model.revision), model.four_bit, model.dtype]


def asked_identity(model: LanguageModel) -> list[str | bool]:
    """What decides the replies of a model that is asked; an endpoint is believed to serve what its model name says."""
    return [model.endpoint, model.model] if model.endpoint else local_identity(model)


def _reward(config: DataCompression) -> list[str | None]:
    return [encoder_identity(config.signals.reward), config.signals.reward_revision]


_IDENTITY: dict[str, Callable[[DataCompression], Any]] = {
    "encoder": lambda config: encoder_identity(config.signals.encoder, config.signals.encoder_revision),
    "scorer": lambda config: local_identity(config.scorer),
    "judge": lambda config: asked_identity(config.judge),
    "reward": _reward,
}
