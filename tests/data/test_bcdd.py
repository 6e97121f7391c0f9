from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from whatchanged.answers import TARGET, Understood, parse_answer
from whatchanged.data import bcdd
from whatchanged.data.bcdd import TILE, prepare_bcdd
from whatchanged.data.reason_json import load_reason_json, read_reason_mask
from whatchanged.errors import DatasetError, InputError, UsageError
from whatchanged.geo.scene import Scene

Array = NDArray[np.uint8]
ROWS, COLUMNS = 2, 5
HEIGHT, WIDTH = ROWS * TILE + 10, COLUMNS * TILE + 90  # remainders, as the real scene has


def write_tif(path: Path, pixels: Array, **options: object) -> None:
    """[C, H, W] as GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.transform.from_origin(1_570_000, 5_180_000, 0.075, 0.075)
    profile = {
        "driver": "GTiff",
        "width": pixels.shape[2],
        "height": pixels.shape[1],
        "count": pixels.shape[0],
        "dtype": pixels.dtype,
        "crs": "EPSG:2193",
        "transform": transform,
    } | options
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)


@pytest.fixture
def layers() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 3, HEIGHT // 8 + 1, WIDTH // 8 + 1), dtype=np.uint8)
    before, after = coarse.repeat(8, 2).repeat(8, 3)[:, :, :HEIGHT, :WIDTH]
    label = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    label[0, 100:120, TILE + 10 : TILE + 40] = 1  # in tile r00_c001
    label[0, TILE : TILE + 5, -95:-80] = 1  # in tile r01_c004 and the remainder
    return before, after, label


@pytest.fixture
def scene(tmp_path: Path, layers: tuple[Array, Array, Array]) -> Path:
    root = tmp_path / "BCDD"
    inner = root / "1. The two-period image data"
    before, after, label = layers
    write_tif(inner / "before" / "before.tif", before)
    write_tif(inner / "after" / "after.tif", after)
    write_tif(inner / "change label" / "change_label.tif", label, nbits=1)
    return root


def test_a_scene_becomes_tiles_and_samples(
    tmp_path: Path, scene: Path, layers: tuple[Array, Array, Array]
) -> None:
    out = tmp_path / "out"
    prepared = prepare_bcdd(scene, out)
    assert prepared.fresh
    assert prepared.record["counts"] == {"train": 8, "val": 1, "test": 1}
    names = {path.stem for path in (out / "A").iterdir()}
    assert names == {f"r{row:02d}_c{c:03d}" for row in range(ROWS) for c in range(COLUMNS)}
    changed = set()
    for split, count in prepared.record["counts"].items():
        samples = load_reason_json(out / f"{split}.jsonl")
        listed = (out / "splits" / f"{split}.txt").read_text().split()
        assert [sample.before.stem for sample in samples] == listed
        assert len(samples) == count
        for sample in samples:
            assert sample.question == "changed buildings"
            assert parse_answer(sample.answer) == Understood(("building",), "either")
            row, column = int(sample.mask.stem[1:3]), int(sample.mask.stem[5:])
            cut = np.s_[:, row * TILE : row * TILE + TILE, column * TILE : column * TILE + TILE]
            for path, layer in zip((sample.before, sample.after), layers[:2], strict=True):
                pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)
                assert np.array_equal(pixels, layer[cut])
            mask = read_reason_mask(sample.mask)
            assert np.array_equal(mask, layers[2][cut][0])
            assert set(np.unique(Image.open(sample.mask))) <= {0, 255}
            assert (TARGET in sample.answer) == bool(mask.any())
            if mask.any():
                changed.add(sample.mask.stem)
    assert changed == {"r00_c001", "r01_c004"}


def test_the_scene_is_never_read_whole(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[Window] = []
    read = Scene.read

    def watched(self: Scene, window: Window | None = None) -> object:
        assert window is not None
        windows.append(window)
        return read(self, window)

    monkeypatch.setattr(Scene, "read", watched)
    prepare_bcdd(scene, tmp_path / "out")
    assert len(windows) == 2 * ROWS
    assert {(window.width, window.height) for window in windows} == {(COLUMNS * TILE, TILE)}


def test_a_finished_folder_stays_unless_forced(tmp_path: Path, scene: Path) -> None:
    out = tmp_path / "out"
    first = prepare_bcdd(scene, out)
    (out / "A" / "r00_c000.png").unlink()
    again = prepare_bcdd(scene, out)
    assert not again.fresh and again.record == first.record
    assert not (out / "A" / "r00_c000.png").exists()
    with pytest.raises(DatasetError, match="was prepared as bcdd"):
        prepare_bcdd(scene, out, recipe="random-1")
    assert prepare_bcdd(scene, out, recipe="random-1", force=True).fresh
    assert (out / "A" / "r00_c000.png").exists()


def test_recipes_differ_by_name_and_sum(tmp_path: Path, scene: Path) -> None:
    sums = {}
    for recipe in ("random-0", "random-1", "blocks-0"):
        record = prepare_bcdd(scene, tmp_path / recipe, recipe=recipe).record
        assert record["options"]["recipe"] == recipe
        first = (tmp_path / recipe / "splits" / "sha256.txt").read_text().splitlines()[0]
        assert first == f"# recipe {recipe}"
        sums[recipe] = tuple(record["sha256"].values())
    assert len(set(sums.values())) == 3


def test_missing_files_and_foreign_folders_are_told(tmp_path: Path, scene: Path) -> None:
    (scene / "1. The two-period image data" / "after" / "after.tif").unlink()
    with pytest.raises(DatasetError, match=r"missing: .*after/after\.tif\n") as caught:
        prepare_bcdd(scene, tmp_path / "out")
    assert "change label" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="neither BCDD's scene nor its tiles"):
        prepare_bcdd(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_and_values_of_the_scene_are_checked(
    tmp_path: Path, scene: Path, layers: tuple[Array, Array, Array]
) -> None:
    label = scene / "1. The two-period image data" / "change label" / "change_label.tif"
    wrong = layers[2].copy()
    wrong[0, 300, :3] = 7
    write_tif(label, wrong)
    with pytest.raises(DatasetError, match="has the value 7 at 3 pixels in rows 256 to 511"):
        prepare_bcdd(scene, tmp_path / "out")
    write_tif(label, layers[2][:, :-1])
    with pytest.raises(DatasetError, match=f"sizes differ: .*{WIDTH} x {HEIGHT - 1}"):
        prepare_bcdd(scene, tmp_path / "out")
    write_tif(label, layers[2])
    label.write_bytes(label.read_bytes()[:3000])
    with pytest.raises(InputError, match="change_label"):
        prepare_bcdd(scene, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["BCDD"]  # no half-made folder


def test_deep_pictures_are_refused(
    tmp_path: Path, scene: Path, layers: tuple[Array, Array, Array]
) -> None:
    before = scene / "1. The two-period image data" / "before" / "before.tif"
    write_tif(before, layers[0].astype(np.uint16))
    with pytest.raises(DatasetError, match="uint16 values"):
        prepare_bcdd(scene, tmp_path / "out")


def test_recipes_are_checked_before_any_work(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bcdd, "_cut_scene", lambda *_: pytest.fail("work was done"))
    with pytest.raises(UsageError, match="unknown"):
        prepare_bcdd(scene, tmp_path / "out", recipe="paper")
    with pytest.raises(UsageError, match="a scene has no lists"):
        prepare_bcdd(scene, tmp_path / "out", recipe="lists")


# Tiles


def write_tiles(root: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        for part in ("A", "B", "label"):
            (root / part).mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((TILE, TILE) if part == "label" else (TILE, TILE, 3), np.uint8)
            if part == "label" and index % 2:
                pixels[5:20, 5:20] = 255
            Image.fromarray(pixels).save(root / part / f"{name}.png")
    return root


def test_tiles_stay_where_they_are(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", [f"whucd_{i:02d}" for i in range(10)])
    record = prepare_bcdd(tiles, tmp_path / "deep" / "out").record
    assert record["counts"] == {"train": 8, "val": 1, "test": 1}
    files = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert files == {"train.jsonl", "val.jsonl", "test.jsonl", "splits", "prepared.json"}
    samples = load_reason_json(tmp_path / "deep" / "out" / "train.jsonl")
    assert all(sample.before.samefile(tiles / "A" / sample.before.name) for sample in samples)
    for sample in samples:
        assert (TARGET in sample.answer) == bool(int(sample.mask.stem[-2:]) % 2)


def test_tiles_divided_by_blocks_need_places(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", [f"r{i:02d}_c000" for i in range(20)])
    counts = prepare_bcdd(tiles, tmp_path / "out", recipe="blocks-0").record["counts"]
    assert sum(counts.values()) == 20 and counts["test"] >= 6  # a whole block, cut by the rim
    write_tiles(tiles, ["somewhere"])
    with pytest.raises(UsageError, match="'somewhere' does not say"):
        prepare_bcdd(tiles, tmp_path / "other", recipe="blocks-0")


def test_published_lists_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiles = write_tiles(tmp_path / "tiles", ["a", "b", "c", "d"])
    lists = {"train": "c.png\na.png\n", "val": "b\n", "test": ""}
    (tiles / "list").mkdir()
    for split, text in lists.items():
        (tiles / "list" / f"{split}.txt").write_text(text)
    record = prepare_bcdd(tiles, tmp_path / "out", recipe="lists").record
    assert record["counts"] == {"train": 2, "val": 1, "test": 0}
    assert (tmp_path / "out" / "splits" / "train.txt").read_text() == "c\na\n"
    assert "1 of 4 tiles are in no list" in caplog.text
    (tiles / "list" / "test.txt").write_text("e.png\nb.png\n")
    with pytest.raises(DatasetError, match="2 faults") as caught:
        prepare_bcdd(tiles, tmp_path / "other", recipe="lists")
    assert "the tile 'e.png' is not there" in caught.value.message
    assert "'b.png' stands also in val.txt" in caught.value.message
    (tiles / "list" / "val.txt").unlink()
    with pytest.raises(DatasetError, match=r"val\.txt does not exist"):
        prepare_bcdd(tiles, tmp_path / "other", recipe="lists")


def test_broken_tiles_are_counted_and_named(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", ["a", "b", "c"])
    Image.new("RGB", (TILE, 200)).save(tiles / "B" / "a.png")
    (tiles / "A" / "b.png").write_bytes(b"")
    Image.new("L", (TILE, TILE), 9).save(tiles / "label" / "c.png")
    with pytest.raises(DatasetError, match="3 faults") as caught:
        prepare_bcdd(tiles, tmp_path / "out")
    assert "a.png is 256 x 200 pixels, not 256 x 256" in caught.value.message
    assert "b.png cannot be read" in caught.value.message
    assert "c.png has the value 9" in caught.value.message
    (tiles / "A" / "b.png").unlink()
    with pytest.raises(DatasetError, match="1 names are not in both A and B, such as 'b'"):
        prepare_bcdd(tiles, tmp_path / "out")


def test_the_record_can_be_read(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "tiles", ["a"])
    prepare_bcdd(tiles, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert record["kind"] == "bcdd"
    assert record["counts"] == {"train": 0, "val": 0, "test": 1}
