"""Two photographs of one place on one grid: opened, checked, stretched alike."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from whatchanged.errors import PairMismatchError
from whatchanged.geo.grid import Grid
from whatchanged.geo.place import Placement, place
from whatchanged.geo.scene import Scene
from whatchanged.geo.shift import Shift, estimate_shift
from whatchanged.geo.stretch import IDENTITY, Stretch, fit_stretch

MAX_SHIFT_PX = 0.5
"""Shift of the later photograph above which a warning is given."""
_SAMPLE_SIDE = 128
_SAMPLES = 8  # windows along each axis, so at most 1024 x 1024 px are sampled


@dataclass(frozen=True, eq=False)
class PairPixels:
    """Pixels of both dates.

    Attributes:
        before: [H, W, 3] uint8; 0 where not valid.
        after: [H, W, 3] uint8; 0 where not valid.
        valid: [H, W] bool, valid in both photographs.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class PairReport:
    """What was found and decided when a pair was opened.

    Attributes:
        stretch: The one radiometric stretch of both dates.
        shift: Estimated displacement of the later photograph, in pixels.
        overlap_fraction: Share of the grid that the later photograph covers, in [0, 1].
        valid_fraction: Share of pixels valid in both, in [0, 1]; sampled on large scenes.
        aligned: Whether the later photograph was warped onto the earlier one's grid.
        warnings: What a person should know, one sentence each.
    """

    stretch: Stretch
    shift: Shift
    overlap_fraction: float
    valid_fraction: float
    aligned: bool
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "stretch": self.stretch.to_dict(),
            "shift": self.shift.to_dict(),
            "overlap_fraction": self.overlap_fraction,
            "valid_fraction": self.valid_fraction,
            "aligned": self.aligned,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class ScenePair:
    """An open pair. Close it, or use it in a ``with`` block; one thread at a time.

    Attributes:
        before: The earlier photograph.
        after: The later photograph, on the same grid.
        grid: The common grid: the earlier one's, or that of the only georeferenced one.
        report: What was found and decided at opening.
    """

    before: Scene
    after: Scene
    grid: Grid
    report: PairReport

    def read(self, window: Window | None = None) -> PairPixels:
        """Read both dates at full resolution, stretched to 8 bits.

        Args:
            window: Whole columns and rows inside the grid; None for all of it.

        Returns:
            Pixels of the window. What is invalid in one date is 0 in both, so that it cannot
            look like a change.

        Raises:
            InputError: A file ends too early or is damaged there, or the window is too large.
            ValueError: The window does not lie inside the grid.
        """
        return _read_pixels(self.before, self.after, self.report.stretch, window)

    def close(self) -> None:
        """Close both files; a second call does nothing."""
        self.before.close()
        self.after.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_pair(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    align: bool = False,
    allowed_root: Path | None = None,
) -> ScenePair:
    """Open two photographs of one place and check that they can be compared.

    Args:
        before: The earlier photograph.
        after: The later photograph.
        bands: One or three band numbers from 1 to read as red, green, blue of both; None to
            follow each file's colour interpretation.
        align: Warp the later photograph onto the earlier one's grid where the grids differ.
        allowed_root: Folder both resolved paths must lie in; None for anywhere.

    Raises:
        InputError: A file that is refused, damaged or too large.
        PairMismatchError: Photographs that do not lie on one grid, do not overlap enough, or
            whose values have no common scale.
        UsageError: Another number of bands than one or three.
    """
    with ExitStack() as stack:
        earlier = stack.enter_context(Scene.open(before, bands=bands, allowed_root=allowed_root))
        later = stack.enter_context(Scene.open(after, bands=bands, allowed_root=allowed_root))
        names = _names(earlier, later)
        _check_types(earlier, later, names)
        placement = place(earlier.grid, later.grid, names, align=align)
        if placement.warp:
            later = stack.enter_context(later.aligned_to(placement.grid))
        report = _examine(earlier, later, names, placement)
        stack.pop_all()
        return ScenePair(earlier, later, placement.grid, report)


def plan_samples(grid: Grid) -> Iterator[Window]:
    """Windows that a pair is sampled on: all of a small picture, else 64 spread over it."""
    if grid.width * grid.height <= (_SAMPLES * _SAMPLE_SIDE) ** 2:
        yield Window(0, 0, grid.width, grid.height)
        return
    height, width = min(_SAMPLE_SIDE, grid.height), min(_SAMPLE_SIDE, grid.width)
    for top in np.linspace(0, grid.height - height, _SAMPLES).round().astype(int):
        for left in np.linspace(0, grid.width - width, _SAMPLES).round().astype(int):
            yield Window(int(left), int(top), width, height)


def _examine(
    before: Scene, after: Scene, names: tuple[str, str], placement: Placement
) -> PairReport:
    """Sample both scenes for the stretch, the validity and the shift."""
    stretch, valid_fraction = _sample(before, after)

    def read_grey(
        window: Window,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        pixels = _read_pixels(before, after, stretch, window)
        return (
            pixels.before.mean(axis=-1, dtype=np.float32),
            pixels.after.mean(axis=-1, dtype=np.float32),
            pixels.valid,
        )

    shift = estimate_shift(read_grey, *placement.grid.shape)
    warnings = [
        *(f"{names[0]}: {warning}" for warning in before.warnings),
        *(f"{names[1]}: {warning}" for warning in after.warnings),
        *placement.warnings,
    ]
    grey = [scene.is_grey for scene in (before, after)]
    if grey[0] != grey[1]:
        warnings.append(
            f"{names[grey.index(True)]} is grey and {names[grey.index(False)]} in colour; the "
            "difference may look like change"
        )
    if valid_fraction == 0.0:
        warnings.append("no pixel that was looked at is valid in both photographs")
    if shift.is_certain and shift.length > MAX_SHIFT_PX:
        warnings.append(
            f"the later photograph is shifted by {shift.length:.1f} px "
            f"({shift.dx:+.1f} right, {shift.dy:+.1f} down); edges may look like changes"
        )
    return PairReport(
        stretch=stretch,
        shift=shift,
        overlap_fraction=placement.overlap,
        valid_fraction=valid_fraction,
        aligned=placement.warp,
        warnings=tuple(warnings),
    )


def _sample(before: Scene, after: Scene) -> tuple[Stretch, float]:
    """The joint stretch, and the share of sampled pixels valid in both."""
    eight_bit = before.dtype == np.uint8 and after.dtype == np.uint8
    samples: list[NDArray[Any]] = []
    n_valid = n_pixels = 0
    for window in plan_samples(before.grid):
        earlier, valid = before.read(window)
        later, later_valid = after.read(window)
        valid &= later_valid
        n_valid += int(valid.sum())
        n_pixels += valid.size
        if not eight_bit:
            samples += [earlier[:, valid], later[:, valid]]
    return IDENTITY if eight_bit else fit_stretch(samples), n_valid / n_pixels


def _read_pixels(
    before: Scene, after: Scene, stretch: Stretch, window: Window | None
) -> PairPixels:
    earlier, valid = before.read(window)
    later, later_valid = after.read(window)
    valid &= later_valid
    pictures = stretch.apply(earlier), stretch.apply(later)
    for picture in pictures:
        picture[~valid] = 0
    return PairPixels(*pictures, valid)


def _check_types(before: Scene, after: Scene, names: tuple[str, str]) -> None:
    """Refuse values without a common scale: 8 bit beside more, counts beside reflectances."""
    kinds = [
        "8-bit" if scene.dtype == np.uint8 else "float" if scene.dtype.kind == "f" else "integer"
        for scene in (before, after)
    ]
    if kinds[0] != kinds[1]:
        raise PairMismatchError(
            f"{names[0]} holds {before.dtype} values and {names[1]} {after.dtype}: "
            "they have no common scale",
            hint="convert one to the type and scale of the other: gdal_translate -ot ... -scale",
        )


def _names(before: Scene, after: Scene) -> tuple[str, str]:
    """File names for messages; with their folders where the names alone are equal."""
    if before.path.name != after.path.name:
        return before.path.name, after.path.name
    return str(before.path), str(after.path)
