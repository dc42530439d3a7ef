"""KFP components of damoc: each is one call of one stage; importable as damoc_components."""
