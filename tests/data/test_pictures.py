from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from whatchanged.data import pictures
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import (
    LAND_COVER,
    UNKNOWN,
    PictureStore,
    picture_size,
    read_classes,
    read_land_cover,
    read_mask,
    read_picture,
    resize_classes,
    resize_picture,
)
from whatchanged.data.samples import CaptionSample, LabelColours
from whatchanged.data.transitions import CLASS_NUMBERS
from whatchanged.errors import DatasetError

Array = NDArray[np.uint8]


def save(path: Path, array: Array, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(seed: int, side: int = 32, bands: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (side, side, bands), dtype=np.uint8)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., CaptionSample]:
    def sample(index: int, side: int = 32, **more: Path | None) -> CaptionSample:
        layers: dict[str, Path | None] = {
            "mask": None,
            "classes_before": None,
            "classes_after": None,
        }
        return CaptionSample(
            name=str(index),
            split="train",
            before=save(tmp_path / f"before/{index}.png", noise(index, side)),
            after=save(tmp_path / f"after/{index}.png", noise(index + 1000, side)),
            captions=(("a", "road"),),
            changed=True,
            gsd_m=None,
            source="test",
            **(layers | more),
        )

    return sample


def test_pictures_come_in_order_channels_first(make: Callable[..., CaptionSample]) -> None:
    store = PictureStore.open([make(i) for i in range(7)], 32)
    assert len(store) == 7
    assert store.size == 32
    assert store.before.shape == (7, 3, 32, 32)
    assert store.before.dtype == np.uint8
    for index in range(7):
        assert np.array_equal(store.before[index], noise(index).transpose(2, 0, 1))
        assert np.array_equal(store.after[index], noise(index + 1000).transpose(2, 0, 1))
    assert store.mask is store.classes_before is store.classes_after is None


def test_pictures_are_reduced_with_antialiasing(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # every second column: plain subsampling would give black or white
    reduced = resize_picture(stripes, 32)
    assert reduced.shape == (32, 32, 3)
    assert np.all(np.abs(reduced[:, 4:-4].astype(int) - 128) < 16)
    assert resize_picture(stripes, 64) is stripes


@given(st.integers(0, 255), st.integers(3, 40), st.integers(2, 40))
def test_resizing_keeps_a_flat_picture(value: int, side: int, size: int) -> None:
    assert np.all(resize_picture(np.full((side, side, 3), value, np.uint8), size) == value)


def test_classes_are_reduced_by_majority() -> None:
    classes = np.zeros((4, 4), np.uint8)
    classes[0, :2] = 5
    classes[1, 0] = 5  # three of four
    classes[:2, 3] = 7  # two of four against "unchanged": the change stays
    classes[2, 0] = 4  # one of four
    classes[2:, 2:] = [[5, 5], [3, 3]]  # a tie of two classes: the smaller
    assert resize_classes(classes, 2).tolist() == [[5, 7], [0, 3]]


@given(
    st.integers(4, 24).flatmap(lambda side: hnp.arrays(np.uint8, (side, side))),
    st.integers(1, 30),
)
@settings(max_examples=20)
def test_resized_classes_are_classes_of_the_map(classes: Array, size: int) -> None:
    resized = resize_classes(classes, size)
    assert resized.shape == (size, size)
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(classes))


def test_enlarging_classes_repeats_them() -> None:
    classes = np.array([[1, 2], [3, 255]], np.uint8)
    assert np.array_equal(resize_classes(classes, 8), np.kron(classes, np.ones((4, 4), np.uint8)))


def test_masks_and_classes_with_gaps(tmp_path: Path, make: Callable[..., CaptionSample]) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    classes = np.full((32, 32), 6, np.uint8)
    with_layers = make(
        1,
        mask=save(tmp_path / "mask.png", mask),
        classes_before=save(tmp_path / "before.png", classes),
        classes_after=save(tmp_path / "after.png", classes + 1),
    )
    store = PictureStore.open([make(0), with_layers], 16)
    assert store.mask is not None
    assert store.classes_before is not None
    assert store.classes_after is not None
    assert np.all(store.mask[0] == UNKNOWN)
    assert np.all(store.mask[1, :, :8] == 1)
    assert np.all(store.mask[1, :, 8:] == 0)
    assert np.all(store.classes_before[0] == UNKNOWN)
    assert np.all(store.classes_before[1] == 6)
    assert np.all(store.classes_after[1] == 7)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "tif"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    smooth = np.dstack([np.add.outer(np.arange(40), np.arange(40)) * k for k in (1, 2, 3)])
    array = smooth.astype(np.uint8)
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95}}.get(suffix, {})
    read = read_picture(save(tmp_path / f"a.{suffix}", array, **options))
    assert read.shape == (40, 40, 3)
    assert np.abs(read.astype(int) - array).mean() < (6 if suffix == "jpg" else 1e-9)


def test_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(read_picture(save(tmp_path / "g.png", grey)), np.dstack([grey] * 3))
    rgba = np.dstack([noise(1, 8), np.zeros((8, 8), np.uint8)])
    assert np.array_equal(read_picture(save(tmp_path / "a.png", rgba)), rgba[..., :3])
    palette = Image.fromarray(noise(2, 8)).quantize(4)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_picture(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))
    assert np.array_equal(read_classes(tmp_path / "p.png"), np.asarray(palette))


def test_black_and_white_masks_are_zero_and_one(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "m.png")
    assert np.array_equal(read_classes(tmp_path / "m.png"), np.eye(8, dtype=np.uint8))


def test_classes_stored_as_grey_pictures_are_values(tmp_path: Path) -> None:
    values = np.array([[0, 128], [255, 0]], np.uint8)
    for bands in (3, 4):
        path = save(tmp_path / f"{bands}.png", np.dstack([values] * bands))
        assert np.array_equal(read_classes(path), values)


TABLE = LabelColours((((255, 255, 255), 0), ((0, 0, 255), 1), ((128, 128, 128), 2)))


def test_colours_become_classes_and_masks(tmp_path: Path) -> None:
    """A grey label is decoded by its colours too: white may mean unchanged."""
    colours = np.array([[(255, 255, 255), (0, 0, 255)], [(128, 128, 128)] * 2], np.uint8)
    path = save(tmp_path / "label.png", colours)
    assert read_classes(path, TABLE).tolist() == [[0, 1], [2, 2]]
    assert read_mask(path, TABLE).tolist() == [[0, 1], [1, 1]]
    Image.fromarray(colours).quantize(3).save(tmp_path / "palette.png")
    assert read_classes(tmp_path / "palette.png", TABLE).tolist() == [[0, 1], [2, 2]]
    colours[0, 0] = (254, 255, 255)
    with pytest.raises(DatasetError, match=r"1 pixels of colours .* \(254, 255, 255\)"):
        read_classes(save(tmp_path / "odd.png", colours), TABLE)
    lenient = dataclasses.replace(TABLE, others=UNKNOWN)
    assert read_classes(tmp_path / "odd.png", lenient).tolist() == [[UNKNOWN, 1], [2, 2]]
    assert read_mask(tmp_path / "odd.png", lenient).tolist() == [[UNKNOWN, 1], [1, 1]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_masks_of_any_mode_are_zero_where_black(tmp_path: Path, mode: str) -> None:
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1:, 2:] = (255, 0, 0) if mode == "RGB" else 255
    Image.fromarray(colours).convert(mode).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), colours.any(axis=2))


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="colours of a photograph"):
        read_mask(save(tmp_path / "photo.png", noise(3)))


def test_label_colours_reach_the_store_and_its_cache(
    tmp_path: Path, make: Callable[..., CaptionSample]
) -> None:
    label = save(tmp_path / "label.png", np.full((32, 32, 3), 255, np.uint8))
    plain = make(0, mask=label)
    coloured = dataclasses.replace(plain, classes_before=label, label_colours=TABLE)
    for sample, changed in ((plain, 1), (coloured, 0)):
        store = PictureStore.open([sample], 8, cache=tmp_path / "cache")
        assert store.mask is not None and (store.mask == changed).all()
    assert store.classes_before is not None and not store.classes_before.any()


def test_land_cover_ends_at_7(tmp_path: Path, make: Callable[..., CaptionSample]) -> None:
    assert max(CLASS_NUMBERS.values()) == LAND_COVER
    values = np.array([[0, LAND_COVER], [1, UNKNOWN]], np.uint8).repeat(16, 0).repeat(16, 1)
    path = save(tmp_path / "sem.png", values)
    assert np.array_equal(read_land_cover(path), values)
    for odd in (LAND_COVER + 1, 128, 254):
        values[0, :3] = odd
        save(path, values)
        with pytest.raises(DatasetError, match=rf"sem\.png has the value {odd} at 3 pixels"):
            read_land_cover(path)
        for cache in (None, tmp_path / "cache"):
            with pytest.raises(DatasetError, match=rf"sem\.png has the value {odd}"):
                PictureStore.open([make(0, classes_after=path)], 8, cache=cache)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", noise(0, 64)).read_bytes()
    (tmp_path / "short.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(noise(0)).save(tmp_path / "gif.png", "GIF")
    save(tmp_path / "deep.png", np.zeros((8, 8), np.uint16))
    for name in ("short", "text", "empty", "folder", "gif", "deep", "missing"):
        path = tmp_path / f"{name}.png"
        with pytest.raises(DatasetError, match=str(path)):
            read_picture(path)
    with pytest.raises(DatasetError, match="several bands"):
        read_classes(tmp_path / "good.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "big.png", noise(0, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DatasetError, match="decompression bomb"):
        read_picture(path)


def test_sizes_that_do_not_fit_are_named(
    tmp_path: Path, make: Callable[..., CaptionSample]
) -> None:
    oblong = save(tmp_path / "oblong.png", noise(0)[:20])
    small = save(tmp_path / "small.png", noise(0, 16))
    mask = save(tmp_path / "mask.png", noise(0, 16)[..., 0])
    for change, words in (
        ({"before": oblong}, r"oblong\.png is 32 x 20 pixels, not square"),
        ({"after": small}, r"small\.png is 16 x 16 pixels, its before picture 32 x 32"),
        ({"mask": mask}, r"mask\.png is 16 x 16 pixels"),
    ):
        with pytest.raises(DatasetError, match=words):
            PictureStore.open([make(0), dataclasses.replace(make(1), **change), make(2)], 32)


def test_the_cache_gives_the_same_pictures_without_reading(
    tmp_path: Path, make: Callable[..., CaptionSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = save(tmp_path / "mask.png", noise(3)[..., 0] // 128)
    samples = [make(0), make(1, mask=mask)]
    cache = tmp_path / "cache"
    plain = PictureStore.open(samples, 16)
    first = PictureStore.open(samples, 16, cache=cache)
    monkeypatch.setattr(pictures, "_read", lambda *_: pytest.fail("read a picture again"))
    second = PictureStore.open(samples, 16, cache=cache)
    for store in (first, second):
        assert np.array_equal(store.before, plain.before)
        assert np.array_equal(store.after, plain.after)
        assert store.mask is not None
        assert plain.mask is not None
        assert np.array_equal(store.mask, plain.mask)
        assert store.classes_before is None
        assert not store.before.flags.writeable
    assert [p.name for p in cache.iterdir() if p.name.endswith(".part")] == []


def test_the_cache_notices_what_changed(tmp_path: Path, make: Callable[..., CaptionSample]) -> None:
    cache = tmp_path / "cache"
    samples = [make(0), make(1)]
    PictureStore.open(samples, 16, cache=cache)
    save(samples[1].after, noise(77))
    os.utime(samples[1].after, ns=(1, 1))
    changed = PictureStore.open(samples, 16, cache=cache)
    assert np.array_equal(changed.after[1], resize_picture(noise(77), 16).transpose(2, 0, 1))
    swapped = PictureStore.open(samples[::-1], 16, cache=cache)
    assert np.array_equal(swapped.before, changed.before[::-1])
    assert PictureStore.open(samples, 32, cache=cache).size == 32
    assert len(list(cache.iterdir())) == 4


def test_a_failed_build_leaves_no_cache(tmp_path: Path, make: Callable[..., CaptionSample]) -> None:
    broken = make(1)
    broken.after.write_text("not a picture")
    with pytest.raises(DatasetError, match=str(broken.after)):
        PictureStore.open([make(0), broken], 16, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cache_is_named(tmp_path: Path, make: Callable[..., CaptionSample]) -> None:
    samples = [make(0)]
    PictureStore.open(samples, 16, cache=tmp_path / "cache")
    folder = next((tmp_path / "cache").iterdir())
    whole = (folder / "before.npy").read_bytes()
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((1, 3, 8, 8), np.uint8))
    for damage in (whole[:-10], b"", other.read_bytes()):
        (folder / "before.npy").write_bytes(damage)
        with pytest.raises(DatasetError, match="is damaged") as caught:
            PictureStore.open(samples, 16, cache=tmp_path / "cache")
        assert str(folder) in caught.value.hint


def test_a_missing_file_is_named_with_a_cache(
    tmp_path: Path, make: Callable[..., CaptionSample]
) -> None:
    sample = make(0)
    sample.before.unlink()
    with pytest.raises(DatasetError, match=str(sample.before)):
        PictureStore.open([sample], 16, cache=tmp_path / "cache")


def test_real_pairs_of_two_sizes(shared_data: Path) -> None:
    samples = load_levir_cc(shared_data / "captioned", "val").samples
    chosen = [samples[0], samples[-1]]  # 512 and 256 pixels
    store = PictureStore.open(chosen, 256)
    assert store.before.shape == (2, 3, 256, 256)
    assert store.before.std() > 10
    assert store.mask is not None
    assert set(np.unique(store.mask)) <= {0, 1, UNKNOWN}


def test_the_size_of_a_picture_is_in_its_head(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (5, 3)).save(path)
    assert picture_size(path) == (5, 3)
    path.write_bytes(b"no picture")
    for broken in (path, tmp_path / "missing.png"):
        with pytest.raises(DatasetError, match=broken.name):
            picture_size(broken)
