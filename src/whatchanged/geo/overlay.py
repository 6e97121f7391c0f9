"""Photographs made smaller, and masks drawn over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOUR = (255, 40, 180)  # magenta: on no roof, field or water, and seen by the colour-blind
_TINT = 0.3
_THICK_FROM = 400  # pixels a side from which outlines are two pixels wide


def shrink(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a picture [H, W, 3] with at most `side` pixels on its longer side."""
    size = _fitted(picture, side)
    if size == picture.shape[:2]:
        return picture
    image = Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(image)


def mark(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], side: int = 1024
) -> NDArray[np.uint8]:
    """Draw a mask over a photograph: outlined, and tinted so lightly that all stays visible.

    Args:
        picture: [H, W, 3].
        mask: [H, W].
        side: Longest side of the result; where it is smaller than the picture, a pixel is marked
            that holds any marked one, so that nothing small is lost.

    Returns:
        [h, w, 3] uint8.
    """
    small = shrink(picture, side)
    marked = _shrink_mask(mask, small.shape[0], small.shape[1])
    inner = marked
    for _ in range(2 if max(small.shape) >= _THICK_FROM else 1):
        inner = _eroded(inner)
    colour = np.array(_COLOUR, np.float32)
    drawn = small.astype(np.float32)
    drawn[inner] += (colour - drawn[inner]) * _TINT
    drawn[marked & ~inner] = colour
    return (drawn + 0.5).astype(np.uint8)


def _fitted(picture: NDArray[Any], side: int) -> tuple[int, int]:
    height, width = picture.shape[:2]
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _shrink_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    if mask.shape == (height, width):
        return mask
    rows, columns = np.nonzero(mask)
    small = np.zeros((height, width), bool)
    small[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    return small


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are all marked; beyond the picture counts as unmarked."""
    padded = np.pad(mask, 1)
    inner: NDArray[np.bool_] = (
        mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    )
    return inner
