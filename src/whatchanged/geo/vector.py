"""From a mask to polygons on the ground, and to files that every GIS opens."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes

from whatchanged.files import replacing, write_bytes
from whatchanged.geo.area import areas_m2
from whatchanged.geo.grid import Grid, crs_name, map_points, reproject_points

SPECK_PIXELS = 8
"""Patches of fewer pixels are dropped: the model's masks are no finer."""
LAYER = "changes"
_WGS84 = CRS.from_epsg(4326)
_WORLD = shapely.box(-180, -90, 180, 90)
_DECIMALS = 8  # of a degree: a millimetre
_PROBES = 16
_BENDS = 256  # pieces of an outline that goes around a pole
_PIXEL_SPACE = (
    "pixels: x counts columns to the right and y rows down from the outer corner of the first "
    "pixel; the photographs name no coordinate reference system that leads to degrees"
)


@dataclass(frozen=True)
class ChangePolygon:
    """One patch of change, with what it was looked for as.

    Attributes:
        geometry: Outline with its holes along pixel edges, in coordinates of the grid's CRS; of
            its transform where it names none, (column, row) where it has no transform either.
        area_px: Pixels.
        area_m2: Square metres; None where the grid's CRS does not allow it.
        probability: Mean over its pixels, in [0, 1].
        wish: What was asked for.
        target: Classes the wish was understood as.
        direction: `appeared`, `disappeared` or `either`; None where not understood.
        former: Classes that stood there before; empty where the wish does not say.
    """

    geometry: shapely.Polygon
    area_px: int
    area_m2: float | None
    probability: float
    wish: str = ""
    target: tuple[str, ...] = ()
    direction: str | None = None
    former: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ChangeMap:
    """A mask and the same as polygons.

    Attributes:
        mask: [H, W] bool, without specks.
        polygons: Of exactly that mask, the largest first.
        n_specks: Patches that were dropped for their size.
    """

    mask: NDArray[np.bool_]
    polygons: tuple[ChangePolygon, ...]
    n_specks: int


def vectorise(
    mask: NDArray[np.bool_],
    probability: NDArray[np.float32],
    grid: Grid,
    *,
    wish: str = "",
    target: tuple[str, ...] = (),
    direction: str | None = None,
    former: tuple[str, ...] = (),
    speck_pixels: int = SPECK_PIXELS,
) -> ChangeMap:
    """Turn a mask into polygons along pixel edges.

    Pixels belong together where they share a side. Those that touch at a corner alone would
    make outlines that cross themselves, which GIS programs refuse as invalid.

    Args:
        mask: [H, W].
        probability: [H, W]; read inside the mask alone.
        grid: Grid of both.
        wish: Written to every polygon, and so the next three.
        target: Classes.
        direction: Of the change.
        former: Classes that stood there before.
        speck_pixels: Patches of fewer pixels are left out, of the mask too.
    """
    patches: Any = shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    outlines = np.array([shapely.geometry.shape(shape) for shape, _ in patches], object)
    if not len(outlines):
        return ChangeMap(mask, (), 0)
    numbered = ((outline, number) for number, outline in enumerate(outlines, start=1))
    numbers: NDArray[np.int32] = rasterize(numbered, out_shape=mask.shape, dtype=np.int32)
    inside = numbers[mask]
    sizes = np.bincount(inside, minlength=len(outlines) + 1)
    sums = np.bincount(inside, weights=probability[mask], minlength=len(outlines) + 1)
    kept = sizes >= speck_pixels
    kept[0] = False  # what lies outside
    order = np.flatnonzero(kept)
    order = order[np.argsort(-sizes[order], kind="stable")]
    geometries = to_ground(outlines[order - 1], grid)
    areas = areas_m2(geometries, grid)
    polygons = tuple(
        ChangePolygon(
            geometry=geometry,
            area_px=int(sizes[number]),
            area_m2=None if areas is None or np.isnan(areas[i]) else float(areas[i]),
            probability=float(sums[number] / sizes[number]),
            wish=wish,
            target=target,
            direction=direction,
            former=former,
        )
        for i, (number, geometry) in enumerate(zip(order, geometries, strict=True))
    )
    return ChangeMap(kept[numbers], polygons, int(len(outlines) - len(order)))


def has_patch(mask: NDArray[np.bool_]) -> bool:
    """Return whether `vectorise` would leave anything of a mask [H, W]."""
    patches: Any = shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    return any(shapely.geometry.shape(shape).area >= SPECK_PIXELS for shape, _ in patches)


def to_ground(outlines: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Bring geometries [N] from (column, row) to the grid's transform, if it has one."""
    return _moved(outlines, grid.transform) if grid.has_transform else outlines


def write_geopackage(path: Path, polygons: Sequence[ChangePolygon], grid: Grid) -> None:
    """Write polygons as a GeoPackage with the one layer `changes`, empty if there are none.

    Without any georeference y is minus the row, which is where QGIS shows such a picture.

    Raises:
        OSError: It cannot be written.
    """
    from pyogrio import errors, raw

    geometries = _geometries(polygons)
    if not grid.has_transform:
        geometries = shapely.transform(geometries, lambda points: points * (1, -1))
    with replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")  # there is none
        try:
            raw.write(
                part,
                shapely.to_wkb(geometries),
                _columns(polygons),
                [*_COLUMNS],
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=None if grid.crs is None else _crs_text(grid.crs),
            )
        except (errors.DataSourceError, errors.DataLayerError) as error:
            raise OSError(f"{path.name}: {error}") from error


def write_geojson(path: Path, polygons: Sequence[ChangePolygon], grid: Grid) -> None:
    """Write polygons as GeoJSON (RFC 7946): longitude and latitude on WGS 84.

    Without a CRS, or in one that leads nowhere on Earth, such as a local one, the coordinates
    are pixels, and the member `coordinate_space` says so.
    """
    geometries = shapely.orient_polygons(_geometries(polygons))
    members: dict[str, Any] = {"type": "FeatureCollection", "name": LAYER}
    if grid.is_georeferenced and _is_on_earth(geometries, grid.crs):
        placed = [_to_degrees(geometry, grid.crs) for geometry in geometries]
    else:
        members["coordinate_space"] = _PIXEL_SPACE
        pixels = _moved(geometries, ~grid.transform) if grid.has_transform else geometries
        placed = list(shapely.orient_polygons(pixels))
    features = [
        {
            "type": "Feature",
            "id": number,
            "properties": {
                "wish": storable(polygon.wish),
                "target": list(polygon.target),
                "direction": polygon.direction,
                "probability": round(polygon.probability, 4),
                "area_m2": _rounded(polygon.area_m2),
                "area_px": polygon.area_px,
                "former": list(polygon.former),
            },
            "geometry": None if place is None else shapely.geometry.mapping(place),
        }
        for number, (polygon, place) in enumerate(zip(polygons, placed, strict=True), start=1)
    ]
    text = json.dumps({**members, "features": features}, allow_nan=False)
    write_bytes(path, text.encode())


def storable(text: str) -> str:
    """Return a text that every file can hold: without lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


_COLUMNS = ("wish", "target", "direction", "probability", "area_m2", "area_px", "former")


def _columns(polygons: Sequence[ChangePolygon]) -> list[Any]:
    areas = [np.nan if p.area_m2 is None else round(p.area_m2, 2) for p in polygons]
    return [
        np.array([storable(p.wish) for p in polygons], object),
        np.array([", ".join(p.target) for p in polygons], object),
        np.array([p.direction for p in polygons], object),
        np.array([round(p.probability, 4) for p in polygons], np.float64),
        np.array(areas, np.float64),  # not a number becomes NULL
        np.array([p.area_px for p in polygons], np.int64),
        np.array([", ".join(p.former) for p in polygons], object),
    ]


def _rounded(area: float | None) -> float | None:
    return None if area is None else round(area, 2)


def _geometries(polygons: Sequence[ChangePolygon]) -> NDArray[Any]:
    geometries = np.empty(len(polygons), object)
    geometries[:] = [polygon.geometry for polygon in polygons]
    return geometries


def _moved(geometries: NDArray[Any], transform: Any) -> NDArray[Any]:
    moved: NDArray[Any] = shapely.transform(
        geometries, lambda points: np.column_stack(map_points(transform, *points.T))
    )
    return moved


def _crs_text(crs: CRS) -> str:
    """The code of a CRS, so that programs show its name; its definition if it has none."""
    name = crs_name(crs)
    return name if crs.to_authority() is not None else str(crs.to_wkt())


def _is_on_earth(geometries: NDArray[Any], crs: CRS) -> bool:
    """Whether a CRS leads to degrees: for one of no known kind, whether a few points have any.

    Asked first, since each point that has none is slow to fail.
    """
    if crs.is_geographic or crs.is_projected:
        return True
    points = shapely.get_coordinates(geometries)
    some = points[np.linspace(0, len(points) - 1, min(len(points), _PROBES)).astype(int)]
    longitude, _ = reproject_points(crs, _WGS84, some[:, 0], some[:, 1])
    return not len(points) or bool(np.isfinite(longitude).any())


def _to_degrees(geometry: shapely.Polygon, crs: CRS) -> shapely.Geometry | None:
    """Return a polygon in longitude and latitude; None where a point has no place on Earth.

    One that crosses the antimeridian is cut there (RFC 7946, 3.1.9), one around a pole too.
    """
    placed = _placed(geometry, crs)
    if placed is None:
        return None
    if np.ptp(shapely.get_coordinates(placed)[:, 0]) > 180:
        # Lines that are straight on the map bend around a pole.
        placed = _placed(shapely.segmentize(geometry, geometry.length / _BENDS), crs) or placed
        holes = [_cut_ring(ring) for ring in placed.interiors]
        placed = shapely.difference(_cut_ring(placed.exterior), shapely.union_all(holes))
        parts = [p for p in shapely.get_parts(placed) if isinstance(p, shapely.Polygon)]
        placed = shapely.MultiPolygon(parts)
    oriented: shapely.Geometry = shapely.orient_polygons(placed)
    return oriented


def _placed(geometry: shapely.Polygon, crs: CRS) -> Any:
    """Return a polygon with longitude and latitude for coordinates; None where one has none."""
    points = shapely.get_coordinates(geometry)
    longitude, latitude = reproject_points(crs, _WGS84, points[:, 0], points[:, 1])
    if not np.isfinite(longitude).all() or not np.isfinite(latitude).all():
        return None
    return shapely.set_coordinates(
        shapely.from_wkb(shapely.to_wkb(geometry)),
        np.column_stack([longitude, latitude]).round(_DECIMALS),
    )


def _cut_ring(ring: shapely.LinearRing) -> shapely.Geometry:
    """Return what a ring of longitudes and latitudes encloses, cut at the antimeridian.

    Longitudes are followed around, past 180 degrees; a ring that does not come back to where it
    began goes around a pole, and is closed along that.
    """
    longitude, latitude = shapely.get_coordinates(ring).T
    longitude = np.unwrap(longitude, period=360)
    if abs(longitude[-1] - longitude[0]) > 180:
        pole = np.copysign(90, latitude.mean())
        longitude = np.append(longitude, longitude[[-1, 0]])
        latitude = np.append(latitude, [pole, pole])
    whole = shapely.make_valid(shapely.Polygon(np.column_stack([longitude, latitude])))
    parts = [
        shapely.intersection(
            shapely.transform(whole, lambda points, turn=turn: points + np.array([turn, 0])), _WORLD
        )
        for turn in (-720, -360, 0, 360, 720)
    ]
    return shapely.union_all(parts)
