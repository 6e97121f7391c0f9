"""Windows cover a picture, keep houses visible, and leave no seam."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.ask_windows import Blend, WindowPlan, _ramp, plan_windows
from whatchanged.models.reasoncd.config import BCDD_SIGHT, SightConfig

SMALL = SightConfig()
SIDE = SMALL.tile


def reduction(plan: WindowPlan) -> float:
    """Pixels of the picture that become one pixel of the model, along the longer side."""
    return max(plan.height, plan.width) / SIDE


@pytest.mark.parametrize(
    ("height", "width", "gsd_m", "n"),
    [
        (256, 256, None, 1),
        (512, 512, None, 1),  # as training shows such pictures
        (768, 600, None, 1),
        (1024, 1024, None, 4),
        (1024, 400, None, 2),
        (256, 256, 0.5, 1),
        (512, 512, 0.5, 1),
        (1024, 1024, 0.5, 4),
        (2000, 2000, 0.1, 1),  # 200 m of ground, whatever the pixels
        (512, 512, 1.0, 4),
        (64, 64, 10.0, 1),
        (20, 3000, None, 5),
        (1, 1, None, 1),
    ],
)
def test_as_few_windows_as_keep_houses_visible(
    height: int, width: int, gsd_m: float | None, n: int
) -> None:
    assert len(plan_windows(height, width, gsd_m, SMALL).corners) == n


@given(
    st.integers(1, 6000),
    st.integers(1, 6000),
    st.none() | st.floats(0.05, 30),
    st.sampled_from([64, 256, 1024]),
)
def test_windows_cover_the_picture_overlap_and_are_not_too_coarse(
    height: int, width: int, gsd_m: float | None, side: int
) -> None:
    plan = plan_windows(height, width, gsd_m, SightConfig(tile=side, unknown=2 * side))
    for axis, length, size in ((0, height, plan.height), (1, width, plan.width)):
        starts = sorted({corner[axis] for corner in plan.corners})
        assert starts[0] == 0
        assert starts[-1] + size == length
        steps = np.diff(starts)
        assert (steps >= 1).all()
        assert (steps <= 0.75 * size + 1).all()  # a quarter is seen twice
    assert len(set(plan.corners)) == len(plan.corners)
    due = 2 * side if gsd_m is None else side * max(1.0, 1 / gsd_m)
    assert max(plan.height, plan.width) <= 1.5 * due + 1


@pytest.mark.parametrize(
    ("gsd_m", "side", "note"),
    [
        (None, 256, ""),  # a tile as it was trained on
        (0.2, 256, ""),
        (0.075, 683, ""),  # as much ground as a tile
        (0.5, 256, "coarser than the 0.2 m the model was trained on"),
    ],
)
def test_a_model_of_fine_tiles_sees_as_much_ground_as_its_tiles(
    gsd_m: float | None, side: int, note: str
) -> None:
    plan = plan_windows(8 * side, 8 * side, gsd_m, BCDD_SIGHT)
    assert side <= plan.height <= 1.5 * side
    assert note in plan.note
    assert bool(note) is bool(plan.note)


def test_what_is_seen_is_said() -> None:
    plan = plan_windows(1024, 1024, 0.5, SMALL)
    assert plan.describe() == "1024 x 1024 pixels, seen in 4 windows of 586 x 586, 1.14 m a pixel"
    assert plan_windows(300, 400, None, SMALL).describe() == "400 x 300 pixels, seen whole"


@pytest.mark.parametrize(
    ("side", "gsd_m", "word"),
    [
        (256, 0.5, ""),
        (1024, 0.5, ""),
        (512, None, ""),
        (512, 10.0, "coarser"),
        (64, 10.0, "coarser"),  # enlarging it shows nothing new
        (64, 0.3, "finer"),
    ],
)
def test_resolutions_that_were_not_trained_on_are_told(
    side: int, gsd_m: float | None, word: str
) -> None:
    note = plan_windows(side, side, gsd_m, SMALL).note
    assert word in note
    assert bool(note) is bool(word)


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (900, 2000), (3000, 100)])
def test_a_map_cut_into_windows_is_put_together_again(height: int, width: int) -> None:
    plan = plan_windows(height, width, None, SMALL)
    assert len(plan.corners) > 1
    rows, columns = np.mgrid[:height, :width]
    smooth = (0.5 + 0.5 * np.sin(rows / 90) * np.cos(columns / 70)).astype(np.float32)
    joined = Blend(plan).join([(corner, plan.cut(smooth, corner)) for corner in plan.corners])
    np.testing.assert_allclose(joined, smooth, atol=1e-5)


def test_windows_that_disagree_leave_no_seam() -> None:
    plan = plan_windows(512, 1400, None, SMALL)
    ones = np.ones((plan.height, plan.width), np.float32)
    joined = Blend(plan).join([(c, ones if c[1] == 0 else None) for c in plan.corners])
    assert joined.min() >= 0 and joined.max() <= 1
    assert (joined[:, :100] == 1).all()
    assert (joined[:, -100:] == 0).all()
    assert np.abs(np.diff(joined, axis=1)).max() < 0.05


def test_where_no_window_was_seen_nothing_is_known() -> None:
    plan = plan_windows(512, 1400, None, SMALL)
    ones = np.ones((plan.height, plan.width), np.float32)
    joined = Blend(plan).join([(plan.corners[0], ones)])
    np.testing.assert_allclose(joined[:, : plan.width], 1, atol=1e-5)
    assert np.isnan(joined[:, plan.width :]).all()


def test_one_blend_joins_the_maps_of_any_number_of_wishes() -> None:
    """To the last bit as with sums and weights of its own for every wish."""
    plan = plan_windows(700, 900, None, SMALL)
    rng = np.random.default_rng(0)
    shape = plan.height, plan.width
    maps = [
        (c, rng.random(shape, np.float32) if i % 3 else None) for i, c in enumerate(plan.corners)
    ]
    blend = Blend(plan)
    of_window = np.outer(_ramp(plan.height), _ramp(plan.width))
    for some in (maps, maps, maps[1:3], maps[::2], maps):
        total, weight = np.zeros(plan.source, np.float32), np.zeros(plan.source, np.float32)
        for corner, probability in some:
            plan.cut(total, corner)[...] += (0 if probability is None else probability) * of_window
            plan.cut(weight, corner)[...] += of_window
        expected = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
        np.testing.assert_array_equal(blend.join(some), expected.clip(0, 1))


def test_windows_begin_with_rows_and_columns_and_may_have_channels() -> None:
    plan = plan_windows(1024, 1024, None, SMALL)
    picture = np.zeros((1024, 1024, 3), np.uint8)
    assert plan.cut(picture, plan.corners[-1]).shape == (plan.height, plan.width, 3)
    plan.cut(picture, (10, 20))[0, 0] = 7
    assert picture[10, 20].tolist() == [7, 7, 7]
