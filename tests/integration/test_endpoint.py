from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import RealServer, Reply, chat_folder, completion, free_port, scripted

from damoc.chat import LocalChat, open_chat_model
from damoc.chat.endpoint import EndpointChat
from damoc.config import LanguageModel, LocalModel
from damoc.errors import InfrastructureError

DIGITS = ["0", "1", "2", "3", "4", "5"]
SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("damoc.chat.patience._FIRST_PAUSE", 0.01)


def _chat(url: str, folder: Path, **settings: Any) -> EndpointChat:
    return EndpointChat(LanguageModel(**{"model": "scripted", "endpoint": url, "retries": 2, **settings}), folder)


def _prompt(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


def test_replies_come_in_the_order_of_their_prompts_and_a_rerun_asks_nothing(tmp_path: Path) -> None:
    with scripted(lambda number, request: Reply(body=completion(f" {_prompt(request)}! \n"))) as server:
        prompts = [f"prompt {index}" for index in range(12)]
        reports: list[tuple[int, int]] = []
        replies = _chat(server.url, tmp_path, concurrency=5).complete(
            prompts, list(range(1, 13)), on_progress=lambda *report: reports.append(report)
        )

        assert replies == [f"{prompt}!" for prompt in prompts]
        assert {_prompt(request): request["max_tokens"] for request in server.asked} == dict(
            zip(prompts, range(1, 13), strict=True)
        )
        assert reports == [(done, 12) for done in range(13)]
        assert all("seed" not in request and request["temperature"] == 0 for request in server.asked)
        assert _chat(server.url, tmp_path).complete(prompts, list(range(1, 13))) == replies
        assert len(server.asked) == 12


def test_other_settings_are_other_requests(tmp_path: Path) -> None:
    with scripted(lambda number, request: Reply(body=completion(str(number)))) as server:
        chat = _chat(server.url, tmp_path)
        for settings in ({"max_tokens": 5}, {"max_tokens": 6}):
            chat.complete(["x"], **settings)
        for temperature, seed in ((0.0, 1), (0.3, 1), (0.3, 2), (0.3, 2)):
            chat.complete(["x"], 5, temperature, seed)
        _chat(server.url, tmp_path, model="other").complete(["x"], 5)

        assert len(server.asked) == 5
        assert [request.get("seed") for request in server.asked] == [None, None, 1, 2, None]


def test_a_busy_server_is_asked_again_after_the_pause_that_it_asks_for(tmp_path: Path) -> None:
    script = [Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"}), Reply(503, "overloaded")]
    script.append(Reply(body=completion("done")))
    with scripted(lambda number, request: script[number]) as server:
        assert _chat(server.url, tmp_path).complete(["x"], 5) == ["done"]
        first, second, third = server.times

        assert second - first >= 1.0
        assert third - second < second - first


def test_a_server_that_stays_busy_is_one_error_with_a_fix(tmp_path: Path) -> None:
    with scripted(lambda number, request: Reply(429, {"error": {"message": "quota"}})) as server:
        with pytest.raises(InfrastructureError, match="(?s)status 429.*quota.*requests_per_minute") as caught:
            _chat(server.url, tmp_path, concurrency=1).complete(["x", "y", "z"], 5)

        assert len(server.asked) == 3
        assert len(caught.value.problems) == 1


MALFORMED = ["no json", "", "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', '"text"']


@pytest.mark.parametrize("body", MALFORMED)
def test_a_malformed_reply_is_tried_again_and_then_given_up_without_a_crash(tmp_path: Path, body: str) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        return Reply(body=body) if _prompt(request) == "bad" else Reply(body=completion("good"))

    with scripted(answer) as server:
        assert _chat(server.url, tmp_path).complete(["fine", "bad", "fine too"], 5) == ["good", None, "good"]
        assert [_prompt(request) for request in server.asked].count("bad") == 3


@pytest.mark.parametrize("content", [None, "", "  \n", "<think>never ends", 7])
def test_an_empty_reply_is_none(tmp_path: Path, content: Any) -> None:
    with scripted(lambda number, request: Reply(body=completion(content))) as server:
        assert _chat(server.url, tmp_path).complete(["x"], 5) == [None]


def test_a_page_in_place_of_a_reply_is_malformed(tmp_path: Path) -> None:
    with scripted(lambda number, request: Reply(body="<html>", headers={"Content-Type": "text/html"})) as server:
        assert _chat(server.url, tmp_path).complete(["x"], 5) == [None]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_one_error_at_once_and_the_key_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("CHAT_KEY", SECRET)
    body = {"error": {"message": f"{SECRET} may not"}}
    with scripted(lambda number, request: Reply(status, body)) as server:
        with pytest.raises(InfrastructureError, match=f"status {status}") as caught:
            _chat(server.url, tmp_path, key_variable="CHAT_KEY", concurrency=1).complete(["x", "y"], 5)

        assert SECRET not in str(caught.value) and "*** may not" in str(caught.value)
        assert caught.value.__cause__ is None
        assert server.keys == [f"Bearer {SECRET}"]


def test_the_key_is_in_no_file_and_a_missing_one_is_sent_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(lambda number, request: Reply(body=completion("x"))) as server:
        monkeypatch.setenv("CHAT_KEY", SECRET)
        _chat(server.url, tmp_path, key_variable="CHAT_KEY").complete(["x"], 5)
        monkeypatch.delenv("CHAT_KEY")
        _chat(server.url, tmp_path, key_variable="CHAT_KEY").complete(["y"], 5)

        assert server.keys == [f"Bearer {SECRET}", "Bearer none"]
        assert all(SECRET not in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_key_that_no_header_can_hold_is_an_error_that_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_KEY", "schlüssel")
    with pytest.raises(InfrastructureError, match="CHAT_KEY") as caught:
        _chat("http://127.0.0.1:1/v1", tmp_path, key_variable="CHAT_KEY").complete(["x"], 5)

    assert "schlüssel" not in str(caught.value)


def test_a_prompt_that_is_too_long_has_no_reply_unless_the_server_answers_nothing(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        fits = len(_prompt(request)) < 10
        return Reply(body=completion("ok")) if fits else Reply(400, {"error": {"message": "context length"}})

    with scripted(answer) as server:
        with pytest.raises(InfrastructureError, match="context length"):
            _chat(server.url, tmp_path).complete(["x" * 20], 5)
        assert _chat(server.url, tmp_path).complete(["x" * 20, "short"], 5) == [None, "ok"]
        assert _chat(server.url, tmp_path).complete(["x" * 20], 5) == [None]


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:{free_port()}/v1", "localhost:8000/v1", "http://nowhere.invalid/v1"]
)
def test_a_server_that_is_not_there_is_one_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(
        InfrastructureError, match="(?s)cannot be reached.*'endpoint'.*0 of 2 replies are kept"
    ) as caught:
        _chat(url, tmp_path, retries=1).complete(["x", "y"], 5)

    assert len(caught.value.problems) == 1
    assert url in str(caught.value)


def test_no_more_requests_are_under_way_than_allowed_and_they_are_spaced(tmp_path: Path) -> None:
    under_way, most, lock, both = [0], [0], threading.Lock(), threading.Barrier(2, timeout=20)

    def answer(number: int, request: dict[str, Any]) -> Reply:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        both.wait()
        with lock:
            under_way[0] -= 1
        return Reply(body=completion("x"))

    with scripted(answer) as server:
        _chat(server.url, tmp_path, concurrency=2, requests_per_minute=1200).complete([str(i) for i in range(6)], 5)

        assert most == [2]
        assert server.times[-1] - server.times[0] >= 4 * 60 / 1200


def test_options_come_from_the_first_token_where_the_server_gives_its_probabilities(tmp_path: Path) -> None:
    def answer(number: int, request: dict[str, Any]) -> Reply:
        if not request.get("logprobs"):
            return Reply(body=completion("I would say 2"))
        lost = {"The": -0.1, "Its": -2.5}
        top = {"4": math.log(0.6), " 3": math.log(0.2), "Sure": math.log(0.2)}
        return Reply(body=completion("4", lost if _prompt(request) == "wordy" else top))

    with scripted(answer) as server:
        shares = _chat(server.url, tmp_path).option_probabilities(["rate", "wordy"], DIGITS)

        np.testing.assert_allclose(shares, [[0, 0, 0, 0.25, 0.75, 0], [0, 0, 1, 0, 0, 0]])
        assert [request["top_logprobs"] for request in server.asked if request.get("logprobs")] == [20, 20, 20]
        asked = len(server.asked)
        _chat(server.url, tmp_path).option_probabilities(["rate", "wordy"], DIGITS)
        assert len(server.asked) == asked


@pytest.mark.parametrize("refusal", [Reply(400, {"error": {"message": "logprobs"}}), Reply(422, "no"), None])
def test_a_server_without_probabilities_is_asked_for_them_once(tmp_path: Path, refusal: Reply | None) -> None:
    replies = {"a": "4.5", "b": "Score: 4", "c": "five", "d": "no idea"}

    def answer(number: int, request: dict[str, Any]) -> Reply:
        if request.get("logprobs"):
            return refusal or Reply(body=completion("4"))
        return Reply(body=completion(replies[_prompt(request)]))

    with scripted(answer) as server:
        chat = _chat(server.url, tmp_path)
        shares = chat.option_probabilities(list("abcd"), DIGITS)
        chat.option_probabilities(list("dcba"), DIGITS)
        _chat(server.url, tmp_path).option_probabilities(list("ab"), DIGITS)

        assert shares[:3].tolist() == [[0, 0, 0, 0, 0.5, 0.5], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
        assert np.isnan(shares[3]).all()
        assert len([request for request in server.asked if request.get("logprobs")]) == 1
        assert len(server.asked) == 5


def test_a_server_that_dies_midway_keeps_its_replies_and_the_rest_is_asked_for_later(tmp_path: Path) -> None:
    prompts = [str(index) for index in range(8)]
    broken = Reply(500, {"error": {"message": "crashed"}})
    with scripted(lambda number, request: broken if number >= 5 else Reply(body=completion("x"))) as server:
        with pytest.raises(InfrastructureError, match="(?s)crashed.*5 of 8 replies are kept"):
            _chat(server.url, tmp_path, concurrency=1).complete(prompts, 5)
        asked = len(server.asked)
        server.answer = lambda number, request: Reply(body=completion("y"))

        assert _chat(server.url, tmp_path).complete(prompts, 5) == ["x"] * 5 + ["y"] * 3
        assert len(server.asked) == asked + 3


@pytest.fixture(scope="module")
def real(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("serve")
    server = RealServer(chat_folder(zoo / "tiny-llama-cloud", folder / "model"), folder / "log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _served(real: RealServer, **settings: Any) -> LanguageModel:
    return LanguageModel(**{"model": str(real.model), "endpoint": real.url, "retries": 1, **settings})


@pytest.mark.slow
def test_a_real_server_answers_as_the_same_model_does_here_and_is_not_asked_twice(
    real: RealServer, tmp_path: Path
) -> None:
    prompts = ["What is a bucket?", "Describe a queue of the service."]
    replies = open_chat_model(_served(real), tmp_path / "endpoint").complete(prompts, [12, 6])
    asked = real.requests

    assert replies == LocalChat(LocalModel(model=str(real.model)), tmp_path / "local").complete(prompts, [12, 6])
    assert open_chat_model(_served(real), tmp_path / "endpoint").complete(prompts, [12, 6]) == replies
    assert real.requests == asked


@pytest.mark.slow
def test_a_real_server_without_probabilities_is_read_in_words(real: RealServer, tmp_path: Path) -> None:
    prompts = ["Creates a", "The name of the role that"]
    told, other = LocalChat(LocalModel(model=str(real.model)), tmp_path / "local").complete(prompts, 32)
    assert told and other and told.index("Aws") < told.index("Amazon") and "Amazon" not in other
    before = real.requests

    def shares(*options: str) -> list[list[float]]:
        return open_chat_model(_served(real), tmp_path).option_probabilities(prompts, options).tolist()

    assert shares("zebra", "Amazon", "Aws") == [[0, 0, 1], [0, 0, 1]]
    assert real.requests - before == 1 + len(prompts)
    named, unread = shares("zebra", "Amazon")
    assert named == [0, 1] and np.isnan(unread).all()
    assert real.requests - before == 1 + len(prompts)


@pytest.mark.slow
def test_a_real_server_names_a_model_that_it_does_not_have(real: RealServer, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="refuses with status 4"):
        open_chat_model(_served(real, model="nobody/nothing"), tmp_path).complete(["x"], 4)


@pytest.mark.slow
def test_a_real_server_that_dies_midway_and_comes_back(real: RealServer, tmp_path: Path) -> None:
    prompts = [f"What is thing {index} of the service?" for index in range(6)]

    def kill_after_three(done: int, total: int) -> None:
        if done == 3:
            real.kill()

    with pytest.raises(InfrastructureError, match="(?s)cannot be reached.*[34] of 6 replies are kept"):
        open_chat_model(_served(real, concurrency=1), tmp_path).complete(prompts, 6, on_progress=kill_after_three)
    real.start()
    before = real.requests
    replies = open_chat_model(_served(real), tmp_path).complete(prompts, 6)

    assert replies == LocalChat(LocalModel(model=str(real.model)), tmp_path / "local").complete(prompts, 6)
    assert real.requests - before in (2, 3)


@pytest.mark.slow
def test_a_real_server_that_is_too_slow_is_an_error_that_names_the_setting(real: RealServer, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="(?s)no reply within 0.05 seconds.*timeout_seconds"):
        open_chat_model(_served(real, timeout_seconds=0.05), tmp_path).complete(["What is a bucket?"], 200)
