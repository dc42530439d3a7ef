"""Datasets: read, validated, split without leakage, and known by a fingerprint."""
