"""The one stretch of both dates."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whatchanged.geo.stretch import IDENTITY, PERCENTILES, Stretch, fit_stretch


def test_eight_bit_is_left_alone() -> None:
    data = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(3, 16, 16)
    picture = IDENTITY.apply(data)
    assert picture.shape == (16, 16, 3)
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, np.moveaxis(data, 0, -1))


def test_the_identity_copies() -> None:
    data = np.zeros((3, 4, 4), dtype=np.uint8)
    IDENTITY.apply(data)[:] = 7
    assert not data.any()


def test_limits_are_joint_percentiles_per_band() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 4000, (3, 5000)).astype(np.uint16)
    after = rng.integers(2000, 9000, (3, 3000)).astype(np.uint16)
    after[2] += 1000
    stretch = fit_stretch([before, after])
    joint = np.concatenate([before, after], axis=1)
    for band in range(3):
        expected = np.percentile(joint[band], PERCENTILES)
        assert (stretch.low[band], stretch.high[band]) == pytest.approx(tuple(expected))
    assert stretch.n_samples == 8000
    assert stretch.kind == "percentile"


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_limits_become_black_and_white(dtype: str) -> None:
    stretch = Stretch("percentile", (100.0, 0.0, 10.0), (300.0, 1000.0, 20.0), PERCENTILES, 1)
    data = np.array([[[100, 300, 200]], [[0, 1000, 500]], [[10, 20, 15]]], dtype=dtype)
    picture = stretch.apply(data)
    np.testing.assert_array_equal(picture[0, 0], [0, 0, 0])
    np.testing.assert_array_equal(picture[0, 1], [255, 255, 255])
    np.testing.assert_allclose(picture[0, 2], [127.5] * 3, atol=0.5)


def test_values_that_are_not_numbers_become_black_without_a_warning() -> None:
    stretch = Stretch("percentile", (0.0,) * 3, (1.0,) * 3, PERCENTILES, 1)
    data = np.full((3, 1, 4), 0.5, dtype=np.float32)
    data[:, 0, :3] = [np.nan, np.inf, -np.inf]
    with np.errstate(all="raise"):
        picture = stretch.apply(data)
    np.testing.assert_array_equal(picture[0, :, 0], [0, 255, 0, 128])


def test_large_integers_keep_their_differences() -> None:
    base = 2**31
    stretch = Stretch("percentile", (base,) * 3, (base + 255,) * 3, PERCENTILES, 1)
    data = np.broadcast_to(np.arange(base, base + 256, dtype=np.uint32), (3, 1, 256))
    np.testing.assert_array_equal(stretch.apply(data)[0, :, 0], np.arange(256))


@given(
    hnp.arrays(np.uint16, (3, 4, 5)),
    st.integers(0, 60_000),
    st.integers(1, 5_000),
)
def test_equal_values_stay_equal_and_order_stays(data: np.ndarray, low: int, width: int) -> None:
    stretch = Stretch("percentile", (float(low),) * 3, (float(low + width),) * 3, PERCENTILES, 1)
    picture = stretch.apply(data)
    flat, shown = data[0].ravel(), picture[..., 0].ravel().astype(int)
    order = np.argsort(flat, kind="stable")
    assert (np.diff(shown[order]) >= 0).all()
    for value in np.unique(flat):
        assert len(set(shown[flat == value])) == 1


@given(
    st.lists(
        hnp.arrays(np.float64, (3, 4), elements=st.floats(-1e30, 1e30)), min_size=0, max_size=4
    )
)
def test_limits_are_always_apart(samples: list[np.ndarray]) -> None:
    stretch = fit_stretch(samples)
    assert all(high > low for low, high in zip(stretch.low, stretch.high, strict=True))


def test_a_single_value_does_not_divide_by_zero() -> None:
    stretch = fit_stretch([np.full((3, 10), 7, dtype=np.uint16)])
    with np.errstate(all="raise"):
        assert (stretch.apply(np.full((3, 2, 2), 7, dtype=np.uint16)) == 0).all()


@pytest.mark.parametrize("stretch", [IDENTITY, fit_stretch([np.eye(3) * 900])])
def test_a_stretch_survives_json(stretch: Stretch) -> None:
    assert Stretch.from_dict(json.loads(json.dumps(stretch.to_dict()))) == stretch
