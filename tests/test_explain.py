"""Heat over a photograph, and a picture a word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from whatchanged.explain import overlay, word_figure
from whatchanged.predict import Explanation

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def explanation_of(*words: str, shape: tuple[int, int] = (4, 4)) -> Explanation:
    maps = np.random.default_rng(1).random((len(words), *shape), np.float32)
    return Explanation(np.zeros(shape, np.float32), words, maps / maps.sum((1, 2), keepdims=True))


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.floats(0, 1e6, width=32),
    )
)
def test_any_map_gives_a_picture_of_the_photographs_shape(strengths: NDArray[np.float32]) -> None:
    heated = overlay(PICTURE, strengths)
    assert heated.shape == PICTURE.shape
    assert heated.dtype == np.uint8


@pytest.mark.parametrize("value", [0.0, 0.3, 7.0])
def test_a_map_that_is_the_same_everywhere_leaves_the_photograph(value: float) -> None:
    assert np.array_equal(overlay(PICTURE, np.full((4, 4), value, np.float32)), PICTURE)


def test_heat_lies_where_the_map_is_strong() -> None:
    strengths = np.zeros((6, 8), np.float32)
    strengths[1, 6] = 3.0
    grey = np.full((48, 64, 3), 100, np.uint8)
    heated = overlay(grey, strengths).astype(int)
    moved = np.abs(heated - 100).sum(2)
    row, column = np.unravel_index(moved.argmax(), moved.shape)
    assert (row // 8, column // 8) == (1, 6)
    assert np.array_equal(heated[24:, :32], np.full((24, 32, 3), 100))


def test_the_scale_of_a_map_does_not_count() -> None:
    strengths = np.random.default_rng(2).random((5, 5)).astype(np.float32)
    first, second = overlay(PICTURE, strengths), overlay(PICTURE, strengths * 8 + 1)
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 2


@pytest.mark.parametrize(("n_words", "rows"), [(0, 1), (1, 1), (6, 1), (7, 2), (39, 7)])
def test_there_is_one_place_a_word(n_words: int, rows: int) -> None:
    words = [f"word{i}" for i in range(n_words)]
    figure = word_figure(PICTURE, explanation_of(*words))
    assert len(figure.axes) == 6 * rows
    assert [place.get_title() for place in figure.axes[:n_words]] == words
    assert sum(len(place.images) for place in figure.axes) == n_words
    assert not any(place.axison for place in figure.axes)


def test_words_are_never_mathematics() -> None:
    figure = word_figure(PICTURE, explanation_of("$\\frac", "a_b$", "100%"))
    figure.canvas.draw()
    assert figure.axes[0].get_title() == "$\\frac"
    assert not figure.axes[0].title.get_parse_math()
