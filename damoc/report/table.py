"""The ranking as rows of text: the report and the terminal show the same ones."""

from __future__ import annotations

from dataclasses import dataclass

from damoc.report import text
from damoc.selection.record import CandidateRecord, SelectionRecord


@dataclass(frozen=True)
class RankingRow:
    """A candidate as the ranking table shows it; what was not measured is ``–``.

    Args:
        rank: 1 is best.
        candidate_id: its name in the config.
        model: folder or hub id.
        licence: as the config states it; may be empty.
        score: of its proxy on the ranking metric.
        interval: bootstrap interval of the score.
        p_best: share of the resamples in which it is best.
        among_best: ``yes`` when the data cannot tell it from the best one, ``no`` otherwise.
        zero_shot: score of the untouched model.
        few_shot: score of the untouched model after worked examples; empty when none was measured.
        zero_shot_rank: its rank among the untouched models; empty when it was not measured.
        movement: places from the zero-shot rank to the rank: ``▲2``, ``▼1``, ``=``; empty when unknown.
        layers: ``kept/all``.
        original: parameters of the candidate.
        proxy: parameters of its proxy.
        trainable: parameters trained.
        seconds: wall time of its stages.
        memory: largest memory of its stages.
        status: one of ``damoc.selection.record.STATUSES``.
        reason: why it failed; empty when it did not.
        failed: whether it has no rank.
        winner: whether it was chosen.
    """

    rank: str
    candidate_id: str
    model: str
    licence: str
    score: str
    interval: str
    p_best: str
    among_best: str
    zero_shot: str
    few_shot: str
    zero_shot_rank: str
    movement: str
    layers: str
    original: str
    proxy: str
    trainable: str
    seconds: str
    memory: str
    status: str
    reason: str
    failed: bool
    winner: bool


def few_shot_name(record: SelectionRecord) -> str:
    """What few-shot scores are called, with the number of worked examples: ``2-shot``."""
    return f"{record.evaluation.get('shots') or 'few'}-shot"


def ranked(record: SelectionRecord) -> list[CandidateRecord]:
    """The candidates, best first and failed ones last."""
    return sorted(record.candidates, key=lambda item: (item.rank is None, item.rank or 0))


def ranking_rows(record: SelectionRecord) -> list[RankingRow]:
    """The rows of the ranking table, best first and failed ones last.

    Args:
        record: the selection.
    """
    return [_row(record, candidate) for candidate in ranked(record)]


def _row(record: SelectionRecord, candidate: CandidateRecord) -> RankingRow:
    low_high = candidate.interval
    costs = candidate.costs.values()
    zero_rank = candidate.zero_shot_rank
    return RankingRow(
        rank=text.ABSENT if candidate.rank is None else str(candidate.rank),
        candidate_id=candidate.candidate_id,
        model=candidate.model,
        licence=candidate.licence,
        score=text.score(candidate.metrics.get(record.metric)),
        interval=f"{text.score(low_high[0])} to {text.score(low_high[1])}" if low_high else text.ABSENT,
        p_best=text.percent(candidate.p_best),
        among_best=text.ABSENT if candidate.rank is None else "yes" if candidate.among_best else "no",
        zero_shot=text.score(candidate.zero_shot.get(record.metric)),
        few_shot=text.score(candidate.few_shot.get(record.metric)) if candidate.few_shot else "",
        zero_shot_rank="" if zero_rank is None else str(zero_rank),
        movement=movement(candidate),
        layers=f"{len(candidate.kept_layers)}/{len(candidate.importance)}" if candidate.importance else text.ABSENT,
        original=text.magnitude(candidate.parameters.get("original")),
        proxy=text.magnitude(candidate.parameters.get("proxy")),
        trainable=text.magnitude(candidate.parameters.get("trainable")),
        seconds=text.duration(sum(cost.seconds for cost in costs) if costs else None),
        memory=text.memory(max((cost.peak_mb for cost in costs), default=None)),
        status=candidate.status,
        reason=candidate.reason,
        failed=candidate.rank is None,
        winner=candidate.candidate_id == record.winner,
    )


def movement(candidate: CandidateRecord) -> str:
    """Places that a candidate rose (``▲``) or fell (``▼``) from its zero-shot rank."""
    if candidate.rank is None or candidate.zero_shot_rank is None:
        return ""
    places = candidate.zero_shot_rank - candidate.rank
    return "=" if not places else f"▲{places}" if places > 0 else f"▼{-places}"
