"""Which windows of a large pair a model sees one by one, and how their masks become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from whatchanged.models.reasoncd.config import SightConfig

Kind = TypeVar("Kind", bound=np.generic)
Corner = tuple[int, int]
Map = NDArray[np.float32]

STRETCH = 1.5
"""A window may cover this much more than its due, rather than being cut into more."""
OVERLAP = 0.25
"""Share of a window that its neighbour sees too."""


@dataclass(frozen=True)
class WindowPlan:
    """Windows of one size that cover a picture.

    Attributes:
        height: Of every window, pixels of the picture.
        width: Likewise.
        corners: First row and column of each, row by row.
        source: Rows and columns of the picture.
        gsd_m: Metres per pixel at which the model sees a window; None where unknown.
        note: What a user should know of it; empty where nothing is lost.
    """

    height: int
    width: int
    corners: tuple[Corner, ...]
    source: tuple[int, int]
    gsd_m: float | None
    note: str

    def describe(self) -> str:
        """One line for people: the picture's size and how the model sees it."""
        rows, columns = self.source
        n = len(self.corners)
        how = "whole" if n == 1 else f"in {n} windows of {self.width} x {self.height}"
        ground = "" if self.gsd_m is None else f", {self.gsd_m:.2f} m a pixel"
        return f"{columns} x {rows} pixels, seen {how}{ground}"

    def cut(self, picture: NDArray[Kind], corner: Corner) -> NDArray[Kind]:
        """Return one window of a picture or map [H, W, ...], as a view."""
        top, left = corner
        return picture[top : top + self.height, left : left + self.width]


def plan_windows(height: int, width: int, gsd_m: float | None, sight: SightConfig) -> WindowPlan:
    """Choose the fewest windows in which things stay as visible as in training.

    A model sees a window as large as a training picture. A window's due is the ground that a
    training picture covers at `sight.gsd_m`, or at the pair's own resolution where that is
    coarser; where the resolution is unknown, `sight.unknown` pixels. A picture of up to 1.5
    times that is seen whole, a larger one in overlapping windows.

    Args:
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        gsd_m: Metres per pixel; None where unknown.
        sight: Scale of the model's training pictures.
    """
    due = sight.unknown if gsd_m is None else sight.tile * max(1.0, sight.gsd_m / gsd_m)
    longest = max(height, width)
    n = 1
    while _side_of(longest, n) > STRETCH * due:
        n += 1
    size = math.ceil(_side_of(longest, n))
    rows, columns = min(size, height), min(size, width)
    corners = [(top, left) for top in _starts(height, rows) for left in _starts(width, columns)]
    seen = None if gsd_m is None else gsd_m * max(rows, columns) / sight.tile
    note = "" if gsd_m is None or seen is None else _note(seen, gsd_m, sight)
    return WindowPlan(rows, columns, tuple(corners), (height, width), seen, note)


def _side_of(length: int, n: int) -> float:
    """Side of `n` windows that cover a length, each overlapping the next."""
    return length / (n - (n - 1) * OVERLAP)


def _starts(length: int, size: int) -> list[int]:
    """First pixels of the fewest windows along one axis that overlap enough, evenly spread."""
    n = max(1, math.ceil((length - OVERLAP * size) / (size - OVERLAP * size)))
    # Rounding a side up leaves room for one pixel less: never one window more for it.
    if n > 1 and _side_of(length, n - 1) <= size:
        n -= 1
    return [int(start) for start in np.linspace(0, length - size, n).round()]


def _note(seen: float, gsd_m: float, sight: SightConfig) -> str:
    """Say what the resolution costs; enlarging a coarse picture makes nothing visible."""
    finest, coarsest = sight.finest_m, sight.coarsest_m
    span = f"{finest} m to {coarsest} m" if finest < coarsest else f"{finest} m"
    trained = f"the {span} the model was trained on"
    coarse = max(seen, gsd_m)
    if coarse > max(1.25 * coarsest, STRETCH * sight.gsd_m):
        return (
            f"the pair is seen at {coarse:.2g} m a pixel, coarser than {trained}: changes "
            f"smaller than about {4 * coarse:.0f} m are missed"
        )
    if seen < finest / 2.5:
        return (
            f"the pair covers little ground: it is seen at {seen:.2g} m a pixel, finer than "
            f"{trained}"
        )
    return ""


class Blend:
    """Probability maps of windows, joined smoothly where they overlap.

    In an overlap every window counts the less the nearer its edge is, so that no seam shows.
    One blend serves any number of wishes: what the windows of the last one weighed is kept.

    Args:
        plan: The windows.
    """

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._of_window = np.outer(_ramp(plan.height), _ramp(plan.width))
        self._corners: tuple[Corner, ...] = ()
        self._weight: Map = np.zeros(plan.source, np.float32)

    def join(self, maps: Sequence[tuple[Corner, Map | None]]) -> Map:
        """Return the joined map [H, W]; NaN where no window lies.

        Args:
            maps: Corner and map [h, w] of windows; None for one that is 0 everywhere.
        """
        weight = self._weight_of(tuple(corner for corner, _ in maps))
        joined: Map = np.zeros(self.plan.source, np.float32)
        for corner, probability in maps:
            if probability is not None:
                self.plan.cut(joined, corner)[...] += probability * self._of_window
        np.divide(joined, weight, out=joined, where=weight > 0)
        joined.clip(0.0, 1.0, out=joined)
        joined[weight == 0] = np.nan
        return joined

    def _weight_of(self, corners: tuple[Corner, ...]) -> Map:
        """Sum of the windows' weights, [H, W]."""
        if corners != self._corners:
            self._weight[...] = 0
            for corner in corners:
                self.plan.cut(self._weight, corner)[...] += self._of_window
            self._corners = corners
        return self._weight


def _ramp(size: int) -> NDArray[np.float32]:
    """Weights along one axis: from near 0 at both edges to 1 where the overlap ends."""
    reach = max(1.0, OVERLAP * size)
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    return (np.sin(np.pi / 2 * np.clip(distance / reach, 0, 1)) ** 2).astype(np.float32)
