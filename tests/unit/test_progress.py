from __future__ import annotations

import json
from pathlib import Path

import pytest

from damoc import progress
from damoc.progress import EVENTS_VARIABLE, Progress, emit, new_lines


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress.time, "monotonic", found.monotonic)
    return found


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_VARIABLE, str(path))
    return path


@pytest.fixture
def lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS_VARIABLE, raising=False)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_are_lines_of_json_in_their_order(events):
    emit("stage", name="fine_tune", reason="東京\nsecond line")
    emit("done")
    assert read(events) == [{"event": "stage", "name": "fine_tune", "reason": "東京\nsecond line"}, {"event": "done"}]


def test_without_a_file_nothing_is_emitted(lines_only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    emit("stage", name="fine_tune")
    assert list(tmp_path.iterdir()) == []


def test_reports_are_seldom_but_the_first_and_the_last_always_come(clock, events):
    report = Progress("embedding", "first", "rows")
    for done in range(1, 101):
        clock.now += 0.01
        report(done, 100)
    counts = [event["done"] for event in read(events)]
    assert (counts[0], counts[-1]) == (1, 100)
    assert 5 <= len(counts) <= 8
    assert read(events)[0] == {
        "event": "progress", "stage": "embedding", "label": "first", "unit": "rows", "done": 1, "total": 100,
    }  # fmt: skip


def test_a_log_line_says_how_fast_it_goes_and_what_is_left(clock, lines_only, capsys):
    report = Progress("embedding", "first", "rows")
    report(2000, 6000)
    clock.now += 1
    report(2100, 6000)
    clock.now += 9
    report(4000, 6000)
    clock.now += 10
    report(6000, 6000)
    assert capsys.readouterr().err.splitlines() == [
        "embedding first 2,000/6,000 rows",
        "embedding first 4,000/6,000 rows (200.0/s, 10 s left)",
        "embedding first 6,000/6,000 rows (200.0/s)",
    ]


def test_work_without_items_is_done_at_once(clock, lines_only, capsys):
    Progress("condense", "", "texts")(0, 0)
    assert capsys.readouterr().err == "condense 0/0 texts\n"


def test_only_whole_lines_are_read_and_each_once(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('[1]\n{"a": ')
    with path.open() as stream, path.open("a") as other:
        assert list(new_lines(stream)) == [[1]]
        assert list(new_lines(stream)) == []
        other.write("2}\n[3]\n")
        other.flush()
        assert list(new_lines(stream)) == [{"a": 2}, [3]]
