"""One photograph on its grid, read window by window as three bands and their validity."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from whatchanged.errors import InputError
from whatchanged.geo.bands import BandLayout, apply_palette, choose_bands, valid_pixels
from whatchanged.geo.grid import Grid
from whatchanged.geo.source import (
    MAX_READ_BYTES,
    Source,
    ignored_sidecars,
    open_source,
    reading,
    safe_env,
)


@dataclass(frozen=True, eq=False)
class Scene:
    """One open photograph. Close it, or use it in a ``with`` block.

    Nothing is kept between reads, so a scene may be larger than memory. A scene belongs to one
    thread at a time; open the file once per thread to read in parallel.

    Attributes:
        path: Resolved path of the file.
        grid: Its grid, or the grid it was aligned to.
        layout: Which bands are the picture and what marks invalid pixels.
        warnings: What a person should know about this file, one sentence each.
    """

    path: Path
    grid: Grid
    layout: BandLayout
    warnings: tuple[str, ...]
    _dataset: Any = field(repr=False)
    _resources: ExitStack = field(repr=False)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        bands: Sequence[int] | None = None,
        allowed_root: Path | None = None,
    ) -> Scene:
        """Open a photograph: GeoTIFF, COG, PNG, JPEG, JPEG 2000 or WebP.

        Args:
            path: A regular file.
            bands: One or three band numbers from 1 to read as red, green, blue; None to follow
                the file's colour interpretation.
            allowed_root: Folder the resolved path must lie in; None for anywhere.

        Raises:
            InputError: A file that is refused, damaged or too large, or a band it lacks.
            UsageError: Another number of bands than one or three.
        """
        source = open_source(path, allowed_root=allowed_root)
        with ExitStack() as stack:
            stack.callback(source.dataset.close)
            with reading(source.path, "its header"):
                layout = choose_bands(source.path, source.dataset, bands)
                warnings = (*layout.notes, *_warnings(source))
            return cls(source.path, source.grid, layout, warnings, source.dataset, stack.pop_all())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that :meth:`read` returns."""
        return self.layout.dtype

    @property
    def is_grey(self) -> bool:
        """Whether one band is read thrice."""
        return self.layout.palette is None and len(set(self.bands)) == 1

    @property
    def bands(self) -> tuple[int, int, int]:
        """Band numbers, from 1, that are read as red, green and blue."""
        return self.layout.bands

    def read(self, window: Window | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels at full resolution.

        Args:
            window: Whole columns and rows inside the grid; None for all of it.

        Returns:
            Values [3, H, W] of type ``dtype``, and validity [H, W] bool. Values of invalid
            pixels are whatever the file holds.

        Raises:
            InputError: The file ends too early or is damaged there (file and window are named),
                or the window is larger than one read may be.
            ValueError: The window does not lie inside the grid.
        """
        window = self._inside(window)
        where = (
            f"rows {window.row_off} to {window.row_off + window.height - 1}, "
            f"columns {window.col_off} to {window.col_off + window.width - 1}"
        )
        size = 4 * window.width * window.height * self.dtype.itemsize
        if size > MAX_READ_BYTES:
            raise InputError(
                f"{self.path}: {where} take {size / 2**20:,.0f} MiB; "
                f"{MAX_READ_BYTES // 2**20} MiB are the most for one read",
                hint="read it in smaller windows, or crop the photographs",
            )
        with reading(self.path, where):
            return self._read(window)

    def aligned_to(self, grid: Grid) -> Scene:
        """Lay this scene on another grid: bilinear, lazily, invalid outside the photograph.

        Palette colours are taken from the nearest pixel, since indices have no mean. The new
        scene owns the file; closing it closes this one.

        Raises:
            InputError: No path leads from this scene's CRS to the other one, or the band read
                as a colour is the file's alpha band.
        """
        if not (self.grid.is_georeferenced and grid.is_georeferenced):
            raise ValueError("a scene without georeference cannot be aligned")
        options, layout = _warp_options(self.path, self._dataset, self.layout)
        with reading(self.path, "its place on the other grid"):
            warped = WarpedVRT(
                self._dataset,
                src_crs=self.grid.crs,
                src_transform=self.grid.transform,
                crs=grid.crs,
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                **options,
            )
        resources = self._resources.pop_all()
        resources.callback(warped.close)
        return Scene(self.path, grid, layout, self.warnings, warped, resources)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with safe_env():
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _inside(self, window: Window | None) -> Window:
        grid = self.grid
        if window is None:
            return Window(0, 0, grid.width, grid.height)
        left, top, width, height = (int(value) for value in window.flatten())
        whole = (left, top, width, height) == window.flatten()
        fits = left >= 0 and top >= 0 and left + width <= grid.width and top + height <= grid.height
        if not whole or not fits or width < 1 or height < 1:
            raise ValueError(f"{window} does not lie inside {grid.width} x {grid.height} px")
        return Window(left, top, width, height)

    def _read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        layout = self.layout
        extra = () if layout.alpha is None else (layout.alpha,)
        numbers = list(dict.fromkeys((*layout.bands, *extra)))
        raw = self._dataset.read(numbers, window=window)  # [bands, H, W]
        order = [numbers.index(band) for band in layout.bands]
        data = raw[:3] if order == [0, 1, 2] else raw[order]  # [3, H, W]
        alpha = None if layout.alpha is None else raw[numbers.index(layout.alpha)]
        mask = None
        if layout.has_mask:
            mask = self._dataset.read_masks(layout.bands[0], window=window)
        valid = valid_pixels(data, layout, alpha, mask)
        if layout.palette is not None:
            data, opaque = apply_palette(data[0], layout.palette)
            valid &= opaque
        return data, valid


def _warp_options(
    path: Path, dataset: Any, layout: BandLayout
) -> tuple[dict[str, Any], BandLayout]:
    """Options of WarpedVRT that carry validity through the warp, and the layout it results in."""
    options: dict[str, Any] = {
        "resampling": Resampling.nearest if layout.palette is not None else Resampling.bilinear
    }
    has_alpha_band = any(kind.name == "alpha" for kind in dataset.colorinterp)
    if has_alpha_band and layout.alpha is None:
        raise InputError(
            f"{path}: band {max(layout.bands)} is read as a colour but marked as alpha, "
            "which cannot be aligned",
            hint="take the mark off: gdal_edit.py -colorinterp_4 undefined",
        )
    if has_alpha_band:
        return options, layout
    if layout.nodata is not None and not layout.has_mask:
        unified = "YES" if layout.nodata_needs_all else "NO"
        nodata = {"src_nodata": layout.nodata, "nodata": layout.nodata}
        return options | nodata | {"UNIFIED_SRC_NODATA": unified}, layout
    if layout.dtype.kind == "f" and not layout.has_mask:
        return options | {"src_nodata": float("nan"), "nodata": float("nan")}, layout
    moved = BandLayout(
        bands=layout.bands,
        dtype=layout.dtype,
        alpha=dataset.count + 1,
        has_mask=False,
        nodata=layout.nodata,
        palette=layout.palette,
        notes=layout.notes,
    )
    return options | {"add_alpha": True}, moved


def _warnings(source: Source) -> tuple[str, ...]:
    found = []
    if not source.grid.has_transform and (source.dataset.gcps[0] or source.dataset.rpcs):
        found.append(
            "it is placed by control points or RPCs only, which are not used; "
            "rectify it first (gdalwarp)"
        )
    sidecars = ignored_sidecars(source.path, source.driver)
    if sidecars:
        found.append(
            f"{', '.join(sidecars)} beside it is not read; georeference and masks must be "
            "inside the file (gdal_translate -of GTiff takes them in)"
        )
    return tuple(found)
