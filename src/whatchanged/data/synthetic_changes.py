"""The permanent changes of the scene generator, one function each.

A change happens on one block of land: it returns what stood there before, what stands there
after, and the facts from which true sentences are made. ``None`` means that the block has no
room for it; the caller then draws another scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from whatchanged.data.synthetic_built import (
    Plot,
    Style,
    draw_style,
    fronts_of,
    plots,
    premises,
    settle,
    sheds,
    sports_ground,
)
from whatchanged.data.synthetic_land import (
    VACANT,
    bare_ground,
    bare_material,
    forest,
    pond,
    shown,
    tint,
)
from whatchanged.data.synthetic_plan import (
    Area,
    Block,
    Frame,
    Furniture,
    Points,
    blob,
    grow,
    ribbon,
)
from whatchanged.data.synthetic_roads import lengthened, road, road_width


@dataclass(frozen=True)
class Facts:
    """What is known about a change, for its captions.

    Attributes:
        kind: Key of ``KINDS``.
        source: Use of the land before, a key of ``VACANT``, or "houses" and the like.
        target: Use of the land after where a sentence needs it.
        n: Number of things in the picture that appeared or disappeared.
        colour: Colour of the roofs, or empty.
        beside: True if older houses stand next to the new ones.
        rural: True in villages, whose houses have no driveways.
        whole: False if only a part of the piece of land changed.
    """

    kind: str
    source: str
    target: str = ""
    n: int = 1
    colour: str = ""
    beside: bool = False
    rural: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Change:
    """One block on both dates and the facts of its change."""

    before: Furniture
    after: Furniture
    facts: Facts


Make: TypeAlias = Callable[[Frame, Block, np.random.Generator, bool], Change | None]


def _land(
    frame: Frame, block: Block, rng: np.random.Generator, uses: Sequence[str]
) -> tuple[Furniture, str]:
    use = str(rng.choice(list(uses)))
    return VACANT[use](frame, block, rng), use


def _run(rng: np.random.Generator, homes: list[Plot]) -> tuple[list[Plot], list[Plot]]:
    """Split plots into neighbours that are all in view (one or more) and the others."""
    seen = [number for number, plot in enumerate(homes) if plot.seen]
    n = int(rng.integers(1, len(seen) + 1))
    first = int(rng.integers(0, len(seen) - n + 1))
    chosen = set(seen[first : first + n])
    return [homes[k] for k in sorted(chosen)], [
        plot for k, plot in enumerate(homes) if k not in chosen
    ]


def houses(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Houses are built along an existing road, alone or beside older ones."""
    land, use = _land(frame, block, rng, ("meadow", "crops", "woods", "scrub", "bare"))
    style = draw_style(rng, rural)
    fronts = fronts_of(block, style)
    if not fronts:
        return None
    front = str(rng.choice(fronts))
    lawn = use != "meadow" and not rural
    homes = plots(frame, block, front, rng, style, lawn=lawn)
    if not any(plot.seen for plot in homes):
        return None
    new, others = _run(rng, homes)
    old = others if rng.random() < 0.5 else []
    standing = settle(land, old)
    beside = any(plot.seen for plot in old)
    facts = Facts("houses", use, n=len(new), beside=beside, rural=rural)
    return Change(standing, settle(standing, new), facts)


def street(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A new street with houses on both sides."""
    land, use = _land(frame, block, rng, ("meadow", "crops", "woods", "scrub", "bare"))
    style = draw_style(rng, rural)
    kind = "lane" if rural else "street"
    half = road_width(kind) / 2.0
    part = shown(frame, block)
    lengthwise = block.size[1] >= part.size[0] or part.size[1] >= part.size[0]
    room = block.size[1] if lengthwise else block.size[0]
    depth = min(style.plot_depth, room / 2.0 - half - 1.0)
    if depth < 20.0 or min(part.size) < 24.0:
        return None
    style = Style(style.roofs, style.plot_width, depth, style.setback, style.village)
    line, sides = _new_street(frame, block, part, half, lengthwise)
    rows = [
        [p for p in plots(frame, side, front, rng, style, lawn=use != "meadow") if p.seen]
        for side, front in sides
    ]
    if not all(rows):
        return None
    homes = [plot for row in rows for plot in row]
    built = settle(land.without_trees_in([ribbon(line, 2.0 * half)]), homes)
    facts = Facts("street", use, n=len(homes), rural=rural, whole=False)
    return Change(land, built + _paved(line, kind, rng), facts)


def _paved(line: Points, kind: str, rng: np.random.Generator) -> Furniture:
    """A road that runs on over the edge of its block into the roads around."""
    new = road(lengthened(line, 4.0), kind, rng)
    return Furniture(new.sides + new.surface)


def _centre(block: Block) -> tuple[float, float]:
    return 0.5 * (block.s0 + block.s1), 0.5 * (block.t0 + block.t1)


def _new_street(
    frame: Frame, block: Block, part: Block, half: float, lengthwise: bool
) -> tuple[Points, list[tuple[Block, str]]]:
    """Line of a street through the middle of a block and the land on its two sides."""
    s, t = _centre(part)
    if lengthwise:
        t = float(np.clip(t, block.t0 + half + 20.0, block.t1 - half - 20.0))
        line = frame.line((block.s0, t), (block.s1, t))
        below = Block(block.s0, block.s1, block.t0, t - half, frozenset({"t1"}))
        above = Block(block.s0, block.s1, t + half, block.t1, frozenset({"t0"}))
        return line, [(below, "t1"), (above, "t0")]
    line = frame.line((s, block.t0), (s, block.t1))
    left = Block(block.s0, s - half, block.t0, block.t1, frozenset({"s1"}))
    right = Block(s + half, block.s1, block.t0, block.t1, frozenset({"s0"}))
    return line, [(left, "s1"), (right, "s0")]


def building(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A large building with a car park."""
    land, use = _land(frame, block, rng, ("meadow", "crops", "woods", "scrub", "bare"))
    part = shown(frame, block)
    if min(part.size) < 32.0:
        return None
    built, yard, colour = premises(frame, part, rng)
    facts = Facts("building", use, colour=colour, rural=rural)
    return Change(land, land.without_trees_in([yard], 1.0) + built, facts)


def farm_sheds(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Long sheds side by side."""
    land, use = _land(frame, block, rng, ("meadow", "crops", "crops", "bare"))
    part = shown(frame, block)
    n = min(int(rng.integers(2, 7)), max(2, int(part.size[1] // 9)))
    built, colour = sheds(frame, part, rng, n)
    n = sum(_seen(frame, shed.centre) for shed in built.buildings)
    if n < 2:
        return None
    cleared = land.without_trees_in([built.areas[0].outline], 1.0)
    return Change(land, cleared + built, Facts("sheds", use, n=n, colour=colour, rural=rural))


def _seen(frame: Frame, centre: tuple[float, float]) -> bool:
    return all(2.0 <= at <= frame.extent - 2.0 for at in centre)


def demolition(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Houses or a large building are pulled down; bare ground or grass remains."""
    target = str(rng.choice(["bare", "bare", "meadow"]))
    land, _ = _land(frame, block, rng, ("meadow", "scrub"))
    soil = bare_material(rng)
    part = shown(frame, block)
    if rng.random() < 0.3 and min(part.size) > 32.0:
        built, yard, _ = premises(frame, part, rng)
        around = land.without_trees_in([yard], 1.0)
        cleared = around + _ground(frame, grow(yard, 1.0), rng, target, soil)
        return Change(around + built, cleared, Facts("demolition", "building", target))
    style = draw_style(rng, rural)
    rows = [plots(frame, block, front, rng, style) for front in fronts_of(block, style)]
    rows = [row for row in rows if any(plot.seen for plot in row)]
    if not rows:
        return None
    gone, old = _run(rng, rows[0])
    old = old + [plot for row in rows[1:] for plot in row]
    standing = settle(land, old)
    cleared = standing.without_trees_in([plot.outline for plot in gone])
    for plot in gone:
        cleared = cleared + _ground(frame, plot.outline, rng, target, soil)
    beside = any(plot.seen for plot in old)
    facts = Facts("demolition", "houses", target, n=len(gone), beside=beside, rural=rural)
    return Change(settle(standing, gone), cleared, facts)


def _ground(
    frame: Frame, outline: Points, rng: np.random.Generator, use: str, material: str
) -> Furniture:
    """What remains on cleared land: bare ground of the given soil, or grass."""
    if use == "bare":
        return bare_ground(frame, outline, rng, material)
    return Furniture((Area("meadow", outline, tint(rng)),))


def _patch(frame: Frame, block: Block, rng: np.random.Generator) -> tuple[Points, bool]:
    """Outline of a good part of what is seen of a block, and whether it is all of it.

    The part is the whole, one end, or a blob in the middle.
    """
    part = shown(frame, block)
    choice = rng.random()
    if choice < 0.35:
        return block.outline(frame, 1.0), True
    if choice < 0.75:
        share = float(rng.uniform(0.35, 0.7))
        near = bool(rng.random() < 0.5)
        if part.size[0] > part.size[1]:
            cut = part.s0 + share * part.size[0]
            bounds = (block.s0, cut, block.t0, block.t1)
            bounds = bounds if near else (cut, block.s1, block.t0, block.t1)
        else:
            cut = part.t0 + share * part.size[1]
            bounds = (block.s0, block.s1, block.t0, cut)
            bounds = bounds if near else (block.s0, block.s1, cut, block.t1)
        return block.clip(*bounds).outline(frame, 1.0), False
    centre = np.array(frame.at(*_centre(part)))
    radii = (
        max(float(rng.uniform(0.28, 0.46)) * part.size[0], 6.0),
        max(float(rng.uniform(0.28, 0.46)) * part.size[1], 6.0),
    )
    return blob(rng, centre, (min(radii[0], 40.0), min(radii[1], 40.0)), 0.12), False


def clearing(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Woods are felled; bare ground or grass remains."""
    land, use = _land(frame, block, rng, ("woods",))
    outline, whole = _patch(frame, block, rng)
    target = str(rng.choice(["bare", "bare", "bare", "meadow"]))
    after = land.without_trees_in([outline]) + _ground(
        frame, outline, rng, target, bare_material(rng)
    )
    return Change(land, after, Facts("clearing", use, target, rural=rural, whole=whole))


def bareland(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Fields or grassland are stripped down to bare ground."""
    land, use = _land(frame, block, rng, ("crops", "crops", "meadow", "scrub"))
    outline, whole = _patch(frame, block, rng)
    after = land.without_trees_in([outline]) + bare_ground(frame, outline, rng, bare_material(rng))
    return Change(land, after, Facts("bareland", use, "bare", rural=rural, whole=whole))


def _route(frame: Frame, block: Block, rng: np.random.Generator) -> Points:
    """A slightly slanting line through the visible part of a block, from edge to edge."""
    part = shown(frame, block)
    s, t = _centre(part)
    slant = float(rng.uniform(-0.18, 0.18))
    if rng.random() < 0.5 and block.size[1] > 24.0:
        rise = 0.5 * slant * block.size[0]
        low, high = block.t0 + 8.0, block.t1 - 8.0
        ends = float(np.clip(t - rise, low, high)), float(np.clip(t + rise, low, high))
        return frame.line((block.s0, ends[0]), (block.s1, ends[1]))
    run = 0.5 * slant * block.size[1]
    return frame.line((s - run, block.t0), (s + run, block.t1))


def new_road(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A road is built through open land."""
    land, use = _land(frame, block, rng, ("crops", "woods", "meadow", "scrub", "bare"))
    kind = str(rng.choice(["lane", "lane", "highway"] if rural else ["street", "lane", "highway"]))
    line = _route(frame, block, rng)
    cleared = land.without_trees_in([ribbon(line, road_width(kind) + 2.0)])
    after = cleared + _paved(line, kind, rng)
    return Change(land, after, Facts("road", use, kind, rural=rural))


def paving(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A dirt road is paved."""
    land, use = _land(frame, block, rng, ("crops", "woods", "meadow", "scrub"))
    line = _route(frame, block, rng)
    open_land = land.without_trees_in([ribbon(line, road_width("lane") + 2.0)])
    before = open_land + _paved(line, "dirt", rng)
    after = open_land + _paved(line, "lane", rng)
    return Change(before, after, Facts("paving", use, "lane", rural=rural))


def _radii(frame: Frame, block: Block, rng: np.random.Generator) -> tuple[float, float]:
    part = shown(frame, block)
    sizes = [float(np.clip(rng.uniform(0.24, 0.4) * side, 5.0, 34.0)) for side in part.size]
    return sizes[0], sizes[1]


def new_pond(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A pond is dug."""
    land, use = _land(frame, block, rng, ("crops", "meadow", "bare", "scrub"))
    water = pond(frame, block, rng, _radii(frame, block, rng))
    after = land.without_trees_in([water.areas[0].outline], 1.0) + water
    return Change(land, after, Facts("pond", use, "water", rural=rural))


def filled_pond(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A pond is filled up; bare ground or grass remains."""
    land, _ = _land(frame, block, rng, ("crops", "meadow"))
    water = pond(frame, block, rng, _radii(frame, block, rng))
    outline = water.areas[0].outline
    around = land.without_trees_in([outline], 1.0)
    target = str(rng.choice(["bare", "meadow"]))
    after = around + _ground(frame, grow(outline, 2.0), rng, target, bare_material(rng))
    return Change(around + water, after, Facts("pond_filled", "water", target, rural=rural))


def playground(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """A sports ground is laid out."""
    land, use = _land(frame, block, rng, ("meadow", "bare", "crops", "woods", "scrub"))
    part = shown(frame, block)
    if part.size[0] < 14.0 or part.size[1] < 20.0:
        return None
    built, track = sports_ground(frame, part, rng)
    cleared = land.without_trees_in([area.outline for area in built.areas], 1.5)
    facts = Facts("playground", use, "track" if track else "courts", rural=rural)
    return Change(land, cleared + built, facts)


def planting(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Trees grow where grass or bare ground was."""
    land, use = _land(frame, block, rng, ("meadow", "bare"))
    outline, whole = _patch(frame, block, rng)
    spacing = max(float(rng.uniform(5.0, 6.5)), frame.extent / 110.0)
    trees = forest(frame, outline, rng, spacing=spacing, radii=(0.4 * spacing, 0.6 * spacing))
    if len(trees) < 12:
        return None
    after = land.without_trees_in([outline]) + Furniture(trees=trees)
    return Change(land, after, Facts("planting", use, "woods", rural=rural, whole=whole))


def greening(frame: Frame, block: Block, rng: np.random.Generator, rural: bool) -> Change | None:
    """Bare ground becomes grass."""
    land, use = _land(frame, block, rng, ("bare",))
    outline, whole = _patch(frame, block, rng)
    after = land + Furniture((Area("meadow", outline, tint(rng)),))
    return Change(land, after, Facts("greening", use, "meadow", rural=rural, whole=whole))


KINDS: dict[str, Make] = {
    "houses": houses,
    "street": street,
    "building": building,
    "sheds": farm_sheds,
    "demolition": demolition,
    "clearing": clearing,
    "bareland": bareland,
    "road": new_road,
    "paving": paving,
    "pond": new_pond,
    "pond_filled": filled_pond,
    "playground": playground,
    "planting": planting,
    "greening": greening,
}
