"""Stage: measure a candidate's layers, remove the least important ones, and merge them back sparsely.

Three steps, each kept in the workspace: what was measured serves every budget, and a plan every merge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from damoc.compression.outcome import PATCHES
from damoc.data.example import Example
from damoc.data.prompts import Encoded
from damoc.hashing import derive_seed
from damoc.models.batching import length_batches, pad_batch
from damoc.models.candidate import load_candidate
from damoc.models.likelihood import answer_losses
from damoc.models.load import LoadedModel, input_device, model_identity
from damoc.progress import Progress
from damoc.stages.candidate import CandidateState, attempt
from damoc.stages.context import Context, stage
from damoc.stages.rows import encode_rows, read_examples, write_json
from damoc.store import Step, StepResult

if TYPE_CHECKING:
    import torch

    from damoc.compression import ProxyMaker

NAME = "compress_model"
IMPORTANCE = "layer_importance"
PLAN = "layer_plan"
_MEASURING = tuple(f"compression/{name}.py" for name in ("architecture", "check", "cost", "importance", "layer_config"))
_DECIDING = (*_MEASURING, "compression/decision.py", "compression/plan.py", "compression/proxy.py")
_READING = ("models", "data/prompts.py", "stages/compress_model.py")


def compress_model(config_uri: str, selection_id: str, candidate_id: str, data: str) -> str:
    """Makes a candidate's proxy.

    Args:
        config_uri: the published config.
        selection_id: the selection.
        candidate_id: the candidate.
        data: what ``compress_data`` returned.

    Returns:
        URI of the :class:`damoc.stages.candidate.CandidateState`.
    """
    with stage(NAME, config_uri, selection_id, candidate_id) as context:
        with attempt(CandidateState(candidate_id), NAME) as trial:
            bench = Bench(context, candidate_id, StepResult.read(data))
            for step in (bench.importance, bench.plan, bench.proxy):
                result = step()
                trial.done(result.name, result)
        return trial.state.write(context, NAME)


class Bench:
    """A candidate beside its calibration rows; it is loaded once, by the first step that is not found done.

    Args:
        context: of the selection.
        candidate_id: the candidate.
        data: what ``compress_data`` returned.
    """

    def __init__(self, context: Context, candidate_id: str, data: StepResult) -> None:
        self._context = context
        self._candidate = context.config.candidate(candidate_id)
        self._settings = context.config.model_compression
        self._data = data
        self._progress: dict[str, Progress] = {}

    def importance(self) -> StepResult:
        """Measures the whole model; writes ``importance.json``."""
        from damoc.compression.decision import COUNTED

        counted = COUNTED.get(self._settings.budget[0])

        def work(folder: Path) -> Mapping[str, Any]:
            whole = self._maker.measure(counted)
            write_json(folder / "importance.json", whole.to_json())
            return {"layers": whole.layers, "loss": whole.loss}

        step = Step(IMPORTANCE, {**self._reading(), "counted": counted}, self._given(), code=(*_MEASURING, *_READING))
        return self._context.run(step, work)

    def plan(self) -> StepResult:
        """Decides which layers stay; writes ``plan.json``, which :func:`damoc.compression.replay` reads."""
        from damoc.compression import rules_of
        from damoc.compression.decision import WholeModel

        measured = self.importance()
        settings = self._settings

        def work(folder: Path) -> Mapping[str, Any]:
            whole = WholeModel.from_json(_read(measured, "importance.json"))
            decision = self._maker.decide(rules_of(settings), whole)
            write_json(folder / "plan.json", decision.to_json())
            return {
                "layers_kept": len(decision.plan.keep),
                "layers": whole.layers,
                "given_back": len(decision.plan.given_back),
                "losses": {"original": whole.loss, "pruned": decision.loss},
            }

        rules = settings.model_dump(exclude={"max_memory", "merge", "calibration_rows", "control"})
        inputs = {**self._given(), "importance": measured.content}
        return self._context.run(Step(PLAN, {**self._reading(), **rules}, inputs, code=(*_DECIDING, *_READING)), work)

    def proxy(self) -> StepResult:
        """Prunes and merges; writes ``model/`` (safetensors and tokenizer) and ``compression.json``."""
        planned = self.plan()
        merging, candidate = self._settings.merge, self._candidate
        seed = derive_seed(self._context.config.seed, NAME, candidate.id)
        needs_base = candidate.base is not None and merging.method == "instruct_delta"

        def work(folder: Path) -> Mapping[str, Any]:
            from safetensors.torch import save_file

            from damoc.compression import check_surgery, replay
            from damoc.compression.merge import base_weights
            from damoc.compression.offloaded import save_offloaded

            loaded = self._loaded
            base = base_weights(loaded.model, str(candidate.base), candidate.base_revision) if needs_base else None
            fit_batches = self._batches(self._encoded(self._rows[1]))
            outcome = self._maker.merge(replay(_read(planned, "plan.json")), merging, seed, base, fit_batches)
            check_surgery(loaded.model, loaded.tokenizer.pad_token_id)
            record = {**outcome.to_json(), "seed": seed, "merge_settings": merging.model_dump()}
            if self._settings.max_memory is None:
                loaded.model.save_pretrained(folder / "model", max_shard_size="4GB")
            else:
                save_offloaded(loaded.model, candidate, record, outcome.patches, folder / "model")
            loaded.tokenizer.save_pretrained(folder / "model")
            forget_origin(folder / "model" / "config.json")
            if outcome.patches:
                save_file(dict(outcome.patches), folder / PATCHES)
            write_json(folder / "compression.json", record)
            return {
                "layers_kept": len(record["plan"]["keep"]),
                "layers": len(record["importance"]),
                "losses": record["losses"],
                "merge": record["merge"],
                "calibration_rows": len(self._rows[0]),
                **record["parameters"],
            }

        inputs = {**self._given(), "plan": planned.content}
        if needs_base:
            inputs["base"] = model_identity(str(candidate.base), candidate.base_revision)
        spec = {**self._reading(), "merge": merging.model_dump(), "seed": seed}
        return self._context.run(Step(NAME, spec, inputs, code=("compression", *_READING)), work)

    def _reading(self) -> dict[str, Any]:
        """What decides how the model and the rows are read."""
        tuning = self._context.config.tuning
        return {
            "calibration_rows": len(self._rows[0]),
            **tuning.model_dump(include={"dtype", "template", "max_length", "batch_size"}),
        }

    def _given(self) -> dict[str, str]:
        return {
            "model": model_identity(self._candidate.model, self._candidate.revision),
            "data": self._data.content,
        }

    @cached_property
    def _rows(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """The rows to calibrate on, and those to fit a merge to."""
        merging = self._settings.merge
        wanted = merging.fit_rows if merging.method == "linear_patch" else 0
        return divide_rows(read_examples(self._data.path() / "train.jsonl"), self._settings.calibration_rows, wanted)

    @cached_property
    def _loaded(self) -> LoadedModel:
        return load_candidate(self._candidate, self._context.config.tuning, self._settings.max_memory)

    @cached_property
    def _maker(self) -> ProxyMaker:
        from damoc.compression import ProxyMaker

        loaded, batch_size = self._loaded, self._context.config.tuning.batch_size
        encoded, pad_id = self._encoded(self._rows[0]), loaded.tokenizer.pad_token_id

        def calibration_loss(model: Any) -> float:
            losses = answer_losses(model, encoded, pad_id, batch_size)
            return float(np.concatenate(losses).mean(dtype=np.float64))

        return ProxyMaker(loaded.model, self._batches(encoded), calibration_loss, pad_id, self._report)

    def _encoded(self, rows: Sequence[Example]) -> list[Encoded]:
        return encode_rows(self._loaded, rows, self._context.config.tuning.max_length)

    def _batches(self, encoded: Sequence[Encoded]) -> list[dict[str, torch.Tensor]]:
        pad_id, device = self._loaded.tokenizer.pad_token_id, input_device(self._loaded.model)
        return [
            pad_batch([encoded[index] for index in batch], pad_id, device)
            for batch in length_batches(encoded, self._context.config.tuning.batch_size)
        ]

    def _report(self, phase: str, done: int, total: int) -> None:
        unit = {"importance": "batches", "plan": "plans", "merge": "scales"}[phase]
        self._progress.setdefault(phase, Progress(NAME, f"{self._candidate.id} {phase}", unit))(done, total)


def divide_rows(rows: Sequence[Example], calibration: int, fitting: int) -> tuple[Sequence[Example], Sequence[Example]]:
    """The rows to calibrate on, and behind them those to fit a merge to, so that none is judged on what it has seen.

    Args:
        rows: training rows, in their order.
        calibration: rows to calibrate on.
        fitting: rows to fit to.

    Returns:
        Both, no row in common. Where there are too few rows, they are divided in the same proportion, and at least one
        is left to calibrate on.
    """
    wanted = calibration + fitting
    share = calibration if len(rows) >= wanted else max(1, round(len(rows) * calibration / wanted))
    return rows[:share], rows[share:wanted]


def _read(result: StepResult, name: str) -> Any:
    return json.loads((result.path() / name).read_text(encoding="utf-8"))


def forget_origin(path: Path) -> None:
    """Takes the folder that a model was loaded from out of its config: it says nothing about the model."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(path, config)
