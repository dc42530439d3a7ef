from __future__ import annotations

import json
from dataclasses import replace

import pytest

from damoc.selection.record import CandidateRecord, FunnelStep, LayerEvidence, SelectionRecord, StageCost

WINNER = CandidateRecord(
    "first",
    "/models/first",
    "0" * 64,
    "apache-2.0",
    "ok",
    rank=1,
    metrics={"accuracy": 0.75},
    interval=(0.7, 0.8),
    p_best=0.9,
    among_best=True,
    zero_shot={"accuracy": 0.5},
    zero_shot_intervals={"accuracy": [0.4, 0.6]},
    zero_shot_rank=2,
    importance=[0.1, 0.2],
    kept_layers=[0, 1],
    layer_evidence=LayerEvidence("lowest", [0, 1], [2], [], {"1": [2]}, [[0.1, 0.2], [0.15]]),
    losses={"calibration": {"original": 1.3, "pruned": 1.5, "merged": 1.4}},
    merge={"scale": 0.02, "accepted": True, "losses": {"0.0": 1.5, "0.02": 1.4}},
    parameters={"original": 100, "proxy": 80, "trainable": 8},
    history=[{"step": 1, "epoch": 0.5, "train_loss": 2.0, "learning_rate": 1e-4}],
    costs={"fine_tune": StageCost(3.5, 120.0, False)},
)
FAILED = CandidateRecord(
    "second", "owner/second", "1" * 40, "", "oom", reason="out of memory", importance=[], kept_layers=[], history=[]
)
RECORD = SelectionRecord(
    name="cloud",
    selection_id="cloud-20260101",
    created="2026-01-01T00:00:00+00:00",
    config={"name": "cloud"},
    config_sha256="2" * 64,
    metric="accuracy",
    higher_is_better=True,
    confidence=0.9,
    dataset={"source": "mined:cloud-qa", "rows": {"train": 10}},
    funnel=[FunnelStep("training split", 10, 100), FunnelStep("filtered", 5, 50, 70)],
    data_compression={"filter": {"method": "random"}},
    candidates=[WINNER, FAILED],
    winner="first",
    why="first leads.",
    costs={"prepare_data": StageCost(1.0, 50.0, True)},
    evidence={"prepare_data": "3" * 64},
    evidence_sha256="4" * 64,
    versions={"python": "3.11"},
    registration={"model": "damoc-cloud", "version": "1"},
)


def test_a_record_survives_json():
    assert SelectionRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_a_record_without_winner_or_registration_survives_json():
    empty = replace(RECORD, winner=None, candidates=[FAILED], registration={}, funnel=[], costs={})
    assert SelectionRecord.from_json(json.loads(json.dumps(empty.to_json()))) == empty


def test_reading_a_record_leaves_its_json_as_it_was():
    value = RECORD.to_json()
    SelectionRecord.from_json(value)
    assert value == RECORD.to_json()


def test_candidates_are_found_by_their_id():
    assert RECORD.candidate("second") is FAILED


def test_an_interval_at_zero_is_still_an_interval():
    zero = replace(RECORD, candidates=[replace(WINNER, interval=(0.0, 0.0))])
    assert SelectionRecord.from_json(json.loads(json.dumps(zero.to_json()))).candidates[0].interval == (0.0, 0.0)


def test_a_record_from_before_the_layer_evidence_is_read():
    value = RECORD.to_json()
    for item in value["candidates"]:
        for name in ("layer_evidence", "losses", "zero_shot_intervals", "few_shot_intervals"):
            del item[name]
    del value["evaluation"]
    first = SelectionRecord.from_json(value).candidates[0]
    assert (first.layer_evidence, first.losses, first.zero_shot_intervals) == (LayerEvidence(), {}, {})
    assert first.kept_layers == WINNER.kept_layers


def test_an_unknown_key_is_refused():
    with pytest.raises(TypeError):
        SelectionRecord.from_json({**RECORD.to_json(), "colour": "red"})
