"""A whole selection: data, compression, tuning, evaluation, candidates, tracking."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from damoc.config.data_compression import DataCompression
from damoc.config.dataset import DatasetConfig
from damoc.config.section import Section

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIZE = re.compile(r"\d+(\.\d+)?[MG]i?B")

BUDGETS = ("ratio", "layers", "depth", "flops", "gflops", "latency")
DEFAULT_RATIO = 0.25


class MergeConfig(Section):
    """Sparse merge of what was pruned; the grid always holds 0, so a merge has to earn its place."""

    method: Literal["magnitude", "ties", "dare", "none"] = "magnitude"
    density: float = Field(0.1, gt=0, le=1, description="Share of each task vector that is kept.")
    scales: list[float] = Field(
        default_factory=lambda: [0.0, 0.02, 0.05, 0.1], description="Factors tried; 0 is added."
    )

    @field_validator("scales")
    @classmethod
    def _holds_zero(cls, scales: list[float]) -> list[float]:
        return sorted({0.0, *scales})


class ModelCompression(Section):
    """Which layers a proxy keeps: one policy and one budget for all candidates."""

    policy: Literal["lowest", "iterative", "contiguous"] = Field(
        "lowest",
        description="Which layers go: the least important ones, the same measured again after each removal, or the "
        "block whose input and output are closest in angle.",
    )
    ratio: float | None = Field(
        None, ge=0, lt=1, description="Budget: share of the layers to remove; 0.25 where no budget is named."
    )
    layers: int | None = Field(None, ge=0, description="Budget: layers to remove.")
    depth: int | None = Field(None, ge=1, description="Budget: layers that stay.")
    flops: float | None = Field(None, ge=0, lt=1, description="Budget: share of a forward pass's operations to save.")
    gflops: float | None = Field(
        None, gt=0, description="Budget: 10^9 operations that a forward pass over a calibration row costs at most."
    )
    latency: float | None = Field(
        None, ge=0, lt=1, description="Budget: share of a forward pass's time to save, as measured on this machine."
    )
    min_layers: int = Field(4, ge=1, description="Layers that stay at least.")
    protect: list[int] = Field(
        default_factory=list,
        description="Further layers that stay; -1 is the last one. First, last and one of each type always stay.",
    )
    calibration_rows: int = Field(48, ge=4, description="Training rows on which importance and loss are measured.")
    collapse_limit: float = Field(
        1.5, gt=1, description="Give layers back while the calibration loss is over this multiple of the original."
    )
    max_memory: dict[str, str] | None = Field(
        None,
        description="Memory that the weights may take per GPU and on the CPU, as transformers writes it: "
        "{0: 70GiB, cpu: 100GiB}. What does not fit stays on disk and is read layer by layer; null loads it all.",
    )
    merge: MergeConfig = Field(default_factory=MergeConfig)

    @property
    def budget(self) -> tuple[str, float]:
        """Name and amount of the one budget."""
        return next(iter(self._budgets().items()), ("ratio", DEFAULT_RATIO))

    def _budgets(self) -> dict[str, float]:
        return {name: value for name in BUDGETS if (value := getattr(self, name)) is not None}

    @field_validator("max_memory", mode="before")
    @classmethod
    def _named_devices(cls, memory: Any) -> Any:
        return {str(device): size for device, size in memory.items()} if isinstance(memory, dict) else memory

    @field_validator("max_memory")
    @classmethod
    def _devices_and_sizes(cls, memory: dict[str, str] | None) -> dict[str, str] | None:
        for device, size in (memory or {}).items():
            if not (device == "cpu" or device.isdecimal()):
                raise ValueError(f"{device!r} is no device: use cpu or the number of a GPU")
            if not _SIZE.fullmatch(size):
                raise ValueError(f"{size!r} is no size: write a number and MB, MiB, GB or GiB")
        return memory

    @model_validator(mode="after")
    def _consistent(self) -> ModelCompression:
        if len(named := self._budgets()) > 1:
            raise ValueError(f"{' and '.join(named)} are budgets of their own: keep one of them")
        if self.depth is not None and self.depth < self.min_layers:
            raise ValueError(f"depth {self.depth} is below min_layers {self.min_layers}: lower min_layers too")
        if self.max_memory is not None and self.merge.method != "none":
            raise ValueError("weights that max_memory leaves on disk cannot be merged: set merge.method to none")
        return self


class TuningConfig(Section):
    """LoRA fine-tuning, the same budget for every candidate."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    learning_rate: float = Field(2e-4, gt=0)
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(16, ge=1)
    max_length: int = Field(1024, ge=16, description="Longer rows lose the start of their input; the answer stays.")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    timeout_minutes: float = Field(240.0, gt=0, description="A candidate that trains longer is recorded as 'timeout'.")


class EvaluationConfig(Section):
    """The held-out score that ranks the candidates."""

    task: str = Field("generation", description="Name in the task registry: generation or choice.")
    metric: str | None = Field(None, description="Metric that ranks; the task's own main metric when null.")
    batch_size: int = Field(16, ge=1)
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Coverage of the bootstrap intervals.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the evaluation rows.")


class Candidate(Section):
    """A model that may win."""

    id: str = Field(description="Short name: letters, digits, dot, dash, underscore.")
    model: str = Field(description="Local folder or hub id.")
    revision: str | None = Field(None, description="Commit (40 hex digits) of a hub model; required for hub ids.")
    trust_remote_code: bool = Field(False, description="Runs code from the model repository; needs a pinned revision.")
    licence: str | None = Field(None, description="Shown in the report.")

    @field_validator("id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("use letters, digits, '.', '-' and '_' only, at most 63 of them")
        return value

    @model_validator(mode="after")
    def _pinned(self) -> Candidate:
        if self.trust_remote_code and not _COMMIT.fullmatch(self.revision or ""):
            raise ValueError("trust_remote_code runs code from the repository: pin 'revision' to a 40-digit commit")
        return self


class TrackingConfig(Section):
    """MLflow: where runs, metrics and the winner are recorded."""

    uri: str | None = Field(None, description="MLflow tracking URI; null is SQLite in the workspace.")
    experiment: str | None = Field(None, description="Experiment name; null is the selection's name.")
    registered_model: str | None = Field(
        None, description="Registered model; null is 'damoc-' and the selection's name."
    )
    alias: str = "champion"
    system_metrics: bool = True
    embed_weights_mb: int = Field(
        200,
        ge=0,
        description="A pruned base up to this size travels with the registered model; a larger one by reference.",
    )


class SelectionConfig(Section):
    """A whole selection: data, compression, tuning, evaluation, candidates, tracking."""

    name: str = Field(description="Name of the selection: letters, digits, dot, dash, underscore.")
    seed: int = Field(17, ge=0)
    workspace: str = Field(
        ".damoc", description="Folder (or s3://bucket/prefix) for steps, reports and the MLflow default."
    )
    dataset: DatasetConfig
    data_compression: DataCompression = Field(default_factory=DataCompression)
    model_compression: ModelCompression = Field(default_factory=ModelCompression)
    tuning: TuningConfig = Field(default_factory=TuningConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    candidates: list[Candidate]
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        return Candidate._plain_id(value)

    @field_validator("candidates")
    @classmethod
    def _two_distinct(cls, candidates: list[Candidate]) -> list[Candidate]:
        ids = [candidate.id for candidate in candidates]
        if len(ids) < 2:
            raise ValueError(f"a selection needs at least two candidates, found {len(ids)}: add another one")
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"candidate ids must differ, repeated: {', '.join(repeated)}")
        return candidates

    def candidate(self, candidate_id: str) -> Candidate:
        """The candidate of that id."""
        return next(candidate for candidate in self.candidates if candidate.id == candidate_id)
