"""Masks drawn over photographs: nothing small is lost, and the rest stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from whatchanged.geo.overlay import mark, shrink

PICTURE = np.random.default_rng(0).integers(0, 200, (60, 90, 3), np.uint8)


def test_only_marked_pixels_are_touched() -> None:
    mask = np.zeros((60, 90), bool)
    mask[10:30, 20:50] = True
    drawn = mark(PICTURE, mask)
    assert (drawn[~mask] == PICTURE[~mask]).all()
    border = mask.copy()
    border[11:29, 21:49] = False
    assert len(np.unique(drawn[border], axis=0)) == 1  # one colour around it
    tinted = drawn[11:29, 21:49].astype(int) - PICTURE[11:29, 21:49]
    assert np.abs(tinted).max() < 0.4 * 255  # the roof under the tint stays visible
    assert np.abs(tinted).max() > 10


def test_an_empty_mask_draws_nothing() -> None:
    assert (mark(PICTURE, np.zeros((60, 90), bool)) == PICTURE).all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (59, 89), (31, 47)])
def test_one_marked_pixel_survives_shrinking(row: int, column: int) -> None:
    mask = np.zeros((60, 90), bool)
    mask[row, column] = True
    drawn = mark(PICTURE, mask, side=9)
    assert drawn.shape == (6, 9, 3)
    changed = (drawn != shrink(PICTURE, 9)).any(axis=2)
    assert np.argwhere(changed).tolist() == [[row // 10, column // 10]]


def test_a_picture_is_never_enlarged() -> None:
    assert shrink(PICTURE, 1024) is PICTURE
    assert shrink(PICTURE, 45).shape == (30, 45, 3)
    assert shrink(np.zeros((1, 4000, 3), np.uint8), 100).shape == (1, 100, 3)
