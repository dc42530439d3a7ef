"""Domain data mined from installed packages."""

from damoc.data.sources.registry import MINED, SPLIT_FRACTIONS, corpus, mine

__all__ = ["MINED", "SPLIT_FRACTIONS", "corpus", "mine"]
