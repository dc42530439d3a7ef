"""Publish the report, plots and evidence, and close the selection's run."""

from damoc_components.image import damoc_image
from kfp import dsl


@dsl.component(base_image=damoc_image(), install_kfp_package=False)
def publish_report(config_uri: str, selection_id: str, record_uri: str, report: dsl.Output[dsl.HTML]) -> str:
    """Publish the report, plots and evidence, and close the selection's run.

    Fails, after publishing, when fewer than two candidates finished.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection; the same for all of its steps.
        record_uri: What register_winner returned.
        report: Self-contained HTML report.

    Returns:
        URI of the report in the workspace.
    """
    from damoc.stages.publish_report import publish_report as run

    return run(config_uri, selection_id, record_uri, report.path)
