"""The selection pipeline."""
