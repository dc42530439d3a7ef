"""The compress_model component."""

from damoc_components.training.compress_model.component import compress_model

__all__ = ["compress_model"]
