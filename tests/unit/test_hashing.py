from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoc.hashing import canonical_json, derive_seed, hash_tree, sha256_file, sha256_json, sha256_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_canonical_json_reads_back_as_the_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers()), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert sha256_json(dict(items)) == sha256_json(value)


def test_canonical_json_has_no_spaces_and_keeps_letters():
    assert canonical_json({"b": [1, 2.5], "a": "é東"}) == '{"a":"é東","b":[1,2.5]}'


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


@given(st.binary(max_size=100))
def test_a_file_has_the_hash_of_its_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_a_file_longer_than_a_block_is_read_to_its_end(tmp_path):
    content = os.urandom((1 << 20) + 7)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_text_has_the_hash_of_its_utf_8_bytes():
    assert sha256_text("é東") == hashlib.sha256("é東".encode()).hexdigest()


def test_a_tree_is_hashed_file_by_file_without_what_is_left_out(tmp_path: Path):
    (tmp_path / "sub" / "empty").mkdir(parents=True)
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "skip.txt").write_text("s")
    assert hash_tree(tmp_path, exclude=["skip.txt"]) == {"b.txt": sha256_text("b"), "sub/a.txt": sha256_text("a")}


@given(st.integers(0, 2**40), st.lists(st.text(max_size=5), max_size=3))
def test_a_derived_seed_is_a_fixed_32_bit_number(root, names):
    seed = derive_seed(root, *names)
    assert 0 <= seed < 2**32
    assert seed == derive_seed(root, *names)


def test_derived_seeds_differ_by_root_and_by_every_name():
    calls = [(1,), (2,), (1, "a"), (1, "b"), (1, "a", "b"), (1, "b", "a"), (1, "ab")]
    assert len({derive_seed(*call) for call in calls}) == len(calls)
