"""KFP components: deployment."""
