"""Areas on the ground, for every kind of coordinate reference system."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from whatchanged.geo.grid import ECCENTRICITY2, SEMI_MAJOR_AXIS, Grid, reproject_points

_WGS84 = CRS.from_epsg(4326)
_ECCENTRICITY = math.sqrt(ECCENTRICITY2)


def areas_m2(geometries: NDArray[Any], grid: Grid) -> NDArray[np.float64] | None:
    """Return the area of every polygon in square metres.

    Degrees are measured on the WGS 84 ellipsoid. A projected CRS gives the plane area in its own
    units, as its users measure it, except Mercator maps such as the web's: they stretch by
    1 / cos(latitude), so their polygons are measured on the ellipsoid too.

    Args:
        geometries: Polygons in coordinates of the grid's CRS, [N].
        grid: Grid they were taken from.

    Returns:
        Areas [N], NaN where a point has no place on Earth; None where the grid has no place or
        its CRS no known unit.
    """
    crs = grid.crs
    if crs is None or not grid.has_metres:
        return None
    factor = float(crs.units_factor[1])
    if crs.is_geographic:
        return _ellipsoidal(geometries, factor)
    if not grid.is_mercator:
        plane: NDArray[np.float64] = shapely.area(geometries) * factor**2
        return plane
    points, owners = shapely.get_coordinates(geometries, return_index=True)  # [P, 2], [P]
    degrees = np.column_stack(reproject_points(crs, _WGS84, *points.T))
    # A ring of what is not a number is none: those are measured as 0 and crossed out after.
    moved = shapely.transform(geometries, lambda _: np.nan_to_num(degrees))
    areas = _ellipsoidal(moved, math.pi / 180)
    areas[owners[~np.isfinite(degrees).all(axis=1)]] = np.nan
    return areas


def _ellipsoidal(geometries: NDArray[Any], factor: float) -> NDArray[np.float64]:
    """Areas of polygons in longitude and latitude; one unit is `factor` radians.

    They are drawn on Lambert's cylindrical equal-area map, on which meridians and parallels,
    the sides of pixels, are straight (Snyder, Map Projections, 1987, Eq. 3-12, 10-14, 10-15).
    """
    flat = shapely.transform(geometries, lambda points: _equal_area(points * factor))
    areas: NDArray[np.float64] = shapely.area(flat)
    return areas


def _equal_area(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitude and latitude in radians [N, 2] to metres on the equal-area map [N, 2]."""
    e, sine = _ECCENTRICITY, np.sin(points[:, 1])
    q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
    return SEMI_MAJOR_AXIS * np.column_stack([points[:, 0], q / 2])
