from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import RealServer, Reply, ScriptedServer, scripted

from damoc.chat import ChatModel, open_chat_model
from damoc.condense.bertscore import BertScorer
from damoc.condense.examples import condense_examples
from damoc.condense.gate import rounded
from damoc.condense.rules import violations
from damoc.config import CondenseConfig, LanguageModel
from damoc.data.example import Example
from damoc.errors import InfrastructureError
from damoc.models.load import LoadedModel

pytestmark = pytest.mark.slow

TEMPLATE = "{{ messages[-1]['content'].split('</original>')[0].split('<original>')[1] }}"
THRESHOLD = 0.975
ROUNDS = 3
CONFIG = CondenseConfig.model_validate(
    {
        "rates": {"input": 0.6},
        "gate": {"thresholds": {"input": THRESHOLD}},
        "repair": {"rounds": ROUNDS, "length_slack": 1.6},
    }
)
REPLIES = {
    "cluster": (
        "The operation deletes a provisioned cluster and then it releases all of the memory that was held by it, after "
        "which the name of the cluster is free to be used again by another account. It takes 5 minutes.",
        "The operation deletes a provisioned cluster and releases all the memory that was held by it, after which the "
        "name of the cluster is free to be used by another account. It takes 5 minutes.",
    ),
    "queue": (
        "Before the queue of the service is created, the name that was given to it by the caller is compared to the "
        "names of all of the other queues in the same region.",
        "Before the queue of the service is created, the name given to it by the caller is compared to the names of "
        "all other queues in the same region.",
    ),
    "number": (
        "Each of the snapshots that were taken of the volume is kept for 30 days in the bucket of the account, and "
        "then it is moved to the archive of the region.",
        "Each of the snapshots taken of the volume is kept for 90 days in the bucket of the account, and is then moved "
        "to the archive of the region.",
    ),
    "negation": (
        "The role that was passed to the function does not have to be in the same account as the table that is read "
        "by the function in the first step.",
        "The role passed to the function has to be in the same account as the table that is read by the function in "
        "the first step.",
    ),
    "other": (
        "A user of the console who has the permission to read the logs of a stream is shown the last of the events at "
        "the top of the list.",
        "It is a pleasant day, and the birds are singing in the trees.",
    ),
    "short": ("The certificate of the domain is renewed by us.", "The domain has certificates."),
    "silent": (
        "The policy of the topic says who of the members of the group is allowed to publish to it and who of them is "
        "allowed to subscribe to it.",
        "",
    ),
}
ROWS = [Example(name, "What does it say?", text, "see above") for name, (text, _) in REPLIES.items()]
TALKING = [row for row in ROWS if row.id != "silent"]


@dataclass(frozen=True)
class Run:
    """What came out of a run: the condensed inputs and the record's entries of them, by row."""

    inputs: dict[str, str]
    entries: dict[str, dict[str, Any]]

    def of(self, rows: Sequence[Example]) -> Run:
        """The part of some rows."""
        return Run({row.id: self.inputs[row.id] for row in rows}, {row.id: self.entries[row.id] for row in rows})

    @property
    def rewrites(self) -> int:
        return sum(entry.get("rewrites", 0) for entry in self.entries.values())


Condense = Callable[[Sequence[Example], ChatModel], Run]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("damoc.chat.patience._FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def real(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("serve")
    server = RealServer(_taught(zoo / "tiny-reference", folder / "model"), folder / "log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def condense(toy: Callable[[str], LoadedModel]) -> Condense:
    def run(rows: Sequence[Example], chat: ChatModel) -> Run:
        condensed, record = condense_examples(rows, toy("tiny-reference"), CONFIG, 512, rewriter=chat)
        entries = {entry["id"]: entry for entry in record if entry["part"] == "input"}
        return Run({row.id: row.input for row in condensed}, entries)

    return run


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the undisturbed run keeps its replies."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(real: RealServer, condense: Condense, replies: Path) -> Run:
    before = real.requests
    run = condense(ROWS, _chat(real.url, real, replies))
    assert real.requests - before == run.rewrites
    return run


def _taught(tokens: Path, folder: Path) -> Path:
    """A toy chat model, trained here until it gives the replies by heart."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokens / name, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    lessons = []
    for text, reply in REPLIES.values():
        message = [{"role": "user", "content": f"<original>\n{text}\n</original>"}]
        asked = list(tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"])
        told = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        lessons.append((asked + told, [-100] * len(asked) + told))
    longest = max(len(ids) for ids, _ in lessons)
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in lessons])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in lessons])
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(300):
        loss = model(input_ids=ids, labels=labels).loss
        if loss < 0.005:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02
    model.save_pretrained(folder)
    return folder


def _chat(url: str, real: RealServer, folder: Path, **settings: Any) -> ChatModel:
    return open_chat_model(
        LanguageModel(
            **{
                "model": str(real.model),
                "endpoint": url,
                "retries": 2,
                "concurrency": 1,
                "timeout_seconds": 30,
                **settings,
            }
        ),
        folder,
    )


def _forward(real: RealServer, request: dict[str, Any]) -> Reply:
    """What the real server answers."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{real.url}/chat/completions", json.dumps(request).encode(), headers)
    with urllib.request.urlopen(asked, timeout=60) as response:
        return Reply(response.status, response.read().decode())


def _row_of(request: dict[str, Any]) -> str:
    """Which text a request is about."""
    prompt = request["messages"][-1]["content"]
    return next(name for name, (text, _) in REPLIES.items() if text in prompt)


def test_refused_texts_are_rewritten_or_restored_or_stay(undisturbed: Run) -> None:
    outcomes = {name: entry["outcome"] for name, entry in undisturbed.entries.items()}
    assert {name for name, outcome in outcomes.items() if outcome == "rewritten"} == {"cluster", "queue"}
    assert set(outcomes.values()) == {"rewritten", "restored", "original"}
    assert {name: entry["refused"] for name, entry in undisturbed.entries.items() if "refused" in entry} == {
        "number": {"numbers changed": 2},
        "negation": {"negations changed": 2},
        "other": {"below threshold": 2},
        "short": {"below threshold": 2},
        "silent": {"no reply": 3},
    }
    for name, entry in undisturbed.entries.items():
        assert entry["first_f1"] < THRESHOLD
        assert entry["rewrites"] == (1 if outcomes[name] == "rewritten" else sum(entry["refused"].values()))


def test_what_stands_for_a_text_passes_gate_and_rules(undisturbed: Run) -> None:
    scorer = BertScorer(CONFIG.gate.encoder, CONFIG.gate.layer, CONFIG.gate.revision)
    for name, (text, reply) in REPLIES.items():
        entry, found = undisturbed.entries[name], undisturbed.inputs[name]
        assert violations(text, found, ("see above",)) == ()
        if entry["outcome"] == "original":
            assert found == text
        else:
            assert found != text
            assert entry["f1"] >= THRESHOLD
        if entry["outcome"] == "rewritten":
            assert found == reply
            (score,) = scorer.score_rewritten([text], [found])
            assert rounded(score) == entry["f1"]


def test_a_rerun_asks_only_for_what_had_no_reply(
    real: RealServer, condense: Condense, undisturbed: Run, replies: Path
) -> None:
    before = real.requests

    assert condense(ROWS, _chat(real.url, real, replies)) == undisturbed
    assert real.requests - before == undisturbed.entries["silent"]["rewrites"] == ROUNDS


class Watched:
    """A chat model that reports how many prompts of a round are done."""

    def __init__(self, chat: ChatModel, on_progress: Callable[[int, int], None]) -> None:
        self.chat = chat
        self.on_progress = on_progress

    def complete(self, *asked: Any) -> list[str | None]:
        return self.chat.complete(*asked, on_progress=self.on_progress)


def test_a_server_that_dies_midway_and_comes_back(
    real: RealServer, condense: Condense, undisturbed: Run, tmp_path: Path
) -> None:
    expected = undisturbed.of(TALKING)

    def kill_after_three(done: int, total: int) -> None:
        if done == 3:
            real.kill()

    with pytest.raises(InfrastructureError, match="(?s)cannot be reached.*[34] of 6 replies are kept") as caught:
        condense(TALKING, Watched(_chat(real.url, real, tmp_path), kill_after_three))
    kept = len(list(tmp_path.rglob("*.json")))
    assert f"{kept} of 6 replies are kept" in str(caught.value)
    real.start()
    before = real.requests

    assert condense(TALKING, _chat(real.url, real, tmp_path)) == expected
    assert real.requests - before == expected.rewrites - kept


def test_a_server_that_never_answers_in_time_is_an_error_that_names_the_setting(
    real: RealServer, condense: Condense, tmp_path: Path
) -> None:
    with pytest.raises(InfrastructureError, match="(?s)no reply within 0.002 seconds.*timeout_seconds.*0 of 6 replies"):
        condense(TALKING, _chat(real.url, real, tmp_path, timeout_seconds=0.002, retries=1))


def test_a_reply_that_does_not_come_in_time_is_asked_for_again(
    real: RealServer, condense: Condense, undisturbed: Run, tmp_path: Path
) -> None:
    expected, stall = undisturbed.of(TALKING), threading.Event()
    stalled: list[str] = []

    def answer(number: int, request: dict[str, Any]) -> Reply:
        if _row_of(request) in {"queue", "number"} - set(stalled):
            stalled.append(_row_of(request))
            stall.wait(60)
        return _forward(real, request)

    with scripted(answer) as proxy:
        assert condense(TALKING, _chat(proxy.url, real, tmp_path, timeout_seconds=3, concurrency=2)) == expected
        stall.set()

        assert sorted(stalled) == ["number", "queue"]
        assert len(proxy.asked) == expected.rewrites + 2


def test_a_text_whose_reply_never_comes_stops_the_run_and_what_came_is_kept(
    real: RealServer, condense: Condense, undisturbed: Run, tmp_path: Path
) -> None:
    expected, stall = undisturbed.of(TALKING), threading.Event()

    def answer(number: int, request: dict[str, Any]) -> Reply:
        if _row_of(request) == "number":
            stall.wait(60)
        return _forward(real, request)

    with scripted(answer) as proxy:
        with pytest.raises(InfrastructureError, match="(?s)no reply within 3 seconds.*2 of 6 replies are kept"):
            condense(TALKING, _chat(proxy.url, real, tmp_path, timeout_seconds=3, retries=0))
        stall.set()
        asked = len(proxy.asked)

        assert condense(TALKING, _chat(proxy.url, real, tmp_path)) == expected
        assert len(proxy.asked) - asked == expected.rewrites - 2


def _broken(kind: str, reply: Reply) -> Reply:
    body = json.loads(reply.body)
    return {
        "truncated": Reply(body=reply.body[: len(reply.body) // 2]),
        "garbled": Reply(body=reply.body.replace('"', "", 3)),
        "no choices": Reply(body={**body, "choices": []}),
        "no message": Reply(body={**body, "choices": [{**body["choices"][0], "message": None}]}),
        "cut off": replace(reply, headers={"Content-Length": str(2 * len(reply.body))}),
        "crashed": Reply(500, {"error": {"message": "out of memory"}}),
    }[kind]


def _garbling(real: RealServer, always: dict[str, str], once: dict[str, str]) -> Callable[[int, dict[str, Any]], Reply]:
    """Breaks the real server's replies to some rows always, and to some the first time."""
    left = dict(once)

    def answer(number: int, request: dict[str, Any]) -> Reply:
        row, reply = _row_of(request), _forward(real, request)
        kind = always.get(row) or left.pop(row, None)
        return _broken(kind, reply) if kind else reply

    return answer


def _asked_about(proxy: ScriptedServer, row: str) -> int:
    return sum(_row_of(request) == row for request in proxy.asked)


def test_malformed_replies_are_counted_and_the_text_is_restored_or_stays(
    real: RealServer, condense: Condense, undisturbed: Run, tmp_path: Path
) -> None:
    expected = undisturbed.of(TALKING)
    malformed = {"cluster": "truncated", "queue": "garbled", "number": "no choices", "short": "no message"}
    with scripted(_garbling(real, malformed, {})) as proxy:
        run = condense(TALKING, _chat(proxy.url, real, tmp_path))

        for name, entry in run.entries.items():
            if name not in malformed:
                assert entry == expected.entries[name]
                continue
            assert entry["refused"] == {"no reply": ROUNDS}
            assert (entry["rewrites"], _asked_about(proxy, name)) == (ROUNDS, 3 * ROUNDS)
            assert f"; {ROUNDS} rewrites: no reply; " in entry["why"]
            assert entry["outcome"] == ("original" if name == "short" else "restored")
            assert (run.inputs[name] == REPLIES[name][0]) == (name == "short")
            assert entry["f1"] >= THRESHOLD

        proxy.answer = lambda number, request: _forward(real, request)
        assert condense(TALKING, _chat(proxy.url, real, tmp_path)) == expected


def test_a_reply_that_is_broken_once_is_asked_for_again(
    real: RealServer, condense: Condense, undisturbed: Run, tmp_path: Path
) -> None:
    kinds = ("truncated", "garbled", "no choices", "no message", "cut off", "crashed")
    once = dict(zip((row.id for row in TALKING), kinds, strict=True))
    with scripted(_garbling(real, {}, once)) as proxy:
        expected = undisturbed.of(TALKING)

        assert condense(TALKING, _chat(proxy.url, real, tmp_path)) == expected
        assert len(proxy.asked) == expected.rewrites + len(kinds)
