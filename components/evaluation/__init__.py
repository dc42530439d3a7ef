"""KFP components: evaluation."""
