"""From pairs of photographs of any size to the pixels a model was trained on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from whatchanged.errors import InputError, WhatchangedError
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.pair import PairPixels, PairReport, ScenePair, open_pair

FINEST_GSD, COARSEST_GSD = 0.5, 2.0  # metres a pixel that the shipped model has seen
STRIDE = 32  # sides of model input are multiples of it
LARGEST = 512  # longest side of model input, pixels: four times the trained area
_STRIP_PIXELS = 4_194_304  # a larger pair is read in strips and reduced on the way
_KEPT = 1024  # pictures kept for reports are at least this long, and less than twice this
_READERS = 2
_LITTLE_VALID = 0.5


@dataclass(frozen=True)
class Scale:
    """The size at which a model sees a pair.

    Attributes:
        height: Pixels, a multiple of 32.
        width: Pixels, a multiple of 32.
        gsd_m: Metres per pixel at that size, None where unknown.
        source: Rows and columns of the picture itself.
        note: What a user should know of it; empty where nothing was lost.
    """

    height: int
    width: int
    gsd_m: float | None
    source: tuple[int, int]
    note: str

    def describe(self) -> str:
        """One line for people: the picture's size and what the model sees of it."""
        ground = "" if self.gsd_m is None else f", {self.gsd_m:.2f} m a pixel"
        rows, columns = self.source
        return f"{columns} x {rows} pixels, seen at {self.width} x {self.height}{ground}"


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
    note = _scale_note(height, width, rows, columns, seen)
    return Scale(rows, columns, seen, (height, width), note)


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

    Memory is bounded by a strip of 4 million pixels and the result, not by the scene. A reduced
    pixel is the mean of its valid pixels and valid if half of them are. Rows and columns at the
    end that do not fill a reduced pixel are left out.

    Args:
        pair: Open pair.
        height: Rows the result must at least have where the pair has them.
        width: Columns likewise.
    """
    rows, columns = pair.grid.shape
    # One row of the result needs `factor` rows of the scene, which must fit into a strip.
    factor = min(rows // height, columns // width, _STRIP_PIXELS // columns)
    if rows * columns <= _STRIP_PIXELS or factor <= 1:
        return pair.read()
    strip = _STRIP_PIXELS // (columns * factor) * factor
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
    count = _block_sums(pixels.valid[..., None], factor)  # [rows, columns, 1]

    def mean(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        total = _block_sums(picture * pixels.valid[..., None], factor)
        shade: NDArray[np.uint8] = (total / np.maximum(count, 1) + 0.5).astype(np.uint8)
        return shade

    valid = count[..., 0] * 2 >= factor * factor
    return PairPixels(mean(pixels.before), mean(pixels.after), valid)


def _block_sums(values: NDArray[Any], factor: int) -> NDArray[np.uint32]:
    """Sum squares of `factor` pixels of [H, W, C], [H / factor, W / factor, C].

    Adding whole rows, then columns, is five times as fast as one sum over both axes.
    """
    height, width, channels = values.shape
    rows = values.reshape(height // factor, factor, width, channels)
    lines = np.zeros((height // factor, width, channels), np.uint32)
    for offset in range(factor):
        lines += rows[:, offset]
    columns = lines.reshape(height // factor, width // factor, factor, channels)
    sums = np.zeros((height // factor, width // factor, channels), np.uint32)
    for offset in range(factor):
        sums += columns[:, :, offset]
    return sums


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


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the model will see it.

    Attributes:
        paths: Its files.
        before: Earlier picture, [3, h, w] uint8, sides multiples of 32.
        after: Later picture, likewise.
        pixels: The photographs as read, large ones reduced by a whole factor.
        scale: How h and w were chosen.
        report: What was found at opening; None for arrays.
        reading: Grid, and file, bands and type of both dates; None for arrays.
        warnings: What a user should know of it.
    """

    paths: PairPaths
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    pixels: PairPixels
    scale: Scale
    report: PairReport | None
    reading: dict[str, Any] | None
    warnings: tuple[str, ...]


def read_ahead(
    pairs: Iterable[PairPaths],
    bands: Sequence[int] | None,
    align: bool,
    trained: int,
    failures: list[tuple[PairPaths, WhatchangedError]] | None,
) -> Iterator[PreparedPair]:
    """Read a few pairs ahead on threads, in order.

    GDAL and Pillow work outside the interpreter lock.

    Args:
        pairs: The pairs.
        bands: As in `open_pair`.
        align: As in `open_pair`.
        trained: Side of the model's training pictures, pixels.
        failures: Where pairs that cannot be read are put; None raises at the first.
    """
    pool = ThreadPoolExecutor(_READERS)
    waiting: deque[tuple[PairPaths, Future[PreparedPair]]] = deque()
    source = iter(pairs)

    def refill() -> None:
        for paths in islice(source, 2 * _READERS - len(waiting)):
            waiting.append((paths, pool.submit(_read, paths, bands, align, trained)))

    try:
        refill()
        while waiting:
            paths, future = waiting.popleft()
            try:
                prepared = future.result()
            except WhatchangedError as error:
                if failures is None:
                    raise
                failures.append((paths, error))
                refill()
                continue
            refill()
            yield prepared
    finally:  # also when nobody wants the rest
        pool.shutdown(cancel_futures=True)


def _read(paths: PairPaths, bands: Sequence[int] | None, align: bool, trained: int) -> PreparedPair:
    with open_pair(paths.before, paths.after, bands=bands, align=align) as pair:
        scale = choose_scale(*pair.grid.shape, pair.grid.gsd_m, trained)
        times = max(1.0, _KEPT / max(scale.height, scale.width))
        pixels = read_reduced(pair, int(times * scale.height), int(times * scale.width))
        return prepare(paths, pixels, scale, pair.report, reading_of(pair))


def reading_of(pair: ScenePair) -> dict[str, Any]:
    """Return grid, and file, bands and type of both dates, as plain values."""
    dates = {
        name: {"path": str(scene.path), "bands": list(scene.bands), "dtype": str(scene.dtype)}
        for name, scene in (("before", pair.before), ("after", pair.after))
    }
    return {"grid": pair.grid.to_dict(), **dates}


def prepare(
    paths: PairPaths,
    pixels: PairPixels,
    scale: Scale,
    report: PairReport | None = None,
    reading: dict[str, Any] | None = None,
) -> PreparedPair:
    """Bring a pair that was read to the model's size; arguments as in `PreparedPair`.

    Raises:
        InputError: No pixel is valid in both dates.
    """
    if not pixels.valid.any():
        raise InputError(
            f"{paths.before} and {paths.after} have no pixel that is valid in both",
            hint="check nodata values and that both cover the same place",
        )
    before, after, note = fit_pixels(pixels, scale)
    found = () if report is None else report.warnings
    notes = tuple(text for text in (*found, scale.note, note) if text)
    return PreparedPair(paths, before, after, pixels, scale, report, reading, notes)


def group(pairs: Iterator[PreparedPair], size: int) -> Iterator[list[PreparedPair]]:
    """Group consecutive pairs of one model size."""
    batch: list[PreparedPair] = []
    for pair in pairs:
        if batch and batch[0].before.shape != pair.before.shape:
            yield batch
            batch = []
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
