"""The fine_tune component."""

from damoc_components.training.fine_tune.component import fine_tune

__all__ = ["fine_tune"]
