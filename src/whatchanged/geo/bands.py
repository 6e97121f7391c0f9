"""Which bands are the picture, and which say where the picture is.

A file can mark pixels without content in four ways: an alpha band, a nodata value, a mask band,
and values that are not numbers. :class:`BandLayout` records which of them a file uses, and
:func:`valid_pixels` joins them into the one answer the rest of the package knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

from whatchanged.errors import InputError, UsageError

_SPARSE_PROBES = 65_536  # blocks looked up at most, a microsecond each


@dataclass(frozen=True, eq=False)
class BandLayout:
    """How the bands of one file make a picture of three.

    Attributes:
        bands: Band numbers from 1, read as red, green and blue; one number thrice for grey.
        dtype: Type of the picture's values, after the palette where there is one.
        alpha: Band whose zeros are invalid pixels, or None.
        has_mask: Whether the file carries a mask band of its own.
        nodata: Value of invalid pixels, or None.
        palette: Colours [N, 4] uint8 (red, green, blue, alpha) of a picture of indices, or None.
        notes: What a person should know about the choice, one sentence each.
    """

    bands: tuple[int, int, int]
    dtype: np.dtype[Any]
    alpha: int | None
    has_mask: bool
    nodata: float | None
    palette: NDArray[np.uint8] | None
    notes: tuple[str, ...] = ()

    @property
    def nodata_needs_all(self) -> bool:
        """Whether nodata counts only where all three bands hold it.

        Zero and the type's largest value also occur in single bands of good pixels (a pure
        red, a saturated roof); any other value is there on purpose, and one band is enough.
        """
        if self.nodata is None:
            return False
        top = np.iinfo(self.dtype).max if self.dtype.kind in "iu" else None
        return self.nodata in (0, top)


def choose_bands(path: Path, dataset: Any, requested: Sequence[int] | None) -> BandLayout:
    """Decide which bands of an open raster are red, green and blue, and what marks validity.

    Without a request: the bands that the file calls red, green and blue; a palette's colours;
    else the first three that are not alpha; else the first one thrice.

    Args:
        path: For messages.
        dataset: An open ``rasterio.DatasetReader``.
        requested: One or three band numbers from 1, or None.

    Raises:
        UsageError: A request of another length.
        InputError: A band that the file does not have, or colours that are not red, green, blue.
    """
    interpretation = list(dataset.colorinterp)
    palette = None
    notes: tuple[str, ...] = ()
    if requested is not None:
        bands = _requested(path, dataset.count, requested)
    elif interpretation[0] is ColorInterp.palette and dataset.dtypes[0] in ("uint8", "uint16"):
        bands = (1, 1, 1)
        palette = _palette(dataset)
    else:
        bands, notes = _by_interpretation(path, interpretation)
    alphas = [i for i, kind in enumerate(interpretation, 1) if kind is ColorInterp.alpha]
    alpha = next((band for band in alphas if band not in bands), None)
    flags = dataset.mask_flag_enums[bands[0] - 1]
    stored = np.result_type(*(np.dtype(dataset.dtypes[band - 1]) for band in bands))
    nodata = _nodata(dataset.nodatavals[bands[0] - 1], stored)
    has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    if nodata is None and alpha is None and not has_mask and _is_sparse(dataset):
        nodata = 0.0
        notes += ("parts of it were never written; they are treated as invalid, like black",)
    dtype = stored if palette is None else np.dtype(np.uint8)
    return BandLayout(bands, dtype, alpha, has_mask, nodata, palette, notes)


def valid_pixels(
    data: NDArray[Any],
    layout: BandLayout,
    alpha: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
) -> NDArray[np.bool_]:
    """Where three bands hold a photograph.

    Args:
        data: Stored values of the three bands, [3, H, W], before any palette.
        layout: The file's layout; its nodata value is compared with ``data``.
        alpha: Alpha band [H, W], invalid where zero.
        mask: Mask band [H, W], invalid where zero.

    Returns:
        [H, W] bool. A value that is not finite in any band is invalid.
    """
    valid = np.ones(data.shape[1:], dtype=np.bool_)
    if alpha is not None:
        valid &= alpha > 0
    if mask is not None:
        valid &= mask > 0
    if data.dtype.kind == "f":
        valid &= np.isfinite(data).all(axis=0)
    if layout.nodata is not None and not math.isnan(layout.nodata):
        empty = _equals(data, layout.nodata)
        valid &= ~(empty.all(axis=0) if layout.nodata_needs_all else empty.any(axis=0))
    return valid


def apply_palette(
    indices: NDArray[Any], palette: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Colours [3, H, W] of palette indices [H, W], and where they are not transparent [H, W]."""
    colours = palette[indices]  # [H, W, 4]
    return np.moveaxis(colours[..., :3], -1, 0), colours[..., 3] > 0


def _requested(path: Path, count: int, requested: Sequence[int]) -> tuple[int, int, int]:
    bands = [int(band) for band in requested]
    if len(bands) not in (1, 3):
        raise UsageError(
            f"{len(bands)} bands are asked for; a picture is made of one or three",
            hint="for example --bands 4,3,2, or --bands 1 for grey",
        )
    for band in bands:
        if not 1 <= band <= count:
            raise InputError(
                f"{path} has no band {band}; it has {count}", hint="bands are counted from 1"
            )
    return (bands[0], bands[-2 if len(bands) == 3 else 0], bands[-1])


def _by_interpretation(
    path: Path, interpretation: list[ColorInterp]
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    named = {kind: i for i, kind in reversed(list(enumerate(interpretation, 1)))}
    if {ColorInterp.red, ColorInterp.green, ColorInterp.blue} <= named.keys():
        rgb = named[ColorInterp.red], named[ColorInterp.green], named[ColorInterp.blue]
        return rgb, ()
    if ColorInterp.cyan in named:
        raise InputError(
            f"{path} holds printing colours (CMYK)", hint="convert it to RGB in an image editor"
        )
    colour = [i for i, kind in enumerate(interpretation, 1) if kind is not ColorInterp.alpha]
    if not colour:
        raise InputError(f"{path} has an alpha band and no picture")
    if len(colour) < 3:
        note = f"band {colour[0]} of {len(colour)} is read as grey; choose with --bands"
        return (colour[0],) * 3, (note,) if len(colour) > 1 else ()
    note = (
        f"bands {colour[0]}, {colour[1]}, {colour[2]} of {len(colour)} are read as red, green, "
        "blue, since the file names no colours; choose with --bands"
    )
    return (colour[0], colour[1], colour[2]), (note,) if len(colour) > 3 else ()


def _palette(dataset: Any) -> NDArray[np.uint8]:
    """All colours that the index type can ask for; indices without an entry are transparent."""
    size = np.iinfo(dataset.dtypes[0]).max + 1
    palette = np.zeros((size, 4), dtype=np.uint8)
    for index, colour in dataset.colormap(1).items():
        if 0 <= index < size:
            palette[index] = colour
    return palette


def _nodata(value: float | None, dtype: np.dtype[Any]) -> float | None:
    """``value`` if ``dtype`` can hold it: -9999 never occurs in an 8-bit picture."""
    if value is None:
        return None
    if dtype.kind == "f":
        return float(value)
    limits = np.iinfo(dtype)
    fits = math.isfinite(value) and limits.min <= value <= limits.max and value == int(value)
    return float(value) if fits else None


def _equals(data: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    equal: NDArray[np.bool_]
    if data.dtype.kind == "f":
        # GeoTIFF writes nodata as text, often with six digits: -3.40282e+38 is the lowest float32.
        equal = np.isclose(data, nodata, rtol=2e-6, atol=0.0)
    else:
        equal = data == data.dtype.type(nodata)
    return equal


def _is_sparse(dataset: Any) -> bool:
    """Whether blocks of a GeoTIFF were never written, as in a file whose writer was killed."""
    if dataset.driver != "GTiff":
        return False
    height, width = dataset.block_shapes[0]
    across = -(-dataset.width // width)
    total = across * -(-dataset.height // height)
    for number in np.linspace(0, total - 1, min(total, _SPARSE_PROBES)).round().astype(int):
        name = f"BLOCK_OFFSET_{number % across}_{number // across}"
        if dataset.get_tag_item(name, "TIFF", bidx=1) is None:
            return True
    return False
