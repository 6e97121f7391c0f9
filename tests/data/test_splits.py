from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whatchanged.data.splits import (
    BLOCK,
    parse_recipe,
    shuffled,
    split_by_blocks,
    split_randomly,
)
from whatchanged.errors import UsageError

TILES = [f"r{row:02d}_c{column:03d}" for row in range(59) for column in range(126)]
PLACES = {name: (int(name[1:3]), int(name[5:])) for name in TILES}


def digest(names: list[str]) -> str:
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def test_bcdd_is_divided_as_in_the_paper_and_always_so() -> None:
    splits = split_randomly(TILES, 0)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [5947, 743, 744]
    # The recipe random-0: these lists must never change.
    assert {split: digest(names)[:16] for split, names in splits.items()} == {
        "train": "9f487d2fc395331e",
        "val": "18aebf8c44616589",
        "test": "7e0273e8e73b675d",
    }
    assert split_randomly(TILES, 1) != splits


def test_blocks_of_bcdd() -> None:
    splits = split_by_blocks(PLACES, 0)
    assert {split: digest(names)[:16] for split, names in splits.items()} == {
        "train": "30ff99a291966e99",
        "val": "b569a522139e1878",
        "test": "79e95328ef6a059d",
    }
    for split in ("val", "test"):
        assert 743 <= len(splits[split]) <= 743 + BLOCK**2
    split_of = {name: split for split, names in splits.items() for name in names}
    for block in {(row // BLOCK, column // BLOCK) for row, column in PLACES.values()}:
        inside = {split_of[n] for n, (r, c) in PLACES.items() if (r // BLOCK, c // BLOCK) == block}
        assert len(inside) == 1


def leaking(splits: dict[str, list[str]]) -> float:
    """Share of test tiles with a neighbour in the training split."""
    train = {PLACES[name] for name in splits["train"]}
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    near = [
        any((PLACES[n][0] + down, PLACES[n][1] + right) in train for down, right in steps)
        for n in splits["test"]
    ]
    return sum(near) / len(near)


def test_blocks_leak_less_of_the_neighbourhood() -> None:
    assert leaking(split_randomly(TILES, 0)) > 0.95
    assert leaking(split_by_blocks(PLACES, 0)) < 0.5


@given(st.sets(st.text(max_size=4), max_size=25), st.integers(0, 5))
@settings(max_examples=25)
def test_splits_are_a_partition_in_order(names: set[str], seed: int) -> None:
    order = sorted(names)
    places = {name: (index // 5, index % 5) for index, name in enumerate(order)}
    for splits in (split_randomly(order, seed), split_by_blocks(places, seed, 2)):
        assert sorted(name for part in splits.values() for name in part) == order
        assert all(part == sorted(part) for part in splits.values())
    assert len(split_randomly(order, seed)["train"]) == int(0.8 * len(order) + 1e-9)


@given(st.lists(st.text(max_size=4), unique=True, max_size=20))
@settings(max_examples=25)
def test_order_depends_on_names_and_seed_alone(names: list[str]) -> None:
    assert shuffled(names, 1) == shuffled(list(reversed(names)), 1)
    assert sorted(shuffled(names, 1)) == sorted(names)


def test_recipes() -> None:
    assert parse_recipe("random-0") == ("random", 0)
    assert parse_recipe("blocks-12") == ("blocks", 12)
    for wrong in ("random", "random-", "random--1", "random-01", "bit-7620", "blocks-1 ", ""):
        with pytest.raises(UsageError, match="is unknown"):
            parse_recipe(wrong)
