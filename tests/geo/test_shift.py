"""The shift estimate: exact where the shift is known, silent where nothing can be known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from whatchanged.geo.shift import NO_SHIFT, Shift, estimate_shift, find_peak, plan_cells

Draw = Callable[..., NDArray[np.uint8]]
Grey = NDArray[np.float32]


def estimate(before: Grey, after: Grey, valid: NDArray[np.bool_] | None = None) -> Shift:
    mask = np.ones(before.shape, dtype=bool) if valid is None else valid

    def read(window: Window) -> tuple[Grey, Grey, NDArray[np.bool_]]:
        rows, columns = window.toslices()
        return before[rows, columns], after[rows, columns], mask[rows, columns]

    return estimate_shift(read, *before.shape)


def moved(picture: Grey, dx: float, dy: float) -> Grey:
    """The picture with its content moved by a fraction of a pixel, in the Fourier domain."""
    fy = np.fft.fftfreq(picture.shape[0])[:, None]
    fx = np.fft.fftfreq(picture.shape[1])[None, :]
    spectrum = np.fft.fft2(picture) * np.exp(-2j * np.pi * (fx * dx + fy * dy))
    return np.fft.ifft2(spectrum).real.astype(np.float32)


@pytest.fixture(scope="module")
def scene_grey() -> Grey:
    rng = np.random.default_rng(3)
    spectrum = np.fft.fft2(rng.normal(size=(320, 320)))
    frequency = np.hypot(np.fft.fftfreq(320)[:, None], np.fft.fftfreq(320)[None, :])
    picture = np.fft.ifft2(spectrum / (0.02 + frequency)).real  # 1 / f, as photographs are
    return (128 + 40 * picture / picture.std()).astype(np.float32)


@settings(max_examples=15)
@given(dx=st.floats(-12, 12), dy=st.floats(-12, 12))
def test_known_shifts_are_found(scene_grey: Grey, dx: float, dy: float) -> None:
    after = moved(scene_grey, dx, dy)
    shift = estimate(scene_grey[20:-20, 20:-20], after[20:-20, 20:-20])
    assert (shift.dx, shift.dy) == (pytest.approx(dx, abs=0.15), pytest.approx(dy, abs=0.15))
    assert shift.is_certain
    assert shift.length == pytest.approx(np.hypot(dx, dy), abs=0.2)


def test_content_that_moves_right_and_down_is_positive(draw: Draw) -> None:
    picture = draw(300, 300)[0].astype(np.float32)
    shift = estimate(picture[10:-10, 10:-10], picture[7:-13, 5:-15])
    assert (round(shift.dx), round(shift.dy)) == (5, 3)


def test_light_contrast_noise_and_change_do_not_make_a_shift(scene_grey: Grey) -> None:
    rng = np.random.default_rng(0)
    after = 255 - 0.6 * scene_grey + rng.normal(0, 12, scene_grey.shape).astype(np.float32)
    after = 255 - after + 0.2 * np.linspace(0, 200, 320, dtype=np.float32)[None, :]
    for top, left in rng.integers(0, 260, (12, 2)):
        after[top : top + 60, left : left + 60] = rng.uniform(0, 255)
    shift = estimate(scene_grey, after.astype(np.float32))
    assert shift.length < 0.3


def test_unrelated_pictures_are_not_believed(draw: Draw) -> None:
    for seed in range(8):
        before = draw(256, 256, seed=2 * seed)[0].astype(np.float32)
        after = draw(256, 256, seed=2 * seed + 1)[0].astype(np.float32)
        assert not estimate(before, after).is_certain


@pytest.mark.parametrize("shape", [(20, 400), (63, 63), (1, 1)])
def test_pictures_too_small_say_nothing(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.uniform(0, 255, shape).astype(np.float32)
    assert estimate(picture, picture) == NO_SHIFT


def test_flat_and_invalid_pictures_say_nothing(scene_grey: Grey) -> None:
    flat = np.full_like(scene_grey, 90)
    assert estimate(flat, flat) == NO_SHIFT
    nowhere = np.zeros(scene_grey.shape, dtype=bool)
    assert estimate(scene_grey, scene_grey, nowhere) == NO_SHIFT


def test_one_quarter_alone_is_not_certain(scene_grey: Grey) -> None:
    after = moved(scene_grey, 4, 0)
    valid = np.zeros(scene_grey.shape, dtype=bool)
    valid[:160, :160] = True
    shift = estimate(scene_grey, after, valid)
    assert shift.confidence <= 0.25
    assert not shift.is_certain


@given(height=st.integers(64, 3000), width=st.integers(64, 3000))
def test_cells_lie_inside_and_fill_the_quarters_alike(height: int, width: int) -> None:
    side = min(128, height // 2, width // 2)
    cells = plan_cells(height, width, side)
    assert len(cells) <= 36
    for window, quarter in cells:
        assert 0 <= window.row_off <= height - side
        assert 0 <= window.col_off <= width - side
        assert 0 <= quarter < 4
    counts = np.bincount([quarter for _, quarter in cells], minlength=4)
    assert len(set(counts)) == 1
    # Cells of different quarters overlap by half of a cell at most where quarters meet.
    tops = sorted({window.row_off for window, _ in cells})
    assert tops[0] == 0
    assert tops[-1] == height - side


def test_the_peak_is_the_vertex_of_a_parabola() -> None:
    offsets = np.fft.fftfreq(64) * 64
    distance2 = (offsets[:, None] - 2.3) ** 2 + (offsets[None, :] + 5.6) ** 2
    dx, dy = find_peak(1000 - distance2)
    assert (dx, dy) == (pytest.approx(-5.6), pytest.approx(2.3))


def test_real_pairs_give_consistent_estimates(shared_data: Path) -> None:
    """Moving a real later photograph by (4, -3) moves a believed estimate by as much."""
    earlier = sorted((shared_data / "captioned" / "images" / "val" / "A").glob("clcd*"))[:12]
    believed = 0
    for path in earlier:
        before, after = (
            np.asarray(Image.open(p).convert("L"), dtype=np.float32)
            for p in (path, path.parents[1] / "B" / path.name)
        )
        here = estimate(before[8:-8, 8:-8], after[8:-8, 8:-8])
        there = estimate(before[8:-8, 8:-8], after[11:-5, 4:-12])
        if here.is_certain and there.is_certain:
            believed += 1
            assert there.dx - here.dx == pytest.approx(4, abs=0.3), path.name
            assert there.dy - here.dy == pytest.approx(-3, abs=0.3), path.name
    assert believed >= 3
