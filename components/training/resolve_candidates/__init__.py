"""The resolve_candidates component."""

from damoc_components.training.resolve_candidates.component import resolve_candidates

__all__ = ["resolve_candidates"]
