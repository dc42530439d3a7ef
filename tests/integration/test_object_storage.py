"""Objects in an S3 server (moto, on a loopback port): storage, datasets and the step store."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from conftest import Finished, small_config
from damoc import select
from damoc.config import DatasetConfig
from damoc.data.dataset import load_dataset
from damoc.errors import DamocError, InfrastructureError
from damoc.store import MARKER, Step, StepStore
from damoc.tracking import storage


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = _free_port()
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(10)
        log.close()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    storage._client_of.cache_clear()
    name = f"bucket-{tmp_path.name.lower().replace('_', '-')}"[:60].strip("-")
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}"
    storage._client_of.cache_clear()


def _lines(start: int, count: int) -> bytes:
    rows = [{"input": f"object {n}", "output": f"colour {n}", "license": "MIT"} for n in range(start, start + count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_objects_are_written_read_and_listed(bucket: str) -> None:
    uri = f"{bucket}/a/b.bin"
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(f"{bucket}/a/c/d.bin", b"two")
    storage.write_bytes(f"{bucket}/ab.bin", b"three")
    storage.write_bytes(f"{bucket}/a/c/", b"")
    assert storage.exists(uri)
    assert not storage.exists(f"{bucket}/a")
    assert storage.read_bytes(uri) == b"one"
    assert storage.list_uris(f"{bucket}/a") == storage.list_uris(f"{bucket}/a/") == [uri, f"{bucket}/a/c/d.bin"]
    assert storage.list_uris(uri) == [uri]
    assert len(storage.list_uris(bucket)) == 3
    assert storage.list_uris(f"{bucket}/nothing") == []


def test_a_listing_is_longer_than_a_page(bucket: str) -> None:
    client = boto3.client("s3")
    for number in range(1005):
        client.put_object(Bucket=bucket[5:], Key=f"many/{number:04}", Body=b"")
    assert len(storage.list_uris(f"{bucket}/many")) == 1005


def test_trees_go_up_and_come_down_whole(bucket: str, tmp_path: Path) -> None:
    up, down = tmp_path / "up", tmp_path / "deep" / "down"
    (up / "inner").mkdir(parents=True)
    (up / "small.txt").write_text("small", encoding="utf-8")
    (up / "inner" / "large.bin").write_bytes(os.urandom(9 * 2**20))
    storage.upload_tree(up, f"{bucket}/tree/")
    down.mkdir(parents=True)
    (down / "stale.txt").write_text("from before", encoding="utf-8")
    storage.download_tree(f"{bucket}/tree", down)
    assert {path.relative_to(down).as_posix() for path in down.rglob("*") if path.is_file()} == {
        "small.txt",
        "inner/large.bin",
    }
    assert (down / "inner" / "large.bin").read_bytes() == (up / "inner" / "large.bin").read_bytes()
    storage.download_tree(f"{bucket}/tree/small.txt", tmp_path / "one")
    assert (tmp_path / "one" / "small.txt").read_text(encoding="utf-8") == "small"
    assert not list(down.parent.glob(".unfinished-*"))


@pytest.mark.parametrize("key", ["../outside.txt", "a/../../outside.txt", "a//b.txt", "/etc/outside.txt"])
def test_no_key_leaves_the_folder(bucket: str, tmp_path: Path, key: str) -> None:
    client = boto3.client("s3")
    client.put_object(Bucket=bucket[5:], Key="evil/fine.txt", Body=b"x")
    client.put_object(Bucket=bucket[5:], Key=f"evil/{key}", Body=b"x")
    with pytest.raises(DamocError, match="would leave the folder"):
        storage.download_tree(f"{bucket}/evil", tmp_path / "in" / "folder")
    assert not (tmp_path / "in").exists()


def test_failures_are_said_in_damocs_words(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for failing, what in (
        (lambda: storage.read_bytes(f"{bucket}/missing"), "object or its bucket does not exist"),
        (lambda: storage.write_bytes("s3://no-such-bucket/key", b"x"), "bucket does not exist"),
        (lambda: storage.upload_tree(tmp_path, "s3://no-such-bucket/tree"), "bucket does not exist"),
        (lambda: storage.list_uris("s3://no-such-bucket/tree"), "bucket does not exist"),
        (lambda: storage.download_tree(f"{bucket}/missing", tmp_path / "x"), "nothing below this prefix"),
    ):
        with pytest.raises(InfrastructureError, match=what) as caught:
            failing()
        assert caught.value.exit_code == 2
        assert caught.value.problems[0].where.startswith("s3://")
    with pytest.raises(InfrastructureError, match="disk failed"):
        storage.write_bytes(f"{bucket}/there", b"x")
        storage.download_tree(f"{bucket}/there", tmp_path / "file" / "below")
    with pytest.raises(DamocError, match="not an object's URI"):
        storage.read_bytes("s3:///key")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage._client_of.cache_clear()
    with pytest.raises(InfrastructureError, match="no credentials"):
        storage.read_bytes(f"{bucket}/missing")


def test_an_endpoint_that_does_not_answer(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{_free_port()}")
    client = storage._client()
    client.close()
    storage._client_of.cache_clear()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(InfrastructureError, match="cannot be reached") as caught:
        storage.exists(f"{bucket}/key")
    assert "AWS_ENDPOINT_URL_S3" in caught.value.problems[0].fix


def test_a_dataset_is_read_from_a_prefix_and_from_an_object(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/qa/train.jsonl", _lines(0, 40))
    storage.write_bytes(f"{bucket}/qa/valid.jsonl", _lines(40, 5))
    storage.write_bytes(f"{bucket}/qa/test.jsonl.gz", gzip.compress(_lines(50, 10)))
    dataset = load_dataset(DatasetConfig(source=f"{bucket}/qa"), 17)
    assert {name: len(rows) for name, rows in dataset.splits.items()} == {"train": 40, "valid": 5, "test": 10}
    assert dataset.source == f"{bucket}/qa"
    assert dataset.licences == ("MIT",)
    assert dataset.splits["train"][0].meta == {"source": "train.jsonl", "licence": "MIT"}
    alone = load_dataset(DatasetConfig(source=f"{bucket}/qa/train.jsonl"), 17)
    assert sum(map(len, alone.splits.values())) == 40
    given = {name: f"{bucket}/qa/{name}.jsonl" for name in ("train", "valid")} | {"test": f"{bucket}/qa/test.jsonl.gz"}
    named = load_dataset(DatasetConfig.model_validate({"splits": given}), 17)
    assert named.fingerprint == dataset.fingerprint
    assert not list((tmp_path / "tmp").iterdir())


def test_a_bad_row_in_an_object_is_named_by_its_uri(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/bad/data.jsonl", _lines(0, 3) + b"{oops\n")
    for source in (f"{bucket}/bad/data.jsonl", f"{bucket}/bad"):
        with pytest.raises(DamocError) as caught:
            load_dataset(DatasetConfig(source=source), 17)
        assert caught.value.problems[0].where == f"{bucket}/bad/data.jsonl:4"


def test_the_step_store_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    store = StepStore(f"{bucket}/work")
    step = Step("toy", {"size": 3})
    calls = []

    def work(folder: Path) -> dict[str, int]:
        calls.append(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "out.txt").write_text("hello", encoding="utf-8")
        return {"letters": 5}

    assert store.find(step) is None
    first = store.run(step, work)
    second = StepStore(f"{bucket}/work/").run(step, work)
    assert (len(calls), first.reused, second.reused) == (1, False, True)
    assert second.uri == f"{bucket}/work/steps/toy/{step.key()}"
    local = second.path()
    assert local == second.path()
    assert local.is_relative_to(tmp_path)
    assert (local / "inner" / "out.txt").read_text(encoding="utf-8") == "hello"


def test_a_half_uploaded_or_changed_step_is_not_taken(bucket: str) -> None:
    store, step = StepStore(f"{bucket}/work"), Step("toy", {"size": 4})

    def work(folder: Path) -> None:
        (folder / "out.txt").write_text("hello", encoding="utf-8")

    result = store.run(step, work)
    storage.write_bytes(f"{result.uri}/out.txt", b"tampered")
    with pytest.raises(DamocError, match="changed since they were written: out.txt"):
        result.path()
    boto3.client("s3").delete_object(Bucket=bucket[5:], Key=f"work/steps/toy/{step.key()}/{MARKER}")
    assert store.find(step) is None
    assert not store.run(step, work).reused
    assert (result.path() / "out.txt").read_text(encoding="utf-8") == "hello"


@pytest.mark.slow
def test_a_fresh_run_in_a_bucket_has_the_evidence_of_the_run_on_disk(
    finished: Finished, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    settings = [f"workspace={bucket}/work", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    selection = select(small_config(tmp_path), settings)
    costs = [cost for item in selection.record.candidates for cost in item.costs.values()]
    assert not any(cost.reused for cost in [*costs, *selection.record.costs.values()])
    assert selection.record.evidence == finished.selection.record.evidence
    assert selection.record.config_sha256 == finished.selection.record.config_sha256
    assert selection.report.startswith(f"{bucket}/work/selections/")
    assert selection.winner.encode() in storage.read_bytes(selection.report)
    markers = [uri for uri in storage.list_uris(f"{bucket}/work/steps") if uri.endswith(MARKER)]
    shared, candidates, control, rankings = 3, 2 * 6, 3, 3
    assert len(markers) == shared + candidates + control + rankings


def test_a_workspace_in_a_bucket_needs_a_tracking_server(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DamocError, match="tracking.uri"):
        select(small_config(tmp_path), [f"workspace={bucket}/work"])
