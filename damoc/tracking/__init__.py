"""MLflow, DVC and object storage: the only place that knows each."""
