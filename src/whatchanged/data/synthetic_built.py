"""Built land of the scene generator: houses on plots, halls, sheds, sports grounds, roads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from whatchanged.data.synthetic_land import grown_trees, scattered, shown, tint
from whatchanged.data.synthetic_paint import HALL_ROOFS, HOUSE_ROOFS, VILLAGE_ROOFS, Rgb
from whatchanged.data.synthetic_plan import (
    NO_TREES,
    Area,
    Block,
    Building,
    Frame,
    Furniture,
    Part,
    Points,
    inside,
    ribbon,
)
from whatchanged.data.synthetic_roads import Local, car, car_park


@dataclass(frozen=True)
class Plot:
    """One house with its yard; ``seen`` if the house and the road before it are in view."""

    furniture: Furniture
    outline: Points
    seen: bool


_TURN = {"t0": 0.0, "t1": np.pi, "s0": -np.pi / 2.0, "s1": np.pi / 2.0}


def _along(block: Block, front: str) -> tuple[float, float]:
    return (block.s0, block.s1) if front in ("t0", "t1") else (block.t0, block.t1)


def _on_front(block: Block, front: str, along: float, inward: float) -> tuple[float, float]:
    if front == "t0":
        return along, block.t0 + inward
    if front == "t1":
        return along, block.t1 - inward
    return (block.s0 + inward if front == "s0" else block.s1 - inward), along


def _plot_outline(
    frame: Frame, block: Block, front: str, bounds: tuple[float, float], depth: float
) -> Points:
    first = _on_front(block, front, bounds[0], 0.0)
    last = _on_front(block, front, bounds[1], depth)
    s0, s1 = sorted((first[0], last[0]))
    t0, t1 = sorted((first[1], last[1]))
    return frame.quad(s0, s1, t0, t1)


@dataclass(frozen=True)
class Style:
    """How a neighbourhood is built: lengths in metres."""

    roofs: tuple[Rgb, ...]
    plot_width: float
    plot_depth: float
    setback: float
    village: bool


def draw_style(rng: np.random.Generator, village: bool) -> Style:
    """Draw the look of one neighbourhood: few roof colours, one plot size."""
    pool = VILLAGE_ROOFS if village else HOUSE_ROOFS
    chosen = rng.choice(len(pool), 4 if village else 3, replace=False)
    roofs = tuple(pool[int(k)] for k in chosen)
    if village:
        return Style(roofs, float(rng.uniform(14, 19)), 22.0, float(rng.uniform(3, 6)), True)
    width, depth = float(rng.uniform(17.0, 21.0)), float(rng.uniform(31.0, 36.0))
    return Style(roofs, width, depth, float(rng.uniform(5.5, 7.5)), False)


def house(rng: np.random.Generator, local: Local, style: Style) -> Building:
    """One house whose front wall stands ``setback`` metres from the street."""
    tone = style.roofs[int(rng.integers(len(style.roofs)))]
    level = float(rng.normal(1.0, 0.05))
    tone = (tone[0] * level, tone[1] * level, tone[2] * level)
    if style.village:
        length, width = float(rng.uniform(9.0, 12.5)), float(rng.uniform(7.5, 10.0))
        roof = str(rng.choice(["gable", "gable", "flat", "hip"]))
        eave = float(rng.choice([3.2, 6.2, 6.2, 9.0]))
        parts = [Part((0.0, 0.0), (length, width), eave, roof)]
        if rng.random() < 0.5:
            side = float(rng.choice([-1.0, 1.0]))
            small = (length * 0.5, width * 0.5)
            parts.append(Part((side * length * 0.25, width * 0.7), small, 2.8, "flat"))
        return Building(local.at(0.0, style.setback + width / 2.0), local.angle, tone, tuple(parts))
    length = float(min(style.plot_width - 4.0, rng.uniform(12.5, 15.5)))
    width = float(rng.uniform(9.5, 12.5))
    side = float(rng.choice([-1.0, 1.0]))
    wing = (float(rng.uniform(5.8, 6.8)), float(rng.uniform(6.0, 9.0)))
    eave = float(rng.choice([3.0, 3.0, 5.6]))
    across = side * (length - wing[0]) / 2.0
    parts = [
        Part((0.0, 0.0), (length, width), eave, str(rng.choice(["hip", "hip", "gable"]))),
        Part((across, -(width + wing[1]) / 2.0 + 3.5), wing, 3.0, "hip"),
    ]
    if rng.random() < 0.55:
        depth = float(rng.uniform(4.0, 6.5))
        parts.append(Part((-across, (width + depth) / 2.0 - 2.5), (wing[0], depth), 3.0, "hip"))
    back = style.setback + wing[1] - 3.5 + width / 2.0
    return Building(local.at(0.0, back), local.angle, tone, tuple(parts))


def _yard(
    rng: np.random.Generator, local: Local, style: Style, building: Building, outline: Points
) -> Furniture:
    """Driveway, fences, terrace and trees around one house."""
    half, depth = style.plot_width / 2.0, style.plot_depth
    areas: list[Area] = []
    if style.village:
        yard = local.box(-half + 1.5, half - 1.5, -1.0, style.setback + 4.0)
        areas.append(Area(str(rng.choice(["concrete", "dirt"])), yard, tint(rng)))
    else:
        wing = building.parts[1]
        u, v = wing.offset[0], style.setback + 1.0
        areas.append(Area("concrete", local.box(u - 2.6, u + 2.6, -3.5, v), tint(rng, 0.04)))
        for line in (
            [[-half, 12.0], [-half, depth]],
            [[half, 12.0], [half, depth]],
            [[-half, depth], [half, depth]],
        ):
            fence = ribbon(local.points(np.array(line)), 0.35)
            areas.append(Area("fence", fence, tint(rng), height=1.7))
        if rng.random() < 0.5:
            back = style.setback + 17.0
            terrace = local.box(-half + 4.0, -half + 9.0, back, back + 3.5)
            areas.append(Area("pavement", terrace, tint(rng)))
        if rng.random() < 0.45:
            areas.append(car(rng, local.at(u + rng.uniform(-1, 1), 1.5), local.angle + np.pi / 2))
    n = int(rng.poisson(1.4))
    uv = np.stack([rng.uniform(-half + 2, half - 2, n), rng.uniform(1.0, depth - 2, n)], axis=1)
    points = local.points(uv)
    keep = inside(points, outline)
    for part in building.parts:
        keep &= ~inside(points, building.corners(part, 2.6))
    trees = grown_trees(rng, points[keep], (1.2, 2.9))
    return Furniture(tuple(areas), (building,), trees)


def plots(
    frame: Frame,
    block: Block,
    front: str,
    rng: np.random.Generator,
    style: Style,
    *,
    lawn: bool = True,
    bounds: tuple[float, float] | None = None,
) -> list[Plot]:
    """Lay out plots with houses along one side of a block.

    Args:
        frame: Frame of the scene.
        block: The land; houses stay within ``style.plot_depth`` of the front.
        front: Side of the block, ``t0``, ``t1``, ``s0`` or ``s1``.
        rng: Source of randomness.
        style: Look of the neighbourhood.
        lawn: Draw a lawn on each plot; False leaves the ground as it is.
        bounds: Stretch of the front to use; all of it by default.
    """
    low, high = bounds if bounds is not None else _along(block, front)
    found: list[Plot] = []
    start = low + 1.0 + float(rng.uniform(0.0, 2.0))
    while start + style.plot_width <= high - 1.0:
        end = start + style.plot_width
        s, t = _on_front(block, front, 0.5 * (start + end), 0.0)
        heading = frame.heading(s) if front in ("t0", "t1") else frame.angle
        local = Local(frame.at(s, t), heading + _TURN[front])
        if style.village:
            local = replace(local, angle=local.angle + float(rng.normal(0.0, 0.03)))
        building = house(rng, local, style)
        outline = _plot_outline(frame, block, front, (start, end), style.plot_depth)
        furniture = _yard(rng, local, style, building, outline)
        if lawn:
            ground = Area("lawn", outline, tint(rng, 0.09))
            furniture = Furniture((ground,)) + furniture
        street = _on_front(block, front, 0.5 * (start + end), -2.0)
        seen = _in_view(frame, building) and frame.visible(*street, 0.0)
        found.append(Plot(furniture, outline, seen))
        start = end + (float(rng.exponential(2.5)) if style.village else 0.0)
    return found


def _in_view(frame: Frame, building: Building) -> bool:
    x, y = building.centre
    return 4.0 <= x <= frame.extent - 4.0 and 4.0 <= y <= frame.extent - 4.0


def fronts_of(block: Block, style: Style) -> list[str]:
    """Sides of a block that can take a row of plots without two rows meeting."""
    length, depth = block.size
    along: list[str] = [front for front in ("t0", "t1") if front in block.fronts]
    across: list[str] = [front for front in ("s0", "s1") if front in block.fronts]
    if along:
        return along if depth >= 2.0 * style.plot_depth else along[:1]
    return across if length >= 2.0 * style.plot_depth else across[:1]


def neighbourhood(
    frame: Frame, block: Block, rng: np.random.Generator, *, village: bool = False
) -> Furniture:
    """A block full of houses along its streets, gardens behind."""
    style = draw_style(rng, village)
    outline = block.outline(frame)
    ground = Area("meadow" if village else "lawn", outline, tint(rng))
    land = Furniture((ground,), trees=scattered(frame, outline, rng, rng.uniform(3.0, 14.0)))
    homes = [
        plot
        for front in fronts_of(block, style)
        for plot in plots(frame, block, front, rng, style)
        if rng.random() < (0.75 if village else 0.94)
    ]
    return settle(land, homes)


def settle(land: Furniture, homes: list[Plot]) -> Furniture:
    """Put plots on land, felling the trees that stood there."""
    cleared = land.without_trees_in([plot.outline for plot in homes], 1.0)
    for plot in homes:
        cleared = cleared + plot.furniture
    return cleared


def hall(
    rng: np.random.Generator,
    centre: tuple[float, float],
    angle: float,
    size: tuple[float, float],
    colour: str,
) -> Building:
    """One large building: flat with units on the roof, or of sheet metal with a low gable."""
    tone = HALL_ROOFS[colour]
    height = float(rng.uniform(6.0, 10.0))
    if colour in ("blue", "red") or rng.random() < 0.3:
        return Building(centre, angle, tone, (Part((0, 0), size, height, "flat", ribs=True),))
    parts = [Part((0.0, 0.0), size, height, "flat")]
    for _ in range(int(rng.integers(2, 7))):
        unit = (float(rng.uniform(1.6, 3.6)), float(rng.uniform(1.4, 2.6)))
        offset = (
            float(rng.uniform(-0.5, 0.5) * (size[0] - 6.0)),
            float(rng.uniform(-0.5, 0.5) * (size[1] - 6.0)),
        )
        parts.append(Part(offset, unit, height + 1.5, "flat", tone=(186, 186, 184)))
    return Building(centre, angle, tone, tuple(parts))


def works(frame: Frame, block: Block, rng: np.random.Generator) -> Furniture:
    """Large buildings with a car park on paved ground."""
    outline = block.outline(frame)
    land = Furniture((Area("verge", outline, tint(rng)),))
    land = land + Furniture(trees=scattered(frame, outline, rng, 6.0))
    built, footprint, _ = premises(frame, shown(frame, block), rng)
    return land.without_trees_in([footprint], 2.0) + built


def premises(frame: Frame, part: Block, rng: np.random.Generator) -> tuple[Furniture, Points, str]:
    """One large building and its car park in the middle of a visible part of a block.

    Returns:
        The furniture, the outline of the paved ground, and the roof's colour.
    """
    length, depth = part.size
    span = (float(np.clip(length - 8.0, 16.0, 84.0)), float(np.clip(depth - 8.0, 16.0, 66.0)))
    s, t = 0.5 * (part.s0 + part.s1), 0.5 * (part.t0 + part.t1)
    local = Local(frame.at(s, t), frame.heading(s))
    yard = local.box(-span[0] / 2, span[0] / 2, -span[1] / 2, span[1] / 2)
    size = (span[0] * float(rng.uniform(0.72, 0.88)), span[1] * float(rng.uniform(0.42, 0.5)))
    colour = str(rng.choice(list(HALL_ROOFS)))
    centre = local.at(0.0, span[1] * 0.5 - size[1] / 2.0 - 3.0)
    building = hall(rng, centre, local.angle, size, colour)
    bays = Local(local.at(-span[0] / 2, -span[1] / 2), local.angle)
    lot = car_park(rng, bays, (span[0], span[1] - size[1] - 5.0), float(rng.uniform(0.1, 0.6)))
    ground = Area("concrete", yard, tint(rng, 0.04))
    return Furniture((ground, *lot), (building,)), yard, colour


def sheds(frame: Frame, part: Block, rng: np.random.Generator, n: int) -> tuple[Furniture, str]:
    """``n`` long sheds side by side in the middle of a visible part of a block.

    Returns:
        The furniture and the colour of the roofs.
    """
    s, t = 0.5 * (part.s0 + part.s1), 0.5 * (part.t0 + part.t1)
    local = Local(frame.at(s, t), frame.heading(s))
    length = float(np.clip(part.size[0] * 0.7, 14.0, 46.0))
    width = float(np.clip((part.size[1] - 4.0) / n - 3.0, 4.0, 9.0))
    colour = str(rng.choice(["white", "blue", "grey"]))
    gap = width + float(rng.uniform(2.2, 3.5))
    buildings = []
    for k in range(n):
        centre = local.at(float(rng.normal(0, 0.6)), (k - 0.5 * (n - 1)) * gap)
        body = Part((0, 0), (length, width), 3.0, "gable", ribs=True)
        buildings.append(Building(centre, local.angle, HALL_ROOFS[colour], (body,)))
    side = n * gap / 2.0 + 1.0
    yard = local.box(-length / 2 - 4.0, length / 2 + 4.0, -side, side)
    return Furniture((Area("dirt", yard, tint(rng)),), tuple(buildings), NO_TREES), colour


def sports_ground(frame: Frame, part: Block, rng: np.random.Generator) -> tuple[Furniture, bool]:
    """A running track around a pitch where there is room, else courts.

    Returns:
        The furniture and whether it is a track.
    """
    s, t = 0.5 * (part.s0 + part.s1), 0.5 * (part.t0 + part.t1)
    local = Local(frame.at(s, t), frame.heading(s))
    length, width = part.size
    if length >= 52.0 and width >= 32.0:
        size = (float(min(length - 4.0, 116.0)), float(min(width - 4.0, 58.0, 0.62 * length)))
        return Furniture(_running_track(local, size)), True
    n = max(1, min(3, int((length - 2.0) / 17.0)))
    surface = str(rng.choice(["court", "court_blue", "track"]))
    areas: list[Area] = []
    for k in range(n):
        u = (k - n / 2.0) * 17.0
        areas.extend(_court(Local(local.at(u, -14.0), local.angle), surface))
    return Furniture(tuple(areas)), False


def _running_track(local: Local, size: tuple[float, float]) -> tuple[Area, ...]:
    lane = float(np.clip(0.14 * size[1], 4.0, 8.0))
    rings = [(0.0, "track")]
    for k in (0.3, 0.6):
        rings += [(lane * k, "line"), (lane * k + 0.3, "track")]
    areas = [Area(name, _stadium(local, size, inset)) for inset, name in rings]
    areas.append(Area("pitch", _stadium(local, size, lane)))
    half = (size[0] - size[1]) / 2.0 + 0.12 * size[1]
    v = 0.5 * size[1] - lane - 2.0
    for u0, u1, v0, v1 in ((-half, half, -v, v), (-half, 0.0, -v, v)):
        corners = np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1], [u0, v0]])
        for start, end in pairwise(corners):
            areas.append(Area("line", ribbon(local.points(np.stack([start, end])), 0.4)))
    return tuple(areas)


def _stadium(local: Local, size: tuple[float, float], inset: float) -> Points:
    radius = size[1] / 2.0 - inset
    straight = (size[0] - size[1]) / 2.0
    turn = np.linspace(-np.pi / 2.0, np.pi / 2.0, 20)
    right = np.stack([straight + radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    return local.points(np.concatenate([right, -right]))


def _court(local: Local, surface: str) -> list[Area]:
    areas = [
        Area("track" if surface != "track" else "court", local.box(0.5, 16.5, 0.0, 28.0)),
        Area(surface, local.box(2.5, 14.5, 3.0, 25.0)),
    ]
    corners = np.array([[2.5, 3.0], [14.5, 3.0], [14.5, 25.0], [2.5, 25.0], [2.5, 3.0]])
    sides = list(pairwise(corners))
    sides.append((np.array([2.5, 14.0]), np.array([14.5, 14.0])))
    for start, end in sides:
        areas.append(Area("line", ribbon(local.points(np.stack([start, end])), 0.35)))
    return areas
