"""Geometry of the scene generator: polygons, the bent frame, plots and roads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import LineString, Point, Polygon

from whatchanged.data.synthetic_built import draw_style, fronts_of, plots, settle, sports_ground
from whatchanged.data.synthetic_changes import KINDS
from whatchanged.data.synthetic_land import VACANT, forest, shown, woods
from whatchanged.data.synthetic_layout import SETTINGS, lay_out, traffic
from whatchanged.data.synthetic_paint import MATERIALS
from whatchanged.data.synthetic_plan import (
    Block,
    Frame,
    Furniture,
    blob,
    grow,
    inside,
    ribbon,
    rotation,
)
from whatchanged.data.synthetic_roads import lengthened, road, road_width

FRAME = Frame(128.0, 0.4, 0.003)
BLOCK = Block(-60.0, 60.0, 5.0, 80.0, frozenset({"t0", "t1"}))
seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_inside_agrees_with_shapely(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outline = blob(rng, np.array([0.0, 0.0]), (8.0, 5.0), 0.3)
    points = rng.uniform(-10.0, 10.0, (50, 2))
    polygon = Polygon(outline)
    expected = [polygon.contains(Point(point)) for point in points]
    assert inside(points, outline).tolist() == expected


@given(seeds)
def test_blobs_are_simple_outlines_of_about_their_size(seed: int) -> None:
    outline = blob(np.random.default_rng(seed), np.array([30.0, 40.0]), (10.0, 6.0))
    polygon = Polygon(outline)
    assert polygon.is_valid
    assert 0.4 * np.pi * 60.0 < polygon.area < 2.2 * np.pi * 60.0
    assert polygon.contains(Point(30.0, 40.0))


@pytest.mark.parametrize("width", [0.5, 4.0, 14.0])
def test_a_ribbon_has_the_width_of_its_road(width: float) -> None:
    line = FRAME.line((-70.0, 3.0), (70.0, 3.0))
    polygon = Polygon(ribbon(line, width))
    length = LineString(line).length
    assert polygon.is_valid
    assert polygon.area == pytest.approx(width * length, rel=0.01)


def test_growing_moves_corners_outwards() -> None:
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    assert Polygon(grow(square, 1.0)).contains(Polygon(square))
    assert Polygon(square).contains(Polygon(grow(square, -1.0)))


def test_a_lengthened_line_goes_straight_on() -> None:
    line = np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    assert lengthened(line, 4.0).tolist() == [[-4, 0], [0, 0], [10, 0], [20, 0], [24, 0]]


@given(st.floats(-3.0, 3.0))
def test_rotation_keeps_lengths_and_turns_x_to_y(angle: float) -> None:
    matrix = rotation(angle)
    assert np.allclose(matrix @ matrix.T, np.eye(2))
    assert np.allclose(rotation(np.pi / 2.0) @ [1.0, 0.0], [0.0, 1.0])


@given(st.floats(-60.0, 60.0), st.floats(-60.0, 60.0))
def test_the_frame_bends_along_its_heading(s: float, t: float) -> None:
    step = 1e-4
    here, ahead = np.array(FRAME.at(s, t)), np.array(FRAME.at(s + step, t))
    direction = np.arctan2(*(ahead - here)[::-1])
    assert direction == pytest.approx(FRAME.heading(s), abs=1e-4)


def test_the_frame_is_centred_on_the_scene() -> None:
    assert FRAME.at(0.0, 0.0) == pytest.approx((64.0, 64.0))
    assert FRAME.visible(0.0, 0.0, 60.0)
    assert not FRAME.visible(0.0, 0.0, 65.0)
    assert not FRAME.visible(500.0, 0.0, 0.0)


def test_the_shown_part_of_a_block_lies_in_the_block_and_mostly_in_view() -> None:
    part = shown(FRAME, BLOCK)
    assert BLOCK.s0 <= part.s0 < part.s1 <= BLOCK.s1
    assert BLOCK.t0 <= part.t0 < part.t1 <= BLOCK.t1
    grid = [
        FRAME.visible(s, t, 0.0)
        for s in np.linspace(part.s0, part.s1, 20)
        for t in np.linspace(part.t0, part.t1, 20)
    ]
    assert np.mean(grid) > 0.8
    away = Block(900.0, 950.0, 0.0, 50.0, frozenset())
    assert shown(FRAME, away).size == (0.0, 0.0)


@given(seeds)
def test_trees_of_a_forest_stand_inside_and_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outline = np.array([[10.0, 10.0], [70.0, 20.0], [60.0, 80.0], [15.0, 60.0]])
    trees = forest(FRAME, outline, rng, spacing=6.0, radii=(2.0, 4.0))
    area = Polygon(outline).area
    assert inside(trees.centres, outline).all()
    assert 0.6 * area / 31.0 < len(trees) < 1.4 * area / 31.0
    assert ((trees.radii >= 2.0) & (trees.radii <= 4.0)).all()
    assert (trees.tops > trees.radii).all()


def test_felling_takes_the_trees_of_one_place_alone() -> None:
    rng = np.random.default_rng(0)
    land = woods(FRAME, BLOCK, rng)
    plot = FRAME.quad(-10.0, 10.0, 20.0, 40.0)
    cleared = land.without_trees_in([plot])
    assert not inside(cleared.trees.centres, plot).any()
    felled = len(land.trees) - len(cleared.trees)
    assert felled == inside(land.trees.centres, grow(plot, 0.0)).sum() > 5
    assert cleared.areas == land.areas


def test_furniture_adds_up() -> None:
    rng = np.random.default_rng(1)
    first, second = (use(FRAME, BLOCK, rng) for use in (VACANT["woods"], VACANT["scrub"]))
    both = first + second
    assert both.areas == first.areas + second.areas
    assert len(both.trees) == len(first.trees) + len(second.trees)
    assert (both + Furniture()).areas == both.areas


@pytest.mark.parametrize("village", [True, False])
@pytest.mark.parametrize("front", ["t0", "t1", "s0", "s1"])
def test_houses_stand_on_their_plots_and_apart(village: bool, front: str) -> None:
    rng = np.random.default_rng(7)
    style = draw_style(rng, village)
    block = Block(-60.0, 60.0, -50.0, 50.0, frozenset({front}))
    homes = plots(FRAME, block, front, rng, style)
    assert len(homes) >= 4
    walls = []
    for plot in homes:
        (building,) = plot.furniture.buildings
        main = Polygon(building.corners(building.parts[0]))
        assert Polygon(plot.outline).buffer(1.5).contains(main)
        walls.append(main)
    for one, other in pairwise(walls):
        assert one.distance(other) > 0.5


def test_houses_face_the_road_from_both_sides() -> None:
    """The garage wing of a suburban house lies between the house and its street."""
    rng = np.random.default_rng(3)
    style = draw_style(rng, False)
    straight = Frame(128.0, 0.0, 0.0)
    for front, edge in (("t0", BLOCK.t0), ("t1", BLOCK.t1)):
        for plot in plots(straight, BLOCK, front, rng, style):
            (building,) = plot.furniture.buildings
            main, wing = (building.corners(part).mean(axis=0)[1] for part in building.parts[:2])
            assert abs(wing - 64.0 - edge) < abs(main - 64.0 - edge)


def test_two_rows_need_room_for_two() -> None:
    style = draw_style(np.random.default_rng(0), False)
    deep = Block(-60.0, 60.0, 0.0, 2.0 * style.plot_depth, frozenset({"t0", "t1", "s0"}))
    flat = Block(-60.0, 60.0, 0.0, 1.5 * style.plot_depth, frozenset({"t0", "t1", "s0"}))
    assert sorted(fronts_of(deep, style)) == ["t0", "t1"]
    assert len(fronts_of(flat, style)) == 1
    assert fronts_of(Block(0.0, 90.0, 0.0, 90.0, frozenset()), style) == []


def test_settling_fells_the_trees_of_the_plots() -> None:
    rng = np.random.default_rng(2)
    land = woods(FRAME, BLOCK, rng)
    homes = plots(FRAME, BLOCK, "t0", rng, draw_style(rng, False))
    settled = settle(land, homes)
    assert len(settled.buildings) == len(homes)
    for building in settled.buildings:
        for part in building.parts:
            assert not inside(settled.trees.centres, building.corners(part)).any()


@pytest.mark.parametrize("kind", ["street", "lane", "highway", "dirt"])
def test_roads_lie_within_their_full_width(kind: str) -> None:
    line = FRAME.line((-60.0, 0.0), (60.0, 0.0))
    drawn = road(line, kind, np.random.default_rng(0))
    whole = Polygon(ribbon(line, road_width(kind))).buffer(0.01)
    for area in drawn.sides + drawn.surface:
        assert whole.contains(Polygon(area.outline))
    assert max(a.outline.shape[0] for a in drawn.surface) == 2 * len(line)


def test_a_track_needs_room_and_courts_do_not() -> None:
    rng = np.random.default_rng(0)
    large, is_track = sports_ground(FRAME, Block(-40, 40, -25, 25, frozenset()), rng)
    assert is_track
    assert any(area.material == "pitch" for area in large.areas)
    small, is_track = sports_ground(FRAME, Block(-18, 18, -15, 15, frozenset()), rng)
    assert not is_track
    assert all(MATERIALS[area.material].cover == 6 for area in small.areas)


@given(seeds)
def test_unchanged_layouts_are_one_plan(seed: int) -> None:
    layout = lay_out(np.random.default_rng(seed), 96.0, ())
    assert layout is not None
    assert layout.sites == ()
    assert len(layout.before.areas) == len(layout.after.areas)
    for one, other in zip(layout.before.areas, layout.after.areas, strict=True):
        assert one.material == other.material
        assert np.array_equal(one.outline, other.outline)
    assert layout.before.buildings == layout.after.buildings
    assert np.array_equal(layout.before.trees.centres, layout.after.trees.centres)


@pytest.mark.parametrize("kind", list(KINDS))
def test_changes_stay_on_their_block(kind: str) -> None:
    """Buildings that come or go stand on the block that the change names."""
    found = 0
    for seed in range(30):
        layout = lay_out(np.random.default_rng(seed), 128.0, (kind,))
        if layout is None:
            continue
        found += 1
        (site,) = layout.sites
        assert site.facts.kind == kind
        block = Polygon(site.outline).buffer(2.0)
        old = {building.centre for building in layout.before.buildings}
        new = {building.centre for building in layout.after.buildings}
        for centre in old ^ new:
            assert block.contains(Point(centre))
        if found == 3:
            return
    assert found, f"no room for {kind} in 30 draws"


def test_cars_come_and_go_on_roads_alone() -> None:
    layout = lay_out(np.random.default_rng(5), 128.0, ())
    assert layout is not None
    busy = traffic(np.random.default_rng(1), layout.before, 128.0)
    fixed = [area for area in layout.before.areas if not area.movable]
    assert [area for area in busy.areas if not area.movable] == fixed
    paved = [
        Polygon(area.outline).buffer(1.0)
        for area in layout.before.areas
        if MATERIALS[area.material].cover == 7 and not area.movable
    ]
    added = busy.areas[len(busy.areas) - 3 :]
    for area in added:
        if area.movable:
            assert any(road.contains(Polygon(area.outline)) for road in paved)


def test_settings_name_uses_that_exist() -> None:
    built = {"houses", "village", "works", "park", "sheds", "sports"}
    for setting in SETTINGS.values():
        assert set(setting.uses) <= built | set(VACANT)
        assert road_width(setting.main) > 0 and road_width(setting.side) > 0
