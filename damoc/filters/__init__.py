"""DECIDE rows: signals to row choices. A file a method in ``distribution``, ``quality``, ``hybrid`` or ``baseline``."""

from damoc.filters.registry import Filter, RowChoice, filter_named, filters, register_filter

__all__ = ["Filter", "RowChoice", "filter_named", "filters", "register_filter"]
