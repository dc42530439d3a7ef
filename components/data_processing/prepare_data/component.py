"""Read, validate, split and fingerprint the domain dataset."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def prepare_data(config_uri: str, selection_id: str) -> str:
    """Read, validate, split and fingerprint the domain dataset.

    Opens the selection's MLflow run and logs the dataset as its input. Every bad row is named in one error.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.

    Returns:
        URI of a pointer to the prepared rows in the step store.
    """
    from damoc.stages.prepare_data import prepare_data as run

    return run(config_uri, selection_id)
