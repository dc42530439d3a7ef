"""A whole selection: data, compression, tuning, evaluation, candidates, tracking."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from damoc.config.data_compression import DataCompression
from damoc.config.dataset import DatasetConfig
from damoc.config.section import Section

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIZE = re.compile(r"\d+(\.\d+)?[MG]i?B")

BUDGETS = ("ratio", "layers", "depth", "flops", "gflops", "latency")
DEFAULT_RATIO = 0.25


_SCALES = {
    "rdsc_sparse": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3),
    "instruct_delta": (0.05, 0.1, 0.2, 0.3),
    "linear_patch": (0.5, 1.0),
    "none": (),
}


class MergeConfig(Section):
    """Merge of what was pruned; the grid always holds 0, so a merge has to earn its place."""

    method: Literal["rdsc_sparse", "instruct_delta", "linear_patch", "none"] = Field(
        "rdsc_sparse",
        description="rdsc_sparse: sparse differences of the removed layers and their anchor; instruct_delta: of the "
        "candidate and its 'base'; linear_patch: a linear map fitted to what the removed layers did.",
    )
    sparsifier: Literal["magnitude", "ties", "dare"] = "magnitude"
    density: float = Field(0.1, gt=0, le=1, description="Share of each task vector that is kept.")
    anchor: Literal["before", "after", "nearest"] = Field(
        "before", description="Which kept layer absorbs a removed one; a linear patch always takes the one before."
    )
    fit_rows: int = Field(
        128, ge=1, description="Training rows behind the calibration rows that a linear patch is fitted to."
    )
    ridge: float = Field(0.01, gt=0, description="How strongly a linear patch is drawn to changing nothing.")
    scales: list[float] | None = Field(
        None, description="Factors tried; 0 is added. null is a grid that suits the method."
    )
    min_gain: float = Field(
        0.002, ge=0, lt=1, description="Share of the calibration loss by which a merge has to lower it."
    )

    @field_validator("scales")
    @classmethod
    def _holds_zero(cls, scales: list[float] | None) -> list[float] | None:
        return None if scales is None else sorted({0.0, *scales})

    def grid(self) -> list[float]:
        """The scales that are tried, 0 first."""
        if self.method == "none":
            return [0.0]
        return self.scales if self.scales is not None else [0.0, *_SCALES[self.method]]


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
    control: Literal["first", "all", "none"] | list[str] = Field(
        "first",
        description="Candidates that are tuned whole as well, on the same rows, to see what pruning costs: the "
        "first one, all, none, or a list of ids. With max_memory, first is none: the whole does not fit.",
    )

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
        return self


class TuningBudget(Section):
    """A limit in place of epochs: the same work for every candidate, whatever its tokenizer and size."""

    unit: Literal["tokens", "flops"] = Field(
        description="Tokens read (padding not counted), or floating-point operations of the steps."
    )
    amount: float = Field(gt=0)


class TrainJobConfig(Section):
    """Several machines for one training: a TrainJob of Kubeflow Trainer 2."""

    nodes: int = Field(ge=2, description="Machines.")
    gpus: int = Field(1, ge=0, description="GPUs of each, with one process a GPU; 0: one process on the CPU.")
    cpu: str = Field("4", description="Cores of each, as Kubernetes writes it.")
    memory: str = Field("32Gi", description="Memory of each; a whole proxy has to fit.")
    image: str = Field(description="Image with damoc, best pinned by digest.")
    claim: str = Field(description="PersistentVolumeClaim (ReadWriteMany) that the workspace lies on.")
    mount: str = Field(description="Where that volume is mounted, in the pods of the pipeline as well.")
    namespace: str | None = Field(None, description="Of the TrainJob; null is that of the pod which submits it.")
    runtime: str = Field("damoc-torch", description="Training runtime, see manifests/trainer.")
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    queue: str | None = Field(None, description="Local queue of Kueue; null starts at once.")
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, str]] = Field(default_factory=list)


class TuningConfig(Section):
    """Fine-tuning, the same budget for every candidate."""

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="Adapters, adapters on weights of 4 bits, or all weights."
    )
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] | None = Field(
        None, min_length=1, description="Names of the linear layers that get adapters; null is all but the head."
    )
    template: Literal["auto", "plain"] = Field(
        "auto", description="auto: the model's own chat template where it has one; plain: the same form for all."
    )
    learning_rate: float = Field(2e-4, gt=0, description="Peak; 2e-5 unless given when all weights are trained.")
    lr_probe: list[float] = Field(
        default_factory=list,
        description="Rates of which each candidate takes its own best, found on a tenth of the rows; empty: no probe.",
    )
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    epochs: float = Field(3.0, gt=0, description="Passes over the rows: the same rows, so the same bytes for all.")
    budget: TuningBudget | None = Field(None, description="Limit in tokens or operations in place of epochs.")
    batch_size: int = Field(16, ge=1)
    max_length: int = Field(1024, ge=16, description="Longer rows lose the start of their input; the answer stays.")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = Field(False, description="Computes activations twice to keep fewer of them.")
    divergence_factor: float = Field(
        3.0, gt=1, description="A loss over this multiple of its start (at least 1 nat) is on its way to diverge."
    )
    divergence_patience: int = Field(3, ge=1, description="Such losses in a row after which a candidate is stopped.")
    checkpoint_minutes: float = Field(10.0, gt=0, description="A killed training goes on from its last checkpoint.")
    timeout_minutes: float = Field(240.0, gt=0, description="A candidate that trains longer is recorded as 'timeout'.")

    processes: Literal["auto"] | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Processes of a machine that share a training, each with a part of the weights: a number; auto, "
        "one for each of its GPUs; or null, one that has them all.",
    )

    train_job: TrainJobConfig | None = Field(
        None, description="Machines that share a training; null: all stays in the pod or on the laptop."
    )

    @field_validator("lr_probe")
    @classmethod
    def _rates_to_compare(cls, rates: list[float]) -> list[float]:
        if any(rate <= 0 for rate in rates) or len(rates) == 1 or len(set(rates)) < len(rates):
            raise ValueError("list two or more different rates above 0, or none")
        return rates

    @model_validator(mode="before")
    @classmethod
    def _rate_of_full_tuning(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("method") == "full":
            return {"learning_rate": 2e-5, **raw}
        return raw

    @model_validator(mode="after")
    def _shared(self) -> TuningConfig:
        if self.processes is None and self.train_job is None:
            return self
        if self.method == "qlora":
            raise ValueError("processes do not share weights of 4 bits: take lora, or leave out processes, train_job")
        if self.lr_probe:
            raise ValueError("a probe of learning rates needs one process: empty lr_probe, or no processes, train_job")
        if self.processes is not None and self.train_job is not None:
            raise ValueError("train_job says how many processes there are: leave out processes")
        return self


class BertScoreConfig(Section):
    """The encoder of the metric bertscore."""

    encoder: str = Field("packaged:minilm", description="packaged:minilm, a folder or a hub id.")
    revision: str | None = Field(None, description="Commit (40 hex digits) of a hub encoder; required for hub ids.")
    layer: int = Field(5, ge=1, description="Encoder layer whose embeddings are matched, from 1.")


class EvaluationConfig(Section):
    """The held-out score that ranks the candidates."""

    task: str | None = Field(
        None,
        description="choice, financial_qa, generation, short_answer, summarization, lm_eval:NAME or "
        "lm_eval:FILE.yaml; null is that of dataset.preset, or generation.",
    )
    metric: str | None = Field(None, description="Metric that ranks; the task's own main metric when null.")
    also: list[str] = Field(default_factory=list, description="Further metrics of the task, measured and shown.")
    shots: int = Field(
        0, ge=0, description="Worked examples with which the untouched candidates are measured once more; 0 does not."
    )
    batch_size: int = Field(16, ge=1)
    max_new_tokens: int | None = Field(None, ge=1, description="Longest written answer; the task's own when null.")
    tolerance: float = Field(0.01, ge=0, lt=1, description="Relative, of numbers in financial_qa.")
    bertscore: BertScoreConfig = Field(default_factory=BertScoreConfig)
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Coverage of the bootstrap intervals.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the evaluation rows.")


class Candidate(Section):
    """A model that may win."""

    id: str = Field(description="Short name: letters, digits, dot, dash, underscore.")
    model: str = Field(description="Local folder or hub id.")
    revision: str | None = Field(None, description="Commit (40 hex digits) of a hub model; required for hub ids.")
    trust_remote_code: bool = Field(False, description="Runs code from the model repository; needs a pinned revision.")
    base: str | None = Field(
        None, description="Folder or hub id of the checkpoint that it was instruction-tuned from, for instruct_delta."
    )
    base_revision: str | None = Field(None, description="Commit (40 hex digits) of a hub base.")
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

    @model_validator(mode="after")
    def _controls_are_candidates(self) -> SelectionConfig:
        known = {candidate.id for candidate in self.candidates}
        if unknown := [name for name in self.controls() if name not in known]:
            raise ValueError(f"model_compression.control names {unknown[0]!r}, which is no candidate")
        return self

    def controls(self) -> tuple[str, ...]:
        """Ids of the candidates that are tuned whole as well."""
        ids = [candidate.id for candidate in self.candidates]
        control = self.model_compression.control
        if control == "first" and self.model_compression.max_memory is not None:
            return ()
        if isinstance(control, str):
            return tuple({"first": ids[:1], "all": ids, "none": []}[control])
        return tuple(control)

    def candidate(self, candidate_id: str) -> Candidate:
        """The candidate of that id."""
        return next(candidate for candidate in self.candidates if candidate.id == candidate_id)
