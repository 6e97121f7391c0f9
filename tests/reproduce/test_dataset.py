"""Data sets of tables: BCDD and SECOND as they are distributed, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from whatchanged.answers import EXPLAIN
from whatchanged.data.prepared import has_samples
from whatchanged.errors import DatasetError
from whatchanged.reproduce import pictures
from whatchanged.reproduce.dataset import look_at, prepared_data
from whatchanged.reproduce.experiments import experiment
from whatchanged.reproduce.plan import Request, make_plan
from whatchanged.train.config import DataConfig

TILE, SIDE = 256, 32


def write_scene(root: Path) -> Path:
    """Write a scene of 4 x 5 tiles with a changed building in every second tile."""
    label = np.zeros((1, 4 * TILE, 5 * TILE), np.uint8)
    label[:, 20:60, ::2] = 1
    photo = np.full((3, *label.shape[1:]), 90, np.uint8)
    for place, pixels in (
        ("before/before.tif", photo),
        ("after/after.tif", photo + np.uint8(9)),
        ("change label/change_label.tif", label),
    ):
        path = root / place
        path.parent.mkdir(parents=True)
        bands, height, width = pixels.shape
        with rasterio.open(
            *(path, "w", "GTiff"),
            **{"width": width, "height": height, "count": bands, "dtype": "uint8"},
            crs="EPSG:2193",
            transform=rasterio.transform.from_origin(0, 0, 0.075, 0.075),
        ) as target:
            target.write(pixels)
    return root


def write_second(root: Path, n: int = 20) -> Path:
    """Write pairs in which bare ground became a building, in train and test."""
    before, after = (np.full((SIDE, SIDE, 3), 255, np.uint8) for _ in range(2))
    before[:16], after[:16] = (128, 128, 128), (128, 0, 0)
    photo = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for part in ("train", "test"):
        for folder, pixels in zip(
            ("im1", "im2", "label1", "label2"), (photo, photo, before, after), strict=True
        ):
            (root / part / folder).mkdir(parents=True)
            for index in range(n):
                Image.fromarray(pixels).save(root / part / folder / f"{index:05d}.png")
    return root


def test_a_scene_is_cut_once(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "BCDD")
    made = prepared_data(scene, tmp_path / "out")
    assert made == tmp_path / "out" / "prepared" / "bcdd" and has_samples(made, "test")
    before = (made / "prepared.json").stat().st_mtime_ns
    assert prepared_data(scene, tmp_path / "out") == made
    assert (made / "prepared.json").stat().st_mtime_ns == before
    assert prepared_data(made, tmp_path / "out") == made  # what is prepared stays
    request = Request(experiment("reasoncd-table-4"), scene, tmp_path / "out", (0,), "paper")
    plan = make_plan(request)
    assert str(plan.found) == "BCDD (random-0), 16 training samples"
    assert {run.config.data.samples for run in plan.runs} == {str(made.resolve())}


def test_half_a_scene_is_said(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "BCDD")
    (scene / "after" / "after.tif").unlink()
    with pytest.raises(DatasetError, match=r"missing: .*after\.tif"):
        prepared_data(scene, tmp_path / "out")


def test_second_is_asked_with_the_bank(tmp_path: Path) -> None:
    second = write_second(tmp_path / "SECOND")
    plan = make_plan(Request(experiment("reasoncd-fig-15"), second, tmp_path / "out"))
    assert plan.found.unit == "samples" and plan.found.name == "SECOND"
    assert plan.split == "test"
    assert plan.request.data == tmp_path / "out" / "prepared" / "second"
    config = DataConfig(samples=str(plan.request.data), size=SIDE)

    def wishes(kind: str, explained: bool = False) -> Iterator[pictures._AskedWish]:
        return pictures._sample_wishes(plan, config, kind, explained)

    explicit = list(wishes("explicit"))
    met = [bool(w.truth.any()) for w in explicit if w.truth is not None]
    assert len(met) >= 4 and met == [True, False] * (len(met) // 2)
    for implicit, explained in ((wishes("implicit"), False), (wishes("implicit", True), True)):
        found = list(implicit)
        assert found and all(w.truth is not None and w.truth[:16].all() for w in found)
        assert all(w.text.endswith(EXPLAIN) == explained for w in found)


def test_other_folders_stay(pairs: Path, tmp_path: Path) -> None:
    assert prepared_data(pairs, tmp_path) == pairs
    (tmp_path / "empty").mkdir()
    assert prepared_data(tmp_path / "empty", tmp_path) == tmp_path / "empty"
    assert not (tmp_path / "prepared").exists()


def test_broken_entries_are_counted(write_set: Callable[..., Path], tmp_path: Path) -> None:
    data = write_set(tmp_path, {"train": 4, "val": 2})
    (data / "images" / "train" / "A" / "train_001.png").unlink()
    table = experiment("hisem-table-1")
    with pytest.raises(DatasetError, match="train_001"):
        look_at(table, data, skip_broken=False)
    found = look_at(table, data, skip_broken=True)
    assert (found.counts["train"], found.left_out, found.scored) == (3, 1, "val")
    assert not found.whole
