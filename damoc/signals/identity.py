"""Content addresses of the models that signals are measured with."""

from __future__ import annotations

from collections.abc import Iterable

from damoc.config import DataCompression, LocalModel
from damoc.hashing import sha256_json
from damoc.models.load import model_identity
from damoc.signals.embedding import encoder_identity


def identities(models: Iterable[str], config: DataCompression) -> dict[str, str]:
    """SHA-256 (64 hex digits) of what each of some models is.

    Args:
        models: of ``encoder``, ``scorer``, ``judge`` and ``reward``.
        config: says which model is which, and how it is run.
    """
    signals = config.signals
    settings = {
        "encoder": lambda: encoder_identity(signals.encoder),
        "scorer": lambda: local_identity(config.scorer),
        "judge": lambda: (
            [config.judge.endpoint, config.judge.model] if config.judge.endpoint else local_identity(config.judge)
        ),
        "reward": lambda: [encoder_identity(signals.reward), signals.reward_revision],
    }
    return {name: sha256_json([settings[name](), signals.max_length]) for name in models}


def local_identity(model: LocalModel) -> list[str | bool]:
    """What decides the numbers of a model loaded here."""
    return [model_identity(model.model, model.revision), model.four_bit]
