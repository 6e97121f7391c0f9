"""Masks and probabilities as files that a GIS lays over the photographs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from whatchanged.files import replacing, write_bytes
from whatchanged.geo.grid import Grid
from whatchanged.geo.source import safe_env

MASK_NODATA = 255
_TILE = 256
_GEOTIFF = {
    "driver": "GTiff",
    "count": 1,
    "compress": "deflate",
    "tiled": True,
    "blockxsize": _TILE,
    "blockysize": _TILE,
    "bigtiff": "if_safer",
}


def write_mask(folder: Path, mask: NDArray[np.bool_], valid: NDArray[np.bool_], grid: Grid) -> Path:
    """Write a mask as `mask.tif`, or `mask.png` where pixels have no place; return its path.

    The GeoTIFF is 8-bit: 1 changed, 0 not, 255 (its nodata) where a date is not valid. In the
    PNG these are white, black and transparent.

    Args:
        folder: Where to.
        mask: [H, W].
        valid: [H, W].
        grid: Grid of both.
    """
    if grid.has_transform:
        values = np.where(valid, mask, np.uint8(MASK_NODATA)).astype(np.uint8)
        return _write_geotiff(folder / "mask.tif", values, grid, MASK_NODATA, 1, "changed")
    return _write_png(folder / "mask.png", mask.astype(np.uint8) * np.uint8(255), valid)


def write_probability(
    folder: Path, probability: NDArray[np.float32], valid: NDArray[np.bool_], grid: Grid
) -> Path:
    """Write probabilities as `probability.tif`, or `probability.png`; return the path.

    The GeoTIFF holds what was computed, in 0 to 1 and NaN (its nodata) where a date is not
    valid: in QGIS `probability >= 0.7` is another threshold, without a factor to know of. The
    PNG counts from 0 to 255 and is transparent there.

    Args:
        folder: Where to.
        probability: [H, W] in [0, 1].
        valid: [H, W].
        grid: Grid of both.
    """
    if grid.has_transform:
        values = np.where(valid, probability, np.float32(np.nan)).astype(np.float32)
        name = "probability of the change asked for"
        return _write_geotiff(folder / "probability.tif", values, grid, float("nan"), 3, name)
    shades = np.where(valid, probability, 0) * 255 + 0.5
    return _write_png(folder / "probability.png", shades.astype(np.uint8), valid)


def _write_geotiff(
    path: Path, values: NDArray[Any], grid: Grid, nodata: float, predictor: int, band: str
) -> Path:
    with (
        replacing(path) as part,
        safe_env(),
        rasterio.open(
            part,
            "w",
            height=grid.height,
            width=grid.width,
            dtype=values.dtype,
            crs=grid.crs,
            transform=grid.transform,
            nodata=nodata,
            predictor=predictor,
            **_GEOTIFF,
        ) as target,
    ):
        target.write(values, 1)
        target.set_band_description(1, band)
    return path


def _write_png(path: Path, shades: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Path:
    """Write grey, and transparency only where something is not valid."""
    bands = shades if valid.all() else np.dstack([shades, valid.astype(np.uint8) * np.uint8(255)])
    content = io.BytesIO()
    Image.fromarray(bands).save(content, format="PNG")
    write_bytes(path, content.getvalue())
    return path
