"""Toy candidates: tiny causal language models, honestly pre-trained, so that a selection runs anywhere."""
