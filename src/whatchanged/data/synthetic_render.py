"""Draws a plan as an aerial photograph: index map and height field, then sun and sky.

Everything is drawn on a canvas of twice the resolution, wider than the scene by a margin,
so that edges are smooth and things outside still throw their shadow into the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from whatchanged.data.synthetic_paint import (
    MATERIAL_IDS,
    MATERIALS,
    FloatArray,
    Weave,
    bleach,
    smooth_noise,
    to_linear,
)
from whatchanged.data.synthetic_plan import Area, Building, Furniture, Part, Points

SCALE = 2
MARGIN = 16

_COVER = np.array([material.cover for material in MATERIALS.values()], dtype=np.uint8)
_TONE = np.array([material.tone for material in MATERIALS.values()], dtype=np.float32)
_PATCH_TONE = np.array([m.patch_tone for m in MATERIALS.values()], dtype=np.float32)
_PATCH, _GRAIN, _RELIEF, _LEAFY = (
    np.array([getattr(m, name) for m in MATERIALS.values()], dtype=np.float32)
    for name in ("patch", "grain", "relief", "leafy")
)


@dataclass(frozen=True)
class Canvas:
    """The pixels that are drawn on: ``size`` and ``gsd`` are those of the finished picture."""

    size: int
    gsd: float

    @property
    def side(self) -> int:
        """Side of the canvas in canvas pixels."""
        return (self.size + 2 * MARGIN) * SCALE

    @property
    def pixel(self) -> float:
        """Side of a canvas pixel in metres."""
        return self.gsd / SCALE

    @property
    def border(self) -> float:
        """Width of the margin around the scene in metres."""
        return MARGIN * self.gsd

    def pixels(self, points: Points) -> Points:
        """Turn scene coordinates in metres [N, 2] into canvas pixels [N, 2]."""
        return np.asarray((points + self.border) / self.pixel)


@dataclass(frozen=True)
class Light:
    """Where the sun stands, in radians; azimuth runs from east (right) over south (down)."""

    azimuth: float
    elevation: float
    sky: float


@dataclass
class _Entries:
    """Looks of everything drawn, one row per value of the index map."""

    materials: list[int]
    tones: list[tuple[float, float, float]]
    tinted: list[bool]
    rows: list[tuple[float, float, float, float]]
    heights: list[float]

    def add(
        self,
        material: str,
        tone: tuple[float, float, float],
        tinted: bool,
        rows: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 0.0),
        height: float = 0.0,
    ) -> int:
        """Append one row and return its index."""
        self.materials.append(MATERIAL_IDS[material])
        self.tones.append(tone)
        self.tinted.append(tinted)
        self.rows.append(rows)
        self.heights.append(height)
        return len(self.materials) - 1


@dataclass(frozen=True)
class Raster:
    """A drawn plan on the canvas.

    Attributes:
        index: Which entry is on top, [H, W] int32.
        height: Height above the ground in metres, [H, W].
        materials: Material number of each entry, [N].
        tones: Tones of each entry, sRGB, [N, 2, 3]: main and patch.
        rows: Direction (cos, sin), spacing in metres and depth of lines, [N, 4].
    """

    index: NDArray[np.int32]
    height: FloatArray
    materials: NDArray[np.int64]
    tones: FloatArray
    rows: FloatArray


def rasterise(plan: Furniture, canvas: Canvas, weave: Weave) -> Raster:
    """Draw areas, buildings and trees into an index map and a height field."""
    entries = _Entries([], [], [], [], [])
    image = Image.new("I", (canvas.side, canvas.side))
    draw = ImageDraw.Draw(image)
    for area in plan.areas:
        outline = canvas.pixels(area.outline)
        number = _add_area(entries, area)
        if float(np.ptp(outline, axis=0).max()) > 0.5:
            draw.polygon([(float(x), float(y)) for x, y in outline], fill=number)
    index = np.array(image, dtype=np.int32)
    height = np.array(entries.heights, dtype=np.float32)[index]
    for building in plan.buildings:
        for part in building.parts:
            number = _add_part(entries, building, part)
            _stamp_part(index, height, canvas, building, part, number)
    _stamp_trees(index, height, canvas, plan, entries, weave)
    return _finish(index, height, entries)


def _add_area(entries: _Entries, area: Area) -> int:
    rows = area.rows
    line = (0.0, 0.0, 1.0, 0.0)
    if rows is not None:
        line = (float(np.cos(rows.angle)), float(np.sin(rows.angle)), rows.spacing, rows.depth)
    return entries.add(area.material, area.tint, True, line, area.height)


def _add_part(entries: _Entries, building: Building, part: Part) -> int:
    ribs = (float(np.cos(building.angle)), float(np.sin(building.angle)), 2.2, 0.05)
    tone = part.tone if part.tone is not None else building.tone
    return entries.add("roof", tone, False, ribs if part.ribs else (0.0, 0.0, 1.0, 0.0))


def _finish(index: NDArray[np.int32], height: FloatArray, entries: _Entries) -> Raster:
    materials = np.array(entries.materials)
    given = np.array(entries.tones, dtype=np.float32)
    tinted = np.array(entries.tinted)[:, None]
    main, patch = _TONE[materials], _PATCH_TONE[materials]
    ratio = patch / np.maximum(main, 1.0)
    tones = np.stack(
        [
            np.where(tinted, main * given, given),
            np.where(tinted, patch * given, given * ratio),
        ],
        axis=1,
    )  # [N, 2, 3]
    rows = np.array(entries.rows, dtype=np.float32)
    return Raster(index, height, materials, tones.astype(np.float32), rows)


def _window(
    canvas: Canvas, low: Points, high: Points
) -> tuple[slice, slice, Points, Points] | None:
    """Return slices and pixel centres in metres of a box, or None outside the canvas."""
    x0, y0 = np.maximum(np.floor(canvas.pixels(low)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(canvas.pixels(high)) + 1, canvas.side).astype(int)
    if x1 <= x0 or y1 <= y0:
        return None
    x = (np.arange(x0, x1) + 0.5) * canvas.pixel - canvas.border
    y = (np.arange(y0, y1) + 0.5) * canvas.pixel - canvas.border
    return slice(y0, y1), slice(x0, x1), x[None, :], y[:, None]


def _roof_height(part: Part, u: Points, v: Points) -> Points:
    """Height of a roof in metres at ``u`` along and ``v`` across from the wing's centre."""
    side = part.size[1] / 2.0 - np.abs(v)
    end = part.size[0] / 2.0 - np.abs(u)
    if part.roof == "flat":
        return np.where(np.minimum(side, end) < 0.5, part.eave + 0.6, part.eave)
    if part.roof == "gable":
        return np.asarray(part.eave + 0.5 * (side if part.size[0] >= part.size[1] else end))
    return np.asarray(part.eave + 0.55 * np.minimum(side, end))


def _stamp_part(
    index: NDArray[np.int32],
    height: FloatArray,
    canvas: Canvas,
    building: Building,
    part: Part,
    number: int,
) -> None:
    corners = building.corners(part)
    window = _window(canvas, corners.min(axis=0), corners.max(axis=0))
    if window is None:
        return
    rows, columns, x, y = window
    dx, dy = x - building.centre[0], y - building.centre[1]
    cos, sin = np.cos(building.angle), np.sin(building.angle)
    u = dx * cos + dy * sin - part.offset[0]
    v = -dx * sin + dy * cos - part.offset[1]
    top = _roof_height(part, u, v).astype(np.float32)
    here = (np.abs(u) <= part.size[0] / 2.0) & (np.abs(v) <= part.size[1] / 2.0)
    here &= top > height[rows, columns]
    height[rows, columns][here] = top[here]
    index[rows, columns][here] = number


@lru_cache(maxsize=256)
def _disc(radius: int) -> FloatArray:
    """Squared distance from the centre in units of the radius, on a square patch."""
    steps = np.arange(-radius - 1, radius + 2, dtype=np.float32) / radius
    return np.asarray(steps[:, None] ** 2 + steps[None, :] ** 2, dtype=np.float32)


def _stamp_trees(
    index: NDArray[np.int32],
    height: FloatArray,
    canvas: Canvas,
    plan: Furniture,
    entries: _Entries,
    weave: Weave,
) -> None:
    """Raise lumpy domes: the edge and the top of each crown follow the shared noise."""
    trees = plan.trees
    centres = np.round(canvas.pixels(trees.centres)).astype(int)
    radii = np.maximum(np.round(trees.radii / canvas.pixel), 2).astype(int)
    lumps = (0.26 * weave.medium + 0.10 * weave.fine).astype(np.float32)
    for (cx, cy), radius, tree, top, tone in zip(
        centres.tolist(), radii.tolist(), trees.radii, trees.tops, trees.tones, strict=True
    ):
        number = entries.add("crown", (float(tone[0]), float(tone[1]), float(tone[2])), False)
        y0, y1 = max(cy - radius - 1, 0), min(cy + radius + 2, canvas.side)
        x0, x1 = max(cx - radius - 1, 0), min(cx + radius + 2, canvas.side)
        if y1 <= y0 or x1 <= x0:
            continue
        dy, dx = y0 - (cy - radius - 1), x0 - (cx - radius - 1)
        disc = _disc(radius)[dy : dy + y1 - y0, dx : dx + x1 - x0]
        lump = lumps[y0:y1, x0:x1]
        fullness = 1.0 - disc * (1.0 - lump)
        crown = top - tree * (1.0 - np.sqrt(np.maximum(fullness, 0.0)) - 0.35 * lump)
        here = (fullness > 0.0) & (crown > height[y0:y1, x0:x1])
        height[y0:y1, x0:x1][here] = crown[here]
        index[y0:y1, x0:x1][here] = number


def cover_map(raster: Raster) -> NDArray[np.uint8]:
    """Return the land cover [size, size] uint8 of a drawn plan, without the margin."""
    full = _COVER[raster.materials][raster.index]
    inner = full[MARGIN * SCALE : -MARGIN * SCALE, MARGIN * SCALE : -MARGIN * SCALE]
    return np.ascontiguousarray(inner[::SCALE, ::SCALE])


def _lines(raster: Raster, canvas: Canvas, weave: Weave) -> FloatArray:
    """Relative brightness of plough lines, tramlines and sheet ribs, [H, W]."""
    shade = np.zeros(raster.index.shape, dtype=np.float32)
    y, x = np.nonzero((raster.rows[:, 3] > 0)[raster.index])
    if not len(y):
        return shade
    cos, sin, spacing, depth = raster.rows[raster.index[y, x]].T
    across = (x * cos + y * sin) * np.float32(canvas.pixel)
    wander = weave.slow[y, x] * 0.25
    furrow = np.sin(2.0 * np.pi * across / spacing + wander)
    tramline = (np.abs((across / 13.0) % 1.0 - 0.5) < 0.035) & (depth < 0.2) & (spacing != 2.2)
    strength = depth * (0.75 + 0.4 * np.clip(weave.patches[y, x], -1.0, 1.0))
    shade[y, x] = furrow * strength - 0.16 * tramline
    return shade


def _albedo(
    raster: Raster, canvas: Canvas, weave: Weave, season: float, rng: np.random.Generator
) -> FloatArray:
    """Linear reflectance [H, W, 3]; ``season`` 1 is lush, 0 is bleached."""
    n_entries = len(raster.materials)
    leafy = _LEAFY[raster.materials]
    growth = 1.0 + 0.05 * rng.standard_normal((n_entries, 1)) * (leafy > 0)[:, None]
    amount = np.clip(leafy * (1.0 - season), 0.0, 1.0).astype(np.float32)
    main = to_linear(bleach(raster.tones[:, 0], amount) * growth)
    patch = to_linear(bleach(raster.tones[:, 1], amount) * growth)
    share = 0.5 + 0.5 * _PATCH[raster.materials][raster.index] * weave.patches
    share = np.clip(share, 0.0, 1.0)[..., None]
    colour = np.take(patch - main, raster.index, axis=0)
    colour *= share
    colour += np.take(main, raster.index, axis=0)
    grain = _GRAIN[raster.materials][raster.index]
    texture = 1.0 + grain * (1.1 * weave.fine + 0.9 * weave.medium)
    texture += _lines(raster, canvas, weave)
    colour *= np.clip(texture, 0.3, 1.8)[..., None]
    return np.asarray(colour, dtype=np.float32)


def _shadow(height: FloatArray, light: Light, pixel: float) -> FloatArray:
    """Height of the shadow's upper edge [H, W], by doubling the distance towards the sun."""
    side = height.shape[0]
    edge = height
    reach = int(26.0 / pixel)
    step, covered = 1, 0
    while covered < reach:
        dx, dy = round(step * np.cos(light.azimuth)), round(step * np.sin(light.azimuth))
        drop = float(np.hypot(dx, dy)) * pixel * float(np.tan(light.elevation))
        rows, source_rows = _overlap(side, dy)
        columns, source_columns = _overlap(side, dx)
        further = edge[source_rows, source_columns] - np.float32(drop)
        edge = edge.copy()
        edge[rows, columns] = np.maximum(edge[rows, columns], further)
        covered += step
        step *= 2
    return edge


def _overlap(side: int, shift: int) -> tuple[slice, slice]:
    """Slices of the places and of the sources ``shift`` further on that both exist."""
    if shift >= 0:
        return slice(0, side - shift), slice(shift, side)
    return slice(-shift, side), slice(0, side + shift)


def _enclosed(height: FloatArray, pixel: float) -> FloatArray:
    """Share of the sky hidden by higher things around, in [0, 0.45], [H, W]."""
    side = height.shape[0]
    factor = max(2, int(2.5 / pixel))
    small = Image.fromarray(height).reduce(factor)
    around = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.asarray(np.clip((around - height) * 0.09, 0.0, 0.45), dtype=np.float32)


def photograph(
    raster: Raster,
    canvas: Canvas,
    weave: Weave,
    light: Light,
    season: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Light a drawn plan with sun and sky.

    Args:
        raster: The drawn plan.
        canvas: Its canvas.
        weave: Noise fields of the place.
        light: Position of the sun and share of sky light.
        season: 1 for lush, 0 for bleached vegetation.
        rng: Randomness of this date (growth of single fields).

    Returns:
        Linear light [size + 2 MARGIN, size + 2 MARGIN, 3]; sunlit flat ground is its own tone.
    """
    relief = _RELIEF[raster.materials][raster.index]
    own = smooth_noise(rng, raster.index.shape, 1.8)
    surface = raster.height + relief * (0.75 * weave.fine + 0.6 * weave.medium + 0.4 * own)
    gy, gx = (np.clip(g / canvas.pixel, -1.3, 1.3) for g in np.gradient(surface))
    east, south = np.float32(np.cos(light.azimuth)), np.float32(np.sin(light.azimuth))
    level = np.float32(np.tan(light.elevation))
    facing = np.clip((level - gx * east - gy * south) / np.sqrt(1.0 + gx**2 + gy**2), 0.0, None)
    shade = np.clip(1.0 - (_shadow(raster.height, light, canvas.pixel) - raster.height) / 0.5, 0, 1)
    sun = (1.0 - light.sky) * np.clip(facing / level, 0.0, 1.7) * shade
    sky = light.sky * (1.0 - _enclosed(raster.height, canvas.pixel))
    colour = _albedo(raster, canvas, weave, season, rng)
    for k, (warm, cool) in enumerate(((1.03, 0.84), (1.0, 1.0), (0.94, 1.26))):
        colour[..., k] *= sun * np.float32(warm) + sky * np.float32(cool)
    return _halved(colour)


def _halved(picture: FloatArray) -> FloatArray:
    """Average SCALE x SCALE canvas pixels."""
    parts = [picture[y::SCALE, x::SCALE] for y in range(SCALE) for x in range(SCALE)]
    return np.asarray(sum(parts) / np.float32(len(parts)), dtype=np.float32)
