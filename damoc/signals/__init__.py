"""MEASURE rows: embeddings and token likelihoods, cached by content and shared by all filters."""
