from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask_scores import (
    COLOURS,
    SIDE,
    MaskSample,
    Predict,
    draw_sheet,
    group,
    judged,
    load_validation,
    mask_tables,
    read_rows,
    score_masks,
    write_rows,
)
from whatchanged.errors import DatasetError, UsageError


def brightness(before: np.ndarray, after: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Probability of change where one date is much brighter: right for the drawn pairs."""
    return np.clip(np.abs(after.astype(float) - before).mean(2) / 100, 0, 1)


def constant(value: float) -> Predict:
    return lambda before, after: np.full(before.shape[:2], value)


def pair(source: str, truth: list[list[int]]) -> MaskSample:
    mask = np.array(truth, bool)
    picture = np.zeros((*mask.shape, 3), np.uint8)
    return MaskSample("pair", source, picture, picture, mask)


def test_validation_is_what_has_a_mask_at_256_pixels(data: Path) -> None:
    samples = load_validation(data / "captioned")
    assert [(s.name, s.source) for s in samples] == [
        ("v0", "clcd"),
        ("v1", "clcd"),
        ("v2", "levir-val"),
    ]
    for sample in samples:
        assert sample.before.shape == sample.after.shape == (SIDE, SIDE, 3)
        assert sample.truth.shape == (SIDE, SIDE)
        assert sample.truth.dtype == np.bool_
    assert [bool(s.truth.any()) for s in samples] == [True, False, True]
    assert samples[0].truth.mean() == pytest.approx((28 / 64) ** 2, abs=1e-6)
    assert samples[0].after[samples[0].truth].mean() > 200  # rows, columns and bands in place


def test_a_split_without_masks_cannot_be_scored_on(data: Path, tmp_path: Path) -> None:
    (tmp_path / "captioned").mkdir()
    text = (data / "captioned" / "captions.json").read_text()
    (tmp_path / "captioned" / "captions.json").write_text(text)
    (tmp_path / "captioned" / "images").symlink_to(data / "captioned" / "images")
    with pytest.raises(DatasetError, match="mask"):
        load_validation(tmp_path / "captioned")


@pytest.mark.parametrize(
    ("source", "name"),
    [("clcd", "clcd"), ("crop-clcd_val", "clcd"), ("levir-val", "levir-val"), ("a_b", "a_b")],
)
def test_crops_count_with_their_set(source: str, name: str) -> None:
    assert group(source) == name


def test_all_pixels_stand_in_one_confusion() -> None:
    samples = [pair("one", [[1, 1], [1, 1]]), pair("two", [[1, 0], [0, 0]])]
    row = score_masks(constant(0.5), samples)  # 0.5 counts as changed
    assert row.overall.n_pairs == row.overall.n_changed == 2
    assert row.overall.scores.precision == pytest.approx(100 * 5 / 8)
    assert row.overall.scores.recall == 100
    assert row.overall.scores.oa == pytest.approx(100 * 5 / 8)
    assert row.sources["one"].scores.f1 == 100
    assert row.sources["two"].scores.precision == 25
    interval = row.overall.intervals["f1"]
    assert interval.low == pytest.approx(40) and interval.high == 100


def test_below_the_threshold_nothing_changed() -> None:
    row = score_masks(constant(0.499), [pair("one", [[1, 0]]), pair("one", [[0, 0]])])
    assert (row.overall.scores.f1, row.overall.scores.oa) == (0, 75)
    assert (row.overall.n_pairs, row.overall.n_changed) == (2, 1)


@pytest.mark.parametrize("value", [-3.0, 1.2, np.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"pair: .*probability"):
        score_masks(constant(value), [pair("one", [[1, 0]])])


def test_another_shape_and_no_pair_are_refused() -> None:
    with pytest.raises(DatasetError, match="prediction"):
        score_masks(lambda before, after: np.zeros((1, 1)), [pair("one", [[1, 0]])])
    with pytest.raises(DatasetError, match="no pair"):
        score_masks(constant(0), [])


def test_rows_survive_the_file_and_stand_in_tables(data: Path, tmp_path: Path) -> None:
    samples = load_validation(data / "captioned")
    rows = {"right": score_masks(brightness, samples), "blind": score_masks(constant(0), samples)}
    assert rows["right"].overall.scores.f1 > 95
    file = tmp_path / "rows.json"
    write_rows(file, rows, {"seed": 3})
    assert read_rows(file) == rows
    text = mask_tables(rows)
    assert "### all: 3 pairs, 2 changed" in text
    assert "### clcd: 2 pairs, 1 changed" in text
    assert "### levir-val: 1 pairs, 1 changed" in text
    assert text.count("| blind | 0.00 (0.0 to ") == 3
    assert len([line for line in text.splitlines() if line.startswith("| right |")]) == 3


def test_colours_tell_found_wrong_and_missed() -> None:
    mask, truth = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    colours = [tuple(int(v) for v in pixel) for pixel in judged(mask, truth)[0]]
    assert colours[:3] == [COLOURS["tp"], COLOURS["fp"], COLOURS["fn"]]
    assert colours[3] not in COLOURS.values()


def test_the_sheet_has_a_column_for_every_model(data: Path, tmp_path: Path) -> None:
    samples = load_validation(data / "captioned")
    widths = []
    for models in ({"one": brightness}, {"one": brightness, "two": constant(1)}):
        out = tmp_path / "sheet.png"
        draw_sheet(samples, models, out)
        with Image.open(out) as image:
            widths.append(image.width)
    assert widths[1] > widths[0] > 300
