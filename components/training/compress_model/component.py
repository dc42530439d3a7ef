"""Make a candidate's proxy: measure layer importance, prune the least important layers, merge them back sparsely."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def compress_model(config_uri: str, selection_id: str, candidate_id: str, data: str) -> str:
    """Make a candidate's proxy: measure layer importance, prune the least important layers, merge them back sparsely.

    A candidate that cannot go on is returned with its status and reason instead of failing the loop.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        candidate_id: Name of the candidate in the config.
        data: What compress_data returned.

    Returns:
        URI of the state of the candidate: status, reason, and pointers to its steps.
    """
    from damoc.stages.compress_model import compress_model as run

    return run(config_uri, selection_id, candidate_id, data)
