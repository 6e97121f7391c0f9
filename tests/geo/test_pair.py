"""Pairs: opened, checked, stretched alike, and invalid wherever one of them is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

import whatchanged.geo
from whatchanged.errors import InputError, PairMismatchError
from whatchanged.geo import Grid, PairReport, open_pair
from whatchanged.geo.pair import plan_samples

Writer = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]


def test_a_plain_pair_is_read_as_it_is(write: Writer, draw: Draw) -> None:
    first, second = draw(40, 50, seed=1), draw(40, 50, seed=2)
    with open_pair(write("a.png", first), write("b.png", second)) as pair:
        pixels = pair.read()
        part = pair.read(Window(3, 4, 20, 10))
        assert pair.grid.shape == (40, 50)
        assert pair.report.stretch.kind == "identity"
        assert pair.report.valid_fraction == 1.0
        assert not pair.report.aligned
        assert any("georeferenced" in warning for warning in pair.report.warnings)
    assert pixels.before.dtype == pixels.after.dtype == np.uint8
    assert pixels.valid.dtype == np.bool_
    np.testing.assert_array_equal(pixels.before, np.moveaxis(first, 0, -1))
    np.testing.assert_array_equal(pixels.after, np.moveaxis(second, 0, -1))
    assert pixels.valid.all()
    np.testing.assert_array_equal(part.after, pixels.after[4:14, 3:23])


def test_formats_may_differ(write: Writer, draw: Draw) -> None:
    picture = draw(40, 50)
    with open_pair(write("a.png", picture), write("b.jpg", picture, quality=95)) as pair:
        pixels = pair.read()
    assert np.abs(pixels.before.astype(int) - pixels.after).mean() < 12


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_one_stretch_for_both_dates(
    write: Writer, draw: Draw, utm: dict[str, Any], dtype: str
) -> None:
    """A later date twice as bright stays brighter: each date is not stretched by itself."""
    first = draw(60, 70).astype(dtype) * 20
    second = first.copy()
    second[:, :, 35:] *= 2
    with open_pair(write("a.tif", first, **utm), write("b.tif", second, **utm)) as pair:
        pixels = pair.read()
        stretch = pair.report.stretch
    joint = np.concatenate([first.reshape(3, -1), second.reshape(3, -1)], axis=1)
    low, high = np.percentile(joint, (2, 98), axis=1)
    assert stretch.low == pytest.approx(tuple(low))
    assert stretch.high == pytest.approx(tuple(high))
    np.testing.assert_array_equal(pixels.before[:, :35], pixels.after[:, :35])
    assert pixels.after[:, 35:].mean() > 1.3 * pixels.before[:, 35:].mean()


def test_nodata_does_not_pull_the_stretch(write: Writer, draw: Draw, utm: dict[str, Any]) -> None:
    stored = draw(60, 70).astype(np.float32) + 500
    holed = stored.copy()
    holed[:, :30] = -9999
    with open_pair(
        write("a.tif", stored, nodata=-9999, **utm), write("b.tif", holed, nodata=-9999, **utm)
    ) as pair:
        assert min(pair.report.stretch.low) > 400
        assert pair.report.valid_fraction == pytest.approx(0.5)
        pixels = pair.read()
    assert not pixels.valid[:30].any()
    assert pixels.valid[30:].all()


def test_invalid_in_one_is_invalid_and_black_in_both(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    first, second = draw(40, 50, seed=1), draw(40, 50, seed=2)
    first[:, :10] = 0
    alpha = np.full((1, 40, 50), 255, dtype=np.uint8)
    alpha[:, :, :20] = 0
    with open_pair(
        write("a.tif", first, nodata=0, **utm),
        write("b.tif", np.concatenate([second, alpha]), **utm),
    ) as pair:
        pixels = pair.read()
    expected = np.ones((40, 50), dtype=bool)
    expected[:10] = False
    expected[:, :20] = False
    np.testing.assert_array_equal(pixels.valid, expected)
    assert not pixels.before[~expected].any()
    assert not pixels.after[~expected].any()
    np.testing.assert_array_equal(pixels.after[expected], np.moveaxis(second, 0, -1)[expected])


def test_a_pair_without_common_pixels_is_said(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    empty = np.zeros((3, 40, 50), dtype=np.uint16)
    full = draw(40, 50).astype(np.uint16)
    with open_pair(
        write("a.tif", empty, nodata=0, **utm), write("b.tif", full, nodata=0, **utm)
    ) as pair:
        assert pair.report.valid_fraction == 0.0
        assert any("valid in both" in warning for warning in pair.report.warnings)
        pixels = pair.read()
    assert not pixels.valid.any()
    assert not pixels.after.any()


@pytest.mark.parametrize(
    ("first", "second"), [("uint8", "uint16"), ("float32", "uint16"), ("uint8", "float32")]
)
def test_values_without_a_common_scale_are_refused(
    write: Writer, draw: Draw, first: str, second: str
) -> None:
    picture = draw(40, 50)
    paths = write("a.tif", picture.astype(first)), write("b.tif", picture.astype(second))
    with pytest.raises(PairMismatchError, match="common scale") as caught:
        open_pair(*paths)
    assert first in caught.value.message
    assert second in caught.value.message


def test_bands_hold_for_both(write: Writer, draw: Draw, utm: dict[str, Any]) -> None:
    stored = draw(40, 50, bands=5)
    paths = write("a.tif", stored, **utm), write("b.tif", stored[:, ::-1], **utm)
    with open_pair(*paths, bands=[4, 3, 2]) as pair:
        pixels = pair.read()
    np.testing.assert_array_equal(pixels.before, np.moveaxis(stored[[3, 2, 1]], 0, -1))
    np.testing.assert_array_equal(pixels.after, pixels.before[::-1])
    with pytest.raises(InputError, match="no band 6"):
        open_pair(*paths, bands=[6])


# --- alignment


def shifted(utm: dict[str, Any], columns: float, rows: float) -> dict[str, Any]:
    a, _, c, _, e, f = utm["transform"][:6]
    return utm | {"transform": Affine(a, 0, c + a * columns, 0, e, f + e * rows)}


def test_align_lays_the_later_on_the_earlier(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    ground = draw(120, 140)
    paths = (
        write("a.tif", ground[:, :100, :120], **utm),
        write("b.tif", ground[:, 8:, 10:], **shifted(utm, 10, 8)),
    )
    with pytest.raises(PairMismatchError, match="offset"):
        open_pair(*paths)
    with open_pair(*paths, align=True) as pair:
        pixels = pair.read()
        report = pair.report
        assert pair.grid == pair.before.grid == pair.after.grid
    assert report.aligned
    assert report.overlap_fraction == pytest.approx(110 / 120 * 92 / 100, abs=0.03)
    assert any("covers" in warning for warning in report.warnings)
    expected = np.zeros((100, 120), dtype=bool)
    expected[8:, 10:] = True
    np.testing.assert_array_equal(pixels.valid, expected)
    np.testing.assert_array_equal(pixels.before[expected], pixels.after[expected])


def test_align_across_systems_keeps_content_in_place(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    """The earlier photograph, warped to degrees by GDAL, comes back to within a tenth of a pixel"""
    import rasterio
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    ground = draw(300, 320)
    path = write("a.tif", ground, **utm)
    with rasterio.open(path) as source:
        transform, width, height = calculate_default_transform(
            source.crs, "EPSG:4326", 320, 300, *source.bounds, resolution=4e-6
        )
        warped = np.zeros((3, height, width), dtype=np.uint8)
        reproject(
            ground, warped, src_crs=source.crs, src_transform=source.transform,
            dst_crs="EPSG:4326", dst_transform=transform, resampling=Resampling.cubic,
        )  # fmt: skip
    other = write("b.tif", warped, crs="EPSG:4326", transform=transform, nodata=0)
    with open_pair(path, other, align=True) as pair:
        shift = pair.report.shift
        pixels = pair.read()
    assert shift.is_certain
    assert shift.length < 0.1
    difference = np.abs(pixels.before.astype(int) - pixels.after)[pixels.valid]
    assert difference.mean() < 12


def test_align_changes_nothing_on_one_grid(write: Writer, draw: Draw, utm: dict[str, Any]) -> None:
    path = write("a.tif", draw(40, 50), **utm)
    with open_pair(path, path, align=True) as pair:
        assert not pair.report.aligned
        assert pair.report.overlap_fraction == 1.0


@pytest.mark.parametrize("align", [False, True])
def test_plain_pictures_of_different_size_are_refused(
    write: Writer, draw: Draw, align: bool
) -> None:
    with pytest.raises(PairMismatchError, match="sizes"):
        open_pair(write("a.png", draw(40, 50)), write("b.png", draw(40, 51)), align=align)


def test_places_apart_are_refused(write: Writer, draw: Draw, utm: dict[str, Any]) -> None:
    picture = draw(40, 50)
    paths = write("a.tif", picture, **utm), write("b.tif", picture, **shifted(utm, 47, 0))
    with pytest.raises(PairMismatchError, match="overlap"):
        open_pair(*paths, align=True)


# --- shift


def test_a_shift_is_warned_with_its_estimate(write: Writer, draw: Draw) -> None:
    ground = draw(300, 300)
    paths = write("a.png", ground[:, 10:266, 10:266]), write("b.png", ground[:, 8:264, 7:263])
    with open_pair(*paths) as pair:
        (warning,) = (w for w in pair.report.warnings if "shifted" in w)
        assert pair.report.shift.dx == pytest.approx(3, abs=0.2)
        assert pair.report.shift.dy == pytest.approx(2, abs=0.2)
    assert "3.6 px" in warning


def test_no_shift_is_not_warned(write: Writer, draw: Draw) -> None:
    ground = draw(256, 256)
    with open_pair(write("a.png", ground), write("b.png", 255 - ground // 2)) as pair:
        assert not any("shifted" in warning for warning in pair.report.warnings)
    with open_pair(write("a.png", ground), write("c.png", draw(256, 256, seed=9))) as pair:
        assert not any("shifted" in warning for warning in pair.report.warnings)


# --- colours


def test_grey_beside_colour_is_warned(write: Writer, draw: Draw) -> None:
    picture = draw(40, 50)
    colour, other = write("a.png", picture), write("b.png", picture)
    grey = write("c.png", picture[:1])
    with open_pair(colour, grey) as pair:
        assert "c.png is grey and a.png in colour" in " ".join(pair.report.warnings)
    for pair_of in ((colour, other), (grey, grey)):
        with open_pair(*pair_of) as pair:
            assert not any("grey" in warning for warning in pair.report.warnings)


# --- record


def test_the_report_is_plain_data(write: Writer, draw: Draw, utm: dict[str, Any]) -> None:
    picture = draw(80, 90).astype(np.uint16)
    with open_pair(write("a.tif", picture, **utm), write("b.tif", picture, **utm)) as pair:
        report = pair.report
    assert isinstance(report, PairReport)
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values) == {
        "stretch", "shift", "overlap_fraction", "valid_fraction", "aligned", "warnings",
    }  # fmt: skip
    assert values["stretch"]["kind"] == "percentile"


def test_warnings_name_their_file(write: Writer, draw: Draw, tmp_path: Path) -> None:
    early = write("early/x.tif", draw(20, 20, bands=5), photometric="minisblack")
    late = write("late/x.tif", draw(20, 20))
    with open_pair(early, late) as pair:
        assert any(w.startswith(str(early.resolve())) for w in pair.report.warnings)
    with open_pair(early, write("y.tif", draw(20, 20))) as pair:
        assert any(w.startswith("x.tif: bands 1, 2, 3 of 5") for w in pair.report.warnings)


def test_a_failing_pair_leaves_no_open_file(write: Writer, draw: Draw, tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("open files are counted through /proc")
    good = write("a.png", draw(20, 20))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    before = len(list(descriptors.iterdir()))
    for other in (tmp_path / "bad.png", write("b.png", draw(20, 21))):
        for _ in range(3):
            with pytest.raises((InputError, PairMismatchError)):
                open_pair(good, other)
    assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize("shape", [(1, 1), (1024, 1024), (30_000, 100), (100_000, 90_000)])
def test_samples_lie_inside_and_are_bounded(shape: tuple[int, int]) -> None:
    grid = Grid(shape[1], shape[0], Affine.identity())
    windows = list(plan_samples(grid))
    assert sum(window.width * window.height for window in windows) <= 1024 * 1024
    for window in windows:
        assert 0 <= window.col_off <= shape[1] - window.width
        assert 0 <= window.row_off <= shape[0] - window.height
    reach = max(window.row_off + window.height for window in windows)
    assert reach == shape[0]


def test_a_large_scene_is_sampled_and_not_read(write: Writer, utm: dict[str, Any]) -> None:
    """Opening reads 64 windows for the stretch, so two halves of different light both count."""
    stored = np.zeros((3, 1500, 1600), dtype=np.uint16)
    stored[:, :750] = 1000
    stored[:, 750:] = 3000
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", **utm}
    paths = write("a.tif", stored, **options), write("b.tif", stored, **options)
    with open_pair(*paths) as pair:
        assert pair.report.stretch.n_samples == 2 * 64 * 128 * 128
        assert pair.report.stretch.low == (1000.0,) * 3
        assert pair.report.stretch.high == (3000.0,) * 3


def test_real_pairs_open(shared_data: Path) -> None:
    folder = shared_data / "captioned" / "images" / "val"
    for path in sorted((folder / "A").iterdir())[:3]:
        with open_pair(path, folder / "B" / path.name) as pair:
            pixels = pair.read()
        with Image.open(path) as picture:
            np.testing.assert_array_equal(pixels.before, np.asarray(picture.convert("RGB")))
        assert pixels.valid.all()


def test_geo_starts_without_torch() -> None:
    import subprocess

    code = "import sys, whatchanged.geo; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(Path(whatchanged.geo.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
