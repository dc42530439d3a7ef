"""The report of a selection as one HTML file that asks the network for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from damoc.redaction import redact
from damoc.report import charts, text
from damoc.report.data_sections import data_content
from damoc.report.layers import block_maps, compressed_layers, heat_map
from damoc.report.perplexity import perplexities
from damoc.report.scores import CONTROL, conditions, control_failures, metric_scores, task_words
from damoc.report.table import few_shot_name, ranked, ranking_rows
from damoc.selection.record import CandidateRecord, SelectionRecord, StageCost

_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class _Tile:
    name: str
    value: str
    note: str


@dataclass(frozen=True)
class _Cost:
    seconds: str
    memory: str
    reused: bool


def render(record: SelectionRecord) -> str:
    """Renders the report.

    Args:
        record: the selection.

    Returns:
        One HTML document: no scripts, no external resources, every string from the record escaped, passwords in
        URLs masked. The same record gives the same text.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_masked,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(_content(record))


def _masked(value: Any) -> Any:
    return redact(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _content(record: SelectionRecord) -> dict[str, Any]:
    candidates = ranked(record)
    scale = charts.score_scale(record)
    trained = [candidate for candidate in candidates if candidate.history]
    losses, steps = charts.curve_scales(trained)
    return {
        "record": record,
        "winner": record.candidate(record.winner) if record.winner else None,
        "confidence": _confidence(record),
        "tiles": _tiles(record),
        "rows": [
            (row, charts.whisker(record, candidate, scale) if scale and not row.failed else None)
            for row, candidate in zip(ranking_rows(record), candidates, strict=True)
        ],
        "axis": (text.score(scale.low), text.score(scale.high)) if scale else None,
        "direction": "higher is better" if record.higher_is_better else "lower is better",
        "task": task_words(record),
        "few_shot": few_shot_name(record),
        "conditions": conditions(record),
        "controlled": CONTROL in conditions(record),
        "control_failures": control_failures(record),
        "metric_scores": metric_scores(record),
        "slope": charts.slope(record),
        "slope_row": charts.SLOPE_ROW,
        "slope_note": _slope_note(record),
        **data_content(record),
        "curves": [
            (candidate, charts.curve(candidate, trained, losses, steps), charts.curve_summary(candidate))
            for candidate in trained
        ],
        "heat_map": heat_map(record),
        "block_maps": block_maps(record),
        "perplexities": perplexities(record),
        "compressed": [compressed_layers(record, candidate) for candidate in candidates if candidate.importance],
        "shared_costs": [(name, _cost(cost)) for name, cost in record.costs.items()],
        "stages": _stages(candidates),
        "candidate_costs": [
            (candidate, {name: _cost(cost) for name, cost in candidate.costs.items()}) for candidate in candidates
        ],
        "load": _load(record.registration),
        "config": yaml.safe_dump(dict(record.config), sort_keys=False, allow_unicode=True, width=100),
        "percent": lambda value: f"{value:.0%}",
    }


def _confidence(record: SelectionRecord) -> str:
    if record.winner is None:
        return "No winner"
    equals = sum(candidate.among_best for candidate in record.candidates if candidate.candidate_id != record.winner)
    if not equals:
        return f"Clear at {record.confidence:.0%} confidence"
    return f"Not clear-cut: {equals} other{'s' if equals > 1 else ''} may be as good"


def _tiles(record: SelectionRecord) -> list[_Tile]:
    tiles = []
    if record.winner:
        winner = record.candidate(record.winner)
        interval = f"{text.score(winner.interval[0])} to {text.score(winner.interval[1])}" if winner.interval else ""
        tiles = [
            _Tile(
                f"Proxy {record.metric}",
                text.score(winner.metrics.get(record.metric)),
                f"{record.confidence:.0%} interval {interval}" if interval else "no interval",
            ),
            _Tile("Probability of being best", text.percent(winner.p_best), "share of the bootstrap resamples"),
        ]
    done = sum(candidate.rank is not None for candidate in record.candidates)
    failed = len(record.candidates) - done
    tiles.append(
        _Tile(
            "Candidates ranked", f"{done} of {len(record.candidates)}", f"{failed} failed" if failed else "none failed"
        )
    )
    if record.funnel:
        first, last = record.funnel[0], record.funnel[-1]
        share = last.words / first.words if first.words else 0.0
        tiles.append(_Tile("Training words used", f"{share:.1%}", f"{last.rows:,} of {first.rows:,} rows"))
    costs = _all_costs(record)
    reused = sum(cost.reused for cost in costs)
    tiles.append(
        _Tile(
            "Time of all steps",
            text.duration(sum(cost.seconds for cost in costs)),
            f"peak {text.memory(max((cost.peak_mb for cost in costs), default=None))}"
            + (f", {reused} of {len(costs)} steps reused" if reused else ""),
        )
    )
    return tiles


def _all_costs(record: SelectionRecord) -> list[StageCost]:
    return [*record.costs.values(), *(cost for candidate in record.candidates for cost in candidate.costs.values())]


def _slope_note(record: SelectionRecord) -> str:
    before = next((item for item in record.candidates if item.zero_shot_rank == 1), None)
    if before is None or record.winner is None:
        return ""
    if before.candidate_id == record.winner:
        return f"The untouched models already put {before.candidate_id} first; the proxies agree."
    place = f"the proxies put it at rank {before.rank}" if before.rank else f"it failed ({before.status})"
    return f"By their zero-shot scores {before.candidate_id} would have been chosen; {place}."


def _stages(candidates: Sequence[CandidateRecord]) -> list[str]:
    return list(dict.fromkeys(name for candidate in candidates for name in candidate.costs))


def _cost(cost: StageCost) -> _Cost:
    return _Cost(text.duration(cost.seconds), text.memory(cost.peak_mb), cost.reused)


def _load(registration: Mapping[str, str]) -> str:
    if not registration:
        return ""
    uri = f"models:/{registration['model']}@{registration['alias']}"
    return "\n".join(
        [
            "import mlflow",
            "",
            f"mlflow.set_tracking_uri({registration['tracking_uri']!r})",
            f"model = mlflow.pyfunc.load_model({uri!r})",
            "answers = model.predict([{'instruction': '…', 'input': '…'}])",
        ]
    )
