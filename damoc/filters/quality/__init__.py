"""Filters that rate each row by itself."""
