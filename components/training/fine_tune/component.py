"""Fine-tune a candidate's proxy on the compressed rows."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def fine_tune(config_uri: str, selection_id: str, prepared: str, data: str, state: str) -> str:
    """Fine-tune a candidate's proxy on the compressed rows.

    Trains adapters, adapters on weights of four bits, or all weights; on one device, on all GPUs of the pod, or on
    several machines as a TrainJob of Kubeflow Trainer, which this pod submits and follows. A candidate that diverges,
    runs out of memory or of time is returned with its status instead of failing the loop.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        prepared: What prepare_data returned.
        data: What compress_data returned.
        state: What compress_model returned; a failed candidate passes through.

    Returns:
        URI of the state of the candidate.
    """
    from damoc.stages.fine_tune import fine_tune as run

    return run(config_uri, selection_id, prepared, data, state)
