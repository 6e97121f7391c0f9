"""Scenes: every format, depth and band layout, and everything that marks a pixel invalid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from whatchanged.errors import InputError, UsageError
from whatchanged.geo import Scene
from whatchanged.geo import scene as scene_module

Writer = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]
RED, GREEN, BLUE = ColorInterp.red, ColorInterp.green, ColorInterp.blue
ALPHA, UNDEFINED, GREY = ColorInterp.alpha, ColorInterp.undefined, ColorInterp.gray


@pytest.fixture
def hole() -> NDArray[np.bool_]:
    """Validity [40, 50] with a hole of 10 x 10 pixels."""
    valid = np.ones((40, 50), dtype=bool)
    valid[10:20, 20:30] = False
    return valid


# --- formats


@pytest.mark.parametrize(
    ("name", "options", "exact"),
    [
        ("a.tif", {}, True),
        ("a.tif", {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}, True),
        ("a.tif", {"compress": "lzw", "interleave": "band"}, True),
        ("a.tif", {"compress": "jpeg", "photometric": "ycbcr"}, False),
        ("a.tif", {"BIGTIFF": "YES"}, True),
        ("a.tif", {"ENDIANNESS": "BIG"}, True),
        ("a.tif", {"driver": "COG", "compress": "zstd"}, True),
        ("a.png", {}, True),
        ("a.jpg", {"quality": 95}, False),
        ("a.jp2", {"QUALITY": "100", "REVERSIBLE": "YES"}, True),
        ("a.webp", {"LOSSLESS": "YES"}, True),
    ],
)
def test_formats_are_read(
    write: Writer, draw: Draw, name: str, options: dict[str, Any], exact: bool
) -> None:
    picture = draw(40, 50)
    with Scene.open(write(name, picture, **options)) as scene:
        data, valid = scene.read()
        part, _ = scene.read(Window(5, 7, 30, 20))
    assert data.shape == (3, 40, 50)
    assert data.dtype == scene.dtype == np.uint8
    assert valid.all()
    assert scene.grid.shape == (40, 50)
    assert np.abs(data.astype(int) - picture).mean() < (1e-9 if exact else 12)
    np.testing.assert_array_equal(part, data[:, 7:27, 5:35])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "jp2", "tif"])
def test_pictures_of_other_programs_are_read(tmp_path: Path, draw: Draw, suffix: str) -> None:
    picture = np.moveaxis(draw(64, 48), 0, -1)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path)
    with Scene.open(path) as scene:
        data, valid = scene.read()
        assert scene.bands == (1, 2, 3)
        assert not scene.grid.has_transform
        assert scene.grid.crs is None
    assert valid.all()
    assert np.abs(np.moveaxis(data, 0, -1).astype(int) - picture).mean() < 12


def test_the_suffix_does_not_choose_the_format(tmp_path: Path, draw: Draw) -> None:
    path = tmp_path / "really-a-png.tif"
    Image.fromarray(np.moveaxis(draw(8, 8), 0, -1)).save(path, format="PNG")
    with Scene.open(path) as scene:
        assert scene.read()[0].shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["a#b.tif", "a?b=c.tif", "with space.tif", "ünï.tif", "a%41.tif"])
def test_odd_file_names_are_names(write: Writer, draw: Draw, name: str) -> None:
    with Scene.open(write(name, draw(8, 8))) as scene:
        assert scene.path.name == name


@pytest.mark.parametrize("name", ["a.tif", "a.jp2"])
def test_georeference_is_kept(write: Writer, draw: Draw, utm: dict[str, Any], name: str) -> None:
    with Scene.open(write(name, draw(40, 50), **utm)) as scene:
        assert scene.grid.crs == CRS.from_epsg(32633)
        assert scene.grid.transform.almost_equals(utm["transform"])
        assert scene.grid.gsd_m == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.jp2", "a.webp"])
def test_no_georeference_is_the_identity(write: Writer, draw: Draw, name: str) -> None:
    path = write(name, draw(40, 50))
    for _ in range(5):  # what GDAL leaves uninitialised is right now and then
        with Scene.open(path) as scene:
            assert scene.grid.transform == Affine.identity()
            assert scene.grid.gsd_m is None


# --- depths


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_values_come_as_they_are_stored(write: Writer, draw: Draw, dtype: str) -> None:
    stored = (draw(20, 30) // 2).astype(dtype)
    with Scene.open(write("a.tif", stored)) as scene:
        data, valid = scene.read()
    assert data.dtype == dtype
    assert valid.all()
    np.testing.assert_array_equal(data, stored)


def test_sixteen_bit_png_and_jp2(write: Writer, draw: Draw) -> None:
    stored = draw(20, 30).astype(np.uint16) * 200
    for name, options in (("a.png", {}), ("a.jp2", {"QUALITY": "100", "REVERSIBLE": "YES"})):
        with Scene.open(write(name, stored, **options)) as scene:
            np.testing.assert_array_equal(scene.read()[0], stored)


# --- bands


@pytest.mark.parametrize(
    ("colours", "bands"),
    [
        ((GREY,), (1, 1, 1)),
        ((GREY, ALPHA), (1, 1, 1)),
        ((GREY, UNDEFINED), (1, 1, 1)),
        ((RED, GREEN, BLUE), (1, 2, 3)),
        ((BLUE, GREEN, RED), (3, 2, 1)),
        ((RED, GREEN, BLUE, ALPHA), (1, 2, 3)),
        ((GREY, UNDEFINED, UNDEFINED, UNDEFINED), (1, 2, 3)),
        ((BLUE, GREEN, RED, UNDEFINED, UNDEFINED), (3, 2, 1)),
        ((ALPHA, GREY, UNDEFINED, UNDEFINED), (2, 3, 4)),
    ],
)
def test_colour_interpretation_chooses_the_bands(
    write: Writer, draw: Draw, colours: tuple[ColorInterp, ...], bands: tuple[int, int, int]
) -> None:
    stored = draw(10, 12, bands=len(colours))
    path = write("a.tif", stored, colours=colours, photometric="minisblack")
    with Scene.open(path) as scene:
        data, valid = scene.read()
        assert scene.bands == bands
    np.testing.assert_array_equal(data, stored[[band - 1 for band in bands]])
    assert valid.all()


def test_a_guess_of_bands_is_said(write: Writer, draw: Draw) -> None:
    with Scene.open(write("a.tif", draw(8, 8, bands=5), photometric="minisblack")) as scene:
        assert scene.bands == (1, 2, 3)
        assert any("--bands" in warning for warning in scene.warnings)
    with Scene.open(write("b.tif", draw(8, 8))) as scene:
        assert scene.warnings == ()


def test_requested_bands_win(write: Writer, draw: Draw) -> None:
    stored = draw(10, 12, bands=5)
    path = write("a.tif", stored)
    for bands, expected in (((4, 3, 2), (4, 3, 2)), ((5,), (5, 5, 5)), ([2, 2, 1], (2, 2, 1))):
        with Scene.open(path, bands=bands) as scene:
            assert scene.bands == expected
            np.testing.assert_array_equal(scene.read()[0], stored[[b - 1 for b in expected]])


def test_an_alpha_band_asked_for_as_colour_is_colour(write: Writer, draw: Draw) -> None:
    stored = draw(10, 12, bands=4)
    stored[3, :5] = 0  # near infrared that a writer has marked as alpha
    with Scene.open(write("a.tif", stored), bands=[4, 3, 2]) as scene:
        data, valid = scene.read()
    np.testing.assert_array_equal(data, stored[[3, 2, 1]])
    assert valid.all()


def test_bands_that_do_not_exist(write: Writer, draw: Draw) -> None:
    path = write("a.tif", draw(8, 8))
    with pytest.raises(InputError, match=r"a\.tif has no band 4; it has 3"):
        Scene.open(path, bands=[4, 3, 2])
    with pytest.raises(InputError, match="no band 0"):
        Scene.open(path, bands=[0])
    with pytest.raises(UsageError, match="one or three"):
        Scene.open(path, bands=[1, 2])
    with pytest.raises(UsageError):
        Scene.open(path, bands=[])


def test_printing_colours_are_refused_where_gdal_does_not_convert_them(
    write: Writer, draw: Draw, tmp_path: Path
) -> None:
    path = write("print.tif", draw(8, 8, bands=4).astype(np.uint16), photometric="cmyk")
    with pytest.raises(InputError, match="CMYK"):
        Scene.open(path)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    with Scene.open(tmp_path / "print.jpg") as scene:
        red, green, blue = scene.read()[0].reshape(3, -1).mean(axis=1)
    assert red > 200
    assert max(green, blue) < 60


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    indices = np.arange(16, dtype=np.uint8).reshape(4, 4) % 3
    colours = np.array([[250, 0, 0], [0, 240, 10], [20, 30, 230]], dtype=np.uint8)
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette(colours.ravel().tolist())
    for name, options in (("a.png", {"transparency": 1}), ("a.tif", {})):
        path = tmp_path / name
        picture.save(path, **options)
        with Scene.open(path) as scene:
            data, valid = scene.read()
            assert scene.dtype == data.dtype == np.uint8
        shown = (indices != 1) | (name == "a.tif")
        np.testing.assert_array_equal(valid, shown)
        np.testing.assert_array_equal(np.moveaxis(data, 0, -1)[shown], colours[indices][shown])


# --- validity


def test_alpha_is_validity(write: Writer, draw: Draw, hole: NDArray[np.bool_]) -> None:
    stored = np.concatenate([draw(40, 50), np.where(hole, 200, 0).astype(np.uint8)[None]])
    for name in ("a.tif", "a.png", "a.webp"):
        options = {"LOSSLESS": "YES"} if name == "a.webp" else {}
        with Scene.open(write(name, stored, **options)) as scene:
            data, valid = scene.read()
            assert data.shape == (3, 40, 50)
            np.testing.assert_array_equal(valid, hole, err_msg=name)


def test_grey_with_alpha(write: Writer, draw: Draw, hole: NDArray[np.bool_]) -> None:
    stored = np.stack([draw(40, 50)[0], hole.astype(np.uint8) * 255])
    with Scene.open(write("a.png", stored)) as scene:
        np.testing.assert_array_equal(scene.read()[1], hole)


def test_a_mask_band_is_validity(write: Writer, draw: Draw, hole: NDArray[np.bool_]) -> None:
    for dtype in ("uint8", "uint16"):
        with Scene.open(write("a.tif", draw(40, 50).astype(dtype), mask=hole)) as scene:
            np.testing.assert_array_equal(scene.read()[1], hole)
            window = Window(15, 5, 20, 10)
            np.testing.assert_array_equal(scene.read(window)[1], hole[5:15, 15:35])


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint8", 0),
        ("uint8", 255),
        ("uint16", 0),
        ("int16", -9999),
        ("float32", -9999.0),
        ("float32", float("nan")),
        ("float32", -3.4028234663852886e38),
        ("float64", 0.0),
    ],
)
def test_nodata_is_invalid(
    write: Writer, draw: Draw, hole: NDArray[np.bool_], dtype: str, nodata: float
) -> None:
    stored = draw(40, 50).astype(dtype)
    stored[:, ~hole] = nodata
    with Scene.open(write("a.tif", stored, nodata=nodata)) as scene:
        np.testing.assert_array_equal(scene.read()[1], hole)


def test_zero_in_one_band_is_a_colour_and_a_mark_in_one_band_is_not(
    write: Writer, draw: Draw
) -> None:
    red = draw(10, 10)
    red[1:, :5] = 0
    with Scene.open(write("red.tif", red, nodata=0)) as scene:
        assert scene.read()[1].all()
    marked = draw(10, 10).astype(np.float32)
    marked[2, :5] = -9999
    with Scene.open(write("marked.tif", marked, nodata=-9999)) as scene:
        valid = scene.read()[1]
        assert not valid[:5].any()
        assert valid[5:].all()


def test_nodata_that_the_type_cannot_hold_marks_nothing(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    """GDAL writes no such file; others do. -9999 as 8-bit would be 241."""
    stored = draw(10, 10)
    stored[:, 0, 0] = 241
    path = write("a.tif", stored, nodata=12345 % 256, **utm)
    path.write_bytes(path.read_bytes().replace(b"57\x00", b"-9\x00"))
    with Scene.open(path) as scene:
        assert scene.layout.nodata is None
        assert scene.read()[1].all()


def test_values_that_are_not_numbers_are_invalid(write: Writer, draw: Draw) -> None:
    stored = draw(10, 10).astype(np.float32)
    stored[0, 0, 0], stored[1, 1, 1], stored[2, 2, 2] = np.nan, np.inf, -np.inf
    with Scene.open(write("a.tif", stored)) as scene:
        valid = scene.read()[1]
    assert (~valid).sum() == 3
    assert not valid[[0, 1, 2], [0, 1, 2]].any()


def test_blocks_never_written_are_not_black_ground(write: Writer, draw: Draw) -> None:
    """What a writer killed half-way leaves opens, and reads zeros."""
    import rasterio

    path = write("a.tif", draw(16, 16))
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8",
        tiled=True, blockxsize=16, blockysize=16, SPARSE_OK=True,
    ) as file:  # fmt: skip
        file.write(draw(16, 64), window=Window(0, 0, 64, 16))
    with Scene.open(path) as scene:
        valid = scene.read()[1]
        assert any("never written" in warning for warning in scene.warnings)
    assert valid[:16].all()
    assert not valid[16:].any()


# --- reading


def test_windows_agree_with_the_whole(write: Writer, draw: Draw) -> None:
    stored = draw(70, 90).astype(np.uint16)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "nodata": 5}
    with Scene.open(write("a.tif", stored, **options)) as scene:
        data, valid = scene.read()
        for window in (Window(0, 0, 1, 1), Window(89, 69, 1, 1), Window(15, 17, 33, 31)):
            rows, columns = window.toslices()
            part, part_valid = scene.read(window)
            np.testing.assert_array_equal(part, data[:, rows, columns])
            np.testing.assert_array_equal(part_valid, valid[rows, columns])


@pytest.mark.parametrize(
    "window",
    [
        Window(-1, 0, 5, 5),
        Window(0, 0, 51, 40),
        Window(0, 36, 5, 5),
        Window(0, 0, 0, 5),
        Window(0.5, 0, 5, 5),
    ],
)
def test_windows_outside_are_a_mistake_of_the_program(
    write: Writer, draw: Draw, window: Window
) -> None:
    with (
        Scene.open(write("a.tif", draw(40, 50))) as scene,
        pytest.raises(ValueError, match="inside"),
    ):
        scene.read(window)


def test_a_read_larger_than_allowed_is_refused(
    write: Writer, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_module, "MAX_READ_BYTES", 4 * 40 * 49)
    with Scene.open(write("a.tif", draw(40, 50))) as scene:
        with pytest.raises(InputError, match="smaller windows"):
            scene.read()
        assert scene.read(Window(0, 0, 49, 40))[0].shape == (3, 40, 49)


def test_a_closed_scene_does_not_read(write: Writer, draw: Draw) -> None:
    scene = Scene.open(write("a.tif", draw(8, 8)))
    scene.close()
    scene.close()
    with pytest.raises(InputError):
        scene.read()


@pytest.mark.parametrize(
    ("name", "world_suffix"),
    [
        ("a.tif", ".tfw"),
        ("a.png", ".pgw"),
        ("a.jpg", ".jgw"),
        ("a.jp2", ".j2w"),
        ("a.webp", ".wld"),
    ],
)
def test_sidecars_are_named_and_not_read(
    write: Writer, draw: Draw, name: str, world_suffix: str
) -> None:
    path = write(name, draw(8, 8))
    world = path.with_suffix(world_suffix)
    world.write_text("0.5\n0\n0\n-0.5\n10\n20\n")
    path.with_name(name + ".aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
        "<SRS>EPSG:32633</SRS><GeoTransform>1,2,3,4,5,6</GeoTransform></PAMDataset>"
    )
    with Scene.open(path) as scene:
        assert not scene.grid.has_transform
        assert scene.grid.crs is None
        assert scene.layout.nodata is None
        (warning,) = scene.warnings
    assert f"{name}.aux.xml" in warning
    assert world.name in warning
