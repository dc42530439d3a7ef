"""Causal language models: load them safely, batch rows for them, measure likelihoods."""

from damoc.models.batching import length_batches, pad_batch
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, check_model_files, load_model, model_identity

__all__ = [
    "LoadedModel",
    "answer_losses",
    "check_model_files",
    "length_batches",
    "load_model",
    "model_identity",
    "pad_batch",
]
