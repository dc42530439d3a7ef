from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from damoc.errors import DamocError
from damoc.signals.cache import SignalCache
from damoc.signals.embedding import PACKAGED, embed, encoder_folder, encoder_identity

TEXTS = ["three", "a", "four words of text", "two", "a"]


class Counting:
    """Measures the length and the first letter of texts, two at a time, and remembers what it was given."""

    def __init__(self, stop_after: int = 99) -> None:
        self.given: list[str] = []
        self.stop_after = stop_after

    def __call__(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(texts), 2):
            if start // 2 == self.stop_after:
                raise KeyboardInterrupt
            batch = texts[start : start + 2]
            self.given += batch
            yield np.array([[len(text), ord(text[0])] for text in batch], dtype=np.float64)


def expected(texts: Sequence[str]) -> list[list[float]]:
    return [[len(text), ord(text[0])] for text in texts]


def test_values_come_in_the_order_of_the_texts_and_each_text_is_computed_once(tmp_path):
    compute = Counting()
    values = SignalCache(tmp_path, "length", {}).measure(TEXTS, compute)
    assert values.dtype == np.float32
    assert values.tolist() == expected(TEXTS)
    assert sorted(compute.given) == sorted(set(TEXTS))


def test_a_second_measurement_computes_only_what_is_new(tmp_path):
    SignalCache(tmp_path, "length", {}).measure(TEXTS, Counting())
    again, more = Counting(), Counting()
    assert SignalCache(tmp_path, "length", {}).measure(TEXTS[::-1], again).tolist() == expected(TEXTS[::-1])
    assert again.given == []
    assert SignalCache(tmp_path, "length", {}).measure(["new", *TEXTS], more).tolist() == expected(["new", *TEXTS])
    assert more.given == ["new"]


def test_a_killed_measurement_goes_on_where_it_was(tmp_path):
    killed, resumed = Counting(stop_after=1), Counting()
    with pytest.raises(KeyboardInterrupt):
        SignalCache(tmp_path, "length", {}).measure(TEXTS, killed)
    assert len(killed.given) == 2
    assert SignalCache(tmp_path, "length", {}).measure(TEXTS, resumed).tolist() == expected(TEXTS)
    assert set(killed.given) | set(resumed.given) == set(TEXTS)
    assert not set(killed.given) & set(resumed.given)


def test_a_batch_that_was_not_renamed_never_counts(tmp_path):
    cache = SignalCache(tmp_path, "length", {})
    cache.measure(TEXTS, Counting())
    for path in list(cache.folder.glob("*.npz")):
        path.rename(path.with_suffix(".part"))
    again = Counting()
    assert cache.measure(TEXTS, again).tolist() == expected(TEXTS)
    assert sorted(again.given) == sorted(set(TEXTS))


def test_other_settings_and_other_signals_are_measured_afresh(tmp_path):
    SignalCache(tmp_path, "length", {"model": "a"}).measure(TEXTS, Counting())
    for name, settings in (("length", {"model": "b"}), ("width", {"model": "a"})):
        afresh = Counting()
        SignalCache(tmp_path, name, settings).measure(TEXTS, afresh)
        assert len(afresh.given) == 4


def test_progress_counts_what_is_known_and_ends_with_all(tmp_path):
    seen: list[tuple[int, int]] = []
    SignalCache(tmp_path, "length", {}).measure(["a", "b"], Counting())
    SignalCache(tmp_path, "length", {}).measure(
        ["a", "b", "cc", "dd", "ee"], Counting(), lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_texts_have_no_values(tmp_path):
    compute = Counting()
    assert len(SignalCache(tmp_path, "length", {}).measure([], compute)) == 0


def stored(cache: SignalCache) -> Path:
    """A file of three entries, beside one of a fourth."""
    cache.measure(["a", "b", "c"], lambda texts: [np.array([[len(text), ord(text)] for text in texts])])
    (path,) = cache.folder.glob("*.npz")
    cache.measure(["d"], Counting())
    return path


@examples(max_examples=25)
@given(st.data())
def test_a_damaged_file_is_measured_again_or_reads_as_it_was(data):
    with tempfile.TemporaryDirectory() as folder:
        cache, again = SignalCache(Path(folder), "length", {}), Counting()
        path = stored(cache)
        whole = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
        else:
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(whole)
        assert cache.measure(["d", "c", "b", "a"], again).tolist() == expected(["d", "c", "b", "a"])
        assert sorted(again.given) in ([], ["a", "b", "c"])


def test_what_is_no_cache_file_is_passed_over(tmp_path):
    cache, again = SignalCache(tmp_path, "length", {}), Counting()
    path = stored(cache)
    np.savez(path, keys=np.array(["one"]), values=np.zeros((2, 2)))
    np.savez(path.with_name("other.npz"), other=np.zeros(3))
    path.with_name("text.npz").write_text("no archive")
    np.savez(path.with_name("pickled.npz"), keys=np.array([{}], dtype=object), values=np.zeros((1, 2)))
    assert cache.measure(["a", "b", "c", "d"], again).tolist() == expected(["a", "b", "c", "d"])
    assert sorted(again.given) == ["a", "b", "c"]


def test_values_that_are_not_finite_are_returned_but_not_kept(tmp_path):
    cache, again = SignalCache(tmp_path, "length", {}), Counting()
    first = cache.measure(["a", "b"], lambda texts: [np.array([[1.0, np.nan], [2.0, 2.0]])])
    assert np.isnan(first).any(axis=1).sum() == 1
    cache.measure(["a", "b"], again)
    assert len(again.given) == 1


def test_things_are_known_by_the_text_that_they_stand_for(tmp_path):
    cache, given_pairs = SignalCache(tmp_path, "sum", {}), []

    def compute(pairs: Sequence[tuple[str, int]]) -> Iterator[np.ndarray]:
        given_pairs.extend(pairs)
        yield np.array([[number] for _, number in pairs])

    pairs = [("long name", 1), ("name", 2), ("long name", 1)]
    assert cache.measure(pairs, compute, key=lambda pair: pair[0]).tolist() == [[1], [2], [1]]
    assert given_pairs == [("name", 2), ("long name", 1)]


SENTENCES = ["Deletes the cache cluster.", "It removes the cluster of caches.", "Photosynthesis needs light. 東京", ""]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    cache = tmp_path_factory.mktemp("signals")
    return embed(SENTENCES, PACKAGED, cache), cache


def test_embeddings_are_those_of_sentence_transformers_at_unit_length(embedded):
    values, _ = embedded
    direct = SentenceTransformer(encoder_folder(PACKAGED)).encode(SENTENCES, normalize_embeddings=True)
    assert values.shape == (4, 384)
    assert values.dtype == np.float32
    assert np.allclose(values, direct, atol=1e-5)
    assert np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-5)


def test_texts_that_say_the_same_lie_nearer(embedded):
    values, _ = embedded
    near, far = float(values[0] @ values[1]), float(values[0] @ values[2])
    assert near > far + 0.4


def test_known_embeddings_need_no_encoder(embedded, monkeypatch):
    values, cache = embedded

    def unwanted(*args: object, **options: object) -> None:
        raise SystemExit("the encoder was loaded")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", unwanted)
    assert np.array_equal(embed(SENTENCES[::-1], PACKAGED, cache), values[::-1])
    with pytest.raises(SystemExit, match="was loaded"):
        embed(["another"], PACKAGED, cache)


def test_an_encoder_is_known_by_its_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = encoder_identity(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert encoder_identity(str(tmp_path)) != first
    assert encoder_identity("owner/name", "a" * 40) != encoder_identity("owner/name", "b" * 40)
    assert encoder_identity(PACKAGED) == encoder_identity(encoder_folder(PACKAGED))


def without_weights(folder: Path) -> None:
    for path in Path(encoder_folder(PACKAGED)).iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")


def damaged(folder: Path) -> None:
    without_weights(folder)
    (folder / "model.safetensors").write_bytes(b"cut off")


@pytest.mark.parametrize(
    "prepare", [without_weights, damaged, lambda folder: None], ids=["pickled", "damaged", "empty"]
)
def test_an_encoder_that_cannot_be_loaded_safely_is_one_clear_error(tmp_path: Path, prepare: Callable[[Path], None]):
    folder = tmp_path / "encoder"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(DamocError) as caught:
        embed(["text"], str(folder), tmp_path / "cache")
    (problem,) = caught.value.problems
    assert problem.where == str(folder)
    assert PACKAGED in problem.fix


def test_an_encoder_of_the_hub_that_is_out_of_reach_is_one_clear_error(tmp_path):
    with pytest.raises(DamocError, match="the encoder cannot be loaded"):
        embed(["text"], "owner/no-such-encoder", tmp_path)
