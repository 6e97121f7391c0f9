"""Geometry of the scene generator: what stands where, in metres from the top left corner.

A plan is a list of flat areas in drawing order, buildings and trees. Roads and blocks are
laid out in a bent frame (s along the main road, t across it), so that plots, fences and
houses follow a curve together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from whatchanged.data.synthetic_paint import Rgb

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Plough or mowing lines: direction in radians, spacing in metres, relative depth."""

    angle: float
    spacing: float
    depth: float


@dataclass(frozen=True)
class Area:
    """A flat polygon of one material.

    Attributes:
        material: Key of ``MATERIALS``.
        outline: Corners [N, 2] in metres.
        tint: Factor on the material's tone, RGB.
        rows: Lines drawn across the area, if any.
        height: Height above the ground in metres (fences, cars).
        movable: True for cars, which differ between the dates without being a change.
    """

    material: str
    outline: Points
    tint: Rgb = (1.0, 1.0, 1.0)
    rows: Rows | None = None
    height: float = 0.0
    movable: bool = False


@dataclass(frozen=True)
class Part:
    """A rectangular wing of a building, relative to the building's centre and angle.

    ``roof`` is ``hip``, ``gable`` or ``flat``; ``ribs`` draws the ribs of sheet metal.
    """

    offset: tuple[float, float]
    size: tuple[float, float]
    eave: float
    roof: str = "hip"
    tone: Rgb | None = None
    ribs: bool = False


@dataclass(frozen=True)
class Building:
    """Wings under one roof colour; position in metres, angle in radians."""

    centre: tuple[float, float]
    angle: float
    tone: Rgb
    parts: tuple[Part, ...]

    def corners(self, part: Part, margin: float = 0.0) -> Points:
        """Return the corners of one wing [4, 2] in metres, grown by ``margin``."""
        half = np.array(part.size) / 2.0 + margin
        box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half + np.array(part.offset)
        turned: Points = box @ rotation(self.angle).T + np.array(self.centre)
        return turned


@dataclass(frozen=True)
class Trees:
    """Tree crowns: centres [N, 2], radii [N] and tops [N] in metres, tones [N, 3] in sRGB."""

    centres: Points
    radii: NDArray[np.float64]
    tops: NDArray[np.float64]
    tones: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of trees."""
        return len(self.radii)

    def keep(self, chosen: NDArray[np.bool_]) -> Trees:
        """Return the trees marked in ``chosen`` [N]."""
        return Trees(
            self.centres[chosen], self.radii[chosen], self.tops[chosen], self.tones[chosen]
        )


NO_TREES = Trees(np.empty((0, 2)), np.empty(0), np.empty(0), np.empty((0, 3)))


@dataclass(frozen=True)
class Furniture:
    """Everything that stands on a piece of land; ``+`` puts two on one another."""

    areas: tuple[Area, ...] = ()
    buildings: tuple[Building, ...] = ()
    trees: Trees = field(default=NO_TREES)

    def __add__(self, other: Furniture) -> Furniture:
        """Return both, the other drawn over this one."""
        trees = Trees(
            np.concatenate([self.trees.centres, other.trees.centres]),
            np.concatenate([self.trees.radii, other.trees.radii]),
            np.concatenate([self.trees.tops, other.trees.tops]),
            np.concatenate([self.trees.tones, other.trees.tones]),
        )
        return Furniture(self.areas + other.areas, self.buildings + other.buildings, trees)

    def without_trees_in(self, outlines: Sequence[Points], margin: float = 0.0) -> Furniture:
        """Return a copy without the trees whose crowns come near the given polygons."""
        kept = np.ones(len(self.trees), dtype=bool)
        for outline in outlines:
            grown = grow(outline, margin)
            kept &= ~inside(self.trees.centres, grown)
        return replace(self, trees=self.trees.keep(kept))


def rotation(angle: float) -> Points:
    """Return the 2 x 2 matrix that turns by ``angle`` radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def inside(points: Points, outline: Points) -> NDArray[np.bool_]:
    """Tell which points [N, 2] lie in a simple polygon [M, 2] (ray casting)."""
    x, y = points[:, :1], points[:, 1:]
    start, end = outline, np.roll(outline, -1, axis=0)
    crosses = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    where = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    return np.asarray((crosses & (x < where)).sum(axis=1) % 2 == 1)


def grow(outline: Points, margin: float) -> Points:
    """Move the corners of a polygon away from its centre by about ``margin`` metres."""
    centre = outline.mean(axis=0)
    away = outline - centre
    length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    return np.asarray(outline + away / length * margin * 1.3)


def ribbon(line: Points, width: float) -> Points:
    """Widen a polyline [N, 2] into a polygon [2N, 2] of the given width in metres."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * (width / 2.0)
    return np.concatenate([line + across, (line - across)[::-1]])


def blob(
    rng: np.random.Generator, centre: Points, radii: tuple[float, float], wobble: float = 0.18
) -> Points:
    """Draw a smooth closed outline [48, 2] around ``centre`` with the given half axes."""
    angles = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
    size = np.ones_like(angles)
    for wave in (2, 3, 5):
        size += wobble / wave * 1.6 * rng.normal() * np.cos(wave * angles + rng.uniform(0, 6.28))
    size = np.clip(size, 0.55, 1.45)
    outline = np.stack([np.cos(angles) * radii[0], np.sin(angles) * radii[1]], axis=1)
    return outline * size[:, None] @ rotation(rng.uniform(0, np.pi)).T + centre


@dataclass(frozen=True)
class Frame:
    """A bent coordinate frame over the scene.

    Attributes:
        extent: Side of the scene in metres; the frame's origin is its centre.
        angle: Direction of the main road in radians.
        bend: Curvature of the main road in 1/m.
    """

    extent: float
    angle: float
    bend: float

    def place(self, st: Points) -> Points:
        """Turn frame coordinates (s, t) [N, 2] into scene coordinates (x, y) [N, 2]."""
        s, t = st[:, 0], st[:, 1]
        bent = np.stack([s, t + 0.5 * self.bend * s**2], axis=1)
        return np.asarray(bent @ rotation(self.angle).T + self.extent / 2.0)

    def at(self, s: float, t: float) -> tuple[float, float]:
        """Return the scene coordinates of one point of the frame."""
        x, y = self.place(np.array([[s, t]]))[0]
        return float(x), float(y)

    def heading(self, s: float) -> float:
        """Return the direction of lines of constant t at ``s``, in radians."""
        return self.angle + float(np.arctan(self.bend * s))

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> Points:
        """Return a polyline [N, 2] in scene coordinates between two points of the frame."""
        distance = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        steps = np.linspace(0.0, 1.0, max(2, int(distance / 6.0) + 1))[:, None]
        return self.place(np.array(start) + steps * (np.array(end) - np.array(start)))

    def quad(self, s0: float, s1: float, t0: float, t1: float) -> Points:
        """Return the outline [N, 2] of a rectangle of the frame in scene coordinates."""
        near, far = self.line((s0, t0), (s1, t0)), self.line((s1, t1), (s0, t1))
        return np.concatenate([near, far])

    def visible(self, s: float, t: float, margin: float) -> bool:
        """Tell whether a point lies in the scene, at least ``margin`` metres from its edge."""
        x, y = self.at(s, t)
        low, high = margin, self.extent - margin
        return low <= x <= high and low <= y <= high


@dataclass(frozen=True)
class Block:
    """A piece of land between roads, a rectangle of the frame in metres.

    ``fronts`` names the sides that touch a road: ``t0``, ``t1`` (along it), ``s0``, ``s1``.
    """

    s0: float
    s1: float
    t0: float
    t1: float
    fronts: frozenset[str]

    @property
    def size(self) -> tuple[float, float]:
        """Length along s and t in metres."""
        return self.s1 - self.s0, self.t1 - self.t0

    def outline(self, frame: Frame, inset: float = 0.0) -> Points:
        """Return the outline [N, 2] in scene coordinates, drawn in by ``inset`` metres."""
        return frame.quad(self.s0 + inset, self.s1 - inset, self.t0 + inset, self.t1 - inset)

    def clip(self, s0: float, s1: float, t0: float, t1: float) -> Block:
        """Return the part of the block within the given bounds, without road fronts."""
        return Block(
            max(self.s0, s0), min(self.s1, s1), max(self.t0, t0), min(self.t1, t1), frozenset()
        )
