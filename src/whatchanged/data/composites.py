"""Pairs with known land cover before and after, put together from real photographs.

Real pairs rarely show how water, trees or roads come and go. Single photographs with land cover
are plenty: a region of one class, cut out of one photograph and laid into another where another
class is, makes a pair of which every changed pixel is known. Which date gets the region is a
fair coin, so each class appears as often as it disappears. Made for training, never for results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from whatchanged.data.composite_shapes import draw_shape, label_objects, whole_objects
from whatchanged.data.mask_sets import CoverPicture, load_dubai, load_loveda
from whatchanged.data.pictures import (
    UNKNOWN,
    read_land_cover,
    read_picture,
    resize_classes,
    resize_picture,
)
from whatchanged.data.samples import CaptionSample
from whatchanged.data.transitions import CLASS_NUMBERS
from whatchanged.errors import DatasetError

Array = NDArray[np.uint8]
Bits = NDArray[np.bool_]

_WATER, _GROUND, _GRASS, _TREE, _BUILDING, _PLAYGROUND, _ROAD = range(1, 8)
# What each class may be laid on: a house in a lake or a field on a road would teach nonsense.
_ON: dict[int, tuple[int, ...]] = {
    _WATER: (_GROUND, _GRASS, _TREE),
    _GROUND: (_WATER, _GRASS, _TREE, _BUILDING, _ROAD),
    _GRASS: (_WATER, _GROUND, _TREE, _BUILDING),
    _TREE: (_WATER, _GROUND, _GRASS, _BUILDING),
    _BUILDING: (_GROUND, _GRASS, _TREE),
    _PLAYGROUND: (_GROUND, _GRASS, _TREE),
    _ROAD: (_GROUND, _GRASS, _TREE),
}
_OBJECTS = (_BUILDING, _PLAYGROUND)  # laid whole; the others in pieces of any shape
_N_PASTES = (0.1, 0.35, 0.35, 0.2)  # probability of 0, 1, 2, 3 pastes in a pair
_TRIES = 24  # draws of picture, place and shape before a paste is given up
_STUBBORN = 6  # of them with one class; otherwise the frequent classes would take all places
_LEAST_KNOWN = 0.1  # share of a base whose class must be known
_LEAST, _MOST = 0.002, 0.45  # share of the picture that one paste covers
_WIDEST_ROADS = 0.2  # more is a map's blunder or a car park
_FIELD = 0.02  # share from which on something other than a building is filled in its outline
_FINE = 16  # step of the grid on which classes are looked for
_COARSE_BLOCKS = ("tile2_", "tile4_", "tile7_")


@dataclass(frozen=True)
class SemanticPair:
    """A pair whose land cover is known wherever it changed.

    Attributes:
        name: Names of the photographs it was made from.
        before: Earlier picture, [3, H, W] uint8, RGB.
        after: Later picture, [3, H, W] uint8, RGB.
        mask: [H, W] uint8: 1 changed, 0 not.
        classes_before: [H, W] uint8: class 1-7 where the pair changed, else 0.
        classes_after: [H, W] uint8, likewise; differs from `classes_before` where not 0.
    """

    name: str
    before: Array
    after: Array
    mask: Array
    classes_before: Array
    classes_after: Array


def load_covers(root: Path) -> tuple[CoverPicture, ...]:
    """Read the photographs with land cover below a folder with ``dubai`` and ``loveda``.

    Where Dubai's masks mark whole blocks as building (its tiles 2, 4 and 7), that class is
    unknown.

    Raises:
        DatasetError: Either set is missing or broken.
    """
    pictures = []
    for picture in load_dubai(root / "dubai"):
        classes = picture.classes
        if picture.name.startswith(_COARSE_BLOCKS):
            classes = np.where(classes == _BUILDING, np.uint8(UNKNOWN), classes)
        pictures.append(CoverPicture(picture.name, picture.pixels, classes))
    return (*pictures, *load_loveda(root / "loveda"))


def covers_of_pairs(samples: Sequence[CaptionSample]) -> tuple[CoverPicture, ...]:
    """Turn annotated pairs into photographs with land cover known where the pair changed.

    Both dates of every sample that has class maps. Give training samples alone.

    Raises:
        DatasetError: A file that cannot be read, or a class map of another size.
    """
    pictures = []
    for sample in samples:
        dates = ((sample.before, sample.classes_before), (sample.after, sample.classes_after))
        for date, (path, map_path) in zip(("before", "after"), dates, strict=True):
            if map_path is None:
                continue
            pixels = read_picture(path)
            classes = read_land_cover(map_path, sample.label_colours)
            if pixels.shape[:2] != classes.shape:
                raise DatasetError(f"{map_path} and {path} have different sizes")
            classes = np.where(classes == 0, np.uint8(UNKNOWN), classes)
            pictures.append(CoverPicture(f"{sample.name}:{date}", pixels, classes))
    return tuple(pictures)


def draw_composite(
    pictures: Sequence[CoverPicture], rng: np.random.Generator, size: int
) -> SemanticPair:
    """Draw a pair from single photographs: none to three regions come or go.

    Args:
        pictures: Photographs with land cover, such as by `load_covers`; unknown classes are
            neither cut out nor covered.
        rng: Source of all draws; the same state gives the same pair.
        size: Side of the pair in pixels.

    Returns:
        The pair. Both dates have their own light, so that light is never a change.

    Raises:
        DatasetError: No pictures.
    """
    if not pictures:
        raise DatasetError("composites need at least one picture with land cover")
    base, pixels, classes = _draw_base(pictures, size, rng)
    dates = [pixels.astype(np.float32), pixels.astype(np.float32)]  # [H, W, 3]
    covers = [np.zeros_like(classes), np.zeros_like(classes)]
    free = classes != UNKNOWN
    names = [base.name]
    for _ in range(int(rng.choice(len(_N_PASTES), p=_N_PASTES))):
        paste = _draw_paste(pictures, pixels, np.where(free, classes, UNKNOWN), rng)
        if paste is None:
            continue
        date = int(rng.integers(2))
        dates[date] = _blend(dates[date], paste)
        covers[date][paste.region] = paste.number
        covers[1 - date][paste.region] = classes[paste.region]
        # The soft edge of one region must not show in another.
        free &= ~_grow(paste.region, 3)
        names.append(f"{paste.name}({paste.number})")
    before, after = (_relight(date, rng) for date in dates)
    mask = (covers[0] != covers[1]).astype(np.uint8)
    return SemanticPair("+".join(names), before, after, mask, covers[0], covers[1])


@dataclass(frozen=True)
class _Paste:
    name: str
    number: int
    pixels: NDArray[np.float32]  # [H, W, 3], the region's photograph in place
    region: Bits  # [H, W]


def _draw_base(
    pictures: Sequence[CoverPicture], size: int, rng: np.random.Generator
) -> tuple[CoverPicture, Array, Array]:
    for _ in range(_TRIES):
        base = pictures[int(rng.integers(len(pictures)))]
        known = _somewhere(base.classes[::_FINE, ::_FINE] != UNKNOWN, rng)
        if known is None:
            continue
        pixels, classes = _cut(base, known, size, rng)
        if (classes != UNKNOWN).mean() >= _LEAST_KNOWN:
            break
    else:
        raise DatasetError("too little of the land cover is known to make composites")
    return base, pixels, classes


def _draw_paste(
    pictures: Sequence[CoverPicture], pixels: Array, classes: Array, rng: np.random.Generator
) -> _Paste | None:
    """Find a region of another picture that fits into this one; None if none was found."""
    numbers = [n for n in CLASS_NUMBERS.values() if np.isin(classes, _ON[n]).mean() > _LEAST]
    number = 0
    for draw in range(_TRIES if numbers else 0):
        if draw % _STUBBORN == 0:
            number = int(rng.choice(numbers))
        found = _donor_of(pictures, number, rng)
        if found is None:
            continue
        donor, centre = found
        allowed = np.isin(classes, _ON[number])
        if number in (*_OBJECTS, _ROAD) or rng.random() < 0.5:
            window, region = _free_place(allowed, number, rng)
        else:
            window, region = _outline_of_what_stands(classes, allowed, rng)
        piece, cover = _cut(donor, centre, window.side, rng)
        region = _lay(window.fill(cover == number), region, number)
        if _LEAST <= region.mean() <= _MOST:
            canvas = window.fill(_match_light(piece, donor.pixels, pixels))
            return _Paste(donor.name, number, canvas, region)
    return None


def _lay(donated: Bits, place: Bits, number: int) -> Bits:
    """Return what of a donated class comes to lie in a place; nothing if it would look torn."""
    if number in _OBJECTS:
        return whole_objects(donated, place)
    laid = donated & place
    least = 0.7 * place.sum()
    if number == _ROAD:  # it is the road that must stay whole, elsewhere the place
        labels = label_objects(laid)
        areas = np.bincount(labels.ravel())
        laid = (areas >= _LEAST * laid.size)[labels] & laid
        least = 0.6 * donated.sum() if laid.mean() <= _WIDEST_ROADS else laid.size
    return laid if laid.sum() >= least else np.zeros_like(laid)


@dataclass(frozen=True)
class _Window:
    """A square within a picture of ``size`` pixels a side."""

    top: int
    left: int
    side: int
    size: int

    def fill(self, content: NDArray[Any]) -> NDArray[Any]:
        """Return a picture of zeros with ``content`` in the square."""
        picture = np.zeros((self.size, self.size, *content.shape[2:]), content.dtype)
        rows = np.s_[self.top : self.top + self.side]
        picture[rows, self.left : self.left + self.side] = content
        return picture


def _free_place(allowed: Bits, number: int, rng: np.random.Generator) -> tuple[_Window, Bits]:
    """Draw a square and an outline in it, whatever stands there; roads cross all the picture."""
    size = len(allowed)
    side = size if number == _ROAD else max(8, round(float(rng.uniform(0.2, 0.8)) * size))
    top, left = (int(rng.integers(size - side + 1)) for _ in range(2))
    window = _Window(top, left, side, size)
    shape = np.ones((side, side), np.bool_) if number == _ROAD else draw_shape(side, rng)
    region = window.fill(shape) & allowed
    if number not in (*_OBJECTS, _ROAD) and region.sum() < 0.5 * shape.sum():
        region[:] = False  # what is allowed there is scattered, and so would the piece be
    return window, region


def _outline_of_what_stands(
    classes: Array, allowed: Bits, rng: np.random.Generator
) -> tuple[_Window, Bits]:
    """Take the outlines of one to four things in the picture: a field, a pond, some houses."""
    size = len(classes)
    former = int(rng.choice(np.unique(classes[allowed])))
    labels = label_objects(classes == former)
    areas = np.bincount(labels.ravel())[1:]
    least = _LEAST / 4 if former == _BUILDING else _FIELD
    large = np.flatnonzero((areas >= least * size**2) & (areas <= _MOST * size**2)) + 1
    n = int(rng.integers(1, 5)) if former == _BUILDING else 1
    region = np.isin(labels, rng.permutation(large)[:n])
    if not region.any():
        return _Window(0, 0, 8, size), region
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0], 7)) + 1
    top, left = min(int(rows[0]), size - side), min(int(columns[0]), size - side)
    return _Window(top, left, side, size), region


def _donor_of(
    pictures: Sequence[CoverPicture], number: int, rng: np.random.Generator
) -> tuple[CoverPicture, tuple[int, int]] | None:
    """Draw a picture that has a class, and a place where it has it."""
    for index in rng.permutation(len(pictures)):
        donor = pictures[index]
        place = _somewhere(donor.classes[::_FINE, ::_FINE] == number, rng)
        if place is not None:
            return donor, place
    return None


def _somewhere(coarse: Bits, rng: np.random.Generator) -> tuple[int, int] | None:
    """Draw a place among those set on a grid of every sixteenth pixel."""
    rows, columns = np.nonzero(coarse)
    if not len(rows):
        return None
    index = int(rng.integers(len(rows)))
    return int(rows[index]) * _FINE, int(columns[index]) * _FINE


def _cut(
    picture: CoverPicture, centre: tuple[int, int], side: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Cut a square around a place, reduced up to twofold, turned and mirrored by chance.

    Returns:
        Pixels [side, side, 3] and classes [side, side].
    """
    height, width = picture.classes.shape
    full = min(height, width, round(side * float(rng.uniform(1, 2))))
    top, left = (
        min(max(c - full // 2, 0), n - full) for c, n in zip(centre, (height, width), strict=True)
    )
    window = np.s_[top : top + full, left : left + full]
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    pixels, classes = (
        np.ascontiguousarray(np.rot90(layer[window][:, ::-1] if flip else layer[window], turns))
        for layer in (picture.pixels, picture.classes)
    )
    return resize_picture(pixels, side), resize_classes(classes, side)


def _match_light(piece: Array, donor: Array, base: Array) -> NDArray[np.float32]:
    """Bring a piece near the base's mean and deviation of colours.

    Means also differ because contents do, so the correction is bounded: water among sand stays
    dark.
    """
    there, here = (p[::4, ::4].reshape(-1, 3).astype(np.float32) for p in (donor, base))
    gain = np.clip((here.std(0) + 1) / (there.std(0) + 1), 0.8, 1.25)
    shift = np.clip(here.mean(0) - there.mean(0), -25, 25)
    matched = (piece - there.mean(0)) * gain + there.mean(0) + shift
    light: NDArray[np.float32] = np.clip(matched, 1, 255).astype(np.float32)
    return light  # at least 1: 0 is where no piece lies


def _blend(picture: NDArray[np.float32], paste: _Paste) -> NDArray[np.float32]:
    """Lay a region over a picture with an edge about two pixels wide."""
    soft = Image.fromarray(paste.region.astype(np.uint8) * 255)
    edge = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    alpha: NDArray[np.float32] = edge[..., None] / np.float32(255)
    # Outside its piece the region has no pixels to blend; inside it they always reach further.
    alpha = alpha * paste.pixels.any(-1, keepdims=True).astype(np.float32)
    blended = alpha * paste.pixels + (1 - alpha) * picture
    return np.asarray(blended, np.float32)


def _grow(region: Bits, pixels: int) -> Bits:
    grown = Image.fromarray(region.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(grown).astype(np.bool_)


def _relight(picture: NDArray[np.float32], rng: np.random.Generator) -> Array:
    """Give a date its own light, sharpness and noise; [H, W, 3] float to [3, H, W] uint8."""
    mean = picture.mean((0, 1))
    contrast, gain = np.exp(0.12 * rng.normal()), np.exp(0.04 * rng.normal(size=3))
    lit = ((picture - mean) * contrast + mean) * gain + 10 * rng.normal()
    image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    noise = rng.uniform(0, 5) * rng.standard_normal(picture.shape)
    noisy = np.clip(np.asarray(image) + noise, 0, 255)
    return np.ascontiguousarray(noisy.astype(np.uint8).transpose(2, 0, 1))
