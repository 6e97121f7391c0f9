from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whatchanged.answers import Understood
from whatchanged.config import apply_mapping, from_mapping, to_mapping
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.transitions import presence, wish_mask
from whatchanged.data.wishes import load_families
from whatchanged.errors import DatasetError, UsageError
from whatchanged.train.config import DataConfig, TrainConfig
from whatchanged.train.pair_layers import PairLayers
from whatchanged.train.wish_data import (
    ANY,
    BUILDINGS,
    DrawnWish,
    PairFacts,
    ValidationPairs,
    WishPairs,
    meanings,
    single_classes,
)

LEFT = np.arange(64) < 32
WATER = Understood(("water",), "either")
BUILT = Understood(("building",), "appeared")


@pytest.fixture(scope="module")
def data_config(tiny_wishes: Callable[..., TrainConfig]) -> DataConfig:
    return tiny_wishes("wish-masks", "unused").data


@pytest.fixture(scope="module")
def pairs(data_config: DataConfig) -> WishPairs:
    return WishPairs(data_config)


@pytest.fixture(scope="module")
def made(data_config: DataConfig, wish_sets: Path) -> WishPairs:
    """As many composites and half as many generated scenes beside the pairs."""
    return WishPairs(laid_over(data_config, landcover=str(wish_sets / "cover"),
                               composites=1.0, synthetic=0.5))  # fmt: skip


def laid_over(config: DataConfig, **values: Any) -> DataConfig:
    return from_mapping(DataConfig, apply_mapping(to_mapping(config), values))


def place_of(pairs: WishPairs, name: str) -> int:
    return [sample.name for sample in pairs.samples].index(name)


def told(pairs: WishPairs, name: str) -> dict[Understood, bool]:
    """What is known of a whole training pair, "any" apart: each wish and whether it is met."""
    place = place_of(pairs, name)
    found = pairs.met_or_not(pairs.store.whole(place), pairs.facts[place], meanings())
    return {wish.understood: wish.met for wish in found}


def draws(pairs: WishPairs, name: str, n: int = 1, absent: float = 0.25) -> list[DrawnWish]:
    """Many draws of four wishes about a whole training pair."""
    place, rng = place_of(pairs, name), np.random.default_rng(0)
    layers, facts = pairs.store.whole(place), pairs.facts[place]
    return [wish for _ in range(n) for wish in pairs.wishes(layers, facts, 4, absent, rng)]


# Meanings


def test_meanings_are_those_of_the_bank_each_once() -> None:
    found = meanings()
    assert len(set(found)) == len(found) and list(found) == list(meanings())
    assert set(found) == {f.understood for f in load_families()} - {None}
    assert {ANY, BUILDINGS} < set(found)


def test_every_class_has_three_directions() -> None:
    found = single_classes()
    assert len(set(found)) == 7 * 3
    assert not any("any" in wish.classes or wish.former for wish in found)


# What is known


def test_wishes_of_an_annotated_pair_are_met_unmet_or_unknown(pairs: WishPairs) -> None:
    known = told(pairs, "built")  # bare ground became houses, and the captions say so
    for classes, direction, former in (
        *(("building", "appeared", ()), ("building", "either", ())),
        *(("bare ground", "disappeared", ()), ("bare ground", "either", ())),
    ):
        assert known[Understood((classes,), direction, former)], (classes, direction)
    assert known[Understood(("any",), "appeared")]
    for direction in ("appeared", "disappeared", "either"):
        for name in ("water", "tree", "playground", "low vegetation"):  # no caption names them
            assert known[Understood((name,), direction)] is False
    assert known[Understood(("building",), "disappeared")] is False  # nobody tells of a removal
    assert Understood(("bare ground",), "appeared") not in known  # the captions name it


def test_the_mask_of_a_wish_is_where_it_is_met(pairs: WishPairs) -> None:
    found = {wish.understood: wish for wish in draws(pairs, "built", n=30)}
    for wish in (ANY, BUILT, Understood(("bare ground",), "disappeared")):
        assert np.array_equal(found[wish].mask, np.tile(LEFT, (64, 1)))
        assert found[wish].met


@pytest.mark.parametrize("name", ["same", "same_unmasked"])
def test_unchanged_pairs_meet_nothing(pairs: WishPairs, name: str) -> None:
    known = told(pairs, name)
    assert set(known) == set(meanings()) - {ANY} and not any(known.values())
    drawn = draws(pairs, name, n=20)
    assert ANY in {wish.understood for wish in drawn} and len(drawn) == 80
    for wish in drawn:
        assert not wish.met and not wish.mask.any()  # the label knows what no mask tells


@pytest.mark.parametrize(
    ("name", "known"),
    [("unmasked", 0), ("point", None), ("coarse", None)],
)
def test_change_that_no_mask_shows_is_not_denied(
    pairs: WishPairs, name: str, known: int | None
) -> None:
    """No mask, one of too few pixels, and one without a pixel under the label "changed"."""
    everything = [Understood(("any",), d) for d in ("appeared", "disappeared", "either")]
    assert not set(everything) & {wish.understood for wish in draws(pairs, name, n=20)}
    found = told(pairs, name)
    assert not any(found.values()) and not set(everything) & set(found)
    assert known is None or len(found) == known
    if name == "coarse":  # the mask is empty, and a caption names roads
        assert found[WATER] is False and Understood(("road",), "appeared") not in found


def test_mask_sets_answer_for_buildings_and_any_change(pairs: WishPairs) -> None:
    for name, met in (("there", True), ("none", False)):
        assert told(pairs, name) == {BUILDINGS: met}
        drawn = draws(pairs, name)
        assert [wish.understood for wish in drawn] == [ANY, BUILDINGS]
        mask = np.tile(LEFT, (64, 1)) if met else np.zeros((64, 64))
        assert all(wish.met == met and np.array_equal(wish.mask, mask) for wish in drawn)


def test_sets_whose_masks_are_no_buildings_are_left_out(pairs: WishPairs, wish_sets: Path) -> None:
    assert {sample.source for sample in pairs.samples} == {
        *("clcd", "levir-half", "levir-cc", "houses")
    }
    assert len(pairs) == 6 + 2


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, True]), st.booleans())
def test_met_or_not_is_the_rule_on_every_pixel(
    pairs: WishPairs, seed: int, changed: bool | None, complete: bool
) -> None:
    """Against a loop that asks every pixel by itself."""
    rng = np.random.default_rng(seed)
    values, side = np.array([0, 2, 3, 5, 255], np.uint8), 4
    before, after = rng.choice(values, (2, side, side), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    mask = rng.choice(np.array([0, 1, 255], np.uint8), (side, side), p=[0.4, 0.5, 0.1])
    layers = PairLayers(*np.zeros((2, 3, side, side), np.uint8), mask, before, after)
    facts = PairFacts("", changed, (("a", "house", "appears"),), complete)
    asked = [BUILDINGS, BUILT, WATER, ANY, Understood(("building",), "appeared", ("bare ground",))]
    expected = []
    for wish in asked:
        pixels = [
            wish_mask(wish, before[r : r + 1, c : c + 1], after[r : r + 1, c : c + 1],
                      mask[r : r + 1, c : c + 1])[0, 0]
            for r in range(side)
            for c in range(side)
        ]  # fmt: skip
        slow = np.array(pixels, np.uint8).reshape(side, side)
        known = presence(wish, slow, changed=changed, captions=facts.captions, complete=complete)
        if known != "unknown" and wish != ANY:
            expected.append((wish, slow.tolist(), known == "present"))
    found = pairs.met_or_not(layers, facts, asked)
    assert [(w.understood, w.mask.tolist(), w.met) for w in found] == expected


# Draws


@pytest.mark.parametrize(("name", "changed"), [("built", True), ("same", False)])
def test_crops_carry_no_captions_but_the_label(
    pairs: WishPairs, monkeypatch: pytest.MonkeyPatch, name: str, changed: bool
) -> None:
    """What a caption tells may lie outside; an unchanged pair is unchanged in every part."""
    cut, seen = pairs.store.crop, list[int]()
    monkeypatch.setattr(pairs.store, "crop", lambda *a: seen.append(1) or cut(*a))
    kinds = set()
    for seed in range(16):
        seen.clear()
        _, facts = pairs.draw(place_of(pairs, name), np.random.default_rng(seed))
        assert bool(facts.captions) == (not seen) and facts.changed is changed
        kinds.add(bool(seen))
    assert kinds == {True, False}


def test_small_pairs_are_always_seen_whole(pairs: WishPairs) -> None:
    place = place_of(pairs, "point")
    assert all(pairs.draw(place, np.random.default_rng(s))[1].captions for s in range(8))


def test_a_crop_denies_only_what_its_pixels_deny(pairs: WishPairs) -> None:
    place = place_of(pairs, "built")
    layers = pairs.store.whole(place)
    facts = PairFacts("", changed=True)
    found = {w.understood: w.met for w in pairs.met_or_not(layers, facts, meanings())}
    assert found and all(found.values())


def test_draws_are_decided_by_the_generator_and_turn_all_layers_alike(pairs: WishPairs) -> None:
    place = place_of(pairs, "there")
    seen = set()
    for seed in range(24):
        one, _ = pairs.draw(place, np.random.default_rng(seed))
        again, _ = pairs.draw(place, np.random.default_rng(seed))
        assert all(np.array_equal(getattr(one, k), v) for k, v in vars(again).items())
        seen.add((one.before.tobytes(), one.mask.tobytes()))
    assert len(seen) == 8
    by_mask = {mask for _, mask in seen}
    assert len(by_mask) == 4  # a half turned: above, below, left, right


@pytest.mark.parametrize("name", ["built", "same"])
def test_exchanged_dates_exchange_appeared_and_disappeared(
    data_config: DataConfig, pairs: WishPairs, name: str
) -> None:
    always = WishPairs(laid_over(data_config, swap=1.0))
    place = place_of(pairs, name)
    layers, facts = pairs.draw(place, np.random.default_rng(5))
    other, theirs = always.draw(place, np.random.default_rng(5))
    assert np.array_equal(other.before, layers.after)
    assert np.array_equal(other.after, layers.before)
    assert theirs == replace(facts, reverse=True)
    mirrored = {"appeared": "disappeared", "disappeared": "appeared", "either": "either"}
    simple = [m for m in meanings() if not m.former]
    found = {w.understood: w for w in pairs.met_or_not(layers, facts, simple)}
    reversed_ = {w.understood: w for w in always.met_or_not(other, theirs, simple)}
    assert found
    assert any(wish.met for wish in found.values()) is (name != "same")
    for understood, wish in found.items():
        twin = reversed_[replace(understood, direction=mirrored[understood.direction])]
        assert twin.met == wish.met
        assert np.array_equal(twin.mask, wish.mask)


def test_a_share_of_the_visits_exchanges_the_dates(data_config: DataConfig) -> None:
    some = WishPairs(laid_over(data_config, swap=0.25))
    rng = np.random.default_rng(0)
    share = np.mean([some.draw(0, rng)[1].reverse for _ in range(400)])
    assert 0.19 < share < 0.31


def test_some_wishes_are_met_and_a_share_is_not(pairs: WishPairs) -> None:
    drawn = draws(pairs, "built", n=150, absent=0.4)
    rest = [wish for wish in drawn if wish.understood != ANY]
    assert len(drawn) == 600 and len(rest) == 450
    assert 0.32 < np.mean([not wish.met for wish in rest]) < 0.48
    assert all(wish.met for wish in draws(pairs, "built", n=10, absent=0.0))
    unmet = [w for w in draws(pairs, "built", n=10, absent=1.0) if w.understood != ANY]
    assert not any(wish.met for wish in unmet) and len(unmet) == 30
    assert len({wish.understood for wish in rest}) > 15


def test_one_draw_repeats_no_wish_and_asks_for_any_change_first(pairs: WishPairs) -> None:
    drawn = draws(pairs, "built", n=30)
    for start in range(0, len(drawn), 4):
        four = [wish.understood for wish in drawn[start : start + 4]]
        assert four[0] == ANY and len(set(four)) == 4
    place = place_of(pairs, "built")
    layers, facts = pairs.store.whole(place), pairs.facts[place]
    only = pairs.wishes(layers, facts, 1, 0.5, np.random.default_rng(0))
    assert [wish.understood for wish in only] == [ANY]


def test_wishes_are_drawn_by_weight(pairs: WishPairs) -> None:
    place, rng = place_of(pairs, "same"), np.random.default_rng(0)
    layers, facts = pairs.store.whole(place), pairs.facts[place]
    weights = {meaning: 9.0 if "water" in meaning.classes else 1.0 for meaning in meanings()}
    for chosen, least, most in ((None, 0.0, 0.2), (weights, 0.3, 0.7)):
        drawn = [
            wish.understood
            for _ in range(100)
            for wish in pairs.wishes(layers, facts, 4, 0.5, rng, chosen)[1:]
        ]
        assert len(drawn) == 300
        assert least < np.mean(["water" in u.classes for u in drawn]) < most


# Composites and scenes


def test_an_epoch_is_pairs_composites_and_scenes(made: WishPairs) -> None:
    assert (len(made.samples), made.n_composites, len(made.scenes)) == (8, 8, 4)
    assert len(made) == 20
    assert [made.name(i) for i in (0, 7, 8, 19)] == [
        *("clcd/built", "houses/there", "made/0", "made/11")
    ]


def test_composites_are_new_with_every_generator_and_known_throughout(made: WishPairs) -> None:
    seen = set()
    for seed in range(6):
        one, facts = made.draw(9, np.random.default_rng(seed))
        again, _ = made.draw(9, np.random.default_rng(seed))
        assert all(np.array_equal(getattr(one, k), v) for k, v in vars(again).items())
        assert facts.complete and facts.changed is None and not facts.captions
        assert one.before.shape == (3, 64, 64) and not (one.mask == 255).any()
        known = list(made.met_or_not(one, facts, meanings()))
        assert len(known) >= len(meanings()) - 20  # "any" and specks apart, all is known
        for wish in known:
            assert wish.met == bool((wish.mask == 1).any())
        seen.add(one.before.tobytes())
    assert len(seen) == 6


def test_scenes_are_the_same_in_every_run(made: WishPairs, data_config: DataConfig) -> None:
    other = WishPairs(laid_over(data_config, synthetic=0.5))
    for one, again in zip(made.scenes, other.scenes, strict=True):
        assert all(np.array_equal(getattr(one, k), v) for k, v in vars(again).items())
    assert len({scene.before.tobytes() for scene in made.scenes}) == 4
    layers, facts = made.draw(19, np.random.default_rng(1))
    assert facts.complete and layers.mask.shape == (64, 64)


def test_without_land_cover_or_a_share_there_are_no_composites(
    data_config: DataConfig, wish_sets: Path
) -> None:
    assert WishPairs(laid_over(data_config, composites=1.0)).n_composites == 0
    cover = str(wish_sets / "cover")
    assert WishPairs(laid_over(data_config, landcover=cover)).covers == ()


# Validation


def test_validation_pairs_are_never_drawn(made: WishPairs, wish_sets: Path) -> None:
    held_out = {sample.before for sample in made.validation}
    assert {path.stem for path in held_out} == {
        *("val_built", "val_corner", "val_same", "val_coarse")
    }
    assert not held_out & {sample.before for sample in made.samples}
    shades = {
        np.sort(np.asarray(Image.open(s.before)).ravel()).tobytes()
        for s in load_levir_cc(wish_sets / "captioned", "val").samples
    }
    for index in range(len(made.samples)):  # mirrored or turned, a picture keeps its pixels
        layers, _ = made.draw(index, np.random.default_rng(0))
        assert np.sort(layers.before.ravel()).tobytes() not in shades


def test_validation_opens_without_the_training_pairs(
    data_config: DataConfig, wish_sets: Path, tmp_path: Path
) -> None:
    source = wish_sets / "captioned"
    for path in source.rglob("*.*"):
        target = tmp_path / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        damaged = path.parent.name == "A" and path.name == "built.png" and "images" in path.parts
        target.write_bytes(b"no picture" if damaged else path.read_bytes())
    config = laid_over(data_config, captions=[str(tmp_path)])
    assert len(ValidationPairs(config).validation_store) == 4
    with pytest.raises(DatasetError, match=r"built.png"):
        WishPairs(config)


def test_sets_without_pairs_are_named(
    data_config: DataConfig, write_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"data.captions is empty"):
        WishPairs(laid_over(data_config, captions=[]))
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        folder = write_pairs(tmp_path / split, **({"n_train": 1, "n_val": 1} | {f"n_{split}": 0}))
        with pytest.raises(DatasetError, match=f"no pair of split '{split}'"):
            WishPairs(laid_over(data_config, captions=[str(folder)]))


def test_pairs_of_a_source_are_visited_as_often_as_asked(
    data_config: DataConfig, pairs: WishPairs
) -> None:
    more = WishPairs(laid_over(data_config, repeat={"clcd": 3, "levir-half": 0}, synthetic=0.5))
    names = [more.name(index) for index in range(len(more.visits))]
    plain = [pairs.name(index) for index in range(len(pairs))]
    for name in plain:
        source = name.split("/")[0]
        assert names.count(name) == {"clcd": 3, "levir-half": 0}.get(source, 1)
    assert len(names) == len(plain) + 2 - 1
    # Shares are of the visits, and what is made comes after them.
    assert len(more) == len(names) + round(0.5 * len(names))
    assert more.name(len(names)) == "made/0"
    last = max(i for i, name in enumerate(names) if name.startswith("clcd/"))
    _, facts = more.draw(last, np.random.default_rng(0))
    assert facts.name == names[last]


def test_a_source_that_no_pair_has_is_named(data_config: DataConfig) -> None:
    with pytest.raises(UsageError, match=r"data\.repeat names 'clcdd'") as error:
        WishPairs(laid_over(data_config, repeat={"clcdd": 2}))
    assert "clcd" in error.value.hint
    with pytest.raises(UsageError, match="counted from 0"):
        laid_over(data_config, repeat={"clcd": -1})
