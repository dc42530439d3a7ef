"""The record of a selection: what the report shows, the tracker logs and the auditor reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

STATUSES = ("ok", "diverged", "oom", "timeout", "incompatible", "error")


@dataclass(frozen=True)
class StageCost:
    """What a stage cost when it was done.

    Args:
        seconds: wall time.
        peak_mb: largest resident memory of its process, MiB.
        reused: whether this selection found it already done.
    """

    seconds: float
    peak_mb: float
    reused: bool


@dataclass(frozen=True)
class FunnelStep:
    """The training data after one step.

    Args:
        name: what was done, e.g. ``filtered``.
        rows: rows left.
        words: whitespace-separated words left in instruction, input and output.
        tokens: the same in tokens of the compressor's tokenizer; None when nothing was tokenised.
    """

    name: str
    rows: int
    words: int
    tokens: int | None = None


@dataclass(frozen=True)
class Distribution:
    """A histogram of one score over rows or texts.

    Args:
        name: what was scored, e.g. ``score of superfiltering`` or ``BERTScore F1, input``.
        edges: ascending bounds of the bins.
        series: counts a bin by group, e.g. ``kept`` and ``cut``.
        limit: a threshold that decided, drawn as a line.
    """

    name: str
    edges: Sequence[float]
    series: Mapping[str, Sequence[int]]
    limit: float | None = None


@dataclass(frozen=True)
class Sample:
    """A text before and after.

    Args:
        row: id of its row.
        part: ``instruction``, ``input`` or ``output``.
        pieces: the original in runs of text, each with whether it stayed.
        after: what is trained on.
        outcome: ``condensed``, ``rewritten``, ``restored`` or ``original``.
        why: the reason, with its numbers.
    """

    row: str
    part: str
    pieces: Sequence[tuple[str, bool]]
    after: str
    outcome: str
    why: str


@dataclass(frozen=True)
class DataEvidence:
    """What happened to the training rows, for people to look at.

    Args:
        outcomes: rows by what became of them, in the order of the steps.
        distributions: histograms of the scores that decided.
        samples: texts before and after.
    """

    outcomes: Mapping[str, int] = field(default_factory=dict)
    distributions: Sequence[Distribution] = field(default_factory=list)
    samples: Sequence[Sample] = field(default_factory=list)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataEvidence:
        """Reads the JSON object of :func:`dataclasses.asdict`."""
        return cls(
            dict(value.get("outcomes", {})),
            [Distribution(**item) for item in value.get("distributions", ())],
            [
                Sample(**{**item, "pieces": [(text, bool(stayed)) for text, stayed in item["pieces"]]})
                for item in value.get("samples", ())
            ],
        )


@dataclass(frozen=True)
class LayerEvidence:
    """What a candidate's layer plan was made from and what became of it, for people to look at.

    Args:
        policy: ``lowest``, ``iterative`` or ``contiguous``.
        protected: indices of the layers that no plan removes.
        order: indices of the layers in the order in which they were to go.
        given_back: indices of the layers that were to go and stay after all, in the order they came back.
        anchors: removed layers by the layer that absorbed them; empty unless a merge into layers was accepted.
        distances: [i][n] is the angle, in units of pi, between the input of layer i and the output of layer i + n.
    """

    policy: str = ""
    protected: Sequence[int] = field(default_factory=list)
    order: Sequence[int] = field(default_factory=list)
    given_back: Sequence[int] = field(default_factory=list)
    anchors: Mapping[str, Sequence[int]] = field(default_factory=dict)
    distances: Sequence[Sequence[float]] = field(default_factory=list)


@dataclass(frozen=True)
class CandidateRecord:
    """One candidate, from its layers to its rank.

    Args:
        candidate_id: its name in the config.
        model: folder or hub id.
        revision: commit of a hub model, or the SHA-256 of a local model's weights.
        licence: as the config states it.
        status: one of :data:`STATUSES`.
        reason: why it failed; empty when ``status`` is ``ok``.
        rank: 1 is best; None when it failed.
        metrics: proxy scores on the held-out rows, by metric.
        interval: bootstrap interval of the ranking metric.
        intervals: bootstrap interval of every metric of the proxy.
        p_best: share of the resamples in which it is best.
        among_best: whether the data cannot tell it from the best one.
        zero_shot: scores of the untouched model before any training, by metric.
        zero_shot_rank: 1 is best; None when it was not measured.
        zero_shot_intervals: bootstrap interval of each of these scores.
        few_shot: scores of the untouched model after worked examples, by metric; empty when it was not measured.
        few_shot_intervals: bootstrap interval of each of these scores.
        control: of a candidate that was tuned whole as well, ``metrics`` of the whole model, ``difference`` of the
            ranking metric to the proxy (whole minus proxy, lower and upper end) and ``seconds``, or why that failed
            (``failure``); empty otherwise.
        importance: per layer, 1 minus the mean cosine similarity of its input and output.
        kept_layers: indices of the layers that the proxy keeps.
        layer_evidence: what the choice of layers was made from.
        merge: ``scale``, ``accepted`` and calibration ``losses`` by scale (nats per token).
        losses: mean nats per answer token, by rows and state. ``calibration`` (the training rows that the layers were
            chosen by): ``original``, ``pruned`` where layers went, ``merged`` where a merge was accepted, ``tuned``.
            ``validation`` (held-out rows, watched while tuning): ``untuned`` and ``tuned`` proxy.
        parameters: ``original``, ``proxy`` and ``trainable`` counts.
        history: per logged step ``step``, ``epoch``, ``train_loss``, ``learning_rate`` and, where measured,
            ``valid_loss`` (nats per token).
        costs: by stage.
    """

    candidate_id: str
    model: str
    revision: str
    licence: str
    status: str
    reason: str = ""
    rank: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    p_best: float | None = None
    among_best: bool = False
    zero_shot: Mapping[str, float] = field(default_factory=dict)
    zero_shot_intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    zero_shot_rank: int | None = None
    few_shot: Mapping[str, float] = field(default_factory=dict)
    few_shot_intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    importance: Sequence[float] = ()
    kept_layers: Sequence[int] = ()
    layer_evidence: LayerEvidence = field(default_factory=LayerEvidence)
    merge: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    costs: Mapping[str, StageCost] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectionRecord:
    """A whole selection.

    Args:
        name: its name in the config.
        selection_id: name, time and config hash; one per run.
        created: ISO 8601, UTC.
        config: the config as validated.
        config_sha256: hash of its canonical JSON.
        metric: the metric that ranks.
        higher_is_better: its direction.
        confidence: coverage of the intervals.
        dataset: ``source``, ``fingerprint``, ``rows`` by split, ``licences``, ``dvc_hash`` when there is one.
        funnel: the training data, step by step.
        data_compression: what the filter and the token compression decided, in small numbers.
        candidates: in rank order, failed ones last.
        winner: candidate id, or None when fewer than two candidates finished.
        why: one sentence or two that say what was chosen and how sure it is.
        costs: of the shared stages, by name.
        evidence: SHA-256 of each decision, by ``stage`` or ``stage/candidate``.
        evidence_sha256: hash over ``evidence``.
        versions: of damoc, its code commit, Python and the libraries that decide outcomes.
        registration: ``model``, ``version``, ``alias``, ``uri``, ``tracking_uri``, ``run_id`` once registered.
        data_evidence: what happened to the training rows, for people to look at.
        evaluation: ``task``, ``rows`` that it scored, ``shots`` of the few-shot scores and, by metric that can rank,
            ``higher_is_better``.
    """

    name: str
    selection_id: str
    created: str
    config: Mapping[str, Any]
    config_sha256: str
    metric: str
    higher_is_better: bool
    confidence: float
    dataset: Mapping[str, Any]
    funnel: Sequence[FunnelStep]
    data_compression: Mapping[str, Any]
    candidates: Sequence[CandidateRecord]
    winner: str | None
    why: str
    costs: Mapping[str, StageCost]
    evidence: Mapping[str, str]
    evidence_sha256: str
    versions: Mapping[str, str]
    registration: Mapping[str, str] = field(default_factory=dict)
    data_evidence: DataEvidence = field(default_factory=DataEvidence)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def candidate(self, candidate_id: str) -> CandidateRecord:
        """The candidate of that id."""
        return next(candidate for candidate in self.candidates if candidate.candidate_id == candidate_id)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SelectionRecord:
        """Reads what :meth:`to_json` wrote, now or before some of the fields were there."""
        data = dict(value)
        data["funnel"] = [FunnelStep(**step) for step in value["funnel"]]
        data["costs"] = _costs(value["costs"])
        data["data_evidence"] = DataEvidence.from_json(value.get("data_evidence", {}))
        data["candidates"] = [
            CandidateRecord(
                **{
                    **candidate,
                    "costs": _costs(candidate["costs"]),
                    "interval": tuple(candidate["interval"]) if candidate["interval"] else None,
                    "layer_evidence": LayerEvidence(**candidate.get("layer_evidence", {})),
                }
            )
            for candidate in value["candidates"]
        ]
        return cls(**data)


def _costs(value: Mapping[str, Mapping[str, Any]]) -> dict[str, StageCost]:
    return {name: StageCost(**cost) for name, cost in value.items()}
