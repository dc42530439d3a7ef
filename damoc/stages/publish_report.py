"""Stage: write the report and the evidence where people look, and close the selection's run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from damoc.errors import DamocError
from damoc.report import render, save_plots
from damoc.selection.record import SelectionRecord
from damoc.stages.context import Context, stage
from damoc.stages.rows import write_json
from damoc.tracking import storage

NAME = "publish_report"


def publish_report(config_uri: str, selection_id: str, record_uri: str, html_path: str) -> str:
    """Renders the report, logs it with plots and evidence to MLflow, and closes the run.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        record_uri: what ``register_winner`` returned.
        html_path: file that receives the report too (a KFP HTML artifact).

    Returns:
        URI of ``report.html``.

    Raises:
        DamocError: fewer than two candidates finished; the report says why and is published all the same.
    """
    with stage(NAME, config_uri, selection_id) as context:
        record = SelectionRecord.from_json(json.loads(storage.read_bytes(record_uri)))
        text = render(record)
        Path(html_path).parent.mkdir(parents=True, exist_ok=True)
        Path(html_path).write_text(text, encoding="utf-8")
        uri = f"{context.folder}/report.html"
        storage.write_bytes(uri, text.encode("utf-8"))
        _log(context, record, text)
        context.tracker.close(context.tracker.parent_run_id(), "FINISHED" if record.winner else "FAILED")
        if record.winner is None:
            raise DamocError(record.why, context.config.name, f"see {uri}, mend the candidates and run again")
        return uri


def _log(context: Context, record: SelectionRecord, text: str) -> None:
    run = context.tracker.parent_run_id()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "report.html").write_text(text, encoding="utf-8")
        write_json(folder / "record.json", record.to_json())
        (folder / "plots").mkdir()
        save_plots(record, folder / "plots")
        (folder / "evidence").mkdir()
        write_json(
            folder / "evidence" / "evidence.json", {**record.evidence, "evidence_sha256": record.evidence_sha256}
        )
        context.tracker.log_artifacts(run, folder)
