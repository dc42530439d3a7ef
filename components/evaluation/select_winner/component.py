"""Rank the candidates, with a paired bootstrap that says how sure the ranking is."""

from typing import List

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def select_winner(config_uri: str, selection_id: str, prepared: str, data: str, states: List[str]) -> str:
    """Rank the candidates, with a paired bootstrap that says how sure the ranking is.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        prepared: What prepare_data returned.
        data: What compress_data returned.
        states: What evaluate_candidate returned, collected from the loop.

    Returns:
        URI of the selection's record.
    """
    from damoc.stages.select_winner import select_winner as run

    return run(config_uri, selection_id, prepared, data, states)
