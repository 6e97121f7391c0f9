"""Outlines for composites: irregular pieces of ground, and objects taken whole."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Bits = NDArray[np.bool_]

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # steps down and right, each pair once
_SPECK = 12  # pixels; smaller objects are errors of the land-cover map
_LARGE = 0.08  # share of the picture; larger "objects" are whole blocks of the map


def draw_shape(side: int, rng: np.random.Generator) -> Bits:
    """Draw an irregular outline that fills about half of a square: a polygon or a blob.

    Returns:
        [side, side], True inside.
    """
    return _polygon(side, rng) if rng.random() < 0.5 else _blob(side, rng)


def whole_objects(objects: Bits, inside: Bits) -> Bits:
    """Keep the connected objects that lie inside, none in parts.

    Args:
        objects: [H, W], True on objects; pixels that touch by a corner belong together.
        inside: [H, W], where objects may lie.

    Returns:
        [H, W]. Dropped are objects of which more than a twentieth lies outside, that touch the
        border (there they are cut), specks, and objects as large as a block of houses.
    """
    labels = label_objects(objects)
    n = int(labels.max()) + 1
    area = np.bincount(labels.ravel(), minlength=n)
    within = np.bincount(labels[inside], minlength=n)
    keep = (within >= 0.95 * area) & (area >= _SPECK) & (area <= _LARGE * objects.size)
    border = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    keep[np.concatenate(border)] = False
    keep[0] = False
    kept: Bits = keep[labels] & inside
    return kept


def label_objects(objects: Bits) -> NDArray[np.intp]:
    """Number the 8-connected objects of [H, W] from 1; 0 is the ground.

    Union-find on all edges between neighbours at once: the larger root is hooked to the smaller
    and paths are halved, which ends after a logarithmic number of rounds.
    """
    height, width = objects.shape
    place = np.arange(objects.size).reshape(height, width)
    edges = [_edges(objects, place, down, right) for down, right in _NEIGHBOURS]
    one, other = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    root = np.arange(objects.size)
    while len(one):
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(root, halved := root[root]):
            root = halved
        one, other = root[one], root[other]
        apart = one != other
        one, other = one[apart], other[apart]
    labels = np.zeros(objects.size, np.intp)
    inside = objects.ravel()
    labels[inside] = np.unique(root[inside], return_inverse=True)[1] + 1
    return labels.reshape(height, width)


def _edges(
    objects: Bits, place: NDArray[np.intp], down: int, right: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return both ends of the edges between object pixels a step apart."""
    height, width = objects.shape
    here = np.s_[: height - down, max(0, -right) : width - max(0, right)]
    there = np.s_[down:, max(0, right) : width - max(0, -right)]
    both = objects[here] & objects[there]
    return place[here][both], place[there][both]


def _polygon(side: int, rng: np.random.Generator) -> Bits:
    n = int(rng.integers(4, 10))
    angles = 2 * math.pi * (np.arange(n) + rng.uniform(-0.35, 0.35, n)) / n
    radii = side / 2 * rng.uniform(0.6, 1.0, n)
    corners = [
        (float(side / 2 + r * math.cos(a)), float(side / 2 + r * math.sin(a)))
        for r, a in zip(radii, angles, strict=True)
    ]
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.asarray(image).astype(np.bool_)


def _blob(side: int, rng: np.random.Generator) -> Bits:
    """Threshold smooth noise that sinks from the middle outwards."""
    coarse = Image.fromarray(rng.standard_normal((7, 7), dtype=np.float32))
    noise = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    height = 1 - 1.6 * (axis[:, None] ** 2 + axis[None] ** 2) + 0.45 * noise
    blob: Bits = height > 0
    return blob
