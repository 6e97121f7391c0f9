"""Masks become valid polygons of exactly the same pixels, and files that say where they are."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from whatchanged.geo import vector
from whatchanged.geo.area import areas_m2
from whatchanged.geo.grid import Grid, reproject_points
from whatchanged.geo.vector import (
    ChangePolygon,
    has_patch,
    vectorise,
    write_geojson,
    write_geopackage,
)

UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
HOSTILE = 'new "houses" <b>\n\'); DROP TABLE changes; -- \u202e\U0001f3e0'


def grid_of(
    height: int = 20, width: int = 30, transform: Affine = UTM, crs: str | None = "EPSG:32633"
) -> Grid:
    return Grid(width, height, transform, None if crs is None else CRS.from_string(crs))


def plain(height: int = 20, width: int = 30) -> Grid:
    return grid_of(height, width, Affine.identity(), None)


def masked(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (20, 30)) -> Any:
    """Mask with boxes of (top, left, bottom, right)."""
    mask = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def found(mask: NDArray[np.bool_], grid: Grid, **options: Any) -> tuple[ChangePolygon, ...]:
    return vectorise(mask, np.full(mask.shape, 0.75, np.float32), grid, **options).polygons


def read_package(path: Path) -> tuple[dict[str, Any], Any, dict[str, list[Any]]]:
    meta, _, geometries, columns = pyogrio.raw.read(path)
    fields = {name: list(c) for name, c in zip(meta["fields"], columns, strict=True)}
    return meta, shapely.from_wkb(geometries), fields


# --- polygons --------------------------------------------------------------------------------


def test_a_box_lies_where_its_pixels_do() -> None:
    (polygon,) = found(masked((2, 4, 6, 10)), grid_of())
    assert polygon.geometry.bounds == (500_002, 4_999_997, 500_005, 4_999_999)
    assert polygon.area_px == 24
    assert polygon.area_m2 == pytest.approx(24 * 0.25)
    assert polygon.probability == pytest.approx(0.75)


def test_every_polygon_says_what_it_was_looked_for_as() -> None:
    options: dict[str, Any] = {"target": ("building", "road"), "direction": "appeared"}
    polygons = found(masked((0, 0, 4, 4), (9, 9, 14, 14)), grid_of(), wish="new ones", **options)
    assert [p.area_px for p in polygons] == [25, 16]  # the largest first
    for polygon in polygons:
        assert (polygon.wish, polygon.direction) == ("new ones", "appeared")
        assert polygon.target == ("building", "road")


def test_holes_are_kept() -> None:
    mask = masked((2, 2, 12, 12))
    mask[5:8, 5:9] = False
    (polygon,) = found(mask, grid_of())
    assert len(polygon.geometry.interiors) == 1
    assert polygon.area_m2 == pytest.approx((100 - 12) * 0.25)


def test_pixels_that_touch_at_a_corner_are_two_places() -> None:
    polygons = found(masked((0, 0, 4, 4), (4, 4, 8, 8)), grid_of())
    assert len(polygons) == 2


def test_specks_are_dropped_counted_and_not_in_the_mask() -> None:
    mask = masked((0, 0, 4, 4), (10, 10, 11, 17), (15, 2, 17, 6))
    changes = vectorise(mask, np.ones(mask.shape, np.float32), grid_of(), speck_pixels=8)
    assert [p.area_px for p in changes.polygons] == [16, 8]
    assert changes.n_specks == 1
    assert changes.mask.sum() == 24
    assert not changes.mask[10].any()
    assert mask.sum() == 31  # what was handed in stays


@settings(max_examples=200)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_a_mask_has_a_patch_if_polygons_are_left_of_it(mask: NDArray[np.bool_]) -> None:
    left = vectorise(mask, np.ones(mask.shape, np.float32), grid_of())
    assert has_patch(mask) is bool(left.polygons)


def test_an_empty_mask_has_no_polygons() -> None:
    changes = vectorise(masked(), np.zeros((20, 30), np.float32), grid_of())
    assert changes.polygons == ()
    assert changes.n_specks == 0
    assert not changes.mask.any()


@settings(max_examples=80)
@given(
    arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))),
    st.sampled_from([UTM, Affine(2, 0.5, 9, -0.5, 3, 7), Affine(1, 0, 5, 0, 1, 5)]),
)
def test_polygons_are_valid_and_are_exactly_the_mask(
    mask: NDArray[np.bool_], transform: Affine
) -> None:
    grid = grid_of(*mask.shape, transform=transform)
    probability = np.random.default_rng(0).random(mask.shape, np.float32)
    changes = vectorise(mask, probability, grid, speck_pixels=1)
    geometries = [p.geometry for p in changes.polygons]
    assert all(shapely.is_valid(g) for g in geometries)
    drawn = np.zeros(mask.shape, int)
    for polygon in changes.polygons:
        inside = rasterize([polygon.geometry], out_shape=mask.shape, transform=transform) > 0
        drawn += inside
        assert polygon.area_px == inside.sum()
        assert polygon.probability == pytest.approx(probability[inside].mean(), abs=1e-6)
        area = polygon.area_px * abs(transform.determinant)
        assert polygon.area_m2 == pytest.approx(area, rel=1e-9)
    assert (drawn == mask).all()
    assert (changes.mask == mask).all()


def test_without_a_crs_areas_are_pixels() -> None:
    (polygon,) = found(masked((2, 4, 6, 10)), grid_of(crs=None))
    assert polygon.area_m2 is None
    assert polygon.geometry.bounds == (500_002, 4_999_997, 500_005, 4_999_999)
    (polygon,) = found(masked((2, 4, 6, 10)), plain())
    assert polygon.area_m2 is None
    assert polygon.geometry.bounds == (4, 2, 10, 6)


# --- GeoPackage ------------------------------------------------------------------------------


def test_a_geopackage_holds_one_layer_with_all_fields(tmp_path: Path) -> None:
    path = tmp_path / "changes.gpkg"
    options: dict[str, Any] = {"wish": HOSTILE, "target": ("building", "road")}
    options["former"] = ("water", "tree")
    write_geopackage(path, found(masked((2, 4, 6, 10)), grid_of(), **options), grid_of())
    assert [layer for layer, _ in pyogrio.list_layers(path)] == ["changes"]
    meta, (geometry,), fields = read_package(path)
    assert meta["crs"] == "EPSG:32633"
    assert meta["geometry_type"] == "Polygon"
    assert geometry.bounds == (500_002, 4_999_997, 500_005, 4_999_999)
    assert fields == {
        "wish": [HOSTILE],
        "target": ["building, road"],
        "direction": [None],
        "probability": [0.75],
        "area_m2": [6.0],
        "area_px": [24],
        "former": ["water, tree"],
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changes.gpkg"]


def test_nothing_found_is_an_empty_layer(tmp_path: Path) -> None:
    write_geopackage(tmp_path / "changes.gpkg", (), grid_of())
    meta, geometries, fields = read_package(tmp_path / "changes.gpkg")
    assert len(geometries) == 0
    assert meta["crs"] == "EPSG:32633"
    assert list(fields) == [
        *("wish", "target", "direction", "probability", "area_m2", "area_px", "former"),
    ]


def test_a_wish_that_is_no_text_is_written_as_text(tmp_path: Path) -> None:
    polygons = found(masked((2, 4, 6, 10)), grid_of(), wish="new \udcff\0 houses")
    write_geopackage(tmp_path / "a.gpkg", polygons, grid_of())
    assert read_package(tmp_path / "a.gpkg")[2]["wish"] == ["new ?\ufffd houses"]
    write_geojson(tmp_path / "a.geojson", polygons, grid_of())
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert feature["properties"]["wish"] == "new ?\ufffd houses"


def test_an_unknown_area_is_null(tmp_path: Path) -> None:
    path = tmp_path / "changes.gpkg"
    write_geopackage(path, found(masked((2, 4, 6, 10)), grid_of(crs=None)), grid_of(crs=None))
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT area_m2 FROM changes").fetchall() == [(None,)]
    meta, (geometry,), _ = read_package(path)
    assert meta["crs"] is None or "undefined" in meta["crs"].lower()
    assert geometry.bounds == (500_002, 4_999_997, 500_005, 4_999_999)


def test_a_plain_picture_lies_below_zero_as_in_qgis(tmp_path: Path) -> None:
    write_geopackage(tmp_path / "a.gpkg", found(masked((2, 4, 6, 10)), plain()), plain())
    _, (geometry,), _ = read_package(tmp_path / "a.gpkg")
    assert geometry.bounds == (4, -6, 10, -2)


def test_a_crs_without_a_code_is_kept(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=12 +lon_0=34 +datum=WGS84 +units=m"
    grid = grid_of(crs=crs, transform=Affine(1, 0, 0, 0, -1, 0))
    write_geopackage(tmp_path / "a.gpkg", found(masked((2, 4, 6, 10)), grid), grid)
    found_crs = CRS.from_wkt(read_package(tmp_path / "a.gpkg")[0]["crs"])
    assert found_crs.to_dict()["proj"] == "laea"
    assert found_crs.to_dict()["lat_0"] == 12


def test_a_second_package_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "changes.gpkg"
    write_geopackage(path, found(masked((2, 4, 6, 10)), grid_of()), grid_of())
    write_geopackage(path, found(masked((0, 0, 3, 3), (9, 9, 15, 15)), grid_of()), grid_of())
    assert len(read_package(path)[1]) == 2


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"changes\.gpkg"):
        write_geopackage(tmp_path / "no" / "changes.gpkg", (), grid_of())
    assert list(tmp_path.iterdir()) == []


# --- GeoJSON ---------------------------------------------------------------------------------


def geojson(tmp_path: Path, mask: NDArray[np.bool_], grid: Grid, **options: Any) -> Any:
    path = tmp_path / "changes.geojson"
    write_geojson(path, found(mask, grid, **options), grid)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    return json.loads(path.read_text(encoding="ascii"))


def test_geojson_is_in_degrees_and_counterclockwise(tmp_path: Path) -> None:
    mask = masked((2, 2, 12, 12))
    mask[5:8, 5:9] = False
    page = geojson(tmp_path, mask, grid_of(), wish=HOSTILE, target=("tree",), direction="either")
    assert set(page) == {"type", "name", "features"}
    (feature,) = page["features"]
    assert feature["properties"] == {
        "wish": HOSTILE,
        "target": ["tree"],
        "direction": "either",
        "probability": 0.75,
        "area_m2": 22.0,
        "area_px": 88,
        "former": [],
    }
    geometry = shapely.geometry.shape(feature["geometry"])
    assert geometry.exterior.is_ccw
    assert not geometry.interiors[0].is_ccw
    # 500,000 m east is the central meridian of zone 33, 15 degrees east; box of 1 to 6 m.
    west, south, east, north = geometry.bounds
    assert (west, east) == pytest.approx((15.00001272, 15.00007632), abs=1e-7)
    assert north - south == pytest.approx(5 / 0.9996 / 111_136, rel=1e-3)


def test_geojson_of_a_plain_picture_says_that_it_is_pixels(tmp_path: Path) -> None:
    page = geojson(tmp_path, masked((2, 4, 6, 10)), plain())
    assert page["coordinate_space"].startswith("pixels")
    (feature,) = page["features"]
    assert shapely.geometry.shape(feature["geometry"]).bounds == (4, 2, 10, 6)
    assert feature["properties"]["area_m2"] is None


def test_geojson_without_a_crs_is_in_pixels_too(tmp_path: Path) -> None:
    page = geojson(tmp_path, masked((2, 4, 6, 10)), grid_of(crs=None))
    assert page["coordinate_space"].startswith("pixels")
    geometry = shapely.geometry.shape(page["features"][0]["geometry"])
    assert geometry.bounds == pytest.approx((4, 2, 10, 6))
    assert geometry.exterior.is_ccw


def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path) -> None:
    # The western end of UTM zone 1 is 180 degrees: some 334 km west of its central meridian.
    grid = grid_of(transform=Affine(1000, 0, 150_000, 0, -1000, 20_000), crs="EPSG:32601")
    page = geojson(tmp_path, masked((2, 2, 6, 28)), grid)
    geometry = shapely.geometry.shape(page["features"][0]["geometry"])
    assert geometry.geom_type == "MultiPolygon"
    assert geometry.is_valid
    west, east = sorted(geometry.geoms, key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180
    assert east.bounds[2] == 180
    assert west.bounds[2] - west.bounds[0] + east.bounds[2] - east.bounds[0] < 1
    assert all(part.exterior.is_ccw for part in geometry.geoms)


LOCAL = 'LOCAL_CS["Local Coordinates (m)",UNIT["metre",1]]'


def test_a_local_crs_is_in_pixels_and_tried_a_few_times_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def counted(source: Any, target: Any, x: Any, y: Any) -> Any:
        tried.append(len(x))
        return reproject_points(source, target, x, y)

    monkeypatch.setattr(vector, "reproject_points", counted)
    mask = np.indices((60, 60)).sum(axis=0) % 3 > 0  # hundreds of corners
    page = geojson(tmp_path, mask, grid_of(60, 60, crs=LOCAL))
    assert sum(tried) <= 16
    assert page["coordinate_space"].startswith("pixels")
    bounds = [shapely.geometry.shape(f["geometry"]).bounds for f in page["features"]]
    assert bounds and all(low >= 0 and high <= 60 for low, _, high, _ in bounds)


@pytest.mark.parametrize(
    "mask",
    [
        masked((4, 4, 16, 26)),
        masked((4, 4, 16, 26)) & ~masked((6, 8, 8, 10)),  # a hole beside the pole
        masked((4, 4, 16, 26)) & ~masked((8, 13, 12, 17)),  # a hole around the pole
        masked((4, 4, 16, 26)) & ~masked((4, 12, 7, 14)),  # a notch
    ],
)
@pytest.mark.parametrize(("crs", "south"), [("EPSG:3413", False), ("EPSG:3031", True)])
def test_a_place_around_a_pole_keeps_its_area(
    tmp_path: Path, mask: Any, crs: str, south: bool
) -> None:
    grid = grid_of(transform=Affine(1000, 0, -15_000, 0, -1000, 10_000), crs=crs)
    page = geojson(tmp_path, mask, grid)
    shape = shapely.geometry.shape(page["features"][0]["geometry"])
    assert shape.is_valid
    assert shape.bounds[0] >= -180 and shape.bounds[2] <= 180
    assert (shape.bounds[3] < 0) == south
    parts = np.array(shape.geoms, object)
    world = grid_of(transform=Affine(1, 0, -180, 0, -1, 90), crs="EPSG:4326")
    areas = areas_m2(parts, world)
    assert areas is not None
    # The maps are not of equal area: 6 % too small at the pole.
    assert areas.sum() == pytest.approx(mask.sum() * 1e6 / 0.97**2, rel=0.03)


def test_a_place_off_the_earth_has_no_geometry(tmp_path: Path) -> None:
    grid = grid_of(transform=Affine(1e28, 0, 1e30, 0, -1e28, 1e30), crs="EPSG:3857")
    page = geojson(tmp_path, masked((2, 4, 6, 10)), grid)
    assert page["features"][0]["geometry"] is None
    assert page["features"][0]["properties"]["area_m2"] is None


def test_nothing_found_is_an_empty_collection(tmp_path: Path) -> None:
    assert geojson(tmp_path, masked(), grid_of())["features"] == []
