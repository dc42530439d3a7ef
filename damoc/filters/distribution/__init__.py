"""Filters that look at where rows lie among the others."""
