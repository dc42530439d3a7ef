"""Filters that weigh how good a row is against where it lies among the others."""
