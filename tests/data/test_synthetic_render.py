"""Drawing and light of the scene generator: right places, right shadows, right colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.data.synthetic_paint import (
    MATERIALS,
    Cover,
    bleach,
    draw_weave,
    smooth_noise,
    to_linear,
)
from whatchanged.data.synthetic_photo import Photo, develop, draw_photo
from whatchanged.data.synthetic_plan import Area, Building, Furniture, Part, Rows, Trees
from whatchanged.data.synthetic_render import (
    MARGIN,
    SCALE,
    Canvas,
    Light,
    cover_map,
    photograph,
    rasterise,
)

CANVAS = Canvas(64, 0.5)
WEAVE = draw_weave(np.random.default_rng(0), (CANVAS.side, CANVAS.side), CANVAS.pixel)
NOON = Light(azimuth=np.pi / 2.0, elevation=np.deg2rad(45.0), sky=0.25)  # sun in the south


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [high, low], [high, high], [low, high]])


GROUND = Area("concrete", square(-20.0, 60.0))


def lit(plan: Furniture, light: Light = NOON, season: float = 1.0) -> np.ndarray:
    """Light a plan; [size, size, 3] linear, without the margin."""
    raster = rasterise(plan, CANVAS, WEAVE)
    whole = photograph(raster, CANVAS, WEAVE, light, season, np.random.default_rng(0))
    assert whole.shape == (64 + 2 * MARGIN, 64 + 2 * MARGIN, 3)
    return whole[MARGIN:-MARGIN, MARGIN:-MARGIN]


def block_house(height: float = 6.0) -> Building:
    """A flat-roofed box of 8 x 8 m in the middle of the scene (pixels 24 to 40)."""
    return Building((16.0, 16.0), 0.0, (150, 150, 150), (Part((0, 0), (8, 8), height, "flat"),))


def test_an_area_covers_its_pixels() -> None:
    plan = Furniture((GROUND, Area("water", square(8.0, 16.0))))
    covers = cover_map(rasterise(plan, CANVAS, WEAVE))
    assert covers.shape == (64, 64)
    assert (covers[17:31, 17:31] == Cover.WATER).all()
    water = covers == Cover.WATER
    water[15:33, 15:33] = False
    assert not water.any()


def test_later_areas_lie_on_top() -> None:
    pond, island = Area("water", square(4.0, 28.0)), Area("meadow", square(12.0, 20.0))
    covers = cover_map(rasterise(Furniture((GROUND, pond, island)), CANVAS, WEAVE))
    assert covers[32, 32] == Cover.LOW
    assert covers[12, 12] == Cover.WATER


@pytest.mark.parametrize("roof", ["flat", "hip", "gable"])
def test_a_building_covers_its_footprint_and_has_its_height(roof: str) -> None:
    part = Part((0.0, 0.0), (12.0, 8.0), 3.0, roof)
    building = Building((16.0, 16.0), 0.0, (150, 150, 150), (part,))
    raster = rasterise(Furniture((GROUND,), (building,)), CANVAS, WEAVE)
    covers = cover_map(raster)
    assert (covers == Cover.BUILDING).sum() == pytest.approx(24 * 16, rel=0.1)
    ridge = {"flat": 3.6, "hip": 3.0 + 0.55 * 4.0, "gable": 3.0 + 0.5 * 4.0}[roof]
    assert raster.height.max() == pytest.approx(ridge, abs=0.2)


def test_a_turned_building_is_turned() -> None:
    part = Part((0.0, 0.0), (16.0, 4.0), 3.0, "flat")
    upright = Building((16.0, 16.0), np.pi / 2.0, (150, 150, 150), (part,))
    covers = cover_map(rasterise(Furniture((GROUND,), (upright,)), CANVAS, WEAVE))
    rows, columns = np.nonzero(covers == Cover.BUILDING)
    assert np.ptp(rows) == pytest.approx(31, abs=2)
    assert np.ptp(columns) == pytest.approx(7, abs=2)


def one_tree(radius: float = 4.0) -> Trees:
    return Trees(np.array([[16.0, 16.0]]), np.array([radius]), np.array([9.0]), np.full((1, 3), 70))


def test_a_tree_is_a_crown_of_its_radius() -> None:
    raster = rasterise(Furniture((GROUND,), trees=one_tree()), CANVAS, WEAVE)
    crown = cover_map(raster) == Cover.TREE
    assert crown[32, 32]
    assert crown.sum() == pytest.approx(np.pi * 8.0**2, rel=0.35)
    assert 6.0 < raster.height.max() < 11.0


def test_what_stands_outside_the_canvas_is_left_out() -> None:
    away = Building((500.0, 500.0), 0.3, (1, 1, 1), (Part((0, 0), (8, 8), 3.0),))
    trees = Trees(np.array([[-400.0, 3.0]]), np.array([3.0]), np.array([8.0]), np.ones((1, 3)))
    raster = rasterise(Furniture((GROUND,), (away,), trees), CANVAS, WEAVE)
    assert (cover_map(raster) == Cover.ROAD).all()


def test_sunlit_flat_ground_has_its_own_tone() -> None:
    picture = lit(Furniture((GROUND,)))
    tones = [to_linear(np.array(tone)) for tone in (MATERIALS["concrete"].tone,)]
    assert np.allclose(picture.mean(axis=(0, 1)), tones[0], rtol=0.15)


@pytest.mark.parametrize(
    ("azimuth", "dark", "bright"),
    [
        (90.0, (slice(16, 23), slice(27, 37)), (slice(42, 48), slice(27, 37))),
        (270.0, (slice(42, 48), slice(27, 37)), (slice(16, 23), slice(27, 37))),
        (0.0, (slice(27, 37), slice(16, 23)), (slice(27, 37), slice(42, 48))),
    ],
)
def test_shadows_fall_away_from_the_sun(
    azimuth: float, dark: tuple[slice, slice], bright: tuple[slice, slice]
) -> None:
    light = Light(float(np.deg2rad(azimuth)), float(np.deg2rad(45.0)), 0.25)
    picture = lit(Furniture((GROUND,), (block_house(),)), light)
    assert picture[dark].mean() < 0.5 * picture[bright].mean()


@pytest.mark.parametrize("elevation", [35.0, 45.0, 60.0])
def test_shadows_have_the_length_of_the_sun_s_height(elevation: float) -> None:
    light = Light(np.pi / 2.0, float(np.deg2rad(elevation)), 0.25)
    column = lit(Furniture((GROUND,), (block_house(),)), light)[:, 28:36].mean(axis=(1, 2))
    shaded = int((column[:24] < 0.55 * column[50:].mean()).sum())
    assert shaded * 0.5 == pytest.approx(6.0 / np.tan(np.deg2rad(elevation)), abs=1.5)


def test_shadows_are_bluer_than_light() -> None:
    picture = lit(Furniture((GROUND,), (block_house(),)))
    shade, sun = (picture[rows, 30:34].mean(axis=(0, 1)) for rows in (slice(17, 22), slice(45, 60)))
    assert shade[2] / shade[0] > 1.2 * sun[2] / sun[0]


def test_roof_faces_towards_the_sun_are_brighter() -> None:
    part = Part((0.0, 0.0), (16.0, 12.0), 3.0, "gable")
    building = Building((16.0, 16.0), 0.0, (120, 120, 120), (part,))
    picture = lit(Furniture((GROUND,), (building,)))
    north, south = picture[23:30, 24:40].mean(), picture[35:42, 24:40].mean()
    assert south > 1.3 * north


def test_a_dry_season_bleaches_grass_and_leaves_concrete() -> None:
    for material, changes in (("meadow", True), ("concrete", False)):
        plan = Furniture((Area(material, square(-20.0, 60.0)),))
        lush, dry = (lit(plan, season=season).mean(axis=(0, 1)) for season in (1.0, 0.0))
        moved = dry[0] / dry[1] > 1.05 * lush[0] / lush[1]
        assert moved == changes


def test_rows_are_drawn_across_their_direction() -> None:
    rows = Rows(angle=0.0, spacing=4.0, depth=0.3)  # brightness changes along x
    plan = Furniture((Area("crop", square(-20.0, 60.0), rows=rows),))
    picture = lit(plan).mean(axis=2)
    assert picture.mean(axis=0).std() > 3.0 * picture.mean(axis=1).std()


@given(st.integers(0, 2**32 - 1), st.floats(1.5, 30.0))
def test_noise_is_centred_and_of_unit_variance(seed: int, cell: float) -> None:
    field = smooth_noise(np.random.default_rng(seed), (40, 50), cell)
    assert field.shape == (40, 50)
    assert field.dtype == np.float32
    assert abs(float(field.mean())) < 1e-3
    assert float(field.std()) == pytest.approx(1.0, abs=1e-3)


def test_noise_of_large_cells_is_smooth() -> None:
    rng = np.random.default_rng(0)
    fields = [smooth_noise(rng, (64, 64), cell) for cell in (2.0, 6.0, 18.0)]
    steps = [float(np.abs(np.diff(field)).mean()) for field in fields]
    assert steps[0] > 1.6 * steps[1] > 2.5 * steps[2]


def test_linear_light_of_black_and_white() -> None:
    assert to_linear(np.array([0.0, 255.0, 300.0])).tolist() == [0.0, 1.0, 1.0]


def test_bleaching_by_nothing_changes_nothing() -> None:
    tones = np.array([[90.0, 120.0, 70.0]], dtype=np.float32)
    assert np.allclose(bleach(tones, np.zeros(1, np.float32)), tones)
    dry = bleach(tones, np.ones(1, np.float32))[0]
    assert dry[0] > dry[1] > dry[2]


CLEAR = Photo(NOON, 1.0, 1.0, (1.0, 1.0, 1.0), 1.0, 1.0, 0.0, 0.0, 0.0, (0.0, 0.0), 95)


def developed(light: np.ndarray, **changes: object) -> np.ndarray:
    photo = Photo(**(CLEAR.__dict__ | changes))  # type: ignore[arg-type]
    return develop(light.astype(np.float32), photo, np.random.default_rng(0))


def grey(level: float) -> np.ndarray:
    side = 32 + 2 * MARGIN
    return np.full((side, side, 3), to_linear(np.array([level]))[0], dtype=np.float32)


@pytest.mark.parametrize("level", [20.0, 90.0, 180.0])
def test_a_clear_day_keeps_tones(level: float) -> None:
    picture = developed(grey(level))
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(float) - level).max() <= 2.0


def test_each_nuisance_does_what_it_is_called() -> None:
    middle = developed(grey(120.0)).mean(axis=(0, 1))
    assert developed(grey(120.0), exposure=1.3).mean() > middle.mean() + 5
    assert developed(grey(120.0), gamma=1.2).mean() < middle.mean() - 5
    assert developed(grey(20.0), haze=0.3).mean() > 60
    green = developed(grey(120.0), gains=(1.0, 1.2, 1.0)).mean(axis=(0, 1))
    assert green[1] - green[0] > 5
    assert developed(grey(120.0), noise=3.0).std() > 1.5
    coloured = grey(120.0) * np.array([1.4, 1.0, 0.7], dtype=np.float32)
    assert np.ptp(developed(coloured, saturation=0.0).mean(axis=(0, 1))) < 2.0


def edge() -> np.ndarray:
    light = grey(60.0)
    light[:, light.shape[1] // 2 :] = to_linear(np.array([180.0]))[0]
    return light


def test_blur_softens_edges() -> None:
    sharp, soft = developed(edge()), developed(edge(), blur=0.65)
    steps = [np.abs(np.diff(p[16, :, 0].astype(float))).max() for p in (sharp, soft)]
    assert steps[1] < 0.85 * steps[0]


@pytest.mark.parametrize("shift", [0.4, -0.4])
def test_the_registration_error_moves_the_picture(shift: float) -> None:
    still, moved = (developed(edge(), shift=(s, 0.0)).astype(float).sum() for s in (0.0, shift))
    assert (moved < still) == (shift > 0)  # the dark left half moves in


@given(st.integers(0, 2**32 - 1))
def test_drawn_conditions_are_no_change(seed: int) -> None:
    photo = draw_photo(np.random.default_rng(seed))
    assert max(abs(offset) for offset in photo.shift) < 0.5
    assert 0.0 <= photo.season <= 1.0
    assert 0.0 <= photo.haze < 0.5
    assert np.sin(photo.light.azimuth) > 0.0  # the sun stands in the south
    assert 30.0 < np.rad2deg(photo.light.elevation) < 65.0
    assert 0.4 < photo.exposure < 2.5


def test_the_canvas_puts_the_scene_inside_its_margin() -> None:
    corners = CANVAS.pixels(np.array([[0.0, 0.0], [32.0, 32.0]]))
    low, high = MARGIN * SCALE, (MARGIN + 64) * SCALE
    assert corners.tolist() == [[low, low], [high, high]]
    assert CANVAS.side == (64 + 2 * MARGIN) * SCALE
