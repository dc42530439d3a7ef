"""Score a fine-tuned proxy, and the untouched candidate before any training, on held-out rows."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def evaluate_candidate(
    config_uri: str,
    selection_id: str,
    prepared: str,
    state: str,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Score a fine-tuned proxy, and the untouched candidate before any training, on held-out rows.

    Closes the candidate's MLflow run with its status.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        prepared: What prepare_data returned.
        state: What fine_tune returned; a failed candidate is only recorded.
        metrics: Proxy and zero-shot scores.

    Returns:
        URI of the candidate's final state.
    """
    from damoc.stages.evaluate_candidate import evaluate_candidate as run

    return run(config_uri, selection_id, prepared, state, metrics.log_metric, metrics.path)
