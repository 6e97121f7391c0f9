"""Areas on the ground, against the ellipsoid's own formula and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from whatchanged.geo.area import areas_m2
from whatchanged.geo.grid import Grid, reproject_points

A, E2 = 6_378_137.0, 6.694_379_990_141_316e-3
LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'


def grid_of(crs: str | None, transform: Affine | None = None) -> Grid:
    found = None if crs is None else CRS.from_string(crs)
    return Grid(10, 10, transform or Affine(0.1, 0, 1, 0, -0.1, 2), found)


def measure(geometry: shapely.Geometry, crs: str) -> float:
    areas = areas_m2(np.array([geometry], object), grid_of(crs))
    assert areas is not None
    return float(areas[0])


def slow_area(south: float, north: float, width: float, steps: int = 20_000) -> float:
    """Integrate the ellipsoid's element of area, M N cos(latitude), by the midpoint rule."""
    edges = np.radians(np.linspace(south, north, steps + 1))
    middle = (edges[:-1] + edges[1:]) / 2
    w2 = 1 - E2 * np.sin(middle) ** 2
    element = A**2 * (1 - E2) * np.cos(middle) / w2**2
    return float((element * np.diff(edges)).sum() * math.radians(width))


@pytest.mark.parametrize(("south", "north"), [(0, 1), (47, 47.001), (-61, -60), (88, 90)])
def test_degrees_are_measured_on_the_ellipsoid(south: float, north: float) -> None:
    box = shapely.box(10, south, 12.5, north)
    assert measure(box, "EPSG:4326") == pytest.approx(slow_area(south, north, 2.5), rel=1e-8)


def test_the_whole_earth() -> None:
    # Surface of the WGS 84 ellipsoid, NIMA TR 8350.2, table 3.3.
    assert measure(shapely.box(-180, -90, 180, 90), "EPSG:4326") == pytest.approx(
        5.100656217e14, rel=1e-9
    )


def test_a_projected_crs_is_measured_in_its_own_units() -> None:
    square = shapely.box(500_000, 5_000_000, 500_010, 5_000_010)
    assert measure(square, "EPSG:32633") == pytest.approx(100, rel=1e-12)
    foot = 1200 / 3937  # US survey foot
    square = shapely.box(980_000, 200_000, 980_100, 200_100)
    assert measure(square, "EPSG:2263") == pytest.approx((100 * foot) ** 2, rel=1e-9)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395"])
def test_mercator_maps_do_not_blow_areas_up(crs: str) -> None:
    longitude, latitude = np.array([24.0, 24.01]), np.array([60.0, 60.01])
    x, y = reproject_points(CRS.from_epsg(4326), CRS.from_string(crs), longitude, latitude)
    square = shapely.box(x[0], y[0], x[1], y[1])
    assert square.area > 3.5 * measure(square, crs)
    degrees = measure(shapely.box(24.0, 60.0, 24.01, 60.01), "EPSG:4326")
    assert measure(square, crs) == pytest.approx(degrees, rel=1e-6)


@pytest.mark.parametrize(
    ("crs", "longitude", "latitude"),
    [
        ("EPSG:32633", 15.0, 47.0),
        ("EPSG:32750", 117.0, -25.0),
        ("EPSG:2154", 2.4, 46.0),  # Lambert-93
        ("EPSG:27700", -1.5, 53.0),  # British National Grid
        ("EPSG:3035", 20.0, 60.0),  # equal area
        ("EPSG:28992", 5.4, 52.2),  # Netherlands
        ("EPSG:2263", -74.0, 40.7),  # New York, feet
        ("EPSG:3857", 8.5, 47.4),
        ("EPSG:3395", -58.0, -34.6),
        ("EPSG:4258", 11.0, 50.0),  # ETRS89, degrees
        ("EPSG:6933", 30.0, -20.0),  # equal area
        ("EPSG:2193", 174.0, -41.0),  # New Zealand
    ],
)
def test_all_kinds_of_crs_agree_on_the_ground(crs: str, longitude: float, latitude: float) -> None:
    d = 0.001
    corners = d * np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + np.array([longitude, latitude])
    x, y = reproject_points(CRS.from_epsg(4326), CRS.from_string(crs), *corners.T)
    drawn = shapely.Polygon(np.column_stack([x, y]))
    truth = slow_area(latitude, latitude + d, d)
    assert measure(drawn, crs) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("crs", [None, LOCAL])
def test_without_a_known_unit_there_is_no_area(crs: str | None) -> None:
    assert areas_m2(np.array([shapely.box(0, 0, 1, 1)], object), grid_of(crs)) is None


def test_a_plain_picture_with_a_crs_has_no_place() -> None:
    plain = grid_of("EPSG:4326", Affine.identity())
    assert areas_m2(np.array([shapely.box(0, 0, 1, 1)], object), plain) is None


def test_points_off_the_earth_are_no_number() -> None:
    far = shapely.box(1e30, 0, 2e30, 1e30)
    assert math.isnan(measure(far, "EPSG:3857"))


def test_holes_are_taken_off() -> None:
    whole, hole = shapely.box(10, 50, 10.01, 50.01), shapely.box(10.002, 50.002, 10.004, 50.006)
    rest = shapely.Polygon(whole.exterior, [hole.exterior])
    expected = measure(whole, "EPSG:4326") - measure(hole, "EPSG:4326")
    assert measure(rest, "EPSG:4326") == pytest.approx(expected, rel=1e-9)
