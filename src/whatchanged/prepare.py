"""From a pair of photographs of any size to the pixels a model was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from whatchanged.geo.pair import PairPixels, ScenePair

FINEST_GSD, COARSEST_GSD = 0.5, 2.0  # metres a pixel that the shipped model has seen
STRIDE = 32  # sides of model input are multiples of it
LARGEST = 512  # longest side of model input, pixels: four times the trained area
_STRIP_PIXELS = 16_000_000  # a larger pair is read in strips and reduced on the way
_LITTLE_VALID = 0.5


@dataclass(frozen=True)
class Scale:
    """The size at which a model sees a pair.

    Attributes:
        height: Pixels, a multiple of 32.
        width: Pixels, a multiple of 32.
        gsd_m: Metres per pixel at that size, None where unknown.
        note: What a user should know of it; empty where nothing was lost.
    """

    height: int
    width: int
    gsd_m: float | None
    note: str


def choose_scale(height: int, width: int, gsd_m: float | None, trained: int) -> Scale:
    """Choose the size at which a model trained on `trained` pixels a side sees a picture.

    A picture goes in whole. Its area becomes `trained`² pixels. Where the ground sampling
    distance is known and a pixel would then be coarser than 2 m, the input grows up to 512
    pixels a side to keep houses visible.

    Args:
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        gsd_m: Of the picture, metres per pixel; None where unknown.
        trained: Side of the model's training pictures, pixels.
    """
    factor = trained / math.sqrt(height * width)
    if gsd_m is not None:
        factor = max(factor, min(gsd_m / COARSEST_GSD, LARGEST / max(height, width)))
    factor = min(factor, LARGEST / max(height, width))
    rows, columns = (max(STRIDE, round(n * factor / STRIDE) * STRIDE) for n in (height, width))
    seen = None if gsd_m is None else gsd_m * math.sqrt(height * width / (rows * columns))
    return Scale(rows, columns, seen, _scale_note(height, width, rows, columns, seen))


def _scale_note(height: int, width: int, rows: int, columns: int, gsd_m: float | None) -> str:
    if gsd_m is not None and gsd_m > COARSEST_GSD * 1.25:
        return (
            f"the picture of {width} x {height} pixels is seen at {columns} x {rows}, "
            f"{gsd_m:.2g} m a pixel; changes smaller than about {4 * gsd_m:.0f} m are missed: "
            "describe smaller parts of it one by one"
        )
    if gsd_m is not None and gsd_m < FINEST_GSD / 2.5:
        return (
            f"the picture covers little ground: it is seen at {gsd_m:.2g} m a pixel, finer than "
            f"the {FINEST_GSD} m to {COARSEST_GSD} m the model was trained on"
        )
    if gsd_m is None and rows * columns * 16 < height * width:
        return (
            f"the picture of {width} x {height} pixels is seen at {columns} x {rows}; "
            "small changes are missed: describe smaller parts of it one by one"
        )
    return ""


def read_reduced(pair: ScenePair, height: int, width: int) -> PairPixels:
    """Read a whole pair, reduced by a whole factor on the way where it is large.

    Memory is bounded by a strip, not by the scene. A reduced pixel is the mean of its valid
    pixels and valid if half of them are.

    Args:
        pair: Open pair.
        height: Rows the result must at least have where the pair has them.
        width: Columns likewise.
    """
    rows, columns = pair.grid.shape
    factor = max(1, min(rows // height, columns // width))
    if rows * columns <= _STRIP_PIXELS or factor == 1:
        return pair.read()
    strip = max(1, _STRIP_PIXELS // (columns * factor)) * factor
    parts = []
    for top in range(0, rows - rows % factor, strip):
        size = min(strip, rows - rows % factor - top)
        window = Window(0, top, columns - columns % factor, size)
        parts.append(_reduce(pair.read(window), factor))
    return PairPixels(
        before=np.concatenate([p.before for p in parts]),
        after=np.concatenate([p.after for p in parts]),
        valid=np.concatenate([p.valid for p in parts]),
    )


def _reduce(pixels: PairPixels, factor: int) -> PairPixels:
    rows, columns = (n // factor for n in pixels.valid.shape)
    blocks = (rows, factor, columns, factor)
    valid = pixels.valid.reshape(blocks)
    count = valid.sum((1, 3))  # [rows, columns]

    def mean(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        kept = picture.reshape(*blocks, 3) * valid[..., None]
        total = kept.sum((1, 3), dtype=np.uint64)
        return (total / np.maximum(count, 1)[..., None] + 0.5).astype(np.uint8)

    return PairPixels(mean(pixels.before), mean(pixels.after), count * 2 >= factor * factor)


def fit_pixels(
    pixels: PairPixels, scale: Scale
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Resize both dates to the model's size, [3, h, w] each, and say what is missing.

    Pixels that are not valid in both dates get the same mid grey in both, so that a gap is
    never seen as a change.
    """
    before, after = pixels.before, pixels.after
    share = float(pixels.valid.mean())
    if share < 1:
        before, after = before.copy(), after.copy()
        before[~pixels.valid] = after[~pixels.valid] = 127
    note = "" if share >= _LITTLE_VALID else f"only {share:.0%} of the pixels are valid in both"
    return _resize(before, scale), _resize(after, scale), note


def _resize(picture: NDArray[np.uint8], scale: Scale) -> NDArray[np.uint8]:
    if picture.shape[:2] != (scale.height, scale.width):
        image = Image.fromarray(picture).resize(
            (scale.width, scale.height), Image.Resampling.LANCZOS
        )
        picture = np.asarray(image)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
