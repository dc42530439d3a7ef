"""Scripts that measure, side by side with peers; never tests."""
