"""The select_winner component."""

from damoc_components.evaluation.select_winner.component import select_winner

__all__ = ["select_winner"]
