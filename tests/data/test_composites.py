from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from whatchanged.answers import Direction, Understood
from whatchanged.data.composite_shapes import draw_shape, label_objects, whole_objects
from whatchanged.data.composites import (
    SemanticPair,
    covers_of_pairs,
    draw_composite,
    load_covers,
)
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.mask_sets import CoverPicture
from whatchanged.data.transitions import wish_mask
from whatchanged.errors import DatasetError

Bits = NDArray[np.bool_]
COLOURS = {
    1: (20, 40, 120),
    2: (190, 170, 140),
    3: (110, 140, 80),
    4: (30, 70, 30),
    5: (200, 80, 70),
    7: (90, 90, 95),
    255: (250, 0, 250),
}


def picture(name: str, seed: int, side: int = 160) -> CoverPicture:
    """Quarters of ground, grass, water and trees with houses, a road and an unknown corner."""
    rng = np.random.default_rng(seed)
    classes = np.empty((side, side), np.uint8)
    half = side // 2
    quarters = rng.permutation([1, 2, 3, 4])
    for value, (row, column) in zip(quarters, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        classes[row * half :, column * half :] = value
    for row, column in rng.integers(8, side - 20, (5, 2)):
        classes[row : row + 10, column : column + 12] = 5
    classes[:, half + 6 : half + 12] = 7
    classes[-12:, -12:] = 255
    pixels = np.array([COLOURS[int(v)] for v in range(256) if v in COLOURS], np.int16)
    index = {value: k for k, value in enumerate(sorted(COLOURS))}
    table = np.array([index.get(value, 0) for value in range(256)])
    noisy = pixels[table[classes]] + rng.integers(-6, 7, (side, side, 1))
    return CoverPicture(name, np.clip(noisy, 0, 255).astype(np.uint8), classes)


PICTURES = [picture(f"p{index}", index) for index in range(4)]


def draw(n: int, seed: int = 0, size: int = 96) -> list[SemanticPair]:
    rng = np.random.default_rng(seed)
    return [draw_composite(PICTURES, rng, size) for _ in range(n)]


@pytest.fixture(scope="module")
def drawn() -> list[SemanticPair]:
    return draw(40)


def test_what_is_drawn_fits_together(drawn: list[SemanticPair]) -> None:
    for pair in drawn:
        for pixels in (pair.before, pair.after):
            assert pixels.shape == (3, 96, 96) and pixels.dtype == np.uint8
            assert pixels.flags.c_contiguous
        changed = pair.mask == 1
        assert set(np.unique(pair.mask)) <= {0, 1}
        assert not pair.classes_before[~changed].any()
        assert not pair.classes_after[~changed].any()
        assert (pair.classes_before[changed] != pair.classes_after[changed]).all()
        for classes in (pair.classes_before, pair.classes_after):
            assert set(np.unique(classes[changed])) <= {1, 2, 3, 4, 5, 7}  # unknown never


def test_the_mask_is_where_pixels_differ(drawn: list[SemanticPair]) -> None:
    """Inside the mask the dates show other things; a few pixels away only other light."""
    inside, outside = [], []
    for pair in drawn:
        before, after = (p.astype(float).mean(0) for p in (pair.before, pair.after))
        # Light differs by an affine map, so compare what is left of it.
        apart = np.abs((before - before.mean()) - (after - after.mean()))
        if pair.mask.mean() > 0.02:
            inside.append(apart[pair.mask == 1].mean())
        if pair.mask.mean() < 0.3:
            outside.append(np.median(apart[pair.mask == 0]))
    assert np.mean(inside) > 2.5 * np.mean(outside)


def test_everything_comes_and_goes_equally_often() -> None:
    pairs = draw(120, seed=3, size=64)
    for name in ("water", "building", "road", "tree"):
        counts: Counter[str] = Counter()
        for pair in pairs:
            for direction in get_args(Direction)[:2]:
                wish = Understood((name,), direction)
                met = wish_mask(wish, pair.classes_before, pair.classes_after, pair.mask)
                counts[direction] += bool((met == 1).any())
        n = counts.total()
        assert n >= 6, (name, counts)
        # A fair coin leaves this range once in ten thousand draws.
        assert abs(counts["appeared"] - n / 2) <= 2 * np.sqrt(n), (name, counts)


def test_some_pairs_are_unchanged_and_most_are_not(drawn: list[SemanticPair]) -> None:
    unchanged = sum(not pair.mask.any() for pair in drawn) / len(drawn)
    assert 0.02 < unchanged < 0.4


def test_the_generator_alone_decides() -> None:
    for one, two in zip(draw(5, seed=9), draw(5, seed=9), strict=True):
        assert one.name == two.name
        for layer in ("before", "after", "mask", "classes_before", "classes_after"):
            assert np.array_equal(getattr(one, layer), getattr(two, layer))
    assert any(
        not np.array_equal(one.before, two.before)
        for one, two in zip(draw(3, seed=9), draw(3, seed=10), strict=True)
    )


def test_pictures_are_not_written_to() -> None:
    copies = [(p.pixels.copy(), p.classes.copy()) for p in PICTURES]
    draw(4, seed=1)
    for cover, (pixels, classes) in zip(PICTURES, copies, strict=True):
        assert np.array_equal(cover.pixels, pixels) and np.array_equal(cover.classes, classes)


def test_names_tell_what_was_laid_on_what(drawn: list[SemanticPair]) -> None:
    pair = next(pair for pair in drawn if pair.mask.any())
    base, *pastes = pair.name.split("+")
    assert base in {p.name for p in PICTURES}
    for paste in pastes:
        number = int(paste[paste.index("(") + 1 : -1])
        assert ((pair.classes_before == number) | (pair.classes_after == number)).any()


def test_small_pictures_are_enlarged() -> None:
    small = [picture("s", 0, side=48)]
    pair = draw_composite(small, np.random.default_rng(0), 64)
    assert pair.before.shape == (3, 64, 64)


def test_without_land_cover_there_are_no_composites() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DatasetError, match="at least one picture"):
        draw_composite([], rng, 64)
    unknown = CoverPicture("x", PICTURES[0].pixels, np.full((160, 160), 255, np.uint8))
    with pytest.raises(DatasetError, match="too little"):
        draw_composite([unknown], rng, 64)


# Shapes


def flood(objects: Bits) -> NDArray[np.int64]:
    """Label by a plain search, to compare with."""
    labels = np.zeros(objects.shape, np.int64)
    n = 0
    for start in zip(*np.nonzero(objects), strict=True):
        if labels[start]:
            continue
        n += 1
        stack = [start]
        while stack:
            row, column = stack.pop()
            if not (0 <= row < len(objects) and 0 <= column < objects.shape[1]):
                continue
            if not objects[row, column] or labels[row, column]:
                continue
            labels[row, column] = n
            stack += [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return labels


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=60)
def test_objects_are_labelled_as_by_a_search(objects: Bits) -> None:
    labels, expected = label_objects(objects), flood(objects)
    assert labels.max() == expected.max()
    assert np.array_equal(labels == 0, ~objects)
    # The same objects, whatever their numbers.
    assert len(set(zip(labels.ravel(), expected.ravel(), strict=True))) == labels.max() + (
        not objects.all()
    )


def test_a_long_winding_object_is_one() -> None:
    spiral = np.zeros((41, 41), np.bool_)
    spiral[::4] = True
    for row in range(0, 37, 4):
        spiral[row : row + 5, 0 if (row // 4) % 2 else -1] = True
    assert label_objects(spiral).max() == 1


def test_objects_come_whole_or_not_at_all() -> None:
    objects = np.zeros((60, 60), np.bool_)
    objects[10:16, 10:16] = True  # inside
    objects[10:16, 30:36] = True  # half outside
    objects[0:6, 50:56] = True  # cut by the border
    objects[30:32, 10:12] = True  # a speck
    objects[30:55, 25:50] = True  # a block
    inside = np.ones((60, 60), np.bool_)
    inside[:, 33:40] = False
    kept = whole_objects(objects, inside)
    assert kept.sum() == 36 and kept[10:16, 10:16].all()
    assert not whole_objects(np.zeros((8, 8), np.bool_), np.ones((8, 8), np.bool_)).any()


@given(st.integers(8, 80), st.integers(0, 100))
@settings(max_examples=40)
def test_outlines_fill_a_fair_part(side: int, seed: int) -> None:
    shape = draw_shape(side, np.random.default_rng(seed))
    assert shape.shape == (side, side) and shape.dtype == np.bool_
    assert 0.1 < shape.mean() < 0.95


# Real photographs


def test_real_pairs_give_classes_where_they_changed(shared_data: Path) -> None:
    samples = load_levir_cc(shared_data / "captioned", "val").samples
    covers = covers_of_pairs([s for s in samples if s.source == "levir-val"][:8])
    assert covers and len(covers) % 2 == 0
    assert {cover.name.split(":")[1] for cover in covers} == {"before", "after"}
    assert all(0 not in cover.classes for cover in covers)
    assert any((cover.classes != 255).any() for cover in covers)


def test_blocks_of_dubai_are_no_buildings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whatchanged.data import composites

    named = [
        CoverPicture("tile4_image_part_001", PICTURES[0].pixels, PICTURES[0].classes),
        CoverPicture("tile1_image_part_001", PICTURES[1].pixels, PICTURES[1].classes),
    ]
    monkeypatch.setattr(composites, "load_dubai", lambda root: named)
    monkeypatch.setattr(composites, "load_loveda", lambda root: [PICTURES[2]])
    blocks, houses, fields = load_covers(tmp_path)
    assert 5 not in blocks.classes
    assert np.array_equal(blocks.classes == 255, np.isin(named[0].classes, (5, 255)))
    assert 5 in houses.classes
    assert fields is PICTURES[2]
