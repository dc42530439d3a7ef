"""Register the winner in MLflow as a version that loads back, and move the alias to it."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def register_winner(config_uri: str, selection_id: str, record_uri: str) -> str:
    """Register the winner in MLflow as a version that loads back, and move the alias to it.

    Nothing is registered when fewer than two candidates finished.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        record_uri: What select_winner returned.

    Returns:
        URI of the record with its registration.
    """
    from damoc.stages.register_winner import register_winner as run

    return run(config_uri, selection_id, record_uri)
