"""Lays out a scene: roads, blocks between them, what each is used for, and what changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whatchanged.data.synthetic_built import neighbourhood, sheds, sports_ground, works
from whatchanged.data.synthetic_changes import KINDS, Facts
from whatchanged.data.synthetic_land import (
    VACANT,
    grown_trees,
    meadow,
    pond,
    scattered,
    shown,
)
from whatchanged.data.synthetic_plan import Area, Block, Frame, Furniture, Points
from whatchanged.data.synthetic_roads import Road, car, road, road_width


@dataclass(frozen=True)
class Setting:
    """A kind of landscape: road types, distances in metres, and what blocks are used for."""

    main: str
    side: str
    spacing: tuple[float, float]
    crossing: float
    rural: bool
    uses: dict[str, float]


SETTINGS: dict[str, Setting] = {
    "suburb": Setting(
        "street", "street", (82.0, 98.0), 0.55, False,
        {"houses": 6, "meadow": 1, "scrub": 1, "bare": 1, "woods": 1, "park": 0.8, "sports": 0.4},
    ),
    "town": Setting(
        "highway", "street", (90.0, 130.0), 0.6, False,
        {"works": 4, "houses": 2, "meadow": 1.2, "bare": 1, "sports": 1, "woods": 0.5},
    ),
    "country": Setting(
        "lane", "dirt", (70.0, 130.0), 0.45, True,
        {"crops": 6, "woods": 1.4, "meadow": 1.2, "village": 2, "sheds": 0.6, "park": 0.4},
    ),
    "wild": Setting(
        "lane", "dirt", (95.0, 170.0), 0.3, False,
        {"woods": 4, "scrub": 3, "meadow": 1.2, "houses": 0.8},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One change of a scene: its facts and the outline of its block in metres."""

    facts: Facts
    outline: Points


@dataclass(frozen=True)
class Layout:
    """A scene on both dates, and where what changes."""

    before: Furniture
    after: Furniture
    sites: tuple[Site, ...]


def lay_out(rng: np.random.Generator, extent: float, kinds: Sequence[str]) -> Layout | None:
    """Lay out a scene in which the given changes happen, each on a block of its own.

    Args:
        rng: Source of randomness.
        extent: Side of the scene in metres.
        kinds: Keys of ``KINDS``; empty for a scene without changes.

    Returns:
        The layout, or None if this draw has no room for all of them.
    """
    setting = SETTINGS[str(rng.choice(list(SETTINGS), p=[0.36, 0.2, 0.26, 0.18]))]
    frame = Frame(
        extent,
        float(rng.uniform(-np.pi / 2.0, np.pi / 2.0)),
        float(rng.normal(0.0, 0.0028)) * min(1.0, 128.0 / extent),
    )
    roads, trees, blocks = _network(rng, frame, setting)
    order = sorted(blocks, key=lambda block: -_seen_area(frame, block))
    if len(order) < len(kinds):
        return None
    base = Furniture((Area("meadow", _everything(extent)), *roads.sides))
    before = after = base
    sites: list[Site] = []
    for number, block in enumerate(order):
        if number < len(kinds):
            change = KINDS[kinds[number]](frame, block, rng, setting.rural)
            if change is None:
                return None
            before, after = before + change.before, after + change.after
            sites.append(Site(change.facts, block.outline(frame)))
        elif _seen_area(frame, block) > 0.0:
            furniture = _furnish(rng, frame, block, setting)
            before, after = before + furniture, after + furniture
    surface = Furniture(roads.surface) + trees
    return Layout(before + surface, after + surface, tuple(sites))


def _everything(extent: float) -> Points:
    low, high = -0.5 * extent, 1.5 * extent
    return np.array([[low, low], [high, low], [high, high], [low, high]])


def _seen_area(frame: Frame, block: Block) -> float:
    s, t = np.meshgrid(np.arange(block.s0, block.s1, 5.0), np.arange(block.t0, block.t1, 5.0))
    xy = frame.place(np.stack([s.ravel(), t.ravel()], axis=1))
    return float(np.all((xy > -8.0) & (xy < frame.extent + 8.0), axis=1).sum())


def _positions(
    rng: np.random.Generator, reach: float, first: float, spacing: tuple[float, float], keep: float
) -> list[float]:
    """Positions of parallel roads: the first always, the others with probability ``keep``."""
    found = [first]
    for direction in (-1.0, 1.0):
        at = first + direction * float(rng.uniform(*spacing))
        while abs(at) < reach - 4.0:
            if rng.random() < keep:
                found.append(at)
            at += direction * float(rng.uniform(*spacing))
    return sorted(found)


def _network(
    rng: np.random.Generator, frame: Frame, setting: Setting
) -> tuple[Road, Furniture, list[Block]]:
    """Return all roads as one, the trees along them and the blocks between them."""
    reach = 0.72 * frame.extent + 10.0
    offset = 0.3 * frame.extent
    main = float(rng.uniform(-offset, offset))
    rows = _positions(rng, reach, main, setting.spacing, 0.85)
    columns: list[float] = []
    if rng.random() < setting.crossing or frame.extent > 220.0:
        columns = _positions(rng, reach, float(rng.uniform(-offset, offset)), (110, 180), 0.8)
    row_kinds = [setting.main if at == main else setting.side for at in rows]
    column_kinds = [setting.side] * len(columns)
    drawn = [
        road(frame.line((at, -reach), (at, reach)), kind, rng)
        for at, kind in zip(columns, column_kinds, strict=True)
    ]
    drawn += [
        road(frame.line((-reach, at), (reach, at)), kind, rng)
        for at, kind in zip(rows, row_kinds, strict=True)
    ]
    whole = Road(
        tuple(area for one in drawn for area in one.sides),
        tuple(area for one in drawn for area in one.surface),
    )
    blocks = [
        Block(s0, s1, t0, t1, frozenset(s_fronts | t_fronts))
        for s0, s1, s_fronts in _intervals(columns, column_kinds, reach, "s")
        for t0, t1, t_fronts in _intervals(rows, row_kinds, reach, "t")
        if s1 - s0 > 12.0 and t1 - t0 > 12.0
    ]
    trees = _avenue(rng, frame, rows, row_kinds, reach)
    return whole, trees, blocks


def _intervals(
    roads: list[float], kinds: list[str], reach: float, axis: str
) -> list[tuple[float, float, set[str]]]:
    """Stretches between parallel roads, each with the names of its sides on a road."""
    found: list[tuple[float, float, set[str]]] = []
    low, fronts = -reach, set[str]()
    for at, kind in zip(roads, kinds, strict=True):
        half = road_width(kind) / 2.0
        found.append((low, at - half, fronts | {f"{axis}1"}))
        low, fronts = at + half, {f"{axis}0"}
    found.append((low, reach, fronts))
    return found


def _avenue(
    rng: np.random.Generator, frame: Frame, rows: list[float], kinds: list[str], reach: float
) -> Furniture:
    """Trees along some of the roads."""
    points: list[Points] = []
    for at, kind in zip(rows, kinds, strict=True):
        if rng.random() > 0.3:
            continue
        step = float(rng.uniform(10.0, 22.0))
        for side in (-1.0, 1.0):
            s = np.arange(-reach, reach, step)
            s = s + rng.normal(0.0, 1.0, s.shape)
            s = s[rng.random(len(s)) < rng.uniform(0.25, 0.8)]
            t = np.full_like(s, at + side * (road_width(kind) / 2.0 + 0.3))
            points.append(frame.place(np.stack([s, t], axis=1)))
    if not points:
        return Furniture()
    return Furniture(trees=grown_trees(rng, np.concatenate(points), (1.3, 2.7)))


def _furnish(rng: np.random.Generator, frame: Frame, block: Block, setting: Setting) -> Furniture:
    """Furnish a block that stays as it is."""
    names = list(setting.uses)
    weights = np.array([setting.uses[name] for name in names])
    use = str(rng.choice(names, p=weights / weights.sum()))
    if use in VACANT:
        return VACANT[use](frame, block, rng)
    if use in ("houses", "village"):
        return neighbourhood(frame, block, rng, village=use == "village")
    if use == "works":
        return works(frame, block, rng)
    land = meadow(frame, block, rng)
    if use == "park":
        part = shown(frame, block)
        water = pond(frame, block, rng, (max(0.28 * part.size[0], 6), max(0.28 * part.size[1], 6)))
        grove = scattered(frame, block.outline(frame), rng, 30.0)
        return (land + Furniture(trees=grove)).without_trees_in(
            [water.areas[0].outline], 1.0
        ) + water
    if use == "sheds":
        built = sheds(frame, shown(frame, block), rng, int(rng.integers(2, 6)))[0]
    else:
        built = sports_ground(frame, shown(frame, block), rng)[0]
    return land.without_trees_in([area.outline for area in built.areas], 1.5) + built


def traffic(rng: np.random.Generator, plan: Furniture, extent: float) -> Furniture:
    """Put a few cars on the paved roads of a plan and take some of the parked ones away.

    Cars come and go between the dates; they are no change.
    """
    kept = tuple(a for a in plan.areas if not a.movable or rng.random() < 0.7)
    lanes = [a for a in plan.areas if a.material in ("asphalt", "tarmac") and len(a.outline) > 8]
    cars: list[Area] = []
    for lane in lanes:
        half = len(lane.outline) // 2
        left, right = lane.outline[:half], lane.outline[half:][::-1]
        for _ in range(int(rng.poisson(extent / 110.0))):
            k = int(rng.integers(0, half - 1))
            share = 0.27 if rng.random() < 0.5 else 0.73
            here = left[k] * share + right[k] * (1.0 - share)
            ahead = left[k + 1] * share + right[k + 1] * (1.0 - share)
            angle = float(np.arctan2(*(ahead - here)[::-1]))
            cars.append(car(rng, (float(here[0]), float(here[1])), angle))
    return Furniture(kept + tuple(cars), plan.buildings, plan.trees)
