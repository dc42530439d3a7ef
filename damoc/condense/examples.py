"""Condenses examples: measure, decide, gate, repair, apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from damoc.chat import ChatModel
from damoc.condense.apply import rebuild
from damoc.condense.bertscore import BertScorer
from damoc.condense.compress import compress_words
from damoc.condense.gate import Draft, Refusal, judge_kept
from damoc.condense.record import Settled, to_record
from damoc.condense.repair import repair
from damoc.condense.words import split_words
from damoc.config import CondenseConfig
from damoc.data.example import Example
from damoc.models.load import LoadedModel

PARTS = ("instruction", "input", "output")
Progress = Callable[[str], Callable[[int, int], None]]


def condense_examples(
    rows: Sequence[Example],
    loaded: LoadedModel,
    config: CondenseConfig,
    max_length: int,
    progress: Progress = lambda phase: lambda done, total: None,
    rewriter: ChatModel | None = None,
    seed: int = 0,
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Condenses the parts whose rate is below 1, and repairs or puts back what the gate refuses.

    Questions and contexts are scored by themselves. Answers are scored by how much the question explains them
    (contrastive perplexity, LongLLMLingua, arXiv 2310.06839). The gate is BERTScore and the rules of
    :mod:`damoc.condense.rules`; a text that it refuses goes to the rewriter, then to the restorer, and stays as it
    was where neither helps. Closed answers, answers that are spans of the input and short texts are never touched;
    options and gold answers stay whole.

    Args:
        rows: examples.
        loaded: the compressor.
        config: rates, gate and repair.
        max_length: tokens that the compressor reads at most.
        progress: gives, for the name of a phase, what is called with (done, total).
        rewriter: the model of ``config.repair.rewriter``; None leaves rewriting out.
        seed: of the rewriter's sampling.

    Returns:
        The condensed examples, and one entry of :func:`damoc.condense.record.to_record` a part that is not empty, in
        the order of rows and parts.
    """
    parts = [(index, part) for index, row in enumerate(rows) for part in PARTS if getattr(row, part).strip()]
    reasons = {(index, part): _left_alone(rows[index], part, config) for index, part in parts}
    drafts = {key: _draft(rows[key[0]], key[1], config) for key in parts if not reasons[key]}
    settled = _settle(list(drafts.values()), loaded, config, max_length, progress, rewriter, seed)
    ends = dict(zip(drafts, settled, strict=True))
    for index, part in parts:
        ends.setdefault((index, part), Settled("untouched", getattr(rows[index], part), reasons[index, part]))
    condensed = [
        row.with_text(*(ends[index, part].text if (index, part) in ends else getattr(row, part) for part in PARTS))
        for index, row in enumerate(rows)
    ]
    counts = {key: len(draft.words) for key, draft in drafts.items()}
    return condensed, [to_record(rows[key[0]].id, key[1], ends[key], counts.get(key)) for key in parts]


def _left_alone(row: Example, part: str, config: CondenseConfig) -> str:
    """Why a part is not condensed, whatever its length; empty where it is."""
    if part == "output" and row.choices:
        return "a closed answer"
    if part == "output" and row.output.strip() in row.input:
        return "a span of the input"
    return "rate 1" if getattr(config.rates, part) >= 1 else ""


def _draft(row: Example, part: str, config: CondenseConfig) -> Draft:
    text: str = getattr(row, part)
    answer = part == "output"
    fixed = () if answer else (*row.choices, row.output)
    return Draft(
        text,
        split_words(text, fixed),
        fixed,
        getattr(config.rates, part),
        getattr(config.gate.thresholds, part),
        config.min_answer_words if answer else config.min_words,
        f"{row.instruction}\n{row.input}\n" if answer else None,
    )


def _settle(
    drafts: Sequence[Draft],
    loaded: LoadedModel,
    config: CondenseConfig,
    max_length: int,
    progress: Progress,
    rewriter: ChatModel | None,
    seed: int,
) -> list[Settled]:
    """How each draft ends."""
    ends = [
        Settled("untouched", draft.text, f"too short: {len(draft.words)} of {draft.least_words} words")
        for draft in drafts
    ]
    long = [place for place, draft in enumerate(drafts) if len(draft.words) >= draft.least_words]
    tried = _compress([drafts[place] for place in long], loaded, config, max_length, progress)
    shortened = []
    for place, (kept, surprise) in zip(long, tried, strict=True):
        if kept.all():
            ends[place] = Settled("untouched", drafts[place].text, "no word of it may go")
        else:
            shortened.append((place, kept, surprise))
    if not shortened:
        return ends
    scorer = BertScorer(config.gate.encoder, config.gate.layer, config.gate.revision)
    columns = [drafts[place] for place, _, _ in shortened], [kept for _, kept, _ in shortened]
    verdicts = judge_kept(scorer, *columns, on_progress=progress("BERTScore"))
    refused: dict[int, Refusal] = {}
    for (place, kept, surprise), verdict in zip(shortened, verdicts, strict=True):
        draft = drafts[place]
        if verdict.passed:
            text = rebuild(draft.text, draft.words, kept)
            ends[place] = Settled("condensed", text, str(verdict), kept, first_f1=verdict.f1, f1=verdict.f1)
        else:
            refused[place] = Refusal(draft, kept, surprise, verdict)
    if refused:
        repaired = repair(list(refused.values()), scorer, config.repair, rewriter, progress, seed)
        for place, end in zip(refused, repaired, strict=True):
            ends[place] = end
    return ends


def _compress(
    drafts: Sequence[Draft], loaded: LoadedModel, config: CondenseConfig, max_length: int, progress: Progress
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Which words of each draft stay, bool (words,), and how informative each is, float (words,)."""
    found: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
    for answers in (False, True):
        places = [place for place, draft in enumerate(drafts) if (draft.question is not None) == answers]
        chosen = [drafts[place] for place in places]
        if not chosen:
            continue
        kept, surprise = compress_words(
            loaded,
            [draft.text for draft in chosen],
            [draft.words for draft in chosen],
            [draft.rate for draft in chosen],
            max_length,
            config.context,
            config.segment_tokens,
            [draft.question or "" for draft in chosen] if answers else None,
            progress,
        )
        found.update(zip(places, zip(kept, surprise, strict=True), strict=True))
    return [found[place] for place in range(len(drafts))]
