"""Sentences of the scene generator: positions measured on the mask, grammar, true counts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from whatchanged.data.synthetic_changes import KINDS, Facts
from whatchanged.data.synthetic_words import N_CAPTIONS, captions, position
from whatchanged.data.tokens import UNCHANGED_SENTENCES

MIRROR = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
masks = arrays(np.bool_, (12, 16))


def box(top: float, left: float, bottom: float, right: float) -> np.ndarray:
    """A mask of 100 x 100 pixels with one rectangle, in shares of the side."""
    mask = np.zeros((100, 100), dtype=bool)
    mask[int(top * 100) : int(bottom * 100), int(left * 100) : int(right * 100)] = True
    return mask


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0.0, 0.0, 1.0, 0.4), "left"),
        ((0.0, 0.6, 1.0, 1.0), "right"),
        ((0.0, 0.0, 0.4, 1.0), "top"),
        ((0.6, 0.0, 1.0, 1.0), "bottom"),
        ((0.0, 0.0, 0.3, 0.3), "top left"),
        ((0.0, 0.7, 0.3, 1.0), "top right"),
        ((0.7, 0.0, 1.0, 0.3), "bottom left"),
        ((0.7, 0.7, 1.0, 1.0), "bottom right"),
        ((0.4, 0.4, 0.6, 0.6), "middle"),
        ((0.0, 0.0, 1.0, 1.0), ""),
        ((0.0, 0.45, 1.0, 0.55), ""),  # a strip from edge to edge is not "in the middle"
        ((0.3, 0.0, 0.7, 0.8), ""),  # the centre lies left of the middle, a fifth does not
        ((0.0, 0.0, 0.0, 0.0), ""),
    ],
)
def test_position_of_a_rectangle(corners: tuple[float, ...], expected: str) -> None:
    assert position(box(*corners)) == expected


def test_opposite_sides_have_no_position() -> None:
    assert position(box(0.0, 0.0, 1.0, 0.2) | box(0.0, 0.8, 1.0, 1.0)) == ""


@given(masks)
def test_position_follows_a_mirror(mask: np.ndarray) -> None:
    words = position(mask).split()
    mirrored = [MIRROR[w] if w in ("left", "right") else w for w in words]
    assert position(mask[:, ::-1]).split() == mirrored
    flipped = [MIRROR[w] if w in ("top", "bottom") else w for w in words]
    assert position(mask[::-1]).split() == flipped


@given(masks)
def test_a_named_side_holds_most_of_the_change(mask: np.ndarray) -> None:
    height, width = mask.shape
    halves = {
        "left": mask[:, : width // 2],
        "right": mask[:, width // 2 :],
        "top": mask[: height // 2],
        "bottom": mask[height // 2 :],
    }
    for word in position(mask).split():
        if word in halves:
            assert halves[word].sum() >= 0.8 * mask.sum()


def every_fact() -> list[Facts]:
    """Facts of every kind with each land use, count and detail that its makers give."""
    uses = ("meadow", "crops", "woods", "scrub", "bare")
    found = []
    for use in uses:
        for n in (1, 2, 4, 9):
            found.append(Facts("houses", use, n=n, beside=n == 2, rural=n == 4))
        found += [Facts("street", use, n=n, whole=False) for n in (2, 7)]
        found += [Facts("building", use, colour=c) for c in ("white", "blue")]
        found += [Facts("road", use, kind) for kind in ("lane", "highway", "street")]
        found += [Facts("playground", use, kind) for kind in ("track", "courts")]
    found += [Facts("sheds", "crops", n=n, colour="grey") for n in (2, 6)]
    for target in ("bare", "meadow"):
        found += [Facts("demolition", "houses", target, n=n, beside=True) for n in (1, 3, 8)]
        found.append(Facts("demolition", "building", target))
        found += [Facts("clearing", "woods", target, whole=whole) for whole in (True, False)]
        found.append(Facts("pond_filled", "water", target))
    for whole in (True, False):
        found += [Facts("bareland", use, "bare", whole=whole) for use in ("crops", "meadow")]
        found += [Facts("planting", use, "woods", whole=whole) for use in ("meadow", "bare")]
        found.append(Facts("greening", "bare", "meadow", whole=whole))
    found += [Facts("pond", use, "water") for use in ("crops", "bare")]
    found.append(Facts("paving", "crops", "lane"))
    return found


PLACES = (box(0, 0, 0.3, 0.3), box(0, 0.7, 1, 1), box(0.4, 0.4, 0.6, 0.6), box(0, 0, 1, 1))
SINGULAR = r"\b(a|one) (?:\w+ )*?(house|shed|building|road|pond|playground|court)"


def sentences(facts: Facts) -> set[str]:
    """Many sentences about one change at all places."""
    return {
        sentence
        for seed in range(8)
        for mask in PLACES
        for sentence in captions(np.random.default_rng(seed), [facts], [mask])
    }


@pytest.mark.parametrize("facts", every_fact(), ids=lambda f: f"{f.kind}-{f.source}-{f.n}")
def test_sentences_are_well_formed(facts: Facts) -> None:
    for sentence in sentences(facts):
        assert re.fullmatch(r"[a-z]+( [a-z]+)+", sentence), sentence
        assert not re.search(r"\b(\w+) \1\b", sentence), sentence
        # number agreement of the words that the templates choose
        assert not re.search(r"^(a|one) (new )?house (are|have|appear|replace)\b", sentence)
        plural = r"^(many|several|some|two|three|four|five|six) [\w ]*?(?<!row of )(houses|sheds) "
        assert not re.search(plural + r"(is|has|appears|replaces|disappears)\b", sentence)
        assert not re.search(r"^the woods [\w ]*?\b(has|is|becomes)\b", sentence), sentence
        assert not re.search(r"part of the woods [\w ]*?\b(have|are)\b", sentence), sentence
        assert "on the woods" not in sentence
        assert not sentence.startswith("a trees")


def test_every_kind_is_covered_here() -> None:
    assert {facts.kind for facts in every_fact()} == set(KINDS)


@pytest.mark.parametrize("n", range(1, 10))
def test_counts_are_true(n: int) -> None:
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    for kind in ("houses", "demolition"):
        source = "houses" if kind == "demolition" else "meadow"
        for sentence in sentences(Facts(kind, source, "bare", n=n)):
            for word in sentence.split():
                assert numbers.get(word, n) == n, sentence
            singular = re.search(r"\ba (new )?house\b", sentence)
            assert bool(singular) <= (n == 1), sentence
            if "several" in sentence or "some houses" in sentence:
                assert n >= 3
            if "a row of" in sentence:
                assert n >= 4
            if "many" in sentence:
                assert n >= 7


def test_houses_among_older_ones_may_say_so() -> None:
    assert any("old houses" in s for s in sentences(Facts("houses", "meadow", n=2, beside=True)))
    assert not any("old" in s.split() for s in sentences(Facts("houses", "meadow", n=2)))


def test_villages_have_no_driveways() -> None:
    assert not any("driveway" in s for s in sentences(Facts("houses", "crops", n=3, rural=True)))
    assert any("driveway" in s for s in sentences(Facts("houses", "crops", n=3)))


def test_a_part_is_called_a_part() -> None:
    for sentence in sentences(Facts("bareland", "crops", "bare", whole=False)):
        if re.search("turned|replaces|becomes|replaced", sentence):
            assert "part of the" in sentence


def test_felled_trees_are_told_only_where_there_were_trees() -> None:
    assert any("trees" in s for s in sentences(Facts("building", "woods", colour="grey")))
    assert not any("trees" in s for s in sentences(Facts("building", "crops", colour="grey")))


def test_a_position_is_told_by_most_sentences_and_only_if_true() -> None:
    found = captions(np.random.default_rng(0), [Facts("pond", "crops")], [box(0, 0, 0.3, 0.3)])
    assert sum("top left" in sentence for sentence in found) >= 3
    found = captions(np.random.default_rng(0), [Facts("pond", "crops")], [box(0, 0, 1, 1)])
    assert not any(re.search("left|right|top|bottom|middle", sentence) for sentence in found)


def test_two_changes_share_each_sentence() -> None:
    facts = [Facts("pond", "crops"), Facts("playground", "meadow", "track")]
    found = captions(np.random.default_rng(1), facts, [box(0, 0, 0.3, 0.3), box(0.7, 0.7, 1, 1)])
    assert len(found) == N_CAPTIONS
    for sentence in found:
        first, second = sentence.index("pond"), sentence.index("playground")
        assert " and " in sentence[first:second]


def test_unchanged_scenes_get_the_five_standard_sentences() -> None:
    assert captions(np.random.default_rng(0), [], []) == UNCHANGED_SENTENCES
