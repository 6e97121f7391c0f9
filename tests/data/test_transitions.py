from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from whatchanged.answers import CLASS_WORDS, Direction, Understood
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import PictureStore
from whatchanged.data.tokens import tokenise
from whatchanged.data.transitions import (
    CLASS_NUMBERS,
    PRESENT_SHARE,
    presence,
    wish_mask,
    wish_masks,
)
from whatchanged.errors import UsageError

Mask = NDArray[np.uint8]
WATER, GROUND, GRASS, TREE, BUILDING, PLAYGROUND, ROAD = range(1, 8)
DIRECTIONS: tuple[Direction, ...] = ("appeared", "disappeared", "either")


def row(*values: int) -> Mask:
    return np.array([values], np.uint8)


def met(wish: Understood, before: Mask | None, after: Mask | None, mask: Mask | None) -> list[int]:
    result = wish_mask(wish, before, after, mask)
    assert result.dtype == np.uint8
    return result[0].tolist()


def building(direction: Direction, *former: str) -> Understood:
    return Understood(("building",), direction, former)


def test_the_numbers_are_the_names_without_any() -> None:
    assert set(CLASS_NUMBERS) == set(CLASS_WORDS) - {"any"}
    assert sorted(CLASS_NUMBERS.values()) == list(range(1, 8))


#       grass->building, building->grass, tree->ground, unchanged, rebuilt
BEFORE = row(GRASS, BUILDING, TREE, 0, BUILDING)
AFTER = row(BUILDING, GRASS, GROUND, 0, BUILDING)
CHANGE = row(1, 1, 1, 0, 1)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (building("appeared"), [1, 0, 0, 0, 0]),
        (building("disappeared"), [0, 1, 0, 0, 0]),
        (building("either"), [1, 1, 0, 0, 0]),
        (building("appeared", "low vegetation"), [1, 0, 0, 0, 0]),
        (building("appeared", "tree", "low vegetation"), [1, 0, 0, 0, 0]),
        (building("appeared", "tree"), [0, 0, 0, 0, 0]),
        (Understood(("low vegetation", "tree"), "disappeared"), [1, 0, 1, 0, 0]),
        # Of several wished classes one turned into another: neither is new.
        (Understood(("building", "low vegetation"), "appeared"), [0, 0, 0, 0, 0]),
        (Understood(("any",), "appeared"), [1, 1, 1, 0, 1]),
        (Understood(("any",), "disappeared"), [1, 1, 1, 0, 1]),
        (Understood(("any",), "either"), [1, 1, 1, 0, 1]),
    ],
)
def test_directions_and_former_classes(wish: Understood, expected: list[int]) -> None:
    assert met(wish, BEFORE, AFTER, CHANGE) == expected


def test_without_a_mask_classes_that_differ_are_the_change() -> None:
    assert met(building("either"), BEFORE, AFTER, None) == [1, 1, 0, 0, 0]
    # Same class twice: without a mask nothing says that it was rebuilt.
    assert met(Understood(("any",), "either"), BEFORE, AFTER, None) == [1, 1, 1, 0, 0]


def test_a_mask_alone_knows_any_change_and_no_class() -> None:
    mask = row(0, 1, 255)
    assert met(Understood(("any",), "either"), None, None, mask) == [0, 1, 255]
    assert met(building("appeared"), None, None, mask) == [0, 255, 255]


def test_unknown_classes_are_told_from_what_they_cannot_be() -> None:
    before = row(255, 255, GRASS, 0, BUILDING, 255)
    after = row(BUILDING, ROAD, 255, 0, 255, 255)
    changed = np.ones_like(before)
    # Whatever stood there, a road is no building that appeared; class 0 in a changed pixel is
    # unknown; what was a building cannot appear as one.
    assert met(building("appeared"), before, after, changed) == [255, 0, 255, 255, 0, 255]
    assert met(building("disappeared"), before, after, changed) == [0, 255, 0, 255, 255, 255]
    assert met(building("either"), before, after, changed) == [255] * 6
    assert met(building("either"), before, after, changed * 0) == [0] * 6


def test_a_change_either_source_knows_counts() -> None:
    # The classes differ where the mask, which marks other things, is empty.
    assert met(building("appeared"), row(GRASS, 0), row(BUILDING, 0), row(0, 0)) == [1, 0]


def test_nothing_and_several_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing"):
        wish_mask(building("either"), None, None, None)
    with pytest.raises(UsageError, match=r"\(1, 2\), \(1, 3\)"):
        wish_mask(building("either"), row(1, 2), row(1, 2), row(1, 1, 1))


classes = hnp.arrays(np.uint8, (3, 4), elements=st.sampled_from([*range(8), 255]))
marks = hnp.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 255]))
names = st.sampled_from(sorted(CLASS_NUMBERS))


@given(classes, classes, marks, names)
def test_laws_of_directions(before: Mask, after: Mask, mask: Mask, name: str) -> None:
    by = {d: wish_mask(Understood((name,), d), before, after, mask) for d in DIRECTIONS}
    anything = wish_mask(Understood(("any",), "either"), before, after, mask)
    assert ((by["appeared"] == 1) | (by["disappeared"] == 1)).tolist() == (
        by["either"] == 1
    ).tolist()
    assert not ((by["appeared"] == 1) & (by["disappeared"] == 1)).any()
    assert (anything[by["either"] == 1] == 1).all()  # every wish is part of "any change"
    assert all((by[d][anything == 0] == 0).all() for d in DIRECTIONS)
    # Exchanging the dates exchanges the directions.
    assert np.array_equal(
        by["appeared"], wish_mask(Understood((name,), "disappeared"), after, before, mask)
    )


@given(classes, classes, marks, names, st.data())
@settings(max_examples=40)
def test_knowing_more_never_contradicts(
    before: Mask, after: Mask, mask: Mask, name: str, data: st.DataObject
) -> None:
    """What is told of a pair with a gap stays true when the gap is filled."""
    wish = Understood((name,), data.draw(st.sampled_from(DIRECTIONS)))
    with_gap = before.copy()
    hole = data.draw(hnp.arrays(np.bool_, before.shape))
    hole &= (before != 0) & (mask == 1)
    with_gap[hole] = 255
    told = wish_mask(wish, with_gap, after, mask)
    truth = wish_mask(wish, before, after, mask)
    assert (told == truth)[told != 255].all()


@given(classes, classes, marks)
@settings(max_examples=40)
def test_many_masks_at_once_are_the_same(before: Mask, after: Mask, mask: Mask) -> None:
    wishes = [Understood((name,), d) for name in ("any", "water", "tree") for d in DIRECTIONS]
    wishes.append(building("appeared", "tree"))
    for layers in ((before, after, mask), (before, after, None), (None, None, mask)):
        found = wish_masks(wishes, *layers)
        assert list(found) == wishes
        for wish, wished in found.items():
            assert np.array_equal(wished, wish_mask(wish, *layers))
            assert wished.dtype == np.uint8


# Presence


def picture(n_met: int, n_unknown: int = 0) -> Mask:
    wished = np.zeros((256, 256), np.uint8)
    wished.flat[:n_met] = 1
    wished.flat[n_met : n_met + n_unknown] = 255
    return wished


HOUSES = [tokenise("some houses are built beside the road")]
WOODS = [tokenise("the woods are gone and houses replace them")]


@pytest.mark.parametrize(
    ("wish", "wished", "captions", "expected"),
    [
        (building("appeared"), picture(24), HOUSES, "present"),
        (building("appeared"), picture(24, 5000), HOUSES, "present"),
        (building("appeared"), picture(23), HOUSES, "unknown"),  # too small to learn from
        (building("appeared"), picture(0), HOUSES, "unknown"),  # told, though not marked
        (building("disappeared"), picture(0), HOUSES, "absent"),  # nothing was removed
        (building("disappeared"), picture(0), WOODS, "unknown"),
        (Understood(("tree",), "disappeared"), picture(0), HOUSES, "absent"),
        (Understood(("tree",), "disappeared"), picture(0), WOODS, "unknown"),
        (Understood(("tree",), "appeared"), picture(0), WOODS, "unknown"),
        (Understood(("water",), "either"), picture(0), WOODS, "absent"),
        (Understood(("water", "tree"), "either"), picture(0), WOODS, "unknown"),
        (Understood(("water",), "either"), picture(1), WOODS, "unknown"),
        (Understood(("water",), "either"), picture(0, 23), WOODS, "absent"),
        (Understood(("water",), "either"), picture(0, 24), WOODS, "unknown"),
        (Understood(("water",), "either"), picture(0), [], "unknown"),
        (Understood(("any",), "either"), picture(0), HOUSES, "unknown"),
    ],
)
def test_presence_in_changed_pairs(
    wish: Understood, wished: Mask, captions: list[list[str]], expected: str
) -> None:
    assert presence(wish, wished, changed=True, captions=captions) == expected


def test_nothing_is_present_in_unchanged_pairs() -> None:
    for wish in (building("appeared"), Understood(("any",), "either")):
        assert presence(wish, picture(0, 256 * 256), changed=False) == "absent"
        assert presence(wish, picture(0), changed=None) == "unknown"


def test_captions_of_exchanged_dates_tell_the_other_way_round() -> None:
    """Houses were built; backwards they disappear, and none appears."""
    state = {
        d: presence(building(d), picture(0), changed=True, captions=HOUSES, reverse=True)
        for d in DIRECTIONS
    }
    assert state == {"appeared": "absent", "disappeared": "unknown", "either": "unknown"}


def test_complete_classes_need_no_captions() -> None:
    wish = building("appeared")
    assert presence(wish, picture(0), changed=None, complete=True) == "absent"
    assert presence(wish, picture(5), changed=None, complete=True) == "unknown"
    assert presence(wish, picture(0, 500), changed=None, complete=True) == "unknown"


def test_the_least_change_scales_with_the_picture() -> None:
    wished = np.zeros((512, 512), np.uint8)
    wished.flat[:95] = 1
    assert presence(building("appeared"), wished, changed=True) == "unknown"
    wished.flat[:96] = 1
    assert wished.mean() >= PRESENT_SHARE
    assert presence(building("appeared"), wished, changed=True) == "present"


def test_real_pairs_give_wishes_of_every_kind(shared_data: Path) -> None:
    samples = load_levir_cc(shared_data / "captioned", "val").samples
    samples = tuple(s for s in samples if s.source in ("clcd", "levir-val"))[::14]
    store = PictureStore.open(samples, 256)
    assert store.mask is not None
    assert store.classes_before is not None and store.classes_after is not None
    found = set()
    for index, sample in enumerate(samples):
        layers = (store.classes_before[index], store.classes_after[index], store.mask[index])
        for name in ("building", "water", "tree"):
            for direction in DIRECTIONS:
                wish = Understood((name,), direction)
                found.add(
                    presence(
                        wish,
                        wish_mask(wish, *layers),
                        changed=sample.changed,
                        captions=sample.captions,
                    )
                )
        whole = Understood(("any",), "either")
        state = presence(whole, wish_mask(whole, *layers), changed=sample.changed)
        assert state == ("present" if sample.changed else "absent")
    assert found == {"present", "absent", "unknown"}
