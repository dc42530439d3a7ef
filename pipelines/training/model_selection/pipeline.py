"""The selection pipeline: one graph for the laptop, for containers and for the cluster."""

from damoc_components.data_processing.compress_data import compress_data
from damoc_components.data_processing.prepare_data import prepare_data
from damoc_components.deployment.close_selection import close_selection
from damoc_components.deployment.publish_report import publish_report
from damoc_components.deployment.register_winner import register_winner
from damoc_components.evaluation.evaluate_candidate import evaluate_candidate
from damoc_components.evaluation.select_winner import select_winner
from damoc_components.training.compress_model import compress_model
from damoc_components.training.fine_tune import fine_tune
from damoc_components.training.resolve_candidates import resolve_candidates
from kfp import dsl

NAME = "model-selection"
PARALLELISM = 8


@dsl.pipeline(name=NAME)
def model_selection(config_uri: str, selection_id: str):
    """Choose the model that will be best after fine-tuning, without fine-tuning them all.

    Compresses the data once, then compresses, fine-tunes and scores every candidate in a loop, ranks them, registers
    the winner and publishes a report. A candidate that fails is ranked as failed. KFP's caches are off: the step
    store, keyed by content, decides what is done again.

    Args:
        config_uri: Config that ``damoc select`` published: a path or an s3:// URI.
        selection_id: Identity of the selection.
    """
    closing = close_selection(config_uri=config_uri, selection_id=selection_id)
    tasks = [closing]
    with dsl.ExitHandler(closing):
        prepared = prepare_data(config_uri=config_uri, selection_id=selection_id)
        data = compress_data(config_uri=config_uri, selection_id=selection_id, prepared=prepared.output)
        candidates = resolve_candidates(
            config_uri=config_uri, selection_id=selection_id, prepared=prepared.output, data=data.output
        )
        with dsl.ParallelFor(candidates.output, parallelism=PARALLELISM) as candidate:
            proxy = compress_model(
                config_uri=config_uri,
                selection_id=selection_id,
                candidate_id=candidate.candidate_id,
                data=candidate.data_uri,
            )
            tuned = fine_tune(
                config_uri=config_uri,
                selection_id=selection_id,
                prepared=candidate.prepared_uri,
                data=candidate.data_uri,
                state=proxy.output,
            )
            scored = evaluate_candidate(
                config_uri=config_uri,
                selection_id=selection_id,
                prepared=candidate.prepared_uri,
                state=tuned.output,
            )
        record = select_winner(
            config_uri=config_uri,
            selection_id=selection_id,
            prepared=prepared.output,
            data=data.output,
            states=dsl.Collected(scored.outputs["Output"]),
        )
        registered = register_winner(config_uri=config_uri, selection_id=selection_id, record_uri=record.output)
        report = publish_report(
            config_uri=config_uri, selection_id=selection_id, record_uri=registered.outputs["Output"]
        )
    tasks += [prepared, candidates, data, proxy, tuned, scored, record, registered, report]
    for task in tasks:
        task.set_caching_options(False)
