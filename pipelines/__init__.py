"""KFP pipelines of damoc; importable as damoc_pipelines."""
