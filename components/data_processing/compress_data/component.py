"""Choose the training rows that stand for all of them and drop the words that a reader foresees."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def compress_data(config_uri: str, selection_id: str, prepared: str) -> str:
    """Choose the training rows that stand for all of them and drop the words that a reader foresees.

    Filters by the configured method, condenses by token perplexity, and repairs or puts back whatever a BERTScore gate
    refuses. The evidence says for every row what became of it and why.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        prepared: What prepare_data returned.

    Returns:
        URI of a pointer to the compressed rows in the step store.
    """
    from damoc.stages.compress_data import compress_data as run

    return run(config_uri, selection_id, prepared)
