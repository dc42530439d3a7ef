"""SelectionConfig: one YAML file says everything that a selection depends on.

Every model forbids unknown keys; :func:`load_config` reports all problems at once, each with its file, its
field and its mend. ``SelectionConfig.model_json_schema()`` is the JSON schema for editors.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from damoc.errors import DamocError, Problem

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Fields(_Section):
    """Which column of the data holds which part of an example; ``a.b`` reads inside nested objects."""

    id: str = Field("id", description="Unique row name; rows without one are named by their content hash.")
    instruction: str = Field("instruction", description="What to do. A missing column means an empty instruction.")
    input: str = Field("input", description="What to do it on. A missing column means an empty input.")
    output: str = Field("output", description="The reference answer; every row needs one.")
    choices: str = Field("choices", description="List of the closed answers; a missing column means free-form.")
    group: str = Field("group", description="Rows of one group (document, customer) never stand in different splits.")


class SplitFractions(_Section):
    """Shares of a stable hash split; train gets the rest."""

    valid: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitFractions:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test leave nothing to train on: their sum must be below 1")
        return self


class SplitSources(_Section):
    """Given splits: a path, glob-free file name or URI for each."""

    train: str
    valid: str | None = None
    test: str


_SPLITS: dict[str, type[_Section]] = {"SplitFractions": SplitFractions, "SplitSources": SplitSources}


def _kind_of_splits(value: Any) -> str:
    """Which of the two a mapping means, so that only the problems of that one are reported."""
    if isinstance(value, dict):
        named = "train" in value or any(isinstance(part, str) for part in value.values())
        return "SplitSources" if named else "SplitFractions"
    return "SplitSources" if isinstance(value, SplitSources) else "SplitFractions"


Splits = Annotated[
    Annotated[SplitFractions, Tag("SplitFractions")] | Annotated[SplitSources, Tag("SplitSources")],
    Discriminator(_kind_of_splits),
]


class RowLimits(_Section):
    """At most so many rows a split, chosen by a stable hash; null keeps all."""

    train: int | None = Field(None, ge=1)
    valid: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class DatasetConfig(_Section):
    """Where the domain data is and how to read it."""

    source: str | None = Field(
        None,
        description="mined:NAME (cloud-qa, cloud-service, science-qa), a file or folder (.jsonl, .jsonl.gz, .parquet, "
        ".csv), s3://bucket/key, or hf:owner/name. Not needed when 'splits' names a source for each split.",
    )
    preset: Literal["pubmedqa", "billsum", "dolly", "squad"] | None = Field(
        None, description="Field mapping (and hub id, when no source is given) of a known dataset."
    )
    revision: str | None = Field(None, description="Commit of a hub dataset.")
    fields: Fields = Field(default_factory=Fields)
    instruction: str | None = Field(None, description="One instruction for all rows, where the data has none.")
    choices: list[str] | None = Field(None, description="The closed set of answers, where it is the same for all rows.")
    first_line_only: bool = Field(False, description="Keep only the first line of each answer (a label before prose).")
    splits: Splits = Field(default_factory=SplitFractions)
    limit: RowLimits = Field(default_factory=RowLimits)
    on_leak: Literal["error", "drop"] = Field(
        "error", description="What to do with training rows whose prompt also stands in a held-out split."
    )

    @model_validator(mode="after")
    def _has_source(self) -> DatasetConfig:
        if self.source is None and self.preset is None and not isinstance(self.splits, SplitSources):
            raise ValueError("no data named: set 'source', 'preset', or 'splits' with a source for each split")
        return self


class LocalModel(_Section):
    """A causal language model that is loaded on this machine."""

    model: str = Field(description="Local folder or hub id.")
    revision: str | None = Field(None, description="Commit (40 hex digits) of a hub model; required for hub ids.")
    four_bit: bool = Field(False, description="Loads the weights in 4 bits (bitsandbytes NF4), on GPU and CPU.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the weights; bfloat16 suits GPUs.")


class LanguageModel(LocalModel):
    """A model that is asked questions: loaded here, or behind an OpenAI-compatible endpoint."""

    endpoint: str | None = Field(
        None,
        description="Base URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1; null loads the model.",
    )
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable that holds the endpoint's key.")
    concurrency: int = Field(4, ge=1, description="Requests under way at once.")
    requests_per_minute: int | None = Field(None, ge=1, description="Rate limit; null is none.")
    timeout_seconds: float = Field(60.0, gt=0, description="A request that takes longer is tried again.")
    retries: int = Field(4, ge=0, description="Tries after the first, with exponential back-off.")


class SignalModels(_Section):
    """The models that rows are measured with: one small reference for all candidates, so that all see one subset."""

    encoder: str = Field("packaged:minilm", description="Sentence encoder: packaged:minilm, a path, or a hub id.")
    scorer: LocalModel | None = Field(
        None, description="Causal LM of perplexity, IFD and gradients; null is condense.compressor."
    )
    judge: LanguageModel | None = Field(
        None, description="Model that rates rows (AlpaGasus, Deita); null is the scorer."
    )
    reward: str = Field(
        "packaged:minilm",
        description="Reward model (a sequence classifier with one output): a path or a hub id; packaged:minilm is the "
        "cosine of question and answer.",
    )
    reward_revision: str | None = Field(None, description="Commit of a hub reward model.")
    max_length: int = Field(1024, ge=32, description="Tokens that scorer, judge and reward model read at most.")


class FilterConfig(_Section):
    """Which rows the proxies train on."""

    method: str = Field("k_center_greedy", description="Name in the filter registry; damoc data filters lists them.")
    budget: float = Field(0.1, gt=0, le=1, description="Share of the training rows to keep.")
    min_rows: int = Field(50, ge=1, description="Never fewer rows than this (or all there are).")
    per_label: bool = Field(
        True, description="Chooses within each closed answer, in proportion, so that no label is filtered away."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the method, by name.")


class TokenRates(_Section):
    """Share of the words of each part to keep; 1.0 leaves the part alone."""

    instruction: float = Field(1.0, gt=0, le=1)
    input: float = Field(0.8, gt=0, le=1)
    output: float = Field(
        1.0, gt=0, le=1, description="Answers are best left alone: proxies learn to write what they see."
    )


class GateThresholds(_Section):
    """BERTScore F1 (not rescaled) that a condensed part must reach; calibrated for packaged:minilm at layer 5.

    Each is the fifth percentile of texts that lost only stop words (benchmarks/gate_calibration.py); another encoder or
    layer needs thresholds of its own.
    """

    instruction: float = Field(0.89, ge=0, le=1)
    input: float = Field(0.93, ge=0, le=1)
    output: float = Field(0.89, ge=0, le=1)


class GateConfig(_Section):
    """The BERTScore gate: what is below goes to repair, what stays below goes back to its original."""

    encoder: str = Field("packaged:minilm", description="Encoder: packaged:minilm, a path or a hub id.")
    layer: int = Field(5, ge=1, description="Encoder layer whose embeddings are matched.")
    thresholds: GateThresholds = Field(default_factory=GateThresholds)


class RepairConfig(_Section):
    """What happens to texts that the gate refuses, before their original is used."""

    rewriter: LanguageModel | None = Field(None, description="Instruct model that rewrites; null leaves it out.")
    rounds: int = Field(3, ge=1, le=10, description="Rewrites of a text at most.")
    length_slack: float = Field(
        1.15, ge=1, description="A rewrite may have so many times the words that its rate allows."
    )
    restore: bool = Field(True, description="Puts the most informative dropped words back until the gate passes.")


class CondenseConfig(_Section):
    """Token compression by perplexity, the BERTScore gate behind it, and the repair of what it refuses."""

    enabled: bool = True
    compressor: str = Field("zoo/tiny-reference", description="Causal LM outside the candidates: a path or a hub id.")
    revision: str | None = Field(None, description="Commit of a hub compressor.")
    four_bit: bool = Field(False, description="Loads the compressor in 4 bits (bitsandbytes NF4), on GPU and CPU.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the compressor; bfloat16 suits GPUs.")
    rates: TokenRates = Field(default_factory=TokenRates)
    context: Literal["original", "kept"] = Field(
        "original",
        description="What stands before a word when its surprise is measured: the original text (one pass), or, "
        "segment by segment, only what was kept of it (LLMLingua's iterative compression).",
    )
    segment_tokens: int = Field(128, ge=8, description="Tokens decided at once where context is 'kept'.")
    min_words: int = Field(8, ge=1, description="Shorter instructions and inputs are left alone.")
    min_answer_words: int = Field(64, ge=1, description="Shorter answers are left alone; closed answers always are.")
    gate: GateConfig = Field(default_factory=GateConfig)
    repair: RepairConfig = Field(default_factory=RepairConfig)

    @property
    def local_model(self) -> LocalModel:
        """The compressor and how it is loaded."""
        return LocalModel(model=self.compressor, revision=self.revision, four_bit=self.four_bit, dtype=self.dtype)


class DataCompression(_Section):
    """Filter rows, then drop tokens."""

    signals: SignalModels = Field(default_factory=SignalModels)
    filter: FilterConfig = Field(default_factory=FilterConfig)
    condense: CondenseConfig = Field(default_factory=CondenseConfig)
    samples: int = Field(
        4,
        ge=0,
        description="Rows that the report shows before and after; 0 shows none, where the data is confidential.",
    )

    @property
    def scorer(self) -> LocalModel:
        """The model behind perplexity, IFD and gradients."""
        return self.signals.scorer or self.condense.local_model

    @property
    def judge(self) -> LanguageModel:
        """The model that rates rows."""
        return self.signals.judge or LanguageModel(**self.scorer.model_dump())


class MergeConfig(_Section):
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


class ModelCompression(_Section):
    """Which layers a proxy keeps."""

    ratio: float = Field(0.25, ge=0, lt=1, description="Share of the layers to remove; the same for every candidate.")
    calibration_rows: int = Field(48, ge=4, description="Training rows on which importance and loss are measured.")
    min_layers: int = Field(4, ge=1)
    collapse_limit: float = Field(
        1.5, gt=1, description="Give layers back while the calibration loss is over this multiple of the original."
    )
    merge: MergeConfig = Field(default_factory=MergeConfig)


class TuningConfig(_Section):
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


class EvaluationConfig(_Section):
    """The held-out score that ranks the candidates."""

    task: str = Field("generation", description="Name in the task registry: generation or choice.")
    metric: str | None = Field(None, description="Metric that ranks; the task's own main metric when null.")
    batch_size: int = Field(16, ge=1)
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Coverage of the bootstrap intervals.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the evaluation rows.")


class Candidate(_Section):
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


class TrackingConfig(_Section):
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


class SelectionConfig(_Section):
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


def load_config(path: Path) -> SelectionConfig:
    """Reads and validates a YAML config; paths in it become absolute, relative to the file's folder.

    Args:
        path: YAML file.

    Raises:
        DamocError: every problem found, each with its place and mend.
    """
    return parse_config(read_yaml(path), str(path), path.resolve().parent)


def read_yaml(path: Path) -> Any:
    """Parses a YAML file, with errors that name line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DamocError("the config file does not exist", str(path), "check the path") from None
    except UnicodeDecodeError as error:
        raise DamocError(f"not UTF-8 (byte {error.start})", str(path), "save the file as UTF-8") from None
    except OSError as error:
        raise DamocError(
            f"the config cannot be read: {error.strerror}", str(path), "name a readable YAML file"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise DamocError(f"not valid YAML: {getattr(error, 'problem', error)}", place, "mend the syntax") from None


def parse_config(raw: Any, where: str, root: Path) -> SelectionConfig:
    """Validates a parsed config.

    Args:
        raw: what the YAML holds.
        where: name of the file, for messages.
        root: folder that relative paths start from.

    Raises:
        DamocError: every problem found.
    """
    if not isinstance(raw, dict):
        raise DamocError("a config is a mapping of sections", where, "start from one of the files in examples/")
    try:
        config = SelectionConfig.model_validate(raw)
    except ValidationError as error:
        raise DamocError.from_problems([_problem(detail, where) for detail in error.errors()]) from None
    return resolve_paths(config, root)


def resolve_paths(config: SelectionConfig, root: Path) -> SelectionConfig:
    """The same config with local paths made absolute."""
    data = config.model_dump()
    data["workspace"] = _absolute(config.workspace, root, must_exist=False)
    dataset = data["dataset"]
    if dataset["source"]:
        dataset["source"] = _absolute(dataset["source"], root, must_exist=False)
    for split in ("train", "valid", "test"):
        if isinstance(dataset["splits"].get(split), str):
            dataset["splits"][split] = _absolute(dataset["splits"][split], root, must_exist=False)
    compression = data["data_compression"]
    signals, condense = compression["signals"], compression["condense"]
    asked = (signals["scorer"], signals["judge"], condense["repair"]["rewriter"])
    local = [(model, "model") for model in asked if model and not model.get("endpoint")]
    named = [(signals, "encoder"), (signals, "reward"), (condense, "compressor"), (condense["gate"], "encoder"), *local]
    for section, key in named:
        section[key] = _absolute(section[key], root)
    for candidate in data["candidates"]:
        candidate["model"] = _absolute(candidate["model"], root)
    return SelectionConfig.model_validate(data)


def _absolute(value: str, root: Path, must_exist: bool = True) -> str:
    """Absolute path of a local path; hub ids (nothing there, ``owner/name``) and URIs stay as they are."""
    if re.match(r"^(s3|hf|mined|packaged|https?):", value):
        return value
    path = (root / Path(value).expanduser()).resolve()
    return str(path) if path.exists() or not must_exist or value.startswith((".", "/", "~")) else value


def _problem(detail: Any, where: str) -> Problem:
    path = [str(part) for part in detail["loc"]]
    location = [part for part in path if part not in _SPLITS]
    field = ".".join(location) or "config"
    if detail["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"remove it; known keys here: {', '.join(known)}"
        return Problem(f"unknown key {location[-1]!r}", f"{where} field {field}", fix)
    if detail["type"] == "missing":
        return Problem("this key is required", f"{where} field {field}", f"add '{location[-1]}:'")
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    return Problem(
        f"{message[0].lower()}{message[1:]}{shown}",
        f"{where} field {field}",
        "correct the value; see damoc validate --schema",
    )


def _keys_at(location: list[str]) -> list[str]:
    model: Any = SelectionConfig
    for part in location:
        if part.isdigit() or part in _SPLITS:
            model = _SPLITS.get(part, model)
            continue
        annotation = model.model_fields[part].annotation
        nested = [
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        model = nested[0] if nested else model
    return sorted(model.model_fields)
