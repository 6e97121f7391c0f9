"""The grid of a picture: how many pixels, and where on the ground each of them lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.coords import BoundingBox
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

SEMI_MAJOR_AXIS = 6_378_137.0
"""Of WGS 84, metres."""
ECCENTRICITY2 = 6.694_379_990_141_316e-3
"""Squared first eccentricity of WGS 84."""
# Farther than any place on Earth in any unit. From about 1e16 on, PROJ turns longitudes back by
# one circle at a time, for hours: a made-up transform must not stop the program.
_FARTHEST = 1e11


@dataclass(frozen=True)
class Grid:
    """Size, affine transform and coordinate reference system of a picture.

    Attributes:
        width: Columns, at least 1.
        height: Rows, at least 1.
        transform: From (column, row) to (x, y) of the CRS; (0, 0) is the outer corner of the
            first pixel. North-up, south-up, rotated and non-square grids are all just affine.
        crs: Coordinate reference system, or None when the file names none.
    """

    width: int
    height: int
    transform: Affine
    crs: CRS | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a grid of {self.width} x {self.height} pixels has no pixel")
        if not all(math.isfinite(value) for value in self.transform[:6]):
            raise ValueError("the transform holds a value that is not a finite number")
        if self.transform.determinant == 0.0:
            raise ValueError("the transform gives pixels no area")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (H, W), the order of arrays."""
        return self.height, self.width

    @property
    def has_transform(self) -> bool:
        """Whether pixels have a place: false for the identity that plain pictures carry.

        The identity is compared both ways up, since GDAL flips it for some formats.
        """
        a, b, _, d, e, _ = self.transform[:6]
        unit = (a, b, d, abs(e)) == (1.0, 0.0, 0.0, 1.0)
        return not (unit and self.transform.c == 0.0 and self.transform.f == 0.0)

    @property
    def is_georeferenced(self) -> bool:
        """Whether pixels have a place on Earth: a transform and a CRS."""
        return self.has_transform and self.crs is not None

    @property
    def has_metres(self) -> bool:
        """Whether lengths on the ground are known: georeferenced, in units that are lengths."""
        return self.is_georeferenced and _has_units(self.crs)

    @property
    def is_mercator(self) -> bool:
        """Whether the CRS is a Mercator map, such as the web's, which stretches with latitude."""
        return self.crs is not None and self.crs.to_dict().get("proj") in {"merc", "webmerc"}

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the picture's centre, in units of the CRS."""
        x, y = map_points(self.transform, np.array(self.width / 2), np.array(self.height / 2))
        return float(x), float(y)

    @property
    def bounds(self) -> BoundingBox:
        """Smallest upright box around all pixels (left, bottom, right, top), CRS units."""
        x, y = self._corners()
        return BoundingBox(float(x.min()), float(y.min()), float(x.max()), float(y.max()))

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Lengths of a pixel's column step and row step in units of the CRS."""
        a, b, _, d, e, _ = self.transform[:6]
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def gsd_m(self) -> float | None:
        """Ground sampling distance: metres per pixel, mean of both steps; None when unknown.

        Degrees are metres of the WGS 84 ellipsoid at the centre's latitude. Mercator maps
        (such as the web's) stretch by 1 / cos(latitude), which is undone; the scale errors of
        other projections, well below a hundredth where they are used, are not.
        """
        scale = self._metres_per_unit() if self.has_transform else None
        if scale is None:
            return None
        a, b, _, d, e, _ = self.transform[:6]
        column_step = math.hypot(a * scale[0], d * scale[1])
        row_step = math.hypot(b * scale[0], e * scale[1])
        return (column_step + row_step) / 2

    def window(self, window: Window) -> Grid:
        """Grid of the pixels inside ``window``; whole columns and rows, same CRS."""
        a, b, _, d, e, _ = self.transform[:6]
        x, y = map_points(self.transform, np.array(window.col_off), np.array(window.row_off))
        moved = Affine(a, b, float(x), d, e, float(y))
        return Grid(int(window.width), int(window.height), moved, self.crs)

    def same_as(self, other: Grid, tolerance: float = 0.1) -> bool:
        """Whether both grids put every pixel in the same place.

        Args:
            other: The grid to compare with.
            tolerance: Largest distance of corresponding corners, in pixels of this grid.
        """
        if self.shape != other.shape or self.crs != other.crs:
            return False
        columns, rows = map_points(~self.transform, *other._corners())
        here = np.array([columns, rows]) - np.array(_corner_pixels(self.width, self.height))
        return bool(np.hypot(here[0], here[1]).max() <= tolerance)

    def describe(self) -> str:
        """One line for people: size, CRS, pixel size, place."""
        size = f"{self.width} x {self.height} px"
        if not self.has_transform:
            return f"{size}, no georeference"
        crs = crs_name(self.crs) if self.crs is not None else "no CRS"
        x, y = self.transform.c, self.transform.f
        return f"{size}, {crs}, {self._describe_pixel()}, first corner at ({x:.10g}, {y:.10g})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: width, height, transform (6 numbers), crs, gsd_m."""
        return {
            "width": self.width,
            "height": self.height,
            "transform": [float(value) for value in self.transform[:6]],
            "crs": self.crs.to_string() if self.crs is not None else None,
            "gsd_m": self.gsd_m,
        }

    def _describe_pixel(self) -> str:
        a, b, _, d, e, _ = self.transform[:6]
        across, down = self.pixel_size
        square = math.isclose(across, down, rel_tol=1e-6)
        text = f"pixel {across:.6g}" if square else f"pixel {across:.6g} x {down:.6g}"
        if self.crs is not None:
            unit = self.crs.units_factor[0] if _has_units(self.crs) else "unit"
            text += f" {unit}"
        gsd = self.gsd_m
        if gsd is not None and not math.isclose(gsd, (across + down) / 2, rel_tol=1e-6):
            text += f" ({gsd:.3g} m)"
        if b or d:
            text += ", rotated"
        elif a < 0 or e > 0:
            text += ", south-up" if e > 0 else ", mirrored"
        return text

    def _corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return map_points(self.transform, *_corner_pixels(self.width, self.height))

    def _metres_per_unit(self) -> tuple[float, float] | None:
        """Metres on the ground of one CRS unit along x and along y, at the centre."""
        crs = self.crs
        if crs is None or not _has_units(crs):
            return None
        factor = float(crs.units_factor[1])
        if crs.is_geographic:
            return _metres_per_radian(self.centre[1] * factor, factor)
        if self.is_mercator:
            factor *= math.cos(self._centre_latitude())
        return factor, factor

    def _centre_latitude(self) -> float:
        """Latitude of the centre in radians; 0 where it cannot be computed."""
        x, y = (np.array([value]) for value in self.centre)
        latitude = reproject_points(self.crs, CRS.from_epsg(4326), x, y)[1][0]
        return math.radians(latitude) if math.isfinite(latitude) else 0.0


def map_points(
    transform: Affine, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apply an affine transform to arrays of (column, row); its inverse takes (x, y)."""
    a, b, c, d, e, f = transform[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f


def reproject_points(
    source: CRS, target: CRS, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (x, y) [N] of one CRS in another; NaN where there is no answer."""
    # Written this way round, what is not a number counts as far too.
    near = (np.abs(x) <= _FARTHEST) & (np.abs(y) <= _FARTHEST)
    points = np.full((2, len(x)), np.nan)
    if near.any():
        points[:, near] = _reproject(source, target, x[near], y[near])
    return points[0], points[1]


def _reproject(
    source: CRS, target: CRS, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        xs, ys = transform_points(source, target, x, y)
    except (RasterioError, CPLE_BaseError):
        if len(x) == 1:
            return np.array([np.nan]), np.array([np.nan])
        # One point outside the area of a CRS fails them all: halve until it is alone.
        half = len(x) // 2
        first = _reproject(source, target, x[:half], y[:half])
        second = _reproject(source, target, x[half:], y[half:])
        return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
    points = np.array([xs, ys], dtype=np.float64)
    points[:, ~np.isfinite(points).all(axis=0)] = np.nan
    return points[0], points[1]


def crs_name(crs: CRS) -> str:
    """Short name of a CRS: its code, or the name inside its definition."""
    code = crs.to_authority()
    if code is not None:
        return ":".join(code)
    parts = crs.to_wkt().split('"', 2)
    return parts[1] if len(parts) > 1 and parts[1] else "unnamed CRS"


def _has_units(crs: CRS) -> bool:
    return bool(crs.is_geographic or crs.is_projected)


def _corner_pixels(width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([0.0, width, width, 0.0]), np.array([0.0, 0.0, height, height])


def _metres_per_radian(latitude: float, factor: float) -> tuple[float, float] | None:
    """Metres of ``factor`` radians of longitude and of latitude on WGS 84 at ``latitude``."""
    if abs(latitude) > math.pi / 2:
        return None
    w2 = 1.0 - ECCENTRICITY2 * math.sin(latitude) ** 2
    along_parallel = SEMI_MAJOR_AXIS * math.cos(latitude) / math.sqrt(w2)
    along_meridian = SEMI_MAJOR_AXIS * (1.0 - ECCENTRICITY2) / w2**1.5
    return factor * along_parallel, factor * along_meridian
