"""Token compression: measure each word's surprise, decide which words stay, apply, and gate by BERTScore."""
