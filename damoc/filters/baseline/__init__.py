"""Filters that every other filter has to beat."""
