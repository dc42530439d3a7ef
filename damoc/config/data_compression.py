"""How rows are measured, filtered and condensed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from damoc.config.section import Section


class LocalModel(Section):
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


class SignalModels(Section):
    """The models that rows are measured with: one small reference for all candidates, so that all see one subset."""

    encoder: str = Field("packaged:minilm", description="Sentence encoder: packaged:minilm, a path, or a hub id.")
    encoder_revision: str | None = Field(None, description="Commit (40 hex digits) of a hub encoder; required for one.")
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
    reward_revision: str | None = Field(
        None, description="Commit (40 hex digits) of a hub reward model; required for one."
    )
    max_length: int = Field(1024, ge=32, description="Tokens that scorer, judge and reward model read at most.")


class FilterConfig(Section):
    """Which rows the proxies train on."""

    method: str = Field("k_center_greedy", description="Name in the filter registry; damoc data filters lists them.")
    budget: float = Field(0.1, gt=0, le=1, description="Share of the training rows to keep.")
    min_rows: int = Field(50, ge=1, description="Never fewer rows than this (or all there are).")
    per_label: bool = Field(
        True, description="Chooses within each closed answer, in proportion, so that no label is filtered away."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the method, by name.")


class TokenRates(Section):
    """Share of the words of each part to keep; 1.0 leaves the part alone."""

    instruction: float = Field(1.0, gt=0, le=1)
    input: float = Field(0.8, gt=0, le=1)
    output: float = Field(
        1.0, gt=0, le=1, description="Answers are best left alone: proxies learn to write what they see."
    )


class GateThresholds(Section):
    """BERTScore F1 (not rescaled) that a condensed part must reach; calibrated for packaged:minilm at layer 5.

    Each is the fifth percentile of texts that lost only stop words (benchmarks/gate_calibration.py); another encoder or
    layer needs thresholds of its own.
    """

    instruction: float = Field(0.89, ge=0, le=1)
    input: float = Field(0.93, ge=0, le=1)
    output: float = Field(0.89, ge=0, le=1)


class GateConfig(Section):
    """The BERTScore gate: what is below goes to repair, what stays below goes back to its original."""

    encoder: str = Field("packaged:minilm", description="Encoder: packaged:minilm, a path or a hub id.")
    revision: str | None = Field(None, description="Commit (40 hex digits) of a hub encoder; required for one.")
    layer: int = Field(5, ge=1, description="Encoder layer whose embeddings are matched.")
    thresholds: GateThresholds = Field(default_factory=GateThresholds)


class RepairConfig(Section):
    """What happens to texts that the gate refuses, before their original is used."""

    rewriter: LanguageModel | None = Field(None, description="Instruct model that rewrites; null leaves it out.")
    rounds: int = Field(3, ge=1, le=10, description="Rewrites of a text at most.")
    length_slack: float = Field(
        1.15, ge=1, description="A rewrite may have so many times the words that its rate allows."
    )
    restore: bool = Field(True, description="Puts the most informative dropped words back until the gate passes.")


class CondenseConfig(Section):
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


class DataCompression(Section):
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
