"""The scene generator: deterministic, true to its own mask and words, readable by others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whatchanged.data.synthetic import (
    CHANGE_KINDS,
    SyntheticScene,
    draw_scene,
    encode_geotiff,
    write_scenes,
)
from whatchanged.data.tokens import UNCHANGED_SENTENCES
from whatchanged.errors import DatasetError, UsageError

WATER, BARE, LOW, TREE, BUILDING, PLAYGROUND, ROAD = range(1, 8)

# Cover that each kind of change must bring, and cover that it takes away.
BRINGS = {
    "houses": BUILDING,
    "street": BUILDING,
    "building": BUILDING,
    "sheds": BUILDING,
    "road": ROAD,
    "paving": ROAD,
    "pond": WATER,
    "playground": PLAYGROUND,
    "planting": TREE,
    "greening": LOW,
    "bareland": BARE,
}
TAKES = {
    "demolition": BUILDING,
    "clearing": TREE,
    "pond_filled": WATER,
    "greening": BARE,
    "paving": BARE,
}


def small(seed: int, **options: object) -> SyntheticScene:
    """A scene 128 m wide at 1 m, four times faster than the usual size."""
    return draw_scene(seed, **({"size": 128, "gsd_m": 1.0} | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def of_each_kind() -> dict[str, SyntheticScene]:
    return {kind: small(40 + n, kinds=[kind]) for n, kind in enumerate(CHANGE_KINDS)}


def same(one: SyntheticScene, other: SyntheticScene) -> bool:
    names = ("before", "after", "mask", "classes_before", "classes_after")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
        and one.captions == other.captions
        and one.kinds == other.kinds
        and one.grid == other.grid
    )


@pytest.mark.parametrize("changed", [None, True, False])
def test_same_arguments_same_scene(changed: bool | None) -> None:
    assert same(small(3, changed=changed), small(3, changed=changed))


def test_another_seed_is_another_scene() -> None:
    assert not same(small(3, changed=True), small(4, changed=True))


def test_shapes_and_types() -> None:
    scene = draw_scene(1, size=96, gsd_m=0.8, changed=True)
    for picture in (scene.before, scene.after):
        assert picture.shape == (96, 96, 3)
        assert picture.dtype == np.uint8
    for plane, dtype in (
        (scene.mask, np.bool_),
        (scene.classes_before, np.uint8),
        (scene.classes_after, np.uint8),
    ):
        assert plane.shape == (96, 96)
        assert plane.dtype == dtype
    assert scene.grid.shape == (96, 96)
    assert scene.grid.gsd_m == pytest.approx(0.8)
    assert len(scene.captions) == 5


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_mask_is_where_the_classes_differ(seed: int) -> None:
    scene = draw_scene(seed, size=48, gsd_m=2.0)
    assert np.array_equal(scene.mask, scene.classes_before != scene.classes_after)
    for classes in (scene.classes_before, scene.classes_after):
        assert (classes[~scene.mask] == 0).all()
        assert set(np.unique(classes[scene.mask])) <= set(range(1, 8))
    assert scene.changed == bool(scene.mask.any()) == bool(scene.kinds)


def test_every_kind_brings_and_takes_what_it_says(
    of_each_kind: dict[str, SyntheticScene],
) -> None:
    assert set(BRINGS) | set(TAKES) == set(CHANGE_KINDS)
    for kind, scene in of_each_kind.items():
        assert scene.kinds == (kind,)
        assert scene.changed
        assert scene.mask.mean() >= 0.003
        if kind in BRINGS:
            assert (scene.classes_after == BRINGS[kind]).sum() > 10, kind
        if kind in TAKES:
            assert (scene.classes_before == TAKES[kind]).sum() > 10, kind


def unexplained(scene: SyntheticScene) -> np.ndarray:
    """What a change of light per band (a line fitted off the mask) leaves unexplained, [H, W]."""
    rest, error = ~scene.mask, np.zeros(scene.mask.shape)
    for band in range(3):
        before, after = (p[..., band].astype(float) for p in (scene.before, scene.after))
        error += np.abs(np.polyval(np.polyfit(before[rest], after[rest], 1), before) - after)
    return error


def test_changed_pixels_look_changed(of_each_kind: dict[str, SyntheticScene]) -> None:
    """The change is in the pictures, not only in the mask: it stands out of the nuisance."""
    for kind, scene in of_each_kind.items():
        error = unexplained(scene)
        assert error[scene.mask].mean() > 1.2 * error[~scene.mask].mean(), kind


def test_unchanged_scenes_differ_in_light_alone() -> None:
    for seed in range(4):
        scene = small(seed, changed=False)
        assert not scene.changed
        assert scene.kinds == ()
        assert not scene.mask.any()
        assert scene.captions == UNCHANGED_SENTENCES
        difference = np.abs(scene.before.astype(int) - scene.after.astype(int))
        assert difference.mean() > 2.0
        flat = [p.astype(float).mean(axis=2).ravel() for p in (scene.before, scene.after)]
        assert np.corrcoef(*flat)[0, 1] > 0.3  # still the same place


def test_changed_none_gives_both() -> None:
    found = {draw_scene(seed, size=32, gsd_m=2.0).changed for seed in range(8)}
    assert found == {True, False}


def test_two_changes_in_one_scene() -> None:
    scene = small(5, kinds=["pond", "building"])
    assert scene.kinds == ("pond", "building")
    assert (scene.classes_after == WATER).any()
    assert (scene.classes_after == BUILDING).any()
    for caption in scene.captions:
        assert re.search("pond", caption)
        assert re.search("building|parking lot", caption)


SIDES = {"left": (1, False), "right": (1, True), "top": (0, False), "bottom": (0, True)}


def false_position(caption: str, mask: np.ndarray) -> str | None:
    """Name the first position word of a caption that the mask contradicts."""
    centre = [float(index.mean() + 0.5) / mask.shape[0] for index in np.nonzero(mask)]
    for word, (axis, high) in SIDES.items():
        if word in caption.split() and (centre[axis] > 0.5) != high:
            return word
    if "middle" in caption.split() and not all(0.25 < at < 0.75 for at in centre):
        return "middle"
    return None


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(CHANGE_KINDS))
def test_positions_in_captions_are_true(seed: int, kind: str) -> None:
    scene = draw_scene(seed, size=48, gsd_m=2.0, kinds=[kind])
    for caption in scene.captions:
        assert false_position(caption, scene.mask) is None, caption


def test_captions_are_clean_sentences(of_each_kind: dict[str, SyntheticScene]) -> None:
    for scene in of_each_kind.values():
        for caption in scene.captions:
            assert re.fullmatch(r"[a-z]+( [a-z]+)+", caption), caption
        assert len(set(scene.captions)) >= 4


def test_captions_use_words_of_real_captions(
    of_each_kind: dict[str, SyntheticScene], shared_data: Path
) -> None:
    content = json.loads((shared_data / "captioned" / "captions.json").read_text("utf-8"))
    known = {
        word
        for image in content["images"]
        for sentence in image["sentences"]
        for word in sentence["tokens"]
    }
    ours = {w for s in of_each_kind.values() for caption in s.captions for w in caption.split()}
    assert ours <= known


def test_georeference_survives_a_file(tmp_path: Path) -> None:
    scene = small(8, changed=True)
    path = tmp_path / "scene.tif"
    path.write_bytes(encode_geotiff(scene.after, scene.grid))
    with rasterio.open(path) as source:
        assert source.transform == scene.grid.transform
        assert source.crs.to_epsg() == 32650
        assert source.res == (1.0, 1.0)
        assert np.array_equal(np.moveaxis(source.read(), 0, 2), scene.after)


def test_different_seeds_lie_at_different_places() -> None:
    places = {draw_scene(seed, size=32, gsd_m=4.0, changed=False).grid.bounds for seed in range(5)}
    assert len(places) == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": 16}, "cannot be drawn"),
        ({"size": 4096}, "cannot be drawn"),
        ({"gsd_m": 10.0}, "cannot be drawn"),
        ({"gsd_m": float("nan")}, "cannot be drawn"),
        ({"size": 32, "gsd_m": 0.1}, "cannot be drawn"),
        ({"kinds": ["earthquake"]}, "earthquake"),
        ({"kinds": ["pond"], "changed": False}, "without changes"),
        ({"kinds": [], "changed": True}, "empty list"),
        ({"size": 48, "gsd_m": 0.5, "kinds": ["building"]}, "no room"),
    ],
)
def test_impossible_scenes_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        draw_scene(0, **options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="negative"):
        draw_scene(-1)


def test_tiny_scenes_can_be_drawn() -> None:
    for changed in (True, False):
        scene = draw_scene(2, size=64, changed=changed)
        assert scene.changed is changed


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "generated"
    write_scenes(out, n=6, size=64, seed=100)
    return out


def test_data_set_has_the_layout_of_levir_cc(data_set: Path) -> None:
    content = json.loads((data_set / "captions.json").read_text(encoding="utf-8"))
    images = content["images"]
    assert [image["split"] for image in images] == ["train"] * 4 + ["val", "test"]
    assert [image["imgid"] for image in images] == list(range(6))
    sentids = [s["sentid"] for image in images for s in image["sentences"]]
    assert sentids == list(range(30))
    for number, image in enumerate(images):
        assert image["filepath"] == image["split"]
        assert image["changeflag"] in (0, 1)
        assert image["sentids"] == [s["sentid"] for s in image["sentences"]]
        scene = draw_scene(100 + number, size=64)
        assert image["changeflag"] == int(scene.changed)
        for sentence, caption in zip(image["sentences"], scene.captions, strict=True):
            assert sentence["raw"] == f" {caption} ."
            assert sentence["tokens"] == caption.split()
            assert sentence["imgid"] == number


def test_pictures_and_masks_are_those_of_the_scenes(data_set: Path) -> None:
    content = json.loads((data_set / "captions.json").read_text(encoding="utf-8"))
    for number, image in enumerate(content["images"]):
        split, name = image["split"], Path(image["filename"]).stem
        scene = draw_scene(100 + number, size=64)
        for folder, picture in (("A", scene.before), ("B", scene.after)):
            with rasterio.open(data_set / "images" / split / folder / f"{name}.tif") as source:
                assert np.array_equal(np.moveaxis(source.read(), 0, 2), picture)
                assert source.transform == scene.grid.transform
        label = np.asarray(Image.open(data_set / "label" / split / f"{name}.png"))
        assert np.array_equal(label, scene.mask * 255)
        for folder, classes in (("A", scene.classes_before), ("B", scene.classes_after)):
            stored = Image.open(data_set / "sem" / split / folder / f"{name}.png")
            assert np.array_equal(np.asarray(stored), classes)


def test_the_adapter_reads_it(data_set: Path) -> None:
    from whatchanged.data.levir_cc import load_levir_cc

    loaded = load_levir_cc(data_set)
    assert len(loaded.samples) == 6
    assert not loaded.broken


def test_all_files_are_returned_and_no_part_is_left(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    out = tmp_path / "set"
    written = write_scenes(out, n=2, size=64, progress=lambda k, n: done.append((k, n)))
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    assert written[-1] == out / "captions.json"
    assert done == [(1, 2), (2, 2)]


def test_a_stopped_run_leaves_no_listing_and_can_be_repeated(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "set", n=3, size=64, progress=stop)
    assert not (tmp_path / "set" / "captions.json").exists()
    write_scenes(tmp_path / "set", n=3, size=64)
    write_scenes(tmp_path / "other", n=3, size=64)
    for path in (tmp_path / "other").rglob("*.*"):
        twin = tmp_path / "set" / path.relative_to(tmp_path / "other")
        assert path.read_bytes() == twin.read_bytes()


def test_a_data_set_is_not_overwritten(data_set: Path) -> None:
    with pytest.raises(DatasetError, match="exists already"):
        write_scenes(data_set, n=1)


def test_no_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_scenes(tmp_path / "none", n=0)
    assert not (tmp_path / "none").exists()
