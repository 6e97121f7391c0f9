from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whatchanged.config import from_mapping
from whatchanged.data.pictures import read_picture
from whatchanged.data.tokens import END, START, UNK, tokenise
from whatchanged.errors import DatasetError, UsageError
from whatchanged.train.caption_data import FLIPS, CaptionData, View
from whatchanged.train.config import DataConfig

UNCHANGED = ("the", "scene", "is", "the", "same", "as", "before")


@pytest.fixture
def opened(pairs: Path) -> Callable[..., CaptionData]:
    """Function that opens the small set, values laid over its configuration."""

    def open_data(**values: Any) -> CaptionData:
        base = {"captions": [str(pairs)], "size": 64, "min_count": 0}
        return CaptionData.open(from_mapping(DataConfig, {**base, **values}))

    return open_data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views_of(data: CaptionData, index: int, n: int = 200) -> set[View]:
    rng = np.random.default_rng(0)
    return {data.draw_view(index, rng) for _ in range(n)}


def test_pairs_carry_labels_pictures_and_training_captions(
    opened: Callable[..., CaptionData], pairs: Path
) -> None:
    data = opened()
    assert len(data.train) == 11 and len(data.validation) == 3
    assert [pair.changed for pair in data.train[:4]] == [True, True, False, True]
    assert data.train[0].name == "levir-half/train_000"
    assert data.train[0].captions == (
        (tuple(tokenise("a house is built on the left side")), ("a", "house", "appears")),
    )
    # An unchanged pair always gets the one sentence, though it has other references.
    assert data.train[2].captions == ((UNCHANGED,),)
    assert data.validation[2].captions == (UNCHANGED, tuple(tokenise("there is no difference")))
    file = read_picture(pairs / "images" / "train" / "B" / "train_001.png")
    assert np.array_equal(data.train[1].after, file.transpose(2, 0, 1))


def test_nothing_of_the_validation_split_is_trained_on(opened: Callable[..., CaptionData]) -> None:
    data = opened(self_pairs=1.0)
    shown = {date.tobytes() for pair in data.train for date in (pair.before, pair.after)}
    kept = {picture.tobytes() for picture in (*data.store.before, *data.store.after)}
    assert not shown & kept


def test_captions_are_drawn_as_ids_of_known_words(opened: Callable[..., CaptionData]) -> None:
    data = opened(max_words=5)
    rng = np.random.default_rng(0)
    drawn = {tuple(data.draw_caption(0, View(), rng)) for _ in range(50)}
    assert all(ids[0] == START and ids[-1] == END and len(ids) <= 5 for ids in drawn)
    assert {tuple(data.vocabulary.decode(ids)) for ids in drawn} == {
        ("a", "house", "is"),
        ("a", "house", "appears"),
    }


def test_rare_words_are_unknown(opened: Callable[..., CaptionData]) -> None:
    data = opened(min_count=3)
    assert "house" in data.vocabulary.words and "letter" not in data.vocabulary.words
    assert UNK in data.draw_caption(3, View(), np.random.default_rng(0))


def test_all_splits_give_more_words(write_pairs: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_pairs(tmp_path, n_train=3, n_val=6)
    config = DataConfig(captions=(str(folder),), size=64, min_count=0)
    words = set(CaptionData.open(config).vocabulary.words)
    more = set(CaptionData.open(replace(config, vocabulary="all-splits")).vocabulary.words)
    assert more - words == {"letter", "s", "painted", "roof"}


# Flips


def test_flips_show_captions_only_where_they_are_true(opened: Callable[..., CaptionData]) -> None:
    data = opened(flips=True)
    left, appears = tuple(tokenise("a house is built on the left side")), ("a", "house", "appears")
    right = tuple(tokenise("a house is built on the right side"))
    assert data.train[0].captions == (
        (left, appears),
        (right, appears),
        (left, appears),
        (right, appears),
    )
    writing = (tuple(tokenise("the letter s is painted on the roof")),)
    assert data.train[3].captions == (writing, (), (), ())  # written words are never mirrored
    behind = [
        (tuple(tokenise(f"a house is built behind the trees on the {side} side")),)
        for side in ("right", "left")
    ]
    assert data.train[6].captions == (*behind, (), ())
    assert {view.flip for view in views_of(data, 0)} == {0, 1, 2, 3}
    assert {view.flip for view in views_of(data, 3)} == {0}
    assert {view.flip for view in views_of(data, 6)} == {0, 1}


def test_a_flip_brings_in_no_word_that_is_not_known(opened: Callable[..., CaptionData]) -> None:
    data = opened(flips=True, min_count=3)  # "left" is known, "right" is not
    assert data.train[0].captions[0][0][-2:] == ("left", "side")
    assert data.train[0].captions[1] == data.train[0].captions[3] == (("a", "house", "appears"),)
    assert data.train[6].captions[1][0][-2:] == ("left", "side")


def test_the_caption_is_that_of_the_flip(opened: Callable[..., CaptionData]) -> None:
    data, rng = opened(flips=True), np.random.default_rng(0)
    for flip, side in enumerate(("left", "right", "left", "right")):
        drawn = {tuple(data.draw_caption(0, View(flip), rng)) for _ in range(40)}
        words = {word for ids in drawn for word in data.vocabulary.decode(ids)}
        assert words & {"left", "right"} == {side}


def test_both_dates_are_mirrored_alike(opened: Callable[..., CaptionData]) -> None:
    data = opened(flips=True)
    pair = data.train[0]
    shown = data.pictures([0] * 4, [View(flip) for flip in range(4)], generator())
    before, after = shown.before, shown.after
    assert before.dtype == torch.float32
    for row, (horizontal, vertical) in enumerate(FLIPS):
        axes = [axis for axis, wanted in ((2, horizontal), (1, vertical)) if wanted]
        assert np.array_equal(before[row].numpy(), np.flip(pair.before, axes))
        assert np.array_equal(after[row].numpy(), np.flip(pair.after, axes))


def test_without_flips_every_view_is_upright(opened: Callable[..., CaptionData]) -> None:
    assert views_of(opened(), 0) == {View(0, 0)}


# Light


def test_light_0_is_the_pair_as_it_is_and_every_other_is_not(
    opened: Callable[..., CaptionData],
) -> None:
    data = opened(photometric=0.8, views=3)
    assert {view.light for view in views_of(data, 0)} == {0, 1, 2}
    shown = data.pictures([0, 0, 1], [View(), View(light=1), View()], generator())
    before, after = shown.before, shown.after
    assert np.array_equal(before[0].numpy(), data.train[0].before)
    assert np.array_equal(after[2].numpy(), data.train[1].after)
    assert not np.allclose(before[1].numpy(), data.train[0].before, atol=2)
    assert not np.allclose(after[1].numpy(), data.train[0].after, atol=2)
    assert float(before.min()) >= 0 and float(before.max()) <= 255


def test_draws_come_from_the_generator_alone(opened: Callable[..., CaptionData]) -> None:
    data = opened(photometric=0.8, views=2)
    views = [View(light=1)] * 3
    torch.manual_seed(1)
    one = data.pictures([0, 1, 2], views, generator(4))
    torch.manual_seed(2)
    again = data.pictures([0, 1, 2], views, generator(4))
    other = data.pictures([0, 1, 2], views, generator(5))
    assert torch.equal(one.before, again.before) and torch.equal(one.after, again.after)
    assert not torch.equal(one.before, other.before)


def test_self_pairs_are_unchanged_and_stand_in_two_lights(
    opened: Callable[..., CaptionData],
) -> None:
    data = opened(self_pairs=0.5, photometric=0.8, flips=True)
    made = [(i, pair) for i, pair in enumerate(data.train) if pair.same]
    assert len(made) == round(0.5 * 11)
    for index, pair in made:
        assert not pair.changed and pair.name.startswith("same/levir-half/")
        assert pair.captions == ((UNCHANGED,),) * 4
        assert np.array_equal(pair.before, pair.after)
        assert {view.light for view in views_of(data, index)} == {1}
    index = made[0][0]
    shown = data.pictures([index], [View(light=1)], generator())
    assert not torch.allclose(shown.before, shown.after, atol=2)
    # Dates in turn, and not one picture again and again.
    pictures = [pair.before.tobytes() for _, pair in made]
    assert len(set(pictures)) == len(pictures)
    changed = [pair for pair in data.train[:11] if pair.changed]
    for date in ("before", "after"):
        assert set(pictures) & {getattr(pair, date).tobytes() for pair in changed}


# What is known of the places of a pair


def with_layers(data: CaptionData) -> CaptionData:
    """The set, its first pair with a mask that is the brightest part of its later picture."""
    pair = data.train[0]
    mask = (pair.after[0] > np.median(pair.after[0])).astype(np.uint8)
    layers = np.stack([mask, mask * 3, mask * 5])
    return replace(data, train=(replace(pair, layers=layers), *data.train[1:]))


def test_layers_go_where_the_pictures_go(opened: Callable[..., CaptionData]) -> None:
    data = with_layers(opened(flips=True, zoom=0.6))
    shown = data.pictures([0] * 4, [View(flip) for flip in range(4)], generator(3))
    assert shown.layers.dtype == torch.uint8 and shown.layers.shape == (4, 3, 64, 64)
    level = float(np.median(data.train[0].after[0]))
    for row in range(4):
        mask = shown.layers[row, 0].numpy() == 1
        bright = shown.after[row, 0].numpy() > level
        # Maps are enlarged by the nearest pixel, pictures between pixels: edges may differ.
        assert (mask == bright).mean() > 0.9
        assert np.array_equal(shown.layers[row, 2].numpy(), mask * 5)
    # A part was enlarged: the picture is not the whole one.
    assert not np.array_equal(shown.before[0].numpy(), data.train[0].before)


def test_a_pair_of_which_nothing_is_known_has_unknown_layers(
    opened: Callable[..., CaptionData],
) -> None:
    data = opened(self_pairs=0.5, views=2)
    same = next(i for i, pair in enumerate(data.train) if pair.same)
    shown = data.pictures([0, same], [View(), View(light=1)], generator())
    assert bool((shown.layers[0] == 255).all())
    assert bool((shown.layers[1] == 0).all())  # one picture twice: nothing changed


def test_words_are_shares_of_the_captions_of_the_view(opened: Callable[..., CaptionData]) -> None:
    data = opened(flips=True)
    words = data.draw_words([0, 0], [View(0), View(1)])
    ids = {word: data.vocabulary.encode((word,))[1] for word in ("house", "left", "right", "built")}
    assert words.shape == (2, len(data.vocabulary))
    assert words[:, ids["house"]].tolist() == [1, 1]
    assert words[:, ids["built"]].tolist() == [0.5, 0.5]
    assert words[:, ids["left"]].tolist() == [0.5, 0]
    assert words[:, ids["right"]].tolist() == [0, 0.5]
    assert not words[:, [UNK, START, END]].any()


# Drawn scenes


def test_the_share_of_drawn_scenes_is_that_asked_for(opened: Callable[..., CaptionData]) -> None:
    data = opened(synthetic=0.4, flips=True)
    drawn = [pair for pair in data.train if pair.name.startswith("synthetic/")]
    assert len(drawn) == round(0.4 * 11) and len(data.train) == 11 + len(drawn)
    assert {pair.changed for pair in drawn} == {True, False}
    for pair in drawn:
        assert pair.before.shape == (3, 64, 64) and pair.before.dtype == np.uint8
        assert pair.changed or set(pair.captions) == {(UNCHANGED,)}
        # Their words are known: nothing is learnt to be unknown for being drawn.
        assert {w for caption in pair.captions[0] for w in caption} <= set(data.vocabulary.words)
    assert all(s.source == "clcd" for s in data.validation)  # never validated on


# Broken data


def broken_set(write_pairs: Callable[..., Path], folder: Path) -> Path:
    write_pairs(folder)
    path = folder / "captions.json"
    content = json.loads(path.read_text())
    content["images"][1]["sentences"] = []
    path.write_text(json.dumps(content))
    (folder / "images" / "train" / "A" / "train_004.png").unlink()
    return folder


def test_a_broken_entry_stops_with_its_name(
    write_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    folder = broken_set(write_pairs, tmp_path)
    with pytest.raises(DatasetError, match=r"images\[1\] \(train_001.png\)") as caught:
        CaptionData.open(DataConfig(captions=(str(folder),), size=64, min_count=0))
    assert "skip" in caught.value.hint


def test_broken_entries_are_left_out_and_listed_on_request(
    write_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    folder = broken_set(write_pairs, tmp_path)
    config = DataConfig(captions=(str(folder),), size=64, min_count=0, skip_broken=True)
    data = CaptionData.open(config)
    assert len(data.train) == 9
    assert len(data.broken) == 2
    assert "train_001.png" in data.broken[0] and "train_004.png" in data.broken[1]


def test_several_sets_are_one(
    write_pairs: Callable[..., Path], tmp_path: Path, pairs: Path
) -> None:
    other = write_pairs(tmp_path, n_train=4, n_val=1)
    data = CaptionData.open(DataConfig(captions=(str(pairs), str(other)), size=64, min_count=0))
    assert len(data.train) == 15 and len(data.validation) == len(data.store) == 4


@pytest.mark.parametrize(("n_train", "n_val", "split"), [(3, 0, "val"), (0, 3, "train")])
def test_a_missing_split_is_named(
    write_pairs: Callable[..., Path], tmp_path: Path, n_train: int, n_val: int, split: str
) -> None:
    folder = write_pairs(tmp_path, n_train=n_train, n_val=n_val)
    with pytest.raises(DatasetError, match=f"no pair of split '{split}'"):
        CaptionData.open(DataConfig(captions=(str(folder),), size=64, min_count=0))


def test_no_set_and_no_words_are_errors(opened: Callable[..., CaptionData]) -> None:
    with pytest.raises(UsageError, match=r"data.captions"):
        opened(captions=[])
    with pytest.raises(UsageError, match="more than 99 times") as caught:
        opened(min_count=99)
    assert "data.min_count" in caught.value.hint
