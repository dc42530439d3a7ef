"""Where the domain data is and how it is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from damoc.config.section import Section


class Fields(Section):
    """Which column of the data holds which part of an example; ``a.b`` reads inside nested objects."""

    id: str = Field("id", description="Unique row name; rows without one are named by their content hash.")
    instruction: str = Field("instruction", description="What to do. A missing column means an empty instruction.")
    input: str = Field("input", description="What to do it on. A missing column means an empty input.")
    output: str = Field("output", description="The reference answer; every row needs one.")
    choices: str = Field("choices", description="List of the closed answers; a missing column means free-form.")
    aliases: str = Field("aliases", description="List of further right answers, which are graded as the output.")
    group: str = Field("group", description="Rows of one group (document, customer) never stand in different splits.")


class SplitFractions(Section):
    """Shares of a stable hash split; train gets the rest."""

    valid: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_train(self) -> SplitFractions:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test leave nothing to train on: their sum must be below 1")
        return self


class SplitSources(Section):
    """Given splits: a path, glob-free file name or URI for each."""

    train: str
    valid: str | None = None
    test: str


SPLITS: dict[str, type[Section]] = {"SplitFractions": SplitFractions, "SplitSources": SplitSources}
"""The two ways to say what ``splits`` are, by name."""


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


class RowLimits(Section):
    """At most so many rows a split, chosen by a stable hash; null keeps all."""

    train: int | None = Field(None, ge=1)
    valid: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class DatasetConfig(Section):
    """Where the domain data is and how to read it."""

    source: str | None = Field(
        None,
        description="mined:NAME (cloud-qa, cloud-service, science-qa), a file or folder (.jsonl, .jsonl.gz, .parquet, "
        ".csv), s3://bucket/key, or hf:owner/name. Not needed when 'splits' names a source for each split.",
    )
    preset: (
        Literal[
            "pubmedqa",
            "pubmedqa_long",
            "billsum",
            "finqa",
            "convfinqa",
            "tat_qa",
            "dolly",
            "nq_open",
            "web_questions",
            "squad",
            "squad_v2",
        ]
        | None
    ) = Field(None, description="Columns, hub id (where no source is given) and task of a known dataset.")
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
