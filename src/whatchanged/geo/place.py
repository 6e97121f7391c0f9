"""Whether two grids belong together, and what to do when they do not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from whatchanged.errors import PairMismatchError
from whatchanged.geo.grid import Grid, crs_name, map_points, reproject_points

MIN_OVERLAP = 0.1
"""Least share of the earlier photograph that the later one must cover."""
_LATTICE = 64  # points along each axis on which the overlap is measured
_COARSER = 2.0  # ratio of pixel sizes from which aligned detail differs visibly


@dataclass(frozen=True)
class Placement:
    """How two photographs share one grid.

    Attributes:
        grid: The common grid.
        overlap: Share of it that the later photograph covers, in [0, 1].
        warp: Whether the later photograph must be warped onto it.
        warnings: What was assumed, one sentence each.
    """

    grid: Grid
    overlap: float
    warp: bool
    warnings: tuple[str, ...] = ()


def place(before: Grid, after: Grid, names: tuple[str, str], *, align: bool) -> Placement:
    """Find the common grid of a pair, or say why there is none.

    Pictures without georeference are taken pixel for pixel when their sizes are equal. So is a
    pair of which only one is georeferenced; that one's grid is used, and this is said.

    Args:
        before: Grid of the earlier photograph.
        after: Grid of the later photograph.
        names: Names of both files, for messages.
        align: Whether the later one may be warped.

    Raises:
        PairMismatchError: The grids differ and ``align`` is not set or cannot help, or the
            photographs overlap by less than ``MIN_OVERLAP``.
    """
    if before.is_georeferenced and after.is_georeferenced:
        return _place_on_earth(before, after, names, align=align)
    if before.has_transform and after.has_transform:
        return _place_without_crs(before, after, names)
    if before.shape != after.shape:
        raise _mismatch(
            before,
            after,
            names,
            "have different sizes and no common georeference",
            "they cannot be aligned without one: crop or resample one to the size of the other, "
            "or georeference both and use --align",
        )
    if not before.has_transform and not after.has_transform:
        warning = "neither photograph is georeferenced: positions are pixels, distances unknown"
        return Placement(before, 1.0, False, (warning,))
    grid, name = (before, names[0]) if before.has_transform else (after, names[1])
    warning = f"only {name} is georeferenced: both are taken pixel for pixel, on its grid"
    return Placement(grid, 1.0, False, (warning, *_no_crs(grid, name)))


def overlap_fraction(before: Grid, after: Grid) -> float:
    """Share of the earlier grid that the later one covers, in [0, 1], on a lattice of points.

    Points that the later CRS does not reach count as uncovered.
    """
    columns, rows = np.meshgrid(
        (np.arange(_LATTICE) + 0.5) * before.width / _LATTICE,
        (np.arange(_LATTICE) + 0.5) * before.height / _LATTICE,
    )
    x, y = map_points(before.transform, columns.ravel(), rows.ravel())
    if before.crs != after.crs:
        x, y = reproject_points(before.crs, after.crs, x, y)
    columns, rows = map_points(~after.transform, x, y)
    with np.errstate(invalid="ignore"):
        inside = (columns >= 0) & (columns <= after.width) & (rows >= 0) & (rows <= after.height)
    return float(inside.mean())


def differences(before: Grid, after: Grid) -> tuple[str, ...]:
    """What differs between two georeferenced grids, in words: size, CRS, resolution, offset."""
    found = []
    if before.shape != after.shape:
        found.append("size")
    if before.crs != after.crs:
        return (*found, "CRS")
    linear = np.array([before.transform[i] - after.transform[i] for i in (0, 1, 3, 4)])
    # Over the whole picture, a difference in the pixel's steps must stay below a tenth of it.
    allowed = 0.1 * min(before.pixel_size) / max(before.shape)
    if np.abs(linear).max() > allowed:
        rotated = any(g.transform.b or g.transform.d for g in (before, after))
        found.append("resolution or rotation" if rotated else "resolution")
    corner = np.array(after.transform.c), np.array(after.transform.f)
    column, row = map_points(~before.transform, *corner)
    if np.hypot(column, row) > 0.1:
        found.append(f"offset ({column:+.2f}, {row:+.2f} px)")
    return tuple(found)


def _place_on_earth(before: Grid, after: Grid, names: tuple[str, str], *, align: bool) -> Placement:
    if before.same_as(after):
        return Placement(before, 1.0, False)
    overlap = overlap_fraction(before, after)
    if overlap < MIN_OVERLAP:
        share = "do not overlap" if overlap == 0 else f"overlap by {overlap:.1%} of the earlier one"
        raise _mismatch(
            before,
            after,
            names,
            share,
            f"choose photographs of one place; at least {MIN_OVERLAP:.0%} is needed",
        )
    if not align:
        what = ", ".join(differences(before, after)) or "transform"
        raise _mismatch(
            before,
            after,
            names,
            f"do not lie on one grid; they differ in {what}",
            "--align (align=True) warps the later onto the earlier",
        )
    return Placement(before, overlap, True, _align_warnings(before, after, overlap))


def _place_without_crs(before: Grid, after: Grid, names: tuple[str, str]) -> Placement:
    """Both have a transform, but at least one names no CRS: equal transforms or nothing."""
    if not replace(before, crs=None).same_as(replace(after, crs=None)):
        lacking = [name for name, g in zip(names, (before, after), strict=True) if g.crs is None]
        raise _mismatch(
            before,
            after,
            names,
            f"do not lie on one grid, and {' and '.join(lacking)} without a CRS cannot be placed",
            f"say which it is, then use --align: gdal_edit.py -a_srs EPSG:... {lacking[0]}",
        )
    if before.crs is None and after.crs is None:
        warning = "neither photograph names a CRS: distances and areas are unknown"
        return Placement(before, 1.0, False, (warning,))
    known, unknown = names if before.crs is not None else names[::-1]
    crs = before.crs or after.crs
    warning = f"{unknown} names no CRS: that of {known} ({crs_name(crs)}) is assumed"
    return Placement(replace(before, crs=crs), 1.0, False, (warning,))


def _align_warnings(before: Grid, after: Grid, overlap: float) -> tuple[str, ...]:
    found = []
    if overlap < 1.0:
        found.append(f"the later photograph covers {overlap:.1%} of the earlier one")
    fine, coarse = before.gsd_m, after.gsd_m
    if fine and coarse and not 1 / _COARSER <= coarse / fine <= _COARSER:
        found.append(
            f"the photographs differ in resolution: {fine:.3g} m before, {coarse:.3g} m after"
        )
    return tuple(found)


def _no_crs(grid: Grid, name: str) -> tuple[str, ...]:
    return () if grid.crs is not None else (f"{name} names no CRS: distances are unknown",)


def _mismatch(
    before: Grid, after: Grid, names: tuple[str, str], what: str, hint: str
) -> PairMismatchError:
    return PairMismatchError(
        f"{names[0]} and {names[1]} {what}\n"
        f"  before: {before.describe()}\n"
        f"  after:  {after.describe()}",
        hint=hint,
    )
