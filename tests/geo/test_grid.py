"""Grids: twelve reference systems, every way a pixel can lie, and what people read of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from whatchanged.geo.grid import Grid, crs_name, reproject_points

# EPSG code, x and y of the first corner, pixel in CRS units, metres of that pixel.
SYSTEMS: list[tuple[int, float, float, float, float | None]] = [
    (32633, 500_000, 5_000_000, 0.5, 0.5),  # UTM north
    (32733, 500_000, 8_000_000, 0.5, 0.5),  # UTM south
    (27700, 400_000, 300_000, 0.25, 0.25),  # British National Grid
    (2154, 700_000, 6_600_000, 0.2, 0.2),  # Lambert 93
    (3035, 4_300_000, 3_000_000, 10.0, 10.0),  # LAEA Europe
    (2193, 1_600_000, 5_400_000, 0.3, 0.3),  # New Zealand TM
    (3031, 0, 1_000_000, 30.0, 30.0),  # Antarctic polar stereographic
    (2263, 980_000, 200_000, 1.0, 0.3048006),  # New York, US survey feet
    (4326, 13.0, 52.0, 1e-5, None),  # WGS 84
    (4269, -97.0, 30.0, 1e-5, None),  # NAD 83
    (4258, 2.0, 48.0, 1e-5, None),  # ETRS 89
    (3857, 1_447_000, 6_800_000, 1.0, None),  # web Mercator
]


def grid_at(code: int, x: float, y: float, pixel: float, **kwargs: int) -> Grid:
    size = {"width": 100, "height": 80} | kwargs
    return Grid(**size, transform=Affine(pixel, 0, x, 0, -pixel, y), crs=CRS.from_epsg(code))


def metres_apart(crs: CRS, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Distance of two near points on the ellipsoid, through the azimuthal map around the first."""
    (lon,), (lat,) = transform_points(crs, CRS.from_epsg(4326), [first[0]], [first[1]])
    local = CRS.from_string(f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84")
    xs, ys = transform_points(crs, local, [first[0], second[0]], [first[1], second[1]])
    return math.hypot(xs[1] - xs[0], ys[1] - ys[0])


@pytest.mark.parametrize(("code", "x", "y", "pixel", "metres"), SYSTEMS)
def test_ground_sampling_distance_is_metres(
    code: int, x: float, y: float, pixel: float, metres: float | None
) -> None:
    grid = grid_at(code, x, y, pixel)
    cx, cy = grid.centre
    across = metres_apart(grid.crs, (cx, cy), (cx + pixel, cy))
    down = metres_apart(grid.crs, (cx, cy), (cx, cy + pixel))
    gsd = grid.gsd_m
    assert gsd is not None
    if metres is not None:
        assert gsd == pytest.approx(metres, rel=1e-6)
    # Projections in use stretch by less than a few hundredths; degrees are exact.
    tolerance = 1e-4 if metres is None and code != 3857 else 0.04
    assert gsd == pytest.approx((across + down) / 2, rel=tolerance)


@pytest.mark.parametrize(("code", "x", "y", "pixel", "metres"), SYSTEMS)
def test_every_grid_is_said_in_one_line(
    code: int, x: float, y: float, pixel: float, metres: float | None
) -> None:
    text = grid_at(code, x, y, pixel).describe()
    assert "100 x 80 px" in text
    assert f"EPSG:{code}" in text
    assert "\n" not in text


def test_web_mercator_is_not_taken_for_ground_metres() -> None:
    grid = grid_at(3857, 0, 8_399_738, 1.0)  # about 60 degrees north
    assert grid.gsd_m == pytest.approx(0.5, rel=0.01)


def test_degrees_shrink_towards_the_pole() -> None:
    equator, north = grid_at(4326, 0, 0, 1e-5), grid_at(4326, 0, 60, 1e-5)
    assert equator.gsd_m == pytest.approx((1.11320 + 1.10574) / 2, rel=1e-3)
    assert north.gsd_m is not None and equator.gsd_m is not None
    assert north.gsd_m < 0.8 * equator.gsd_m


def test_gradians_are_not_degrees() -> None:
    grads = Grid(10, 10, Affine(1e-5, 0, 2, 0, -1e-5, 50), CRS.from_epsg(4807))  # NTF (Paris)
    degrees = Grid(10, 10, Affine(9e-6, 0, 2, 0, -9e-6, 45), CRS.from_epsg(4326))
    assert grads.gsd_m == pytest.approx(degrees.gsd_m, rel=1e-3)


def test_rotation_and_direction_do_not_change_the_ground_sampling_distance() -> None:
    crs = CRS.from_epsg(32633)
    for angle in (0, 30, 90, 135, 180):
        transform = (
            Affine.translation(500_000, 5e6) * Affine.rotation(angle) * Affine.scale(0.5, -0.5)
        )
        assert Grid(10, 20, transform, crs).gsd_m == pytest.approx(0.5)
    south_up = Grid(10, 20, Affine(0.5, 0, 0, 0, 0.5, 0), crs)
    assert south_up.gsd_m == pytest.approx(0.5)
    assert "south-up" in south_up.describe()


def test_a_non_square_pixel_counts_with_its_mean() -> None:
    grid = Grid(10, 20, Affine(1.0, 0, 0, 0, -3.0, 0), CRS.from_epsg(32633))
    assert grid.gsd_m == pytest.approx(2.0)
    assert grid.pixel_size == (1.0, 3.0)
    assert "1 x 3" in grid.describe()


@pytest.mark.parametrize(
    "grid",
    [
        Grid(4, 4, Affine.identity()),
        Grid(4, 4, Affine(1, 0, 0, 0, -1, 0)),  # GDAL's identity the other way up
        Grid(4, 4, Affine(0.5, 0, 10, 0, -0.5, 20)),  # a place in a system nobody names
        Grid(4, 4, Affine.identity(), CRS.from_epsg(32633)),  # a system and no place
        Grid(4, 4, Affine(1, 0, 9, 0, -1, 9), CRS.from_epsg(4978)),  # geocentric
        Grid(4, 4, Affine(1, 0, 9, 0, -1, 500), CRS.from_epsg(4326)),  # beyond the pole
    ],
)
def test_unknown_ground_sampling_distance_is_none(grid: Grid) -> None:
    assert grid.gsd_m is None
    assert grid.describe()
    json.dumps(grid.to_dict())


def test_georeferenced_needs_a_place_and_a_system() -> None:
    placed = Affine(0.5, 0, 10, 0, -0.5, 20)
    assert Grid(4, 4, placed, CRS.from_epsg(32633)).is_georeferenced
    assert not Grid(4, 4, placed).is_georeferenced
    assert Grid(4, 4, placed).has_transform
    assert not Grid(4, 4, Affine.identity(), CRS.from_epsg(32633)).is_georeferenced


def test_bounds_of_a_rotated_grid_hold_all_corners() -> None:
    transform = Affine.rotation(45) * Affine.scale(1, -1)
    bounds = Grid(10, 10, transform).bounds
    half = 10 / math.sqrt(2)
    assert bounds.left == pytest.approx(0)
    assert bounds.right == pytest.approx(2 * half)
    assert (bounds.bottom, bounds.top) == (pytest.approx(-half), pytest.approx(half))


@pytest.mark.parametrize(
    ("width", "height", "transform"),
    [
        (0, 1, Affine.identity()),
        (1, -1, Affine.identity()),
        (1, 1, Affine(0, 0, 0, 0, 0, 0)),
        (1, 1, Affine(1, 1, 0, 1, 1, 0)),
        (1, 1, Affine(math.nan, 0, 0, 0, 1, 0)),
        (1, 1, Affine(1, 0, math.inf, 0, 1, 0)),
    ],
)
def test_grids_without_area_do_not_exist(width: int, height: int, transform: Affine) -> None:
    with pytest.raises(ValueError, match=r"pixel|transform"):
        Grid(width, height, transform)


coefficients = st.floats(-50, 50, allow_nan=False)


@given(
    a=coefficients,
    b=coefficients,
    d=coefficients,
    e=coefficients,
    left=st.integers(0, 60),
    top=st.integers(0, 40),
)
def test_a_window_keeps_every_pixel_in_its_place(
    a: float, b: float, d: float, e: float, left: int, top: int
) -> None:
    if abs(a * e - b * d) < 1e-3:
        return
    grid = Grid(100, 80, Affine(a, b, 1e5, d, e, 2e5))
    part = grid.window(Window(left, top, 20, 10))
    assert part.shape == (10, 20)
    assert part.transform * (3, 4) == pytest.approx(grid.transform * (left + 3, top + 4))


@given(column=st.floats(-2, 2), row=st.floats(-2, 2))
def test_same_as_measures_in_pixels(column: float, row: float) -> None:
    grid = grid_at(32633, 500_000, 5e6, 0.5)
    moved = Grid(100, 80, grid.transform * Affine.translation(column, row), grid.crs)
    distance = math.hypot(column, row)
    if abs(distance - 0.1) > 1e-6:
        assert grid.same_as(moved) == (distance < 0.1)
    assert grid.same_as(moved, tolerance=3)


def test_same_as_sees_size_system_and_resolution() -> None:
    grid = grid_at(32633, 500_000, 5e6, 0.5)
    assert grid.same_as(grid_at(32633, 500_000, 5e6, 0.5))
    assert not grid.same_as(grid_at(32633, 500_000, 5e6, 0.5, width=101))
    assert not grid.same_as(grid_at(32634, 500_000, 5e6, 0.5))
    # Half a per cent of 100 px is half a pixel at the far corner.
    assert not grid.same_as(grid_at(32633, 500_000, 5e6, 0.5025))


def test_to_dict_survives_json() -> None:
    grid = grid_at(4326, 13, 52, 1e-5)
    values = json.loads(json.dumps(grid.to_dict()))
    assert values["crs"] == "EPSG:4326"
    assert Affine(*values["transform"]) == grid.transform
    assert values["gsd_m"] == pytest.approx(grid.gsd_m)


def test_names_of_systems() -> None:
    assert crs_name(CRS.from_epsg(32633)) == "EPSG:32633"
    local = CRS.from_wkt('LOCAL_CS["mine survey",UNIT["metre",1]]')
    assert crs_name(local) == "mine survey"
    assert "mine survey" in Grid(2, 2, Affine(1, 0, 5, 0, -1, 5), local).describe()


def test_arrays_are_rows_by_columns() -> None:
    grid = Grid(7, 3, Affine.identity())
    assert np.zeros(grid.shape).shape == (3, 7)


@pytest.mark.parametrize("far", [1e12, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
def test_points_far_beyond_the_earth_are_answered_at_once(crs: str, far: float) -> None:
    x, y = np.array([far, 10.0, 0.0]), np.array([0.0, 20.0, -far])
    target = CRS.from_epsg(32631)
    longitude, latitude = reproject_points(CRS.from_string(crs), target, x, y)
    assert np.isfinite(longitude).tolist() == np.isfinite(latitude).tolist() == [False, True, False]


def test_a_made_up_place_does_not_stop_the_program() -> None:
    grid = Grid(10, 10, Affine(1e28, 0, 1e30, 0, -1e28, 1e30), CRS.from_epsg(3857))
    assert grid.gsd_m is not None  # the equator's, for want of a latitude
