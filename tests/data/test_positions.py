from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.data.positions import Flip, flip_caption, possible_flips
from whatchanged.data.tokens import UNCHANGED_SENTENCES, tokenise

FLIPS = [(True, False), (False, True), (True, True)]


def flipped(text: str, horizontal: bool, vertical: bool) -> str | None:
    words = flip_caption(text.split(), horizontal=horizontal, vertical=vertical)
    return None if words is None else " ".join(words)


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a house appears on the left", "a house appears on the right"),
        ("roads at the top left corner", "roads at the top right corner"),
        ("a track runs from left to right", "a track runs from right to left"),
        ("from the bottom left to the top right", "from the bottom right to the top left"),
        ("trees on the left and right", "trees on the right and left"),
        ("villas appear left of the road", "villas appear right of the road"),
        ("a lot on its left side", "a lot on its right side"),
        ("in the lower-left corner", "in the lower-right corner"),
        ("on the right-hand side", "on the left-hand side"),
        ("in the lower-right-hand corner", "in the lower-left-hand corner"),
        ("the leftmost house", "the rightmost house"),
        ("a court west of the houses", "a court east of the houses"),
        ("the north-east and southwestern parts", "the north-west and southeastern parts"),
        ("roads meet at a right angle", "roads meet at a right angle"),
        ("a right-angled road on the left", "a right-angled road on the right"),
        ("trees on the left turn into grass", "trees on the right turn into grass"),
        ("a bright house under the trees", "a bright house under the trees"),
        ("a bridge in front of the woods", "a bridge in front of the woods"),
    ],
)
def test_left_and_right_are_exchanged(caption: str, mirrored: str) -> None:
    assert flipped(caption, True, False) == mirrored
    assert flipped(mirrored, True, False) == caption


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a house appears at the top", "a house appears at the bottom"),
        ("in the upper left corner", "in the lower left corner"),
        ("some trees on the lower", "some trees on the upper"),
        ("roads in the lower-left corner", "roads in the upper-left corner"),
        ("a road runs from top to bottom", "a road runs from bottom to top"),
        ("a villa is built on top of the scene", "a villa is built on bottom of the scene"),
        ("houses appear above the road", "houses appear below the road"),
        ("a court south of the houses", "a court north of the houses"),
        ("houses show up at the bottom", "houses show up at the top"),
        ("trees are cut down at the top", "trees are cut down at the bottom"),
        ("a road under construction at the top", "a road under construction at the bottom"),
        ("it is replaced by higher buildings", "it is replaced by higher buildings"),
        ("only grass is left at the top", "only grass is left at the bottom"),
        ("a bridge over the river", "a bridge over the river"),
    ],
)
def test_top_and_bottom_are_exchanged(caption: str, mirrored: str) -> None:
    assert flipped(caption, False, True) == mirrored
    assert flipped(mirrored, False, True) == caption


def test_both_flips_exchange_both() -> None:
    caption = "a pond in the top left corner and houses below the road on the right"
    assert flipped(caption, True, True) == (
        "a pond in the bottom right corner and houses above the road on the left"
    )


@pytest.mark.parametrize(
    "caption",
    [
        "only grass is left",  # verbs
        "the cars have left the parking lot",
        "trees are removed with few sheds left",
        "a field is left to wild grass",
        "nothing is left of the village",
        "houses replace the left farmland",  # on the left, or left over
        "leftover soil lies beside the road",
        "a left-over shed disappears",
        "the road turns right",
        "a left angle",
        "cars drive clockwise around the square",
        "an s-shaped road appears",
        "some letters are written on the playground",
        "an eastern road appears",  # "a western"
    ],
)
def test_what_is_not_surely_left_or_right_is_given_up(caption: str) -> None:
    assert flipped(caption, True, False) is None


@pytest.mark.parametrize(
    "caption",
    [
        "houses are built on top of the hill",
        "a villa at the bottom of the valley",
        "a shed on top of the house",
        "the lower buildings are removed",
        "the top floor is rebuilt",
        "a lower house appears",
        "an upper road appears",
        "a road below the bridge",
        "houses above the slope",
        "pipes below ground",
        "a building under the trees",
        "concrete floors appear underneath",
        "a pool behind the house",
        "houses in front of the woods",
        "a path leads upwards",
        "a road runs down to the lake",
        "the road leads up to the village",
        "woods in the higher area",
        "cars turn left at the crossroad",
        "cars drive anticlockwise",
        "some words appear on the ground",
    ],
)
def test_what_is_not_surely_in_the_picture_plane_is_given_up(caption: str) -> None:
    assert flipped(caption, False, True) is None
    if "turn" not in caption and "clock" not in caption:  # a rotation by 180 degrees keeps these
        assert flipped(caption, True, True) is None


def test_rotation_by_180_degrees_keeps_the_sense_of_turning() -> None:
    assert flipped("cars drive clockwise", True, True) == "cars drive clockwise"


def test_no_flip_changes_nothing_and_accepts_everything() -> None:
    assert flipped("only grass is left under the letters", False, False) is not None


@pytest.mark.parametrize(("horizontal", "vertical"), FLIPS)
def test_unchanged_sentences_stay(horizontal: bool, vertical: bool) -> None:
    for sentence in UNCHANGED_SENTENCES:
        assert flipped(sentence, horizontal, vertical) == sentence


WORDS = st.sampled_from(
    [
        *("left", "right", "top", "bottom", "upper", "lower", "above", "below", "higher"),
        *("the", "a", "an", "its", "of", "on", "at", "in", "to", "from", "and", ",", "is", "have"),
        *("corner", "side", "middle", "far", "house", "houses", "trees", "farmland", "road"),
        *("scene", "hill", "angle", "turn", "turns", "show", "cut", "up", "down", "under"),
        *("construction", "lower-left", "upper-right", "right-hand", "left-over", "leftmost"),
        *("bottommost", "north", "south-east", "western", "s-shaped"),
    ]
)


@given(st.lists(WORDS, max_size=9), st.sampled_from(FLIPS))
def test_flipping_twice_is_the_identity(words: list[str], flip: tuple[bool, bool]) -> None:
    horizontal, vertical = flip
    once = flip_caption(words, horizontal=horizontal, vertical=vertical)
    if once is not None:
        assert len(once) == len(words)
        assert flip_caption(once, horizontal=horizontal, vertical=vertical) == tuple(words)


@given(st.lists(WORDS, max_size=9))
def test_two_flips_after_each_other_are_both_at_once(words: list[str]) -> None:
    once = flip_caption(words, horizontal=True, vertical=False)
    both = flip_caption(words, horizontal=True, vertical=True)
    if once is not None:
        after = flip_caption(once, horizontal=False, vertical=True)
        assert after is None or both is None or after == both


def real_captions(shared_data: Path) -> list[tuple[str, ...]]:
    captions: set[tuple[str, ...]] = set()
    for name in ("captioned/captions.json", "levir_cc_text/LevirCCcaptions.json"):
        path = shared_data / name
        if path.is_file():
            images = json.loads(path.read_text())["images"]
            captions |= {
                tuple(tokenise(s["raw"]))
                for image in images
                if image["split"] != "test"
                for s in image["sentences"]
            }
    if len(captions) < 10_000:
        pytest.skip("the captions of LEVIR-CC are not here")
    return sorted(captions)[::20]


def test_real_captions(shared_data: Path) -> None:
    captions = real_captions(shared_data)
    sides = {"left", "right", "top", "bottom", "upper", "lower", "above", "below"}
    for horizontal, vertical in FLIPS:
        given_up = 0
        for caption in captions:
            once = flip_caption(caption, horizontal=horizontal, vertical=vertical)
            if once is None:
                given_up += 1
                continue
            assert flip_caption(once, horizontal=horizontal, vertical=vertical) == caption
            if horizontal and vertical and "right" not in caption and sides & set(caption):
                assert once != caption
        assert given_up < 0.02 * len(captions)


def test_possible_flips_keep_the_captions_that_stay_true() -> None:
    captions = (("a", "house", "on", "the", "left"), ("only", "grass", "is", "left"))
    none, horizontal, vertical, both = possible_flips(captions)
    assert none == Flip(False, False, captions)
    assert horizontal == Flip(True, False, (("a", "house", "on", "the", "right"),))
    assert vertical == Flip(False, True, captions)
    assert both == Flip(True, True, (("a", "house", "on", "the", "right"),))
    assert possible_flips(captions[1:]) == (
        Flip(False, False, captions[1:]),
        Flip(False, True, captions[1:]),
    )


def test_possible_flips_bring_in_no_unknown_word() -> None:
    captions = (("in", "the", "lower-left", "corner"),)
    flips = possible_flips(captions, known={"lower-left", "lower-right"})
    assert [(f.horizontal, f.vertical) for f in flips] == [(False, False), (True, False)]
    assert len(possible_flips((("a", "rare", "house"),), known=set())) == 4
