"""Open an MLflow run for every candidate and list them for the loop."""

from typing import Dict, List

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def resolve_candidates(config_uri: str, selection_id: str, prepared: str, data: str) -> List[Dict[str, str]]:
    """Open an MLflow run for every candidate and list them for the loop.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        prepared: What prepare_data returned.
        data: What compress_data returned.

    Returns:
        Loop items, each with all that its iteration needs: candidate_id, prepared_uri, data_uri.
    """
    from damoc.stages.resolve_candidates import resolve_candidates as run

    return run(config_uri, selection_id, prepared, data)
