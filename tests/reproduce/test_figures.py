"""Figures from plain values: what is coloured, smoothed and written where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.reproduce import figures
from whatchanged.reproduce.figures import ShownPair


def shown(name: str = "a", *lines: str, right: bool = True) -> ShownPair:
    grey = np.full((8, 8, 3), 100, np.uint8)
    return ShownPair(name, grey, grey, lines, right)


def test_found_wrongly_found_and_missed_have_their_colours() -> None:
    picture = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[True, True], [False, False]])
    truth = np.array([[True, False], [True, False]])
    coloured = figures.judged(picture, mask, truth)
    base = 0.4 * 60
    for place, name in (((0, 0), "tp"), ((0, 1), "fp"), ((1, 0), "fn")):
        assert coloured[place] == pytest.approx(base + 0.6 * np.array(figures.COLOURS[name]), abs=1)
    assert coloured[1, 1] == pytest.approx([60, 60, 60])
    unknown = figures.judged(picture, mask, None)
    assert (unknown[0, 0] == unknown[0, 1]).all() and (unknown[1] == 60).all()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_the_running_mean_is_the_mean_of_the_last_twenty(values: list[float]) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    smooth = figures.running_mean(points)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    for i, (_, y) in enumerate(smooth):
        assert y == pytest.approx(np.mean(values[max(0, i - 19) : i + 1]), abs=1e-9)


def test_no_points_have_no_mean() -> None:
    assert figures.running_mean([]) == []


def test_sheets_hold_every_picture_and_every_word() -> None:
    pairs = [shown("one", "ours: a $road$"), shown("two", right=False), shown("three")]
    sheet = figures.caption_sheet(pairs)
    assert len(sheet.axes) == 6
    texts = [text.get_text() for text in sheet.texts]
    assert "one\nours: a $road$" in texts
    colours = {text.get_text(): text.get_color() for text in sheet.texts}
    assert colours["two"] != colours["three"] == "black"
    heat = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    assert len(figures.heat_sheet(pairs, [(heat, heat)] * 3).axes) == 12
    mask = np.eye(8, dtype=bool)
    masks = figures.mask_sheet(pairs, {"msff": [mask] * 3}, [mask, None, ~mask])
    assert len(masks.axes) == 9
    assert figures.LEGEND in [text.get_text() for text in masks.texts]


def test_no_picture_of_a_sheet_lies_outside_or_on_another() -> None:
    boxes = [a.get_position() for a in figures.caption_sheet([shown("x", "y" * 300)] * 5).axes]
    for index, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        for other in boxes[index + 1 :]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0
            assert apart or box.y1 <= other.y0 or other.y1 <= box.y0


def test_the_confusion_tells_counts_and_shares() -> None:
    axes = figures.confusion(np.array([[9, 1], [0, 0]])).axes[0]
    assert [t.get_text() for t in axes.texts] == ["9\n90.0 %", "1\n10.0 %", "0\n0.0 %", "0\n0.0 %"]


def test_expert_use_names_classes_with_their_pairs() -> None:
    share = np.array([0.75, 0.25])
    figure = figures.expert_use({"road": share, "tree": share[::-1]}, {"road": 3, "tree": 1})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["road (3)", "tree (1)"]
    assert [t.get_text() for t in figure.axes[0].texts] == ["75", "25", "25", "75"]


def test_curves_have_a_panel_a_number_and_a_line_a_seed() -> None:
    seeds = [[(1.0, 2.0), (2.0, 1.0)], [(1.0, 3.0), (2.0, 2.0)]]
    curves = {"loss": {"a": seeds, "b": seeds[:1]}, "text": {"a": seeds}}
    figure = figures.curve_sheet(curves, "step")
    panels = [axes for axes in figure.axes if axes.lines]
    assert [len(axes.lines) for axes in panels] == [3, 2]
    first, second, third = panels[0].lines
    assert first.get_color() == second.get_color() != third.get_color()
    legend = panels[0].get_legend()
    assert legend is not None and [t.get_text() for t in legend.get_texts()] == ["a", "b"]
