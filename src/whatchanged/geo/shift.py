"""How far the later photograph lies beside the earlier one, by phase correlation.

Cells on a coarse grid are correlated in the frequency domain with all amplitudes set to one
(Kuglin and Hines, 1975), so that light and contrast do not count. The correlations of all cells
are added before the peak is sought, as particle image velocimetry does (Meinhart et al., 2000):
on real pairs with much change, single cells miss the peak that their sum shows clearly. The
same is done in each quarter of the picture alone; how many quarters agree is the confidence, so
that a chance peak is not believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

CELL = 128
"""Side of a cell in pixels, halved on small pictures."""
MIN_CELL = 32
MAX_CELLS = 6
"""Cells along each axis, at most; even, so that quarters are equal."""
CERTAIN = 0.75
"""Confidence from which an estimate is believed: three quarters of the picture agree."""
_AGREE_PX = 1.0
_MIN_TEXTURE = 2.0  # standard deviation of a cell, in grey levels of [0, 255]
_MIN_VALID = 0.98
# Gaussian low pass, in cycles a pixel: the highest frequencies differ most between dates.
_PASS = 0.25

GreyReader = Callable[[Window], tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]


@dataclass(frozen=True)
class Shift:
    """Displacement of the later photograph's content against the earlier one's.

    Attributes:
        dx: Pixels to the right (along columns).
        dy: Pixels down (along rows).
        confidence: Share of the picture's quarters, in [0, 1], that show the same shift.
        n_cells: Cells with enough texture that took part.
    """

    dx: float
    dy: float
    confidence: float
    n_cells: int

    @property
    def length(self) -> float:
        """Length of the displacement in pixels."""
        return float(np.hypot(self.dx, self.dy))

    @property
    def is_certain(self) -> bool:
        """Whether enough of the picture agrees for the estimate to be believed."""
        return self.confidence >= CERTAIN

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


NO_SHIFT = Shift(0.0, 0.0, 0.0, 0)


def estimate_shift(read: GreyReader, height: int, width: int) -> Shift:
    """Estimate one shift for a pair of any size, reading at most 36 cells of it.

    Args:
        read: Gives both dates as grey [h, w] float32 in [0, 255] and their common validity
            [h, w] bool for a window.
        height: Rows of the pair.
        width: Columns of the pair.

    Returns:
        The shift, found up to a quarter of a cell (32 px; less on small pictures); zero with
        confidence 0 where the picture is too small or shows too little.
    """
    side = min(CELL, min(height, width) // 2)
    if side < MIN_CELL:
        return NO_SHIFT
    sums = np.zeros((4, side, side))
    counts = np.zeros(4, dtype=int)
    for window, quarter in plan_cells(height, width, side):
        before, after, valid = read(window)
        if valid.mean() < _MIN_VALID or min(before.std(), after.std()) < _MIN_TEXTURE:
            continue
        sums[quarter] += phase_correlation(before, after)
        counts[quarter] += 1
    if not counts.any():
        return NO_SHIFT
    dx, dy = find_peak(sums.sum(axis=0))
    quarters = [find_peak(total) for total, count in zip(sums, counts, strict=True) if count]
    agreeing = sum(np.hypot(qx - dx, qy - dy) <= _AGREE_PX for qx, qy in quarters)
    return Shift(dx, dy, float(agreeing) / 4, int(counts.sum()))


def plan_cells(height: int, width: int, side: int) -> list[tuple[Window, int]]:
    """Square windows spread over the picture, row by row, and the quarter (0 to 3) of each."""
    tops, lefts = _starts(height, side), _starts(width, side)
    return [
        (Window(left, top, side, side), 2 * (2 * i // len(tops)) + 2 * j // len(lefts))
        for i, top in enumerate(tops)
        for j, left in enumerate(lefts)
    ]


def phase_correlation(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Low-passed phase correlation of two square cells [N, N]; zero shift is at [0, 0]."""
    side = before.shape[0]
    taper = np.hanning(side)
    window = taper[:, None] * taper[None, :]
    spectrum = np.fft.rfft2((after - after.mean()) * window) * np.conj(
        np.fft.rfft2((before - before.mean()) * window)
    )
    magnitude = np.abs(spectrum)
    spectrum /= magnitude + 1e-9 * magnitude.max() + np.finfo(np.float64).tiny
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    spectrum *= np.exp(-(fx**2 + fy**2) / (2 * _PASS**2))
    return np.fft.irfft2(spectrum, s=(side, side))


def find_peak(correlation: NDArray[np.float64]) -> tuple[float, float]:
    """Sub-pixel (dx, dy) of the highest point within a quarter of the cell.

    The three points around the maximum along each axis are those of a parabola.
    """
    side = correlation.shape[0]
    centre, reach = side // 2, side // 4
    shifted = np.fft.fftshift(correlation)
    near = shifted[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1]
    row, column = (int(i) + centre - reach for i in divmod(int(near.argmax()), near.shape[1]))
    down = _vertex(shifted[row - 1 : row + 2, column])
    right = _vertex(shifted[row, column - 1 : column + 2])
    return column - centre + right, row - centre + down


def _vertex(three: NDArray[np.float64]) -> float:
    before, middle, after = (float(value) for value in three)
    curvature = before - 2 * middle + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0


def _starts(length: int, side: int) -> list[int]:
    """First pixels of cells along one axis: about half overlapping, at most MAX_CELLS, even."""
    wanted = 2 * -(-(length - side) // side)
    count = max(2, min(MAX_CELLS, wanted + 2))
    starts = np.linspace(0, length - side, count).round().astype(int)
    return [int(start) for start in starts]
