"""KFP components: training."""
