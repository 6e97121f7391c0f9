"""Sizes at which a model sees a pair, and what of a pair reaches it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from whatchanged import prepare
from whatchanged.errors import InputError, WhatchangedError
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.pair import PairPixels, ScenePair, open_pair
from whatchanged.prepare import LARGEST, STRIDE, Scale, choose_scale, fit_pixels, read_reduced

sides = st.integers(1, 40_000)
gsds = st.one_of(st.none(), st.floats(0.02, 60))
trained_sides = st.sampled_from([64, 128, 224, 256, 512])


def pixels_of(
    before: NDArray[np.uint8], after: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None
) -> PairPixels:
    return PairPixels(before, after, np.ones(before.shape[:2], bool) if valid is None else valid)


def scale_of(height: int, width: int) -> Scale:
    return Scale(height, width, None, (height, width), "")


# --- choose_scale ----------------------------------------------------------------------------


@given(sides, sides, gsds, trained_sides)
def test_sides_are_multiples_of_the_stride_within_the_limits(
    height: int, width: int, gsd_m: float | None, trained: int
) -> None:
    scale = choose_scale(height, width, gsd_m, trained)
    for side in (scale.height, scale.width):
        assert side % STRIDE == 0
        assert STRIDE <= side <= LARGEST
    assert scale.source == (height, width)


@given(sides, sides, gsds, trained_sides)
def test_the_aspect_ratio_is_kept_within_rounding(
    height: int, width: int, gsd_m: float | None, trained: int
) -> None:
    """One factor explains both sides: each is the nearest multiple, or the smallest there is."""
    scale = choose_scale(height, width, gsd_m, trained)
    lowest, highest = 0.0, float("inf")
    for side, length in ((scale.height, height), (scale.width, width)):
        if side > STRIDE:
            lowest = max(lowest, (side - STRIDE / 2) / length)
        highest = min(highest, (side + STRIDE / 2) / length)
    assert lowest <= highest * (1 + 1e-9)


@given(sides, sides, st.floats(0.02, 60), trained_sides)
def test_the_ground_seen_is_the_ground_there_is(
    height: int, width: int, gsd_m: float, trained: int
) -> None:
    scale = choose_scale(height, width, gsd_m, trained)
    assert scale.gsd_m is not None
    seen = scale.gsd_m**2 * scale.height * scale.width
    assert seen == pytest.approx(gsd_m**2 * height * width, rel=1e-9)


@given(sides, sides, gsds, trained_sides)
def test_turning_the_picture_turns_the_scale(
    height: int, width: int, gsd_m: float | None, trained: int
) -> None:
    scale, turned = (
        choose_scale(height, width, gsd_m, trained),
        choose_scale(width, height, gsd_m, trained),
    )
    assert (scale.height, scale.width) == (turned.width, turned.height)
    assert bool(scale.note) == bool(turned.note)


@given(sides, sides, st.floats(0.02, 60), trained_sides)
def test_what_lies_outside_the_trained_resolutions_is_said(
    height: int, width: int, gsd_m: float, trained: int
) -> None:
    scale = choose_scale(height, width, gsd_m, trained)
    assert scale.gsd_m is not None
    if scale.gsd_m > 2.5:
        assert f"{scale.gsd_m:.2g} m a pixel" in scale.note
        assert "missed" in scale.note
    elif scale.gsd_m < 0.2:
        assert "little ground" in scale.note
    else:
        assert scale.note == ""


@pytest.mark.parametrize("trained", [64, 224, 256])
@pytest.mark.parametrize("side", [37, 256, 2000])
def test_a_square_without_known_resolution_has_the_trained_size(side: int, trained: int) -> None:
    scale = choose_scale(side, side, None, trained)
    assert (scale.height, scale.width, scale.gsd_m) == (trained, trained, None)


@pytest.mark.parametrize(
    ("side", "gsd_m", "expected"),
    [
        (256, 0.5, 256),  # LEVIR-CC as it is
        (512, 0.5, 256),  # 1 m a pixel is still fine
        (1024, 0.5, 256),  # 2 m a pixel: the coarsest that was trained on
        (1500, 0.5, 384),  # grows to keep 2 m
        (2048, 0.5, 512),
        (8000, 0.5, 512),  # no further
        (256, 10.0, 512),  # coarse pictures are enlarged no more than that
    ],
)
def test_the_input_grows_to_keep_houses_visible(side: int, gsd_m: float, expected: int) -> None:
    scale = choose_scale(side, side, gsd_m, 256)
    assert (scale.height, scale.width) == (expected, expected)


def test_a_coarse_view_says_what_it_misses() -> None:
    assert "changes smaller than about 31 m are missed" in choose_scale(8000, 8000, 0.5, 256).note
    assert "small changes are missed" in choose_scale(2000, 2000, None, 256).note
    assert choose_scale(1000, 1000, None, 256).note == ""


def test_a_scale_reads_as_a_line() -> None:
    line = choose_scale(1024, 2048, 0.5, 256).describe()
    assert line == "2048 x 1024 pixels, seen at 512 x 256, 2.00 m a pixel"
    assert choose_scale(64, 64, None, 64).describe() == "64 x 64 pixels, seen at 64 x 64"


# --- fit_pixels ------------------------------------------------------------------------------


shapes = st.tuples(st.integers(8, 40), st.integers(8, 40))


@given(shapes.flatmap(lambda s: arrays.arrays(np.uint8, (3, *s, 3))), st.data())
def test_invalid_pixels_never_count_as_change(
    drawn: NDArray[np.uint8], data: st.DataObject
) -> None:
    """Dates that agree wherever both are valid look the same to the model, whatever is beside."""
    before, other, _ = drawn
    valid = data.draw(arrays.arrays(np.bool_, before.shape[:2]))
    after = np.where(valid[..., None], before, other)
    first, second, _ = fit_pixels(pixels_of(before, after, valid), scale_of(32, 64))
    assert np.array_equal(first, second)


def test_what_is_valid_still_counts() -> None:
    before = np.full((32, 32, 3), 90, np.uint8)
    after = before.copy()
    after[4:12, 4:12] = 200
    valid = np.ones((32, 32), bool)
    valid[20:] = False
    first, second, note = fit_pixels(pixels_of(before, after, valid), scale_of(32, 32))
    assert second[0, 8, 8] == 200
    assert first[0, 8, 8] == 90
    assert np.array_equal(first[:, 20:], np.full((3, 12, 32), 127))
    assert note == ""


def test_pixels_are_not_written_to() -> None:
    before, after = np.zeros((2, 32, 32, 3), np.uint8)
    fit_pixels(pixels_of(before, after, np.zeros((32, 32), bool)), scale_of(32, 32))
    assert not before.any()
    assert not after.any()


@pytest.mark.parametrize(("rows", "note"), [(16, ""), (15, "only 47% of the pixels are valid")])
def test_little_that_is_valid_is_said(rows: int, note: str) -> None:
    valid = np.zeros((32, 32), bool)
    valid[:rows] = True
    picture = np.zeros((32, 32, 3), np.uint8)
    said = fit_pixels(pixels_of(picture, picture, valid), scale_of(32, 32))[2]
    assert said.startswith(note)
    assert bool(said) == bool(note)


def test_pictures_come_out_as_the_model_takes_them() -> None:
    before = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    first, second, _ = fit_pixels(pixels_of(before, before[::-1].copy()), scale_of(32, 64))
    assert first.shape == second.shape == (3, 32, 64)
    assert first.dtype == np.uint8
    assert first.flags["C_CONTIGUOUS"]
    expected = Image.fromarray(before).resize((64, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(first.transpose(1, 2, 0), np.asarray(expected))


# --- read_reduced ----------------------------------------------------------------------------


class Recorded:
    """An open pair that keeps the windows it was read by."""

    def __init__(self, pair: ScenePair) -> None:
        self.pair, self.grid = pair, pair.grid
        self.windows: list[Window | None] = []

    def read(self, window: Window | None = None) -> PairPixels:
        self.windows.append(window)
        return self.pair.read(window)


def write_tiff(path: Path, picture: NDArray[Any], **profile: Any) -> Path:
    height, width, count = picture.shape
    transform = Affine(0.5, 0, 450_000, 0, -0.5, 4_300_000)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype=picture.dtype,
        crs="EPSG:32650",
        transform=transform,
        **profile,
    ) as target:
        target.write(np.moveaxis(picture, 2, 0))
    return path


@pytest.fixture
def gappy(tmp_path: Path) -> tuple[Path, Path]:
    """A pair of 90 x 70 pixels whose later date has nodata in a third of it."""
    rng = np.random.default_rng(3)
    before = rng.integers(1, 256, (90, 70, 3), np.uint8)
    after = rng.integers(1, 256, (90, 70, 3), np.uint8)
    after[rng.random((90, 70)) < 0.3] = 0
    after[40:60, 10:30] = 0
    return (
        write_tiff(tmp_path / "before.tif", before),
        write_tiff(tmp_path / "after.tif", after, nodata=0),
    )


def test_a_reduced_pixel_is_the_mean_of_its_valid_pixels(
    gappy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_STRIP_PIXELS", 1000)
    with open_pair(*gappy) as pair:
        whole, reduced = pair.read(), read_reduced(pair, 20, 20)  # type: ignore[arg-type]
    assert reduced.valid.shape == (30, 23)  # by 3; one column is left over
    for row, column in np.ndindex(reduced.valid.shape):
        block = np.s_[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        valid = whole.valid[block]
        assert reduced.valid[row, column] == (valid.sum() >= 5)
        for date in ("before", "after"):
            kept = getattr(whole, date)[block][valid]
            expected = np.floor(kept.mean(0) + 0.5) if len(kept) else np.zeros(3)
            assert np.array_equal(getattr(reduced, date)[row, column], expected)


def test_memory_is_bounded_by_a_strip(
    gappy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_STRIP_PIXELS", 1000)
    with open_pair(*gappy) as pair:
        recorded = Recorded(pair)
        strips = read_reduced(recorded, 20, 20)  # type: ignore[arg-type]
        monkeypatch.setattr(prepare, "_STRIP_PIXELS", 70 * 89)
        single = Recorded(pair)
        at_once = read_reduced(single, 20, 20)  # type: ignore[arg-type]
    windows = [window for window in recorded.windows if window is not None]
    assert len(windows) == len(recorded.windows) > len(single.windows)
    assert all(window.width * window.height <= 1000 for window in windows)
    # Every row once, in order, in whole multiples of the factor.
    edges = [(window.row_off, window.row_off + window.height) for window in windows]
    assert edges[0][0] == 0
    assert all(end == start for (_, end), (start, _) in pairwise(edges))
    assert all((end - start) % 3 == 0 for start, end in edges)
    for name in ("before", "after", "valid"):
        assert np.array_equal(getattr(strips, name), getattr(at_once, name))


def test_a_wide_scene_is_reduced_as_far_as_a_strip_allows(
    gappy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_STRIP_PIXELS", 150)  # two rows
    with open_pair(*gappy) as pair:
        recorded = Recorded(pair)
        reduced = read_reduced(recorded, 20, 20)  # type: ignore[arg-type]
    assert reduced.valid.shape == (45, 35)
    assert all(w is not None and w.width * w.height <= 150 for w in recorded.windows)


def test_a_small_pair_is_read_as_it_is(gappy: tuple[Path, Path]) -> None:
    with open_pair(*gappy) as pair:
        recorded = Recorded(pair)
        read = read_reduced(recorded, 20, 20)  # type: ignore[arg-type]
    assert recorded.windows == [None]
    assert read.valid.shape == (90, 70)


# --- read_ahead and group --------------------------------------------------------------------


def prepared(paths: PairPaths, side: int = 32) -> prepare.PreparedPair:
    picture = np.zeros((side, side, 3), np.uint8)
    return prepare.prepare(paths, pixels_of(picture, picture), scale_of(side, side))


def numbered(n: int) -> list[PairPaths]:
    return [PairPaths(Path(f"{i}_before"), Path(f"{i}_after")) for i in range(n)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[PairPaths]:
    """Replace reading: every third pair, from the second on, is broken."""
    begun: list[PairPaths] = []

    def read(paths: PairPaths, bands: Any, align: bool, trained: int) -> prepare.PreparedPair:
        begun.append(paths)
        if int(paths.before.name.split("_")[0]) % 3 == 1:
            raise InputError(f"{paths.before} is broken")
        return prepared(paths)

    monkeypatch.setattr(prepare, "_read", read)
    return begun


@pytest.mark.parametrize("n", [0, 1, 3, 4, 11])
def test_pairs_keep_their_order_and_broken_ones_are_told(reads: list[PairPaths], n: int) -> None:
    failures: list[tuple[PairPaths, WhatchangedError]] = []
    pairs = numbered(n)
    read = [p.paths for p in prepare.read_ahead(pairs, None, False, 32, failures)]
    assert read == [p for i, p in enumerate(pairs) if i % 3 != 1]
    assert [paths for paths, _ in failures] == pairs[1::3]
    assert len(reads) == n


def test_the_first_broken_pair_is_raised_where_nobody_collects(reads: list[PairPaths]) -> None:
    stream = prepare.read_ahead(numbered(50), None, False, 32, None)
    assert next(stream).paths == numbered(1)[0]
    with pytest.raises(InputError, match="1_before is broken"):
        next(stream)
    assert len(reads) <= 6


def test_only_a_few_pairs_are_read_ahead(reads: list[PairPaths]) -> None:
    stream = prepare.read_ahead(iter(numbered(1000)), None, False, 32, [])
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(reads) <= 6


@given(st.lists(st.sampled_from([32, 64]), max_size=12), st.integers(1, 5))
def test_groups_have_one_size_and_keep_the_order(found: list[int], size: int) -> None:
    paths = numbered(len(found))
    stream = (prepared(p, side) for p, side in zip(paths, found, strict=True))
    groups = list(prepare.group(stream, size))
    assert [pair.paths for batch in groups for pair in batch] == paths
    assert all(1 <= len(batch) <= size for batch in groups)
    assert all(len({pair.before.shape for pair in batch}) == 1 for batch in groups)
    for one, two in pairwise(groups):
        assert len(one) == size or one[0].before.shape != two[0].before.shape


def test_a_full_group_does_not_wait_for_the_next_pair() -> None:
    def stream() -> Any:
        yield from (prepared(p) for p in numbered(2))
        raise AssertionError("asked for a third pair")

    assert len(next(prepare.group(stream(), 2))) == 2


def test_a_pair_without_a_common_valid_pixel_is_refused() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    nothing = pixels_of(picture, picture, np.zeros((32, 32), bool))
    with pytest.raises(InputError, match="no pixel that is valid in both") as caught:
        prepare.prepare(PairPaths(Path("a.tif"), Path("b.tif")), nothing, scale_of(32, 32))
    assert "nodata" in caught.value.hint
