"""A scene laid on another grid: content in its place, and the outside never valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from whatchanged.errors import InputError
from whatchanged.geo import Grid, Scene

Writer = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def hole() -> NDArray[np.bool_]:
    """Validity [40, 50] with a hole of 10 x 10 pixels."""
    valid = np.ones((40, 50), dtype=bool)
    valid[10:20, 20:30] = False
    return valid


def moved(grid: Grid, right: float, down: float, **changes: int) -> Grid:
    a, b, c, d, e, f = grid.transform[:6]
    transform = Affine(a, b, c + a * right + b * down, d, e, f + d * right + e * down)
    size = {"width": grid.width, "height": grid.height} | changes
    return Grid(**size, transform=transform, crs=grid.crs)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_whole_pixel_alignment_moves_values_and_marks_the_outside(
    write: Writer, draw: Draw, utm: dict[str, Any], dtype: str
) -> None:
    stored = draw(40, 50).astype(dtype)
    scene = Scene.open(write("a.tif", stored, **utm))
    with scene.aligned_to(moved(scene.grid, -5, 7)) as aligned:
        data, valid = aligned.read()
    assert data.dtype == dtype
    expected = np.zeros((40, 50), dtype=bool)
    expected[:33, 5:] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(data[:, :33, 5:], stored[:, 7:, :45], atol=1)


@pytest.mark.parametrize("kind", ["alpha", "mask", "nodata 0", "nodata -9999", "nan", "sparse"])
def test_validity_survives_alignment(
    write: Writer, draw: Draw, utm: dict[str, Any], hole: NDArray[np.bool_], kind: str
) -> None:
    stored: NDArray[Any] = draw(40, 50)
    options: dict[str, Any] = dict(utm)
    if kind == "alpha":
        stored = np.concatenate([stored, hole.astype(np.uint8)[None] * 255])
    elif kind == "mask":
        options["mask"] = hole
    elif kind == "nodata 0":
        stored[:, ~hole], options["nodata"] = 0, 0
    elif kind == "nodata -9999":
        stored = stored.astype(np.float32)
        stored[:, ~hole], options["nodata"] = -9999, -9999
    elif kind == "nan":
        stored = stored.astype(np.float32)
        stored[1, ~hole] = np.nan  # one band is enough
    else:
        stored[:, ~hole] = 0
        options |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
        stored[:, :, 32:] = 0
        hole = stored.any(axis=0)
    scene = Scene.open(write("a.tif", stored, **options))
    with scene.aligned_to(moved(scene.grid, 3, 2)) as aligned:
        data, valid = aligned.read()
    np.testing.assert_array_equal(valid[:38, :47], hole[2:, 3:])
    assert not valid[38:].any()
    assert not valid[:, 47:].any()
    np.testing.assert_array_equal(data[:, valid], stored[:3, 2:, 3:][:, hole[2:, 3:]])


def test_alignment_to_another_system_puts_content_in_its_place(
    write: Writer, utm: dict[str, Any]
) -> None:
    """A bright square lands where its coordinates are, within half a pixel."""
    stored = np.full((3, 200, 200), 50, dtype=np.uint8)
    stored[:, 80:120, 60:90] = 250
    scene = Scene.open(write("a.tif", stored, **utm))
    x, y = scene.grid.transform.c + 75 * 0.5, scene.grid.transform.f - 100 * 0.5
    from rasterio.warp import transform as transform_points

    (lon,), (lat,) = transform_points("EPSG:32633", "EPSG:4326", [x], [y])
    step = 5e-6
    target = Grid(
        300, 300, Affine(step, 0, lon - 150 * step, 0, -step, lat + 150 * step),
        CRS.from_epsg(4326),
    )  # fmt: skip
    with scene.aligned_to(target) as aligned:
        data, valid = aligned.read()
    bright = np.argwhere((data[0] > 150) & valid)
    centre = bright.mean(axis=0) + 0.5
    np.testing.assert_allclose(centre, (150, 150), atol=0.5)


def test_aligned_windows_agree_with_the_whole(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    scene = Scene.open(write("a.tif", draw(100, 120), **utm))
    with scene.aligned_to(moved(scene.grid, 0.4, -10.7)) as aligned:
        data, valid = aligned.read()
        part, part_valid = aligned.read(Window(30, 5, 50, 60))
    np.testing.assert_array_equal(part, data[:, 5:65, 30:80])
    np.testing.assert_array_equal(part_valid, valid[5:65, 30:80])


def test_a_colour_marked_as_alpha_is_not_aligned(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    path = write("a.tif", draw(40, 50, bands=4), **utm)
    with (
        Scene.open(path, bands=[4, 3, 2]) as scene,
        pytest.raises(InputError, match="alpha"),
    ):
        scene.aligned_to(moved(scene.grid, 1, 1))


def test_a_palette_is_aligned_by_nearest_pixel(write: Writer, utm: dict[str, Any]) -> None:
    import rasterio

    indices = (np.arange(40 * 50).reshape(1, 40, 50) % 7).astype(np.uint8) * 30
    path = write("a.tif", indices, photometric="palette", **utm)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})
    scene = Scene.open(path)
    with scene.aligned_to(moved(scene.grid, 2, 0)) as aligned:
        data, valid = aligned.read()
    np.testing.assert_array_equal(data[0, :, :48], indices[0, :, 2:])
    np.testing.assert_array_equal(data[1, :, :48], 255 - indices[0, :, 2:])
    assert not valid[:, 48:].any()


def test_nodata_that_the_type_cannot_hold_does_not_stop_alignment(
    write: Writer, draw: Draw, utm: dict[str, Any]
) -> None:
    path = write("a.tif", draw(10, 10), nodata=57, **utm)
    path.write_bytes(path.read_bytes().replace(b"57\x00", b"-9\x00"))
    scene = Scene.open(path)
    assert scene.layout.nodata is None
    with scene.aligned_to(moved(scene.grid, 1, 0)) as aligned:
        valid = aligned.read()[1]
    assert valid[:, :9].all()
    assert not valid[:, 9:].any()
