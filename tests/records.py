"""A synthetic selection record with everything that a report has to cope with."""

from __future__ import annotations

import hashlib
import math
import random
import re
from dataclasses import replace
from typing import Any

from damoc.selection.record import (
    CandidateRecord,
    DataEvidence,
    Distribution,
    FunnelStep,
    LayerEvidence,
    Sample,
    SelectionRecord,
    StageCost,
)

_MODELS = (
    ("qwen3-1.7b-base", "Qwen/Qwen3-1.7B-Base", "apache-2.0", 28, 1_720_574_976),
    (
        "llama-3.2-1b-community-licence-reviewed-by-legal-2026-03",
        "meta-llama/Llama-3.2-1B",
        "llama3.2",
        16,
        1_235_814_400,
    ),
    ("gemma-3-1b-pt", "google/gemma-3-1b-pt", "gemma", 26, 999_885_952),
    ("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", "apache-2.0", 24, 1_711_376_384),
    (
        "olmo-2-0425-1b-early-training-checkpoint-step-1900000",
        "allenai/OLMo-2-0425-1B",
        "apache-2.0",
        16,
        1_484_916_736,
    ),
    ("pythia-1.4b-deduped", "EleutherAI/pythia-1.4b-deduped", "apache-2.0", 24, 1_414_647_808),
    ("falcon3-1b-base", "tiiuae/Falcon3-1B-Base", "falcon-llm-license", 18, 1_669_408_768),
    ("stablelm-2-1.6b", "stabilityai/stablelm-2-1_6b", "", 24, 1_644_515_328),
)
_ZERO_SHOT_RANKS = (3, 1, 2, 6, 4, 5, 7, None)
_LONG = "\n".join(
    f"[On day {day} ]the gateway answered [more or less ]{503 if day % 3 else 200} [to us ]after {day * 7} ms."
    for day in range(1, 41)
)
_STAGES = ("zero_shot", "compress_model", "fine_tune", "evaluate_candidate")


def make_record(higher_is_better: bool = True, **changes: Any) -> SelectionRecord:
    """Eight candidates with long names: six ranked, one that diverged, one that never started.

    Args:
        higher_is_better: accuracy when true, bits per byte when false.
        changes: fields to replace.
    """
    metric = "accuracy" if higher_is_better else "bits_per_byte"
    candidates = [_candidate(index, metric, higher_is_better) for index in range(len(_MODELS))]
    evidence = {
        f"{stage}/{item.candidate_id}": _sha(stage + item.candidate_id) for item in candidates for stage in item.costs
    }
    record = SelectionRecord(
        name="support-tickets-2026q2",
        selection_id="support-tickets-2026q2-20260611T081502Z-9f31c2aa",
        created="2026-06-11T08:15:02+00:00",
        config=_config(),
        config_sha256=_sha("config"),
        metric=metric,
        higher_is_better=higher_is_better,
        confidence=0.9,
        dataset={
            "source": "s3://datasets/support/tickets.parquet",
            "fingerprint": _sha("data"),
            "rows": {"train": 18_240, "valid": 2_401, "test": 3_610},
            "licences": {"CC-BY-4.0": 20_113, "internal": 4_138},
            "dvc_hash": hashlib.md5(b"data", usedforsecurity=False).hexdigest(),
        },
        funnel=[
            FunnelStep("training split", 18_240, 2_911_804),
            FunnelStep("filtered", 1_824, 302_551, 421_907),
            FunnelStep("condensed", 1_824, 249_310, 350_118),
        ],
        data_compression={
            "filter": {"method": "k_center_greedy", "rows": 18_240, "rows kept": 1_824},
            "condense": {
                "enabled": True,
                "texts condensed": 1_702,
                "texts put back by the gate": 61,
                "share of their words kept": 0.8071,
                "median BERTScore F1": 0.9123,
            },
        },
        candidates=candidates,
        winner=candidates[0].candidate_id,
        why=(
            f"{candidates[0].candidate_id} has the {'highest' if higher_is_better else 'lowest'} {metric} "
            f"({candidates[0].metrics[metric]:.4g}) and is best in 71% of the resamples. At 90% confidence these rows "
            f"cannot tell it from {candidates[1].candidate_id}."
        ),
        costs={
            "prepare_data": StageCost(14.2, 611.0, True),
            "compress_data": StageCost(412.9, 2_310.5, False),
            "select_winner": StageCost(1.1, 402.0, False),
        },
        evidence={"prepare_data": _sha("a"), "compress_data": _sha("b"), "select_winner": _sha("c"), **evidence},
        evidence_sha256=_sha("evidence"),
        versions={
            "damoc": "0.1.0",
            "code_commit": _sha("commit")[:40],
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.2.1",
        },
        registration={
            "model": "damoc-support-tickets-2026q2",
            "version": "4",
            "alias": "champion",
            "uri": "models:/damoc-support-tickets-2026q2/4",
            "tracking_uri": "http://mlflow.example.internal:5000",
            "run_id": _sha("run")[:32],
        },
        data_evidence=data_evidence(),
        evaluation={
            "task": "choice" if higher_is_better else "generation",
            "rows": 3_610,
            "shots": 3,
            "higher_is_better": {metric: higher_is_better, "rouge_l": True},
        },
    )
    return replace(record, **changes)


def deep_record(layers: int = 80, candidates: int = 12) -> SelectionRecord:
    """Many deep candidates, ranked; every other one with an accepted merge.

    Args:
        layers: of each candidate.
        candidates: their number.
    """
    plain = make_record()
    deep = []
    for index in range(candidates):
        base = replace(plain.candidates[index % 6], candidate_id=f"candidate-{index}", rank=index + 1)
        deep.append(_compressed(base, layers, index, accepted=index % 2 == 0))
    return replace(plain, candidates=deep, winner="candidate-0")


def data_evidence() -> DataEvidence:
    """Scores with limits inside and outside their axes, and texts of many scripts, lengths and outcomes."""
    rng = random.Random(3)
    kept = [rng.gauss(0.78, 0.06) for _ in range(1_824)]
    cut = [rng.gauss(0.52, 0.13) for _ in range(16_416)]
    similar = [min(0.9999, rng.gauss(0.93, 0.03)) for _ in range(1_702)]
    return DataEvidence(
        outcomes={
            "cut by superfiltering": 16_416,
            "condensed": 1_583,
            "restored after the gate": 58,
            "rewritten by the language model after the gate": 61,
            "left as it was": 122,
        },
        distributions=[
            _histogram("score of superfiltering", {"kept": kept, "cut": cut}, 0.0, 1.0, 40, 0.6871),
            _histogram("BERTScore F1, input", {"passed": similar[:1_500]}, 0.8, 1.0, 25, 0.85),
            _histogram("BERTScore F1, output", {"passed": similar[1_500:]}, 0.85, 1.0, 25, 0.8),
            _histogram("answer perplexity", {"kept": [3.1] * 12, "cut": [41.0] * 5_200}, 0.0, 52_000.0, 2, None),
            _histogram("judge", {"cut": [3.0] * 9, "kept": [4.0] * 3 + [5.0], "unsure": [2.0] * 2}, 0.0, 5.0, 20, 4.0),
            Distribution("complexity, the same for all", [3.0, 3.0], {"kept": [1_824]}, 3.0),
        ],
        samples=[
            _sample(
                "ticket-000017", "input", "Please [kindly] tell me [in some detail] why 5 < 6 & [the] \"7\" > '6'."
            ),
            _sample(
                "ticket-000017",
                "output",
                "Yes.\n\n  1. [First of all, ]open <b>Settings</b>\n  2. [then ]save 🙂👩🏽‍🚒[🎉]",
            ),
            _sample("ticket-002210", "input", _LONG, "restored", "F1 0.81 was under 0.85: 14 words put back, now 0.87"),
            _sample("ticket-009133", "input", "מה [בעצם ]ההבדל [המדויק ]בין TCP ל-UDP?"),
            _sample("ticket-009134", "input", "「[それでは、]" + "東京の天気は[とても]どうですか。" * 90 + "」"),
            _sample(
                "ticket-011042",
                "input",
                "Connect to postgresql://damoc:hun[ter2@db.internal]/tickets [please ]or https://x:s3cr[3t]@y/z.",
            ),
            Sample(
                "a-row-id-that-nobody-would-call-short-0123456789-0123456789-0123456789",
                "output",
                [("The answer is that it has always been 42, as far as anyone can tell.", True)],
                "It is 42.",
                "rewritten",
                "F1 0.79 was under 0.85; the rewriter reached 0.91 in round 2",
            ),
            _sample("ticket-017001", "instruction", "a" * 900 + " b", "original", "F1 0.62 after every repair"),
        ],
    )


def without_winner(record: SelectionRecord) -> SelectionRecord:
    """The record of a selection in which only one candidate finished."""
    first, *others = record.candidates
    failed = [
        replace(
            item,
            rank=None,
            interval=None,
            p_best=None,
            among_best=False,
            status="oom",
            reason=f"out of memory on {item.model}",
        )
        for item in others
    ]
    why = "only 1 of 8 candidates finished; a selection needs two"
    return replace(record, candidates=[first, *failed], winner=None, why=why, registration={})


def _candidate(index: int, metric: str, higher_is_better: bool) -> CandidateRecord:
    name, model, licence, layers, size = _MODELS[index]
    rng = random.Random(index)
    base = CandidateRecord(name, model, _sha(model)[:40], licence, "ok")
    quality = 0.842 - 0.021 * index
    score = quality if higher_is_better else 1.9 - quality
    zero = quality - 0.25 + 0.03 * rng.random()
    base = replace(
        base,
        zero_shot={metric: zero if higher_is_better else 1.9 - zero, "rouge_l": 0.21 + 0.01 * rng.random()},
        zero_shot_rank=_ZERO_SHOT_RANKS[index],
        zero_shot_intervals={metric: [zero - 0.02, zero + 0.019]},
        few_shot={metric: 0.5 * (quality + zero) if higher_is_better else 1.9 - 0.5 * (quality + zero)},
        few_shot_intervals={metric: [0.31, 0.37]},
        parameters={"original": size, "proxy": int(size * 0.79), "trainable": 12_582_912},
        costs={
            stage: StageCost(20.0 + 611.3 * (stage == "fine_tune") + 7 * index, 4_100.0 + 90 * index, index == 2)
            for stage in _STAGES
        },
    )
    base = _compressed(base, layers, index, accepted=index % 3 == 0)
    if index == 7:
        return replace(
            CandidateRecord(name, model, base.revision, licence, "incompatible"),
            reason="the tokenizer has no pad, eos or unk token: name one in tokenizer_config.json",
            costs={"zero_shot": StageCost(3.2, 902.0, False)},
        )
    history = [_point(index, step, rng) for step in range(1, 343, 3)]
    if index == 6:
        broken = [{**point, "train_loss": math.nan} for point in history[20:23]]
        return replace(
            base,
            status="diverged",
            reason="the loss became NaN at step 61",
            history=[*history[:20], *broken],
            losses={"calibration": base.losses["calibration"]},
        )
    return replace(
        base,
        rank=index + 1,
        metrics={metric: score, "rouge_l": 0.61 - 0.02 * index},
        interval=(score - 0.014, score + 0.013),
        intervals={metric: [score - 0.014, score + 0.013], "rouge_l": [0.5, 0.65]},
        p_best=(0.7105, 0.2411, 0.0402, 0.0082, 0.0, 0.0)[index],
        among_best=index < 2,
        history=history,
        control=_control(metric, score) if index == 0 else {},
    )


def _control(metric: str, score: float) -> dict[str, Any]:
    return {
        "metrics": {metric: score + 0.011, "rouge_l": 0.64},
        "difference": [0.011, -0.0042, 0.0263],
        "seconds": 912.4,
    }


def _compressed(base: CandidateRecord, layers: int, index: int, accepted: bool) -> CandidateRecord:
    """A candidate with layers measured, the least important quarter of them chosen and the last of these given back."""
    rng = random.Random(100 + index)
    importance = [
        round(0.04 + 0.3 * math.exp(-i / 2) + 0.2 * math.exp(i - layers + 0.5) + 0.03 * rng.random(), 6)
        for i in range(layers)
    ]
    order = sorted(range(1, layers - 1), key=lambda i: importance[i])[: layers // 4]
    removed = sorted(order[:-1])
    kept = [i for i in range(layers) if i not in removed]
    anchors: dict[str, list[int]] = {}
    for layer in removed:
        anchors.setdefault(str(max(i for i in kept if i < layer)), []).append(layer)
    distances = [
        [round(min(0.7, 0.02 + 0.2 * math.exp(-i) + 0.7 * n / layers), 6) for n in range(layers - i)]
        for i in range(layers)
    ]
    losses = {"original": 2.2013, "pruned": 2.4127, **({"merged": 2.3874} if accepted else {})}
    return replace(
        base,
        importance=importance,
        kept_layers=kept,
        layer_evidence=LayerEvidence(
            "lowest", [0, layers - 1], order, [order[-1]], anchors if accepted else {}, distances
        ),
        merge={
            "method": "rdsc_sparse",
            "scale": 0.05 if accepted else 0.0,
            "accepted": accepted,
            "losses": {
                "0.0": 2.4127,
                "0.02": 2.398 if accepted else 2.4311,
                "0.05": 2.3874 if accepted else 2.5012,
            },
        },
        losses={"calibration": losses, "validation": {"untuned": 2.6104 + 0.1 * index, "tuned": 1.7311}},
    )


def _point(index: int, step: int, rng: random.Random) -> dict[str, float]:
    loss = 1.15 + 0.09 * index + 1.4 * math.exp(-step / 60) + 0.05 * rng.gauss(0, 1)
    point = {"step": step, "epoch": round(step / 114, 4), "train_loss": round(loss, 5), "learning_rate": 2e-4}
    if step % 57 == 1:
        point["valid_loss"] = round(1.22 + 0.09 * index + 1.3 * math.exp(-step / 60), 5)
    return point


def _histogram(
    name: str, groups: dict[str, list[float]], low: float, high: float, bins: int, limit: float | None
) -> Distribution:
    step = (high - low) / bins
    places = {group: [min(max(int((x - low) / step), 0), bins - 1) for x in xs] for group, xs in groups.items()}
    edges = [round(low + index * step, 9) for index in range(bins + 1)]
    return Distribution(
        name, edges, {group: [xs.count(bin) for bin in range(bins)] for group, xs in places.items()}, limit
    )


def _sample(row: str, part: str, marked: str, outcome: str = "condensed", why: str = "F1 0.9321, limit 0.85") -> Sample:
    """A sample of a text whose dropped stretches stand in square brackets."""
    pieces = [(text, place % 2 == 0) for place, text in enumerate(re.split(r"[\[\]]", marked)) if text]
    return Sample(row, part, pieces, "".join(text for text, stayed in pieces if stayed), outcome, why)


def _config() -> dict[str, Any]:
    return {
        "name": "support-tickets-2026q2",
        "seed": 17,
        "dataset": {"source": "s3://datasets/support/tickets.parquet", "limit": {"train": None}},
        "evaluation": {"task": "choice", "shots": 3, "confidence": 0.9, "bootstrap": 2000},
        "candidates": [{"id": name, "model": model, "licence": licence} for name, model, licence, _, _ in _MODELS],
        "tracking": {"uri": "http://mlflow.example.internal:5000", "alias": "champion"},
    }


def _sha(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
