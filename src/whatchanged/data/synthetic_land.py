"""Open land of the scene generator: meadows, fields, woods, bare ground, water.

Every function furnishes one block of land and returns what stands there. ``VACANT`` lists
the uses on which something can be built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from whatchanged.data.synthetic_paint import CROWNS, Rgb
from whatchanged.data.synthetic_plan import (
    Area,
    Block,
    Frame,
    Furniture,
    Points,
    Rows,
    Trees,
    blob,
    grow,
    inside,
    ribbon,
)

Furnish: TypeAlias = Callable[[Frame, Block, np.random.Generator], Furniture]

_CROP_TINTS: tuple[Rgb, ...] = (
    (1.0, 1.0, 1.0), (0.86, 0.92, 0.9), (1.14, 1.1, 1.06), (1.06, 1.02, 0.9),
    (0.92, 1.04, 0.88), (1.2, 1.12, 1.1),
)  # fmt: skip


def tint(rng: np.random.Generator, spread: float = 0.06) -> Rgb:
    """Draw a factor on a tone that varies in brightness and slightly in colour."""
    level = 1.0 + spread * rng.normal()
    red, blue = 1.0 + 0.3 * spread * rng.normal(), 1.0 + 0.3 * spread * rng.normal()
    return float(level * red), float(level), float(level * blue)


def forest(
    frame: Frame,
    outline: Points,
    rng: np.random.Generator,
    *,
    spacing: float,
    radii: tuple[float, float],
    density: float = 1.0,
) -> Trees:
    """Plant trees inside a polygon on a jittered triangular grid.

    Args:
        frame: Frame of the scene; trees far outside of it are left out.
        outline: Polygon [N, 2] in metres.
        rng: Source of randomness.
        spacing: Distance between neighbours in metres.
        radii: Smallest and largest crown radius in metres.
        density: Share of the grid's places that are taken.
    """
    low = np.maximum(outline.min(axis=0), -10.0)
    high = np.minimum(outline.max(axis=0), frame.extent + 10.0)
    if np.any(high <= low):
        return Furniture().trees
    x = np.arange(low[0], high[0] + spacing, spacing)
    y = np.arange(low[1], high[1] + spacing, spacing * 0.87)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    grid[1::2, :, 0] += spacing / 2.0
    points = grid.reshape(-1, 2) + rng.uniform(-0.42, 0.42, (grid.shape[0] * grid.shape[1], 2)) * (
        spacing
    )
    points = points[inside(points, outline) & (rng.random(len(points)) < density)]
    return grown_trees(rng, points, radii)


def grown_trees(rng: np.random.Generator, points: Points, radii: tuple[float, float]) -> Trees:
    """Give every point [N, 2] a crown: radius, height and colour."""
    n = len(points)
    radius = radii[0] + (radii[1] - radii[0]) * rng.beta(2.0, 2.2, n)
    tops = radius * rng.uniform(1.7, 2.5, n) + 1.2
    tones = np.array(CROWNS)[rng.integers(0, len(CROWNS), n)] * rng.normal(1.0, 0.07, (n, 1))
    return Trees(points, radius, tops, tones)


def scattered(frame: Frame, outline: Points, rng: np.random.Generator, per_hectare: float) -> Trees:
    """Scatter single trees and small clumps over a polygon."""
    low = np.maximum(outline.min(axis=0), -8.0)
    high = np.minimum(outline.max(axis=0), frame.extent + 8.0)
    span = np.maximum(high - low, 0.0)
    n = int(rng.poisson(max(float(span.prod()) / 1e4 * per_hectare / 2.2, 0.0)))
    seeds = low + rng.random((n, 2)) * span
    clump = rng.integers(1, 4, n)
    points = np.repeat(seeds, clump, axis=0)
    points = points + rng.normal(0.0, 3.2, points.shape)
    points = points[inside(points, outline)]
    return grown_trees(rng, points, (1.2, 3.6))


def meadow(frame: Frame, block: Block, rng: np.random.Generator) -> Furniture:
    """Grassland with a few trees."""
    outline = block.outline(frame)
    areas = (Area("meadow", outline, tint(rng)), *_footpath(frame, block, rng, 0.4))
    trees = scattered(frame, outline, rng, rng.uniform(1.0, 18.0))
    bushes = forest(frame, outline, rng, spacing=9.0, radii=(0.5, 1.2), density=0.12)
    return Furniture(areas, trees=trees) + Furniture(trees=bushes)


def _footpath(
    frame: Frame, block: Block, rng: np.random.Generator, chance: float
) -> tuple[Area, ...]:
    """A winding trodden path across a block, drawn with the given probability."""
    if rng.random() > chance:
        return ()
    part = shown(frame, block)
    low, span = np.array([part.s0, part.t0]), np.array(part.size)
    path = frame.place(_smooth(low + rng.random((4, 2)) * span))
    path = path[inside(path, block.outline(frame, 2.0))]
    if len(path) < 6:
        return ()
    return (Area("dirt", ribbon(path, float(rng.uniform(0.8, 1.6))), tint(rng)),)


def scrub(frame: Frame, block: Block, rng: np.random.Generator) -> Furniture:
    """Dry grassland with bushes and many small trees."""
    outline = block.outline(frame)
    trees = scattered(frame, outline, rng, rng.uniform(60.0, 110.0))
    bushes = forest(frame, outline, rng, spacing=6.0, radii=(0.6, 1.6), density=0.3)
    areas = (Area("scrub", outline, tint(rng)), *_footpath(frame, block, rng, 0.5))
    return Furniture(areas, trees=trees) + Furniture(trees=bushes)


def woods(frame: Frame, block: Block, rng: np.random.Generator) -> Furniture:
    """Closed woodland up to the edge of the block."""
    outline = block.outline(frame, 1.0)
    spacing = max(rng.uniform(4.4, 5.4), frame.extent / 120.0)
    radii = (0.5 * spacing, 0.86 * spacing)
    density = float(rng.uniform(0.86, 0.99))
    trees = forest(frame, outline, rng, spacing=spacing, radii=radii, density=density)
    base = Area("meadow", block.outline(frame), tint(rng))
    return Furniture((base, Area("floor", outline, tint(rng))), trees=trees)


def bare(frame: Frame, block: Block, rng: np.random.Generator) -> Furniture:
    """Bare ground crossed by the tracks of machines."""
    return bare_ground(frame, block.outline(frame), rng, bare_material(rng))


def bare_material(rng: np.random.Generator) -> str:
    """Draw the soil of one place."""
    return str(rng.choice(["bare", "bare", "sand", "clay"]))


def bare_ground(
    frame: Frame, outline: Points, rng: np.random.Generator, material: str
) -> Furniture:
    """Bare ground of any outline [N, 2], with tracks, damp spots and heaps."""
    areas = [Area(material, outline, tint(rng))]
    low = np.maximum(outline.min(axis=0), 0.0)
    high = np.minimum(outline.max(axis=0), frame.extent)
    core = grow(outline, -5.0)
    for _ in range(int(rng.integers(2, 5))):
        spot = low + rng.random((1, 2)) * (high - low)
        if inside(spot, core)[0]:
            damp = blob(rng, spot[0], (rng.uniform(3.0, 9.0), rng.uniform(2.0, 5.0)), 0.3)
            dark = float(rng.uniform(0.86, 0.95))
            areas.append(Area(material, damp, (dark, dark, dark)))
    for _ in range(int(rng.integers(3, 7))):
        track = _smooth(low + rng.random((4, 2)) * (high - low))
        track = track[inside(track, core)]
        if len(track) > 5:
            shade = tint(rng, 0.09)
            areas.extend(Area(material, wheel, shade) for wheel in _wheels(track))
    for _ in range(int(rng.integers(0, 5))):
        spot = low + rng.random((1, 2)) * (high - low)
        if inside(spot, grow(outline, -6.0))[0]:
            heap = blob(rng, spot[0], (rng.uniform(1.5, 3.5), rng.uniform(1.2, 2.5)))
            areas.append(Area(material, heap, tint(rng, 0.12), height=rng.uniform(0.4, 1.1)))
    return Furniture(tuple(areas))


def _wheels(track: Points) -> list[Points]:
    """The two ruts that wheels leave along a track [N, 2], 2 m apart."""
    along = np.gradient(track, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    return [ribbon(track + side * across, 0.7) for side in (-1.0, 1.0)]


def _smooth(path: Points) -> Points:
    """Turn four control points into a cubic Bezier curve [30, 2]."""
    u = np.linspace(0.0, 1.0, 30)[:, None]
    weights = ((1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3)
    return np.asarray(sum(w * p for w, p in zip(weights, path, strict=True)))


def crops(frame: Frame, block: Block, rng: np.random.Generator) -> Furniture:
    """Farmland: the block cut into strips, each with its own crop and plough lines."""
    lengthwise = bool(rng.random() < 0.5)
    low, high = (block.s0, block.s1) if lengthwise else (block.t0, block.t1)
    base = rng.uniform(13.0, 42.0)
    areas: list[Area] = [Area("verge", block.outline(frame), tint(rng))]
    start = low
    while start < high - 3.0:
        end = min(start + base * rng.uniform(0.6, 1.5), high)
        end = high if high - end < 8.0 else end
        areas.extend(_field(frame, block, (start, end), lengthwise, rng))
        start = end
    return Furniture(tuple(areas))


def _field(
    frame: Frame,
    block: Block,
    bounds: tuple[float, float],
    lengthwise: bool,
    rng: np.random.Generator,
) -> list[Area]:
    gap = float(rng.uniform(0.3, 1.0))
    start, end = bounds[0] + gap, bounds[1] - gap
    if lengthwise:
        outline = frame.quad(start, end, block.t0 + 1.0, block.t1 - 1.0)
        direction = frame.heading(0.5 * (start + end))
    else:
        outline = frame.quad(block.s0 + 1.0, block.s1 - 1.0, start, end)
        direction = frame.heading(0.5 * (block.s0 + block.s1)) + np.pi / 2.0
    material = "straw" if rng.random() < 0.25 else "crop"
    colour = _CROP_TINTS[int(rng.integers(len(_CROP_TINTS)))]
    extra = tint(rng, 0.05)
    mixed = (colour[0] * extra[0], colour[1] * extra[1], colour[2] * extra[2])
    rows = Rows(float(direction), float(rng.uniform(1.6, 3.2)), float(rng.uniform(0.04, 0.13)))
    return [Area(material, outline, mixed, rows)]


def pond(
    frame: Frame, block: Block, rng: np.random.Generator, radii: tuple[float, float]
) -> Furniture:
    """A pond with a muddy bank in the middle of the block's visible part."""
    centre = np.array(middle(frame, block))
    outline = blob(rng, centre, radii)
    colour = tint(rng, 0.14)
    return Furniture(
        (
            Area("bank", grow(outline, 2.2), tint(rng)),
            Area("water", outline, colour),
        )
    )


def shown(frame: Frame, block: Block, margin: float = 0.0) -> Block:
    """Return the largest part of a block that surely lies in the picture.

    The bounds are shrunk around the visible points of a 4 m grid until most of the remaining
    rectangle is visible; an invisible block gives an empty one.
    """
    s, t = np.meshgrid(np.arange(block.s0, block.s1, 4.0), np.arange(block.t0, block.t1, 4.0))
    st = np.stack([s.ravel(), t.ravel()], axis=1)
    xy = frame.place(st)
    seen = np.all((xy >= margin) & (xy <= frame.extent - margin), axis=1)
    if not seen.any():
        return Block(block.s0, block.s0, block.t0, block.t0, block.fronts)
    low, high = st[seen].min(axis=0), st[seen].max(axis=0) + 4.0
    for _ in range(12):
        box = np.all((st >= low) & (st <= high), axis=1)
        if (seen & box).sum() > 0.9 * box.sum() or not (seen & box).any():
            break
        centre = st[seen & box].mean(axis=0)
        low, high = low + 0.08 * (centre - low), high + 0.08 * (centre - high)
    return Block(
        max(block.s0, float(low[0])),
        min(block.s1, float(high[0])),
        max(block.t0, float(low[1])),
        min(block.t1, float(high[1])),
        block.fronts,
    )


def middle(frame: Frame, block: Block) -> tuple[float, float]:
    """Return the centre of a block's visible part in scene coordinates."""
    part = shown(frame, block)
    return frame.at(0.5 * (part.s0 + part.s1), 0.5 * (part.t0 + part.t1))


VACANT: dict[str, Furnish] = {
    "meadow": meadow,
    "crops": crops,
    "woods": woods,
    "scrub": scrub,
    "bare": bare,
}
