"""Splits by hash: stable, near the shares asked for, no group in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from damoc.data.example import Example
from damoc.data.splits import SPLITS, assign_splits, find_leaks, split_of

FRACTIONS = {"valid": 0.1, "test": 0.15}
names = st.text(st.characters(codec="utf-8"), max_size=12)
rows_strategy = st.lists(
    st.builds(
        Example,
        id=names,
        instruction=names,
        input=names,
        output=st.just("o"),
        group=st.sampled_from(["", "a", "b", "c", "d"]),
    ),
    max_size=40,
)


@given(rows_strategy, st.randoms())
def test_a_rows_split_does_not_depend_on_the_other_rows(rows: Sequence[Example], chance: Random) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)
    first, second = assign_splits(rows, FRACTIONS), assign_splits(shuffled, FRACTIONS)
    for split in SPLITS:
        assert sorted(map(repr, first[split])) == sorted(map(repr, second[split]))
        assert assign_splits(first[split], FRACTIONS)[split] == first[split]


@given(rows_strategy)
def test_no_group_and_no_prompt_without_a_group_straddles(rows: Sequence[Example]) -> None:
    homes: dict[tuple[str, ...], set[str]] = {}
    for split, members in assign_splits(rows, FRACTIONS).items():
        for row in members:
            key = (row.group,) if row.group else (row.instruction, row.input)
            homes.setdefault(key, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())


@given(rows_strategy)
def test_every_row_stands_in_one_split_in_the_original_order(rows: Sequence[Example]) -> None:
    splits = assign_splits(rows, FRACTIONS)
    assert sum(map(len, splits.values())) == len(rows)
    for members in splits.values():
        places = iter(rows)
        assert all(any(row == other for other in places) for row in members)


@given(names, st.floats(0, 0.5), st.floats(0, 0.5))
def test_more_test_never_moves_a_test_group_out(group: str, small: float, more: float) -> None:
    if split_of(group, {"valid": 0.0, "test": small}) == "test":
        assert split_of(group, {"valid": 0.1, "test": small + more}) == "test"


def test_shares_and_known_places() -> None:
    counts = {split: 0 for split in SPLITS}
    for number in range(20_000):
        counts[split_of(f"group {number}", FRACTIONS)] += 1
    assert abs(counts["valid"] / 20_000 - 0.1) < 0.01
    assert abs(counts["test"] / 20_000 - 0.15) < 0.01
    known = {"s3": "train", "ec2": "train", "lambda": "test", "eks": "valid"}
    assert {name: split_of(name, FRACTIONS) for name in known} == known
    assert any(split_of(f"g{n}", FRACTIONS) != split_of(f"g{n}", FRACTIONS, "salt") for n in range(50))


def test_leaks_fold_case_and_spaces() -> None:
    train = [Example("a", "Do", "this  THING", "x"), Example("b", "Do", "that", "x")]
    valid = [Example("v", "do", "this thing", "y")]
    assert find_leaks({"train": train, "valid": valid, "test": []}) == [
        ("a", "valid", "v", "the same instruction and input")
    ]
