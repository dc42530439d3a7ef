"""Exit handler: leave no MLflow run of the selection open, whatever happened."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def close_selection(config_uri: str, selection_id: str, status: dsl.PipelineTaskFinalStatus) -> str:
    """Exit handler: leave no MLflow run of the selection open, whatever happened.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        status: How the pipeline ended.

    Returns:
        Status given to the runs that were still open.
    """
    from damoc.stages.close_selection import close_selection as run

    return run(config_uri, selection_id, status.state == "SUCCEEDED")
