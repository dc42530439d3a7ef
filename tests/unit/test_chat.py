from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.chat import LocalChat, open_chat_model
from damoc.chat import local as local_chat
from damoc.chat.endpoint import EndpointChat
from damoc.chat.options import first_token_probabilities, read_option, without_thoughts
from damoc.chat.patience import RateLimit, pause_seconds, retry_after
from damoc.chat.reply_cache import ReplyCache, Request
from damoc.config import LanguageModel, LocalModel
from damoc.models.load import LoadedModel

DIGITS = ["0", "1", "2", "3", "4", "5"]
TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}[reply]"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("4.5\nbecause it is right", 4.5),
        ("Score: 4", 4),
        ("4/5", 4),
        ("five", 5),
        ("0", 0),
        ("**3**", 3),
        ("On a scale of 0 to 5, I give it a 2.", 2),
        ("On a scale from 0-5: 1", 1),
        ("3 out of 5", 3),
        ("4,5", 4.5),
        ("4, 3", 4),
        ("4-5", 4),
        ("<think>maybe 1 or 2</think>\n4", 4),
        ("Qwen2.5 earns 4", 4),
    ],
)
def test_a_number_is_read_from_a_reply(reply: str, score: float) -> None:
    shares = read_option(reply, DIGITS)

    assert shares is not None
    assert shares.sum() == pytest.approx(1)
    assert shares @ np.arange(6) == pytest.approx(score)
    assert (shares > 0).sum() == (2 if score % 1 else 1)


@pytest.mark.parametrize("reply", ["", "10", "-1", "excellent", "<think>4 or 5", "5.5"])
def test_a_reply_without_a_number_among_the_options_is_none(reply: str) -> None:
    assert read_option(reply, DIGITS) is None


@pytest.mark.parametrize(
    ("reply", "option"),
    [
        ("Yes, it does.", "yes"),
        ("The answer is no", "no"),
        ("maybe yes", "maybe"),
        ("I know: yes", "yes"),
        ("NO.", "no"),
    ],
)
def test_the_option_that_a_reply_names_first_counts(reply: str, option: str) -> None:
    options = ["yes", "no", "maybe"]
    shares = read_option(reply, options)

    assert shares is not None
    assert options[int(shares.argmax())] == option


def test_of_options_that_start_together_the_longer_one_counts() -> None:
    shares = read_option("grade A plus", ["grade A", "grade A plus"])

    assert shares is not None
    assert shares.tolist() == [0, 1]


@given(value=st.floats(1, 6), order=st.permutations(["1", "2", "3", "4", "5", "6"]))
def test_a_score_between_two_options_is_split_so_that_the_mean_is_the_score(value: float, order: list[str]) -> None:
    shares = read_option(f"{value:.6f}", order)

    assert shares is not None
    assert shares.sum() == pytest.approx(1)
    assert shares @ np.array([float(option) for option in order]) == pytest.approx(value, abs=1e-5)


def test_probabilities_of_first_tokens_add_up_over_spellings() -> None:
    tokens = [("4", math.log(0.5)), (" 4", math.log(0.1)), ("3", math.log(0.2)), ("The", math.log(0.1))]
    shares = first_token_probabilities(tokens, DIGITS)

    assert shares is not None
    np.testing.assert_allclose(shares, [0, 0, 0, 0.25, 0.75, 0])


def test_a_token_counts_for_the_only_option_that_it_begins() -> None:
    shares = first_token_probabilities([("May", math.log(0.3)), ("yes", math.log(0.1))], ["yes", "no", "maybe"])

    assert shares is not None
    np.testing.assert_allclose(shares, [0.25, 0, 0.75])


@pytest.mark.parametrize(
    ("tokens", "options"),
    [([("The", -0.1)], DIGITS), ([], DIGITS), ([("1", -0.1)], ["1", "10"]), ([(" ", -0.1)], DIGITS)],
)
def test_first_tokens_that_do_not_tell_options_apart_are_none(
    tokens: list[tuple[str, float]], options: list[str]
) -> None:
    assert first_token_probabilities(tokens, options) is None


def test_thoughts_are_left_out_even_when_they_never_end() -> None:
    assert without_thoughts("<think>let me\nsee</think>\n\nyes") == "yes"
    assert without_thoughts("<think>let me\nsee") == ""


def test_a_rate_limit_spaces_the_starts_evenly_and_forgives_idle_time() -> None:
    now = [0.0]
    rate = RateLimit(60, clock=lambda: now[0])

    assert [rate.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]
    now[0] = 10.0
    assert [rate.reserve() for _ in range(2)] == [0.0, 1.0]
    assert [RateLimit(None, clock=lambda: 0.0).reserve() for _ in range(3)] == [0.0, 0.0, 0.0]


@given(failures=st.integers(1, 2000), jitter=st.floats(0, 0.999))
def test_pauses_grow_up_to_half_a_minute(failures: int, jitter: float) -> None:
    pause = pause_seconds(failures, jitter)

    assert 0.25 <= pause <= 30
    assert pause_seconds(failures + 1, jitter) >= pause


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    assert pause_seconds(1, 0.5, asked=7.0) == 7.0
    assert pause_seconds(1, 0.5, asked=9999.0) == 120.0
    assert retry_after({"retry-after": "3"}, now=0.0) == 3.0
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, now=40.0) == 60.0
    assert retry_after({}, now=0.0) is None
    assert retry_after({"retry-after": "soon"}, now=0.0) is None


def _asker(log: list[str], replies: dict[str, Any]) -> Callable[[Sequence[Request]], Iterator[tuple[int, Any]]]:
    def ask(requests: Sequence[Request]) -> Iterator[tuple[int, Any]]:
        for index in reversed(range(len(requests))):
            log.append(requests[index]["prompt"])
            yield index, replies[requests[index]["prompt"]]

    return ask


def test_a_stored_reply_is_not_asked_for_again_and_equal_requests_are_asked_once(tmp_path: Path) -> None:
    log: list[str] = []
    requests = [{"prompt": name} for name in "abcab"]
    reports: list[tuple[int, int]] = []
    cache = ReplyCache(tmp_path, "model")
    answers = cache.answer(
        requests, _asker(log, {"a": "A", "b": "B", "c": None}), lambda *report: reports.append(report)
    )

    assert answers == ["A", "B", None, "A", "B"]
    assert sorted(log) == ["a", "b", "c"]
    assert reports[0] == (0, 5) and reports[-1] == (5, 5)
    log.clear()
    assert ReplyCache(tmp_path, "model").answer(requests, _asker(log, {"c": "C"})) == ["A", "B", "C", "A", "B"]
    assert log == ["c"]
    assert ReplyCache(tmp_path, "other").kept(requests) == 0


def test_replies_that_came_before_a_failure_are_kept(tmp_path: Path) -> None:
    def ask(requests: Sequence[Request]) -> Iterator[tuple[int, Any]]:
        yield 1, "B"
        raise RuntimeError("killed")

    requests = [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(RuntimeError):
        ReplyCache(tmp_path, "model").answer(requests, ask)
    cache = ReplyCache(tmp_path, "model")

    assert cache.kept(requests) == 1
    assert not cache.empty()


def test_a_damaged_reply_is_asked_for_again(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path, "model")
    cache.answer([{"prompt": "a"}], _asker([], {"a": "A"}))
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:7])

    assert cache.answer([{"prompt": "a"}], _asker([], {"a": "again"})) == ["again"]


def _chat(zoo: Path, folder: Path, name: str = "tiny-llama-cloud", batch_size: int = 16) -> LocalChat:
    return LocalChat(LocalModel(model=str(zoo / name)), folder, batch_size)


def _with_template(zoo: Path, folder: Path) -> LocalModel:
    shutil.copytree(zoo / "tiny-llama-cloud", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return LocalModel(model=str(folder))


def _next_log_probabilities(loaded: LoadedModel, ids: list[int]) -> Any:
    import torch

    with torch.inference_mode():
        return loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(0).numpy()


def _behind_cue(loaded: LoadedModel, text: str) -> list[int]:
    cue, whole = (
        loaded.tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("Answer:", f"Answer:{text}")
    )
    assert whole[: len(cue)] == cue
    return list(whole[len(cue) :])


@pytest.mark.parametrize("name", ["tiny-llama-cloud", "tiny-qwen2-cloud"])
def test_option_probabilities_are_those_of_the_next_token_with_and_without_a_space(
    zoo: Path, toy: Callable[[str], LoadedModel], tmp_path: Path, name: str
) -> None:
    loaded, options = toy(name), ["2", "3", "4"]
    prompts = ["Rate it. Answer:", "A much longer request, with some words more than the other. Answer:"]
    shares = _chat(zoo, tmp_path, name).option_probabilities(prompts, options)

    for prompt, row in zip(prompts, shares, strict=True):
        ids = loaded.tokenizer(prompt)["input_ids"]
        nats = _next_log_probabilities(loaded, ids)
        mass = np.array(
            [sum(np.exp(nats[_behind_cue(loaded, space + option)[0]]) for space in ("", " ")) for option in options]
        )
        np.testing.assert_allclose(row, mass / mass.sum(), rtol=1e-4)


def test_options_that_start_alike_are_scored_whole(
    zoo: Path, toy: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    loaded, options, prompt = toy("tiny-llama-cloud"), ["1", "10", "11"], "Pick one. Answer:"
    (row,) = _chat(zoo, tmp_path).option_probabilities([prompt], options)

    def likelihood(text: str) -> float:
        ids, total = list(loaded.tokenizer(prompt)["input_ids"]), 0.0
        for token in _behind_cue(loaded, text):
            total += _next_log_probabilities(loaded, ids)[token]
            ids.append(token)
        return math.exp(total)

    mass = np.array([likelihood(option) + likelihood(f" {option}") for option in options])
    np.testing.assert_allclose(row, mass / mass.sum(), rtol=1e-4)


def test_prompts_beside_a_prompt_change_neither_reply_nor_probabilities(zoo: Path, tmp_path: Path) -> None:
    prompts = ["What is a bucket?", "word " * 200, "Describe the request of a service in some words.", "a"]
    limits = [5, 12, 9, 4]
    together, alone = _chat(zoo, tmp_path / "1", batch_size=3), _chat(zoo, tmp_path / "2", batch_size=1)

    assert together.complete(prompts, limits) == alone.complete(prompts, limits)
    assert together.complete(prompts, limits, 0.8, seed=4) == alone.complete(prompts, limits, 0.8, seed=4)
    np.testing.assert_allclose(
        together.option_probabilities(prompts, DIGITS), alone.option_probabilities(prompts, DIGITS), atol=1e-5
    )


def test_sampling_follows_its_seed_and_nothing_else(zoo: Path, tmp_path: Path) -> None:
    import torch

    prompts = ["What is a bucket?", "What is a queue?"]
    first = _chat(zoo, tmp_path / "1").complete(prompts, 12, temperature=1.0, seed=1)
    torch.manual_seed(99)

    assert _chat(zoo, tmp_path / "2").complete(prompts[::-1], 12, temperature=1.0, seed=1) == first[::-1]
    assert _chat(zoo, tmp_path / "2").complete(prompts, 12, temperature=1.0, seed=2) != first


def test_gumbel_noise_samples_from_the_softmax_at_the_temperature() -> None:
    import torch

    logits, rows = torch.tensor([2.0, 1.0, 0.0, -1.0]), 6000
    process = local_chat._gumbel([{"temperature": 0.5, "seed": 0, "prompt": str(row)} for row in range(rows)])
    assert process is not None
    drawn = process(torch.zeros(rows, 1), logits.repeat(rows, 1)).argmax(1)

    np.testing.assert_allclose(
        np.bincount(drawn.numpy(), minlength=4) / rows, (logits / 0.5).softmax(0).numpy(), atol=0.02
    )


def test_logits_are_kept_of_the_first_token_only(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = _chat(zoo, tmp_path)
    generate, outputs = chat._loaded.model.generate, []

    def watched(**options: Any) -> Any:
        outputs.append(generate(**options))
        return outputs[-1]

    monkeypatch.setattr(chat._loaded.model, "generate", watched)
    chat.complete(["What is a bucket?", "a"], 12)
    chat.option_probabilities(["What is a bucket?"], DIGITS)

    assert [output.logits and len(output.logits) for output in outputs] == [None, 1]
    assert outputs[0].scores is None


@pytest.mark.parametrize("template", [False, True])
def test_prompts_are_counted_as_they_are_read(zoo: Path, tmp_path: Path, template: bool) -> None:
    chat = LocalChat(_with_template(zoo, tmp_path / "model"), tmp_path) if template else _chat(zoo, tmp_path)
    prompts = ["What is a bucket?", "一个桶", "word " * 300]

    assert chat.context == 1024
    assert chat.prompt_tokens(prompts) == [len(chat._encode(prompt, 1).ids) for prompt in prompts]
    (longer,) = chat.prompt_tokens(["word " * 2000])
    assert longer > 1024 > len(chat._encode("word " * 2000, 1).ids)


def test_an_endpoint_is_taken_to_read_three_bytes_a_token(tmp_path: Path) -> None:
    chat = EndpointChat(LanguageModel(model="chat", endpoint="http://localhost:1/v1"), tmp_path)

    assert chat.context is None
    assert chat.prompt_tokens(["", "a", "abc", "abcd", "一个桶"]) == [0, 1, 1, 2, 3]


def test_a_reply_from_the_cache_needs_no_weights(zoo: Path, tmp_path: Path) -> None:
    first = _chat(zoo, tmp_path).complete(["What is a bucket?"], 6)
    again = _chat(zoo, tmp_path)

    assert again.complete(["What is a bucket?"], 6) == first
    assert "_loaded" not in vars(again)


def test_a_long_prompt_loses_its_start_and_keeps_its_end(zoo: Path, tmp_path: Path) -> None:
    chat = _chat(zoo, tmp_path)
    end = " word" * 1050 + " What is a bucket? Answer:"
    shares = chat.option_probabilities([f"first start{end}", f"another beginning of it{end}", "word?"], DIGITS)

    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-4)
    assert not np.allclose(shares[0], shares[2], rtol=1e-2)


def test_a_model_with_a_chat_template_is_asked_through_it(zoo: Path, tmp_path: Path) -> None:
    templated = LocalChat(_with_template(zoo, tmp_path / "model"), tmp_path / "1")
    plain = _chat(zoo, tmp_path / "2")
    prompt = "What is a bucket?"

    assert templated.complete([prompt], 8) == plain.complete([f"[user] {prompt}\n[reply]"], 8)


def test_a_template_stays_whole_around_a_prompt_that_is_too_long(zoo: Path, tmp_path: Path) -> None:
    chat = LocalChat(_with_template(zoo, tmp_path / "model"), tmp_path)
    encoded = chat._encode("word " * 2000 + "the end", room=24)
    text = chat._loaded.tokenizer.decode(encoded.ids, skip_special_tokens=True)

    assert len(encoded.ids) <= 1000
    assert text.startswith("[user] ") and text.endswith("the end\n[reply]")


def test_the_settings_say_where_a_model_is_asked(zoo: Path, tmp_path: Path) -> None:
    local = open_chat_model(LanguageModel(model=str(zoo / "tiny-reference")), tmp_path)
    remote = open_chat_model(LanguageModel(model="chat", endpoint="http://someone:secret@localhost:1/v1/"), tmp_path)

    assert isinstance(local, LocalChat) and isinstance(remote, EndpointChat)
    assert remote.identity == "http://someone:***@localhost:1/v1 chat"
    assert not list(tmp_path.iterdir())


def test_no_prompts_need_no_model(tmp_path: Path, zoo: Path) -> None:
    remote = open_chat_model(LanguageModel(model="chat", endpoint="http://localhost:1/v1"), tmp_path)

    assert remote.complete([], 5) == []
    assert remote.option_probabilities([], DIGITS).shape == (0, 6)
    assert _chat(zoo, tmp_path).complete([], 5) == []
    assert _chat(zoo, tmp_path).option_probabilities([], DIGITS).shape == (0, 6)
