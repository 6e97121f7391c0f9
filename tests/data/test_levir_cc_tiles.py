from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whatchanged.data.levir_cc_tiles import load_tiles
from whatchanged.errors import DatasetError

SENTENCES = ["a house appears on the left .", "one house is built ."]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """One 40-pixel picture on both dates, and annotations of two training and one test tile."""
    rng = np.random.default_rng(0)
    for date in "AB":
        (tmp_path / date).mkdir()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / date / "scene.png"
        )
    images = [
        {"filename": "train_1.png", "split": "train", "changeflag": 1},
        {"filename": "train_2.png", "split": "train", "changeflag": 0},
        {"filename": "test_1.png", "split": "test", "changeflag": 1},
    ]
    for image in images:
        image["sentences"] = [{"raw": raw} for raw in SENTENCES]
    (tmp_path / "cc.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    return tmp_path


def load(place: Path, *rows: Any, size: int = 16) -> list[Any]:
    (place / "index.json").write_text(json.dumps(rows), encoding="utf-8")
    return load_tiles(place / "index.json", place / "cc.json", place, size)


def row(**values: Any) -> dict[str, Any]:
    base = {"picture": "scene.png", "tile": "train_1.png", "box": [8, 4, 24, 20], "flip": "none"}
    return base | values


def picture(place: Path, date: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(place / date / "scene.png")).transpose(2, 0, 1)


def test_a_window_is_cut_and_gets_the_captions_of_its_tile(place: Path) -> None:
    (tile,) = load(place, row())
    assert tile.changed
    assert tile.captions == (
        ("a", "house", "appears", "on", "the", "left"),
        ("one", "house", "is", "built"),
    )
    assert np.array_equal(tile.before, picture(place, "A")[:, 4:20, 8:24])
    assert np.array_equal(tile.after, picture(place, "B")[:, 4:20, 8:24])


@pytest.mark.parametrize(("flip", "axes"), [("h", (2,)), ("v", (1,)), ("hv", (1, 2))])
def test_a_mirrored_window_is_turned_back(place: Path, flip: str, axes: tuple[int, ...]) -> None:
    (tile,) = load(place, row(flip=flip))
    assert np.array_equal(tile.before, np.flip(picture(place, "A")[:, 4:20, 8:24], axes))


def test_an_unchanged_tile_has_the_one_sentence(place: Path) -> None:
    (tile,) = load(place, row(tile="train_2.png"))
    assert not tile.changed
    assert tile.captions == (("the", "scene", "is", "the", "same", "as", "before"),)


def test_a_window_over_the_edge_is_moved_inside(place: Path) -> None:
    (tile,) = load(place, row(box=[-3, 30, 13, 46]))
    assert np.array_equal(tile.before, picture(place, "A")[:, 24:40, 0:16])


def test_windows_are_brought_to_size(place: Path) -> None:
    (tile,) = load(place, row(), size=32)
    assert tile.before.shape == tile.after.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"tile": "test_1.png"}, "not in the training split"),
        ({"flip": "d"}, r"\[0\] is not a window"),
        ({"box": [0, 0, 16, 17]}, "no square"),
        ({"box": [0, 0, 60, 60]}, "no square"),
        ({"box": [0, 0, 16]}, "no box"),
        ({"picture": "../scene.png"}, "names no picture"),
        ({"picture": "other.png"}, "other.png"),
    ],
)
def test_broken_windows_are_named(place: Path, broken: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(place, row(**broken))


def test_the_shipped_index_names_windows_of_real_pictures(shared_data: Path) -> None:
    index = Path(__file__).parents[2] / "configs" / "levir_cc_tiles.json"
    rows = json.loads(index.read_bytes())
    few = [rows[i] for i in range(0, len(rows), 100)]
    names = {r["picture"] for r in rows}
    held_out = {p.name for p in (shared_data / "captioned" / "images" / "val" / "A").iterdir()}
    assert len(rows) == 1231 and not names & held_out
    assert all(r["tile"].startswith("train_") for r in rows)
    for r in few:
        left, top, right, bottom = r["box"]
        assert right - left == bottom - top
        assert (shared_data / "captioned" / "images" / "train" / "A" / r["picture"]).is_file()
