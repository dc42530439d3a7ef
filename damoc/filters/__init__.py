"""DECIDE rows: signals to row choices. A file a method in ``distribution``, ``quality``, ``hybrid`` or ``baseline``."""

from damoc.filters.choice import choose
from damoc.filters.registry import Filter, RowSelection, Signals, filter_named, filters, register_filter

__all__ = ["Filter", "RowSelection", "Signals", "choose", "filter_named", "filters", "register_filter"]
