"""KFP components: data processing."""
