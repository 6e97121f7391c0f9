"""Asking from files to results, with a small random model whose judgement is scripted."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

import whatchanged
from whatchanged import ask_answer, asking
from whatchanged.answers import EXPLAIN
from whatchanged.ask_pair import AskModel, see_windows
from whatchanged.ask_windows import plan_windows
from whatchanged.asking import ask, ask_many, load_ask_model, open_session
from whatchanged.errors import InputError, PairMismatchError, UsageError
from whatchanged.geo.vector import storable
from whatchanged.models.reasoncd.config import SightConfig

Script = Callable[[Callable[..., Any]], list[int]]
Picture = NDArray[np.uint8]
CONTRACT = [
    *("before", "after", "wish", "found", "answer", "target", "direction"),
    *("changed_fraction", "area_m2", "n_polygons", "mask", "model", "warnings"),
    "former",
]
HOUSES = "It's buildings that appeared: <CHG>."
ROADS = "It's roads that appeared: <CHG>."
NO_HOUSES = "There are no buildings that appeared between these images."
OFF_SUBJECT = "This is not a change that can be seen from above."
NO_TREES = "There are no trees that disappeared between these images."
BOXES = ((3, 5, 23, 35), (60, 100, 90, 140), (70, 7, 95, 12))  # top, left, bottom, right


def difference(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
    """Point at all that differs; at nothing if trees are asked for."""
    if "tree" in wish:
        return NO_TREES, None
    differs = np.abs(after.astype(int) - before).max(axis=0) > 50
    return (HOUSES, 0.9 * differs) if differs.any() else (NO_TREES, None)


def draw(height: int = 100, width: int = 160) -> tuple[Picture, Picture, NDArray[np.bool_]]:
    """Both dates, which differ in boxes, and the mask of these."""
    before = np.random.default_rng(0).integers(1, 40, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in BOXES:
        mask[top:bottom, left:right] = True
    after = np.where(mask[..., None], np.uint8(200), before)
    return before, after, mask


def write(path: Path, picture: Picture, gsd_m: float = 0.5, **profile: Any) -> Path:
    height, width, count = picture.shape
    options = {
        "crs": "EPSG:32650",
        "transform": Affine(gsd_m, 0, 450_000, 0, -gsd_m, 4_300_000),
        "driver": "GTiff",
    }
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype="uint8", **options | profile
    ) as file:
        file.write(np.moveaxis(picture, 2, 0))
    return path


@pytest.fixture(scope="module")
def model(tiny_ask_model: Path) -> Path:
    return tiny_ask_model


@pytest.fixture(scope="module")
def tiny(model: Path) -> AskModel:
    return load_ask_model(model)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    before, after, _ = draw()
    return write(folder / "before.tif", before), write(folder / "after.tif", after)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("plain")
    for name, picture in zip(("before", "after"), draw(), strict=False):
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder / "before.png", folder / "after.png"


# --- the answer ------------------------------------------------------------------------------


def test_a_result_says_all_that_was_promised(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    scripted(difference)
    mask = draw()[2]
    result = ask(*files, "new houses", model=model)
    assert result.found and not result.forced
    assert result.answer == "It's buildings that appeared."
    assert result.said == HOUSES
    assert (result.target, result.direction) == (["building"], "appeared")
    assert (result.mask == mask).all()
    assert result.mask.dtype == bool
    assert result.probability.shape == mask.shape
    np.testing.assert_allclose(result.probability, 0.9 * mask, atol=1e-6)
    assert result.changed_fraction == pytest.approx(mask.mean())
    assert result.area_m2 == pytest.approx(mask.sum() * 0.25)
    assert result.n_polygons == len(result.polygons) == 3
    assert [p.area_px for p in result.polygons] == [1200, 600, 125]
    assert all(p.wish == "new houses" and p.target == ("building",) for p in result.polygons)
    assert result.warnings == ()
    assert list(result.to_json()) == CONTRACT
    assert result.to_json()["mask"] is None


def test_the_pair_was_seen_in_windows_that_fit_on_the_ground(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    """The mask above came from several windows: scripted maps lie where the pixels do."""
    calls = scripted(difference)
    result = ask(*files, "new houses", model=model)
    assert "windows" not in result.seen  # 160 pixels of half a metre are one window
    assert sum(calls) == 1
    doubled = [p.with_name(f"fine-{p.name}") for p in files]
    for path, picture in zip(doubled, draw(), strict=False):
        write(path, picture, gsd_m=1.0)
    calls.clear()
    result = ask(*doubled, "new houses", model=model)
    assert "windows" in result.seen
    assert sum(calls) > 1
    assert (result.mask == draw()[2]).all()
    assert result.area_m2 == pytest.approx(draw()[2].sum())


def test_what_is_not_there_has_no_mask(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    scripted(difference)
    result = ask(*files, "felled trees", model=model)
    assert not result.found and not result.has_mask
    assert result.answer == NO_TREES
    assert (result.target, result.direction) == (["tree"], "disappeared")
    assert not result.mask.any()
    assert (result.probability == 0).all()
    assert result.area_m2 == 0
    assert result.to_json()["n_polygons"] == 0


def test_a_wish_off_the_subject_is_answered_honestly(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    scripted(lambda wish, before, after: (OFF_SUBJECT, None))
    result = ask(*files, "who won the match?", model=model)
    assert (result.found, result.target, result.direction) == (False, [], None)
    assert result.answer == OFF_SUBJECT


def test_a_forced_mask_is_said_to_be_forced(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    scripted(difference)
    result = ask(*files, "felled trees", model=model, force_target=True)
    assert result.forced and not result.found and result.has_mask
    assert result.mask.all()
    assert any("forced" in warning for warning in result.warnings)


def test_the_explanation_is_kept_on_request(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    why = "New roofs give room to live."
    asked: list[str] = []

    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        asked.append(wish)
        return f"{why} {HOUSES}", difference(wish, before, after)[1]

    scripted(script)
    assert ask(*files, "room", model=model).answer == "It's buildings that appeared."
    result = ask(*files, "room", model=model, explain=True)
    assert result.answer == f"{why} It's buildings that appeared."
    assert asked == ["room", f"room {EXPLAIN}"]
    assert result.wish == result.polygons[0].wish == "room"


def test_the_threshold_decides_what_is_in_the_mask(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    scripted(difference)
    assert ask(*files, "new houses", model=model, threshold=0.89).mask.any()
    result = ask(*files, "new houses", model=model, threshold=0.95)
    assert not result.found and not result.has_mask
    assert not result.mask.any()
    assert result.answer == "It's buildings that appeared."  # the model did see some
    assert (result.target, result.direction) == (["building"], "appeared")
    assert result.warnings == ("nothing is marked: no place reaches the probability 0.95",)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_a_mask_without_a_place_is_a_refusal(
    model: Path, files: tuple[Path, Path], scripted: Script, threshold: float
) -> None:
    scripted(lambda wish, before, after: (HOUSES, np.full(before.shape[1:], 0.2, np.float32)))
    result = ask(*files, "new houses", model=model, threshold=threshold)
    assert not result.found and not result.has_mask
    assert result.answer == "There are no buildings that appeared between these images."
    (warning,) = result.warnings
    assert warning == f"nothing is marked: no place reaches the probability {threshold:g}"


@pytest.mark.parametrize("said", [HOUSES, "It's <CHG>."])
def test_what_is_too_small_to_be_marked_is_not_denied(
    model: Path, files: tuple[Path, Path], scripted: Script, said: str
) -> None:
    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        probability = np.zeros(before.shape[1:], np.float32)
        probability[10:12, 10:13] = 0.9
        return said, probability

    scripted(script)
    result = ask(*files, "new houses", model=model)
    assert not result.found and not result.has_mask and not result.mask.any()
    assert result.answer.startswith("It's buildings" if said == HOUSES else "It's not marked")
    (warning,) = result.warnings
    assert "only patches of fewer than 8 pixels reach the probability 0.5" in warning


def test_the_former_class_is_told(model: Path, files: tuple[Path, Path], scripted: Script) -> None:
    made = "It's buildings made from low vegetation: <CHG>."
    scripted(lambda *window: (made, difference(*window)[1]))
    result = ask(*files, "farmland turned into buildings", model=model)
    assert result.former == result.to_json()["former"] == ["low vegetation"]
    assert all(polygon.former == ("low vegetation",) for polygon in result.polygons)
    scripted(difference)
    assert ask(*files, "new houses", model=model).to_json()["former"] == []


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1, float("nan")])
def test_a_threshold_is_a_probability(model: Path, threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        ask("no.tif", "no.tif", "new houses", model=model, threshold=threshold)


def test_without_georeference_areas_are_unknown(
    model: Path, plain: tuple[Path, Path], scripted: Script
) -> None:
    scripted(difference)
    result = ask(*plain, "new houses", model=model)
    assert (result.mask == draw()[2]).all()
    assert result.area_m2 is None
    assert result.to_json()["area_m2"] is None
    assert result.polygons[0].area_m2 is None
    assert result.polygons[0].geometry.bounds == (100, 60, 140, 90)


def test_what_is_not_valid_is_neither_changed_nor_unchanged(
    model: Path, tmp_path: Path, scripted: Script
) -> None:
    scripted(difference)
    before, after, mask = draw()
    after[:, 120:] = 0  # through one of the boxes
    files = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after, nodata=0)
    result = ask(*files, "new houses", model=model)
    assert np.isnan(result.probability[:, 120:]).all()
    assert not np.isnan(result.probability[:, :120]).any()
    assert not result.mask[:, 120:].any()
    assert (result.mask[:, :120] == mask[:, :120]).all()
    assert result.changed_fraction == pytest.approx(mask[:, :120].mean())


# --- many windows ----------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, Path]:
    """Pair of 300 x 300 pixels of 1 m, changed in two far corners, much and little."""
    before = np.full((300, 300, 3), 30, np.uint8)
    after = before.copy()
    after[5:35, 5:35] = 200
    after[285:295, 285:295] = 120
    return write(tmp_path / "b.tif", before, 1.0), write(tmp_path / "a.tif", after, 1.0)


def test_one_window_that_finds_is_enough_and_the_most_change_speaks(
    model: Path, large: tuple[Path, Path], scripted: Script
) -> None:
    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        _, probability = difference(wish, before, after)
        if probability is None:
            return NO_HOUSES, None
        why = "Here is much." if (after == 200).any() else "Here is little."
        return f"{why} {HOUSES}", probability

    scripted(script)
    result = ask(*large, "new things", model=model, explain=True)
    assert result.found
    assert result.answer == "Here is much. It's buildings that appeared."
    assert result.mask.sum() == 900 + 100
    assert result.n_polygons == 2
    assert result.warnings == ()


def corners(grey: Picture) -> tuple[bool, bool]:
    """Whether a window of `large` holds what changed much, and what changed little."""
    return bool((grey == 200).any()), bool((grey == 120).any())


@pytest.mark.parametrize(("wish", "n_pixels"), [("new things", 900), ("new roads", 100)])
def test_only_windows_that_understood_the_same_make_the_mask(
    model: Path, large: tuple[Path, Path], scripted: Script, wish: str, n_pixels: int
) -> None:
    """What most pointing windows share counts; of as many, what has the most change."""

    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        much, little = corners(after)
        if much:
            return HOUSES, difference("", before, after)[1]
        if little:
            return ROADS, difference("", before, after)[1]
        if "roads" in wish:  # points too, at what is not probable
            return ROADS, np.zeros(before.shape[1:], np.float32)
        return NO_HOUSES, None

    scripted(script)
    result = ask(*large, wish, model=model)
    n_windows = len(open_session(*large, model=model).pair.plan.corners)
    assert result.found
    assert result.mask.sum() == n_pixels
    assert result.target == (["building"] if n_pixels == 900 else ["road"])
    (warning,) = result.warnings
    other = "roads" if n_pixels == 900 else "buildings"
    assert warning == (
        f"in 1 of {n_windows} windows the wish was understood otherwise: "
        f"as {other} that appeared in 1; these are left out"
    )


def test_a_misreading_window_does_not_overrule_all_others(
    model: Path, large: tuple[Path, Path], scripted: Script
) -> None:
    """All windows but one read houses; that one, where most changed, reads roads."""

    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        much, little = corners(after)
        if much:
            return ROADS, difference("", before, after)[1]
        if little and "seen" in wish:
            return HOUSES, difference("", before, after)[1]
        return NO_HOUSES, None

    scripted(script)
    seen, unseen = ask_many(*large, ["seen houses", "new houses"], model=model)
    assert seen.found and seen.target == ["building"] and seen.mask.sum() == 100
    assert not unseen.found and unseen.target == ["building"] and not unseen.mask.any()
    for result in (seen, unseen):
        assert "as roads that appeared in 1; these are left out" in result.warnings[0]
    # Where that window alone has looked nothing is known, and it is not said to be unchanged.
    unknown = np.isnan(seen.probability) & seen.pixels.valid
    assert unknown.any() and not unknown.all()
    assert not seen.mask[unknown].any()


def test_a_window_that_understood_nothing_is_told_too(
    model: Path, large: tuple[Path, Path], scripted: Script
) -> None:
    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        much, little = corners(after)
        if much:
            return HOUSES, difference("", before, after)[1]
        return (OFF_SUBJECT if little else NO_HOUSES), None

    scripted(script)
    (warning,) = ask(*large, "new things", model=model).warnings
    assert "as something that is not stated in 1" in warning


def test_what_was_forced_stays_out_where_a_window_points_by_itself(
    model: Path, large: tuple[Path, Path], scripted: Script
) -> None:
    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        much, _ = corners(after)
        return (HOUSES, difference("", before, after)[1]) if much else (NO_HOUSES, None)

    scripted(script)
    result = ask(*large, "new houses", model=model, force_target=True)
    assert result.found and not result.forced
    assert result.mask.sum() == 900
    assert result.warnings == ()
    scripted(lambda *window: (NO_HOUSES, None))
    result = ask(*large, "new houses", model=model, force_target=True)
    assert result.forced and result.mask.all()


def test_the_larger_windows_are_the_fewer_masks_are_drawn_at_once() -> None:
    def n(size: int, gsd_m: float) -> int:
        return ask_answer._n_rows(plan_windows(size, size, gsd_m, SightConfig()))

    assert n(256, 1.0) == 32
    assert n(8192, 0.075) == 1
    assert n(2000, 0.1) == 4


def test_masks_are_drawn_a_few_at_a_time(
    model: Path, large: tuple[Path, Path], scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = scripted(difference)
    together = ask_many(*large, ["new houses", "new roads"], model=model)
    assert max(calls) > 1
    calls.clear()
    monkeypatch.setattr(ask_answer, "_DRAWN", 1)
    alone = ask_many(*large, ["new houses", "new roads"], model=model)
    assert set(calls) == {1}
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.probability, other.probability)


def test_many_wishes_about_a_huge_pair_are_answered_in_turns(
    model: Path, large: tuple[Path, Path], scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = plan_windows(8192, 8192, 0.5, SightConfig())
    assert 4 * ask_answer.n_at_once(huge) * huge.height * huge.width * len(huge.corners) <= 2**31
    assert ask_answer.n_at_once(plan_windows(512, 512, 0.5, SightConfig())) > 1000
    scripted(difference)
    wishes = ["new houses", "felled trees", "new roads"]
    together = ask_many(*large, wishes, model=model)
    monkeypatch.setattr(ask_answer, "_GATHERED", 1)
    sizes: list[int] = []
    answer = asking.answer_wishes

    def counted(model: Any, pair: Any, seen: Any, some: Any, **options: Any) -> Any:
        sizes.append(len(some))
        return answer(model, pair, seen, some, **options)

    monkeypatch.setattr(asking, "answer_wishes", counted)
    in_turns = ask_many(*large, wishes, model=model)
    assert sizes == [1, 1, 1]
    for one, other in zip(together, in_turns, strict=True):
        assert one.answer == other.answer and one.wish == other.wish
        np.testing.assert_array_equal(one.probability, other.probability)


def test_maps_of_a_wish_are_released_before_the_next_is_put_together(
    model: Path, large: tuple[Path, Path], scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only windows with something in them hold a map, and only until their wish is done."""
    alive: list[weakref.ref[Any]] = []
    n_alive: list[int] = []
    said, join = ask_answer._said, ask_answer.Blend.join

    def remembered(*arguments: Any) -> Any:
        one = said(*arguments)
        if one.probability is not None:
            alive.append(weakref.ref(one.probability))
        return one

    def counted(self: Any, maps: Any) -> Any:
        n_alive.append(sum(ref() is not None for ref in alive))
        return join(self, maps)

    monkeypatch.setattr(ask_answer, "_said", remembered)
    monkeypatch.setattr(ask_answer.Blend, "join", counted)
    scripted(difference)
    ask_many(*large, ["new houses", "felled trees", "new roads"], model=model)
    assert n_alive == [4, 2, 2]


@pytest.mark.parametrize("wish", ["new \udcff houses", "new\0 houses"])
def test_a_wish_that_is_no_text_is_kept_as_text(
    model: Path, files: tuple[Path, Path], scripted: Script, wish: str
) -> None:
    scripted(difference)
    result = ask(*files, wish, model=model)
    assert result.wish == result.polygons[0].wish == storable(wish) != wish
    result.wish.encode()


def test_where_no_window_finds_the_most_frequent_answer_speaks(
    model: Path, large: tuple[Path, Path], scripted: Script
) -> None:
    def script(wish: str, before: Picture, after: Picture) -> tuple[str, Any]:
        return ("There are no roads that appeared." if (after == 200).any() else NO_TREES), None

    scripted(script)
    result = ask(*large, "felled trees", model=model)
    assert not result.found
    assert result.answer == NO_TREES


def test_windows_change_nothing_that_one_look_would_see(
    tiny: AskModel, model: Path, large: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many wishes and windows are answered at once changes no answer of the real model."""
    session = open_session(*large, model=model)
    wishes = ["new houses", "a much longer wish about flooded fields", "trees"]
    together = ask_many(*large, wishes, model=model, force_target=True)
    monkeypatch.setattr(ask_answer, "_ROWS", 1)
    for wish, result in zip(wishes, together, strict=True):
        alone = session.ask(wish, force_target=True)
        assert alone.said == result.said
        assert alone.found == result.found
        np.testing.assert_allclose(alone.probability, result.probability, atol=1e-4)


# --- many wishes -----------------------------------------------------------------------------


def test_many_wishes_are_answered_in_order_and_together(
    model: Path, files: tuple[Path, Path], scripted: Script
) -> None:
    calls = scripted(difference)
    wishes = ["new houses", "felled trees", "new roofs"]
    results = ask_many(*files, wishes, model=model)
    assert [r.wish for r in results] == wishes
    assert [r.found for r in results] == [True, False, True]
    assert calls == [3]


@pytest.mark.parametrize("wishes", [[], (), "new houses"])
def test_no_list_of_wishes_is_an_error(model: Path, wishes: Any) -> None:
    with pytest.raises(UsageError, match="wishes"):
        ask_many("no.tif", "no.tif", wishes, model=model)


@pytest.mark.parametrize("wish", ["", "\x00\x1b\x07", "x" * 400])
def test_wishes_are_checked_before_anything_is_read(model: Path, wish: str) -> None:
    with pytest.raises(UsageError, match="the wish"):
        ask_many("no.tif", "no.tif", ["new houses", wish], model=model)


def test_a_session_sees_once_and_answers_often(
    model: Path, files: tuple[Path, Path], scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(difference)
    n_seen: list[int] = []

    def counted(*arguments: Any) -> Any:
        n_seen.append(1)
        return see_windows(*arguments)

    monkeypatch.setattr(asking, "see_windows", counted)
    session = open_session(*files, model=model)
    one = [session.ask(wish) for wish in ("new houses", "felled trees", "new houses")]
    assert len(n_seen) == 1
    assert [r.found for r in one] == [True, False, True]
    (again,) = ask_many(*files, ["new houses"], model=model)
    assert again.to_json() == one[0].to_json()
    monkeypatch.setattr(asking, "_KEPT_WINDOWS", 0)  # too many to keep: seen for every wish
    n_seen.clear()
    session = open_session(*files, model=model)
    assert session.seen is None
    assert session.ask("new houses").to_json() == one[0].to_json()
    assert len(n_seen) == 1


# --- around it -------------------------------------------------------------------------------


def test_unreadable_and_mismatched_pairs_say_so(
    model: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nowhere"):
        ask(files[0], tmp_path / "nowhere.tif", "new houses", model=model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = write(tmp_path / "other.tif", draw()[1][:50])
    with pytest.raises(PairMismatchError):
        ask(files[0], other, "new houses", model=model)
    assert ask(files[0], other, "new houses", model=model, align=True).mask.shape == (100, 160)


def test_how_the_pair_is_seen_is_noted(
    model: Path, files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="whatchanged"):
        ask(*files, "new houses", model=model)
    assert "160 x 100 pixels, seen whole" in caplog.text


def test_the_package_hands_out_asking() -> None:
    assert whatchanged.ask is ask
    assert whatchanged.ask_many is ask_many
    assert whatchanged.load_ask_model is load_ask_model
    assert whatchanged.WishResult is asking.WishResult


def test_a_real_pair_gets_an_answer_of_its_size(model: Path, shared_data: Path) -> None:
    folder = shared_data / "captioned" / "images" / "val"
    name = sorted(path.name for path in (folder / "A").iterdir())[0]
    result = ask(folder / "A" / name, folder / "B" / name, "new houses", model=model)
    with Image.open(folder / "A" / name) as picture:
        assert result.mask.shape == picture.size[::-1]
    assert ((result.probability >= 0) & (result.probability <= 1)).all()
