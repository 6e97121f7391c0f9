"""`describe` and `describe_many`, from files to products."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import whatchanged as wc
from whatchanged.data.synthetic import draw_scene, encode_geotiff
from whatchanged.data.tokens import UNCHANGED_SENTENCES
from whatchanged.describing import describe, describe_many, find_pairs
from whatchanged.errors import (
    CheckpointError,
    InputError,
    PairMismatchError,
    UsageError,
    WhatchangedError,
)
from whatchanged.geo.listing import PairPaths

PairWriter = Callable[..., PairPaths]


@pytest.fixture
def write_pair(tmp_path: Path) -> PairWriter:
    """Write a generated pair as GeoTIFF into `before/` and `after/`."""

    def write(seed: int, size: int = 64, gsd_m: float = 2.0, name: str = "") -> PairPaths:
        scene = draw_scene(seed, size=size, gsd_m=gsd_m)
        paths = []
        for date in ("before", "after"):
            path = tmp_path / "pairs" / date / f"{name or seed}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_geotiff(getattr(scene, date), scene.grid))
            paths.append(path)
        return PairPaths(*paths)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- one pair --------------------------------------------------------------------------------


def test_one_pair_is_described(tiny_model: Path, write_pair: PairWriter) -> None:
    pair = write_pair(3)
    described = describe(str(pair.before), pair.after, model=tiny_model, beam=2)
    assert described.caption
    assert len(described.captions) == 2
    assert described.model == str(tiny_model)
    assert described.explanation is None
    assert described.report is not None
    assert described.report.overlap_fraction == 1
    assert wc.describe is describe


def test_products_of_one_pair(tiny_model: Path, write_pair: PairWriter, tmp_path: Path) -> None:
    pair, out = write_pair(3), tmp_path / "run"
    described = describe(pair.before, pair.after, model=tiny_model, explain=True, out=out)
    expected = ["captions.jsonl", "change_map.png", "report.html", "run.json", "words.png"]
    assert names(out) == expected
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["model"]["sha256"] == described.model_sha256
    (entry,) = record["pairs"]
    assert entry["caption"] == described.caption
    assert entry["reading"]["grid"]["crs"] == "EPSG:32650"
    assert entry["reading"]["after"]["bands"] == [1, 2, 3]
    assert entry["report"]["stretch"]["kind"] == "identity"
    assert described.caption in (out / "report.html").read_text(encoding="utf-8")


def test_a_cut_photograph_leaves_no_product(
    tiny_model: Path, write_pair: PairWriter, tmp_path: Path
) -> None:
    pair, out = write_pair(3), tmp_path / "run"
    content = pair.after.read_bytes()
    pair.after.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match=r"after/3\.tif"):
        describe(pair.before, pair.after, model=tiny_model, out=out)
    assert not out.exists()


def test_two_grids_are_a_mismatch_unless_aligned(tiny_model: Path, write_pair: PairWriter) -> None:
    before, after = write_pair(3).before, write_pair(3, size=96, gsd_m=1.5, name="fine").after
    with pytest.raises(PairMismatchError, match="do not lie on one grid") as caught:
        describe(before, after, model=tiny_model)
    assert "--align" in caught.value.hint
    described = describe(before, after, model=tiny_model, align=True)
    assert described.report is not None
    assert described.report.aligned
    assert described.pixels.after.shape == (64, 64, 3)


def test_warnings_of_the_pair_reach_the_description(
    tiny_model: Path, write_pair: PairWriter, tmp_path: Path
) -> None:
    pair, plain = write_pair(3), tmp_path / "plain.png"
    Image.fromarray(draw_scene(3, size=64, gsd_m=2.0).after).save(plain)
    described = describe(pair.before, plain, model=tiny_model)
    assert any("georeferenced" in warning for warning in described.warnings)
    assert described.to_json()["warnings"] == list(described.warnings)


def test_the_size_is_chosen_by_the_ground_it_covers(
    tiny_model: Path, write_pair: PairWriter
) -> None:
    pair = write_pair(3, size=128, gsd_m=1.5)
    described = describe(pair.before, pair.after, model=tiny_model)
    assert described.scale.source == (128, 128)
    assert (described.scale.height, described.scale.width) == (96, 96)
    assert described.scale.gsd_m == pytest.approx(2.0)


# --- many ------------------------------------------------------------------------------------


def test_a_folder_and_a_list_say_the_same(
    tiny_model: Path, write_pair: PairWriter, tmp_path: Path
) -> None:
    for seed in range(3):
        write_pair(seed)
    listing = tmp_path / "pairs.csv"
    rows = [f"pairs/before/{seed}.tif,pairs/after/{seed}.tif" for seed in range(3)]
    listing.write_text("\n".join(["before,after", *rows]), encoding="utf-8")
    folder = list(describe_many(find_pairs(tmp_path / "pairs"), model=tiny_model))
    listed = list(describe_many(iter(find_pairs(listing)), model=tiny_model, batch_size=2))
    assert [d.to_json() for d in folder] == [d.to_json() for d in listed]
    assert [Path(d.before).stem for d in folder] == ["0", "1", "2"]


def test_broken_pairs_are_recorded_beside_the_others(
    tiny_model: Path, write_pair: PairWriter, tmp_path: Path
) -> None:
    pairs, out = [write_pair(seed) for seed in range(4)], tmp_path / "run"
    pairs[0].before.write_bytes(b"")
    pairs[2].after.unlink()
    failures: list[tuple[PairPaths, WhatchangedError]] = []
    found = list(describe_many(pairs, model=tiny_model, out=out, failures=failures))
    assert [d.before for d in found] == [str(pairs[1].before), str(pairs[3].before)]
    assert [paths for paths, _ in failures] == [pairs[0], pairs[2]]
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert [f["before"] for f in record["failures"]] == [str(p.before) for p in pairs[::2]]
    assert "is empty (0 bytes)" in record["failures"][0]["error"]
    assert len(record["pairs"]) == 2


def test_without_a_list_of_failures_the_first_is_raised(
    tiny_model: Path, write_pair: PairWriter, tmp_path: Path
) -> None:
    pairs, out = [write_pair(0), write_pair(1)], tmp_path / "run"
    pairs[1].before.write_bytes(b"no picture")
    stream = describe_many(pairs, model=tiny_model, out=out, batch_size=1)
    assert next(stream).before == str(pairs[0].before)
    with pytest.raises(InputError, match=r"before/1\.tif"):
        next(stream)
    assert not out.exists()


def test_nobody_waits_for_the_rest(
    tiny_model: Path, write_pair: PairWriter, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stream = describe_many([write_pair(0)] * 40, model=tiny_model, out=out, batch_size=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not out.exists()


def test_hostile_paths_in_a_list_open_nothing(tiny_model: Path, tmp_path: Path) -> None:
    hostile = ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "/vsizip/a.zip/a"]
    listing = tmp_path / "pairs.csv"
    listing.write_text("before,after\n" + "".join(f"{h},{h}\n" for h in hostile), encoding="utf-8")
    failures: list[tuple[PairPaths, WhatchangedError]] = []
    assert list(describe_many(find_pairs(listing), model=tiny_model, failures=failures)) == []
    assert len(failures) == 3
    assert all(isinstance(error, InputError) and error.hint for _, error in failures)


def test_no_pair_is_read_before_the_model_is_there(tmp_path: Path) -> None:
    missing = [PairPaths(tmp_path / "a.tif", tmp_path / "b.tif")]
    with pytest.raises(CheckpointError):
        next(describe_many(missing, model=tmp_path, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"beam": 0}, {"batch_size": 0}])
def test_numbers_below_one_leave_no_product(
    tiny_model: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        next(describe_many([], model=tiny_model, out=tmp_path / "run", **options))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


# --- the shipped weights ---------------------------------------------------------------------


def test_golden_the_same_file_twice_is_unchanged(
    shipped_model: str, write_pair: PairWriter, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).resize((900, 600)).save(plain)
    for path in (write_pair(5, size=256, gsd_m=0.5).after, write_pair(6).before, plain):
        described = describe(path, path, model=shipped_model)
        assert not described.changed
        assert described.changed_probability < 0.5
        assert described.caption in UNCHANGED_SENTENCES


def test_golden_generated_changes_are_mostly_seen(
    shipped_model: str, write_pair: PairWriter
) -> None:
    """No result, since the scenes are drawn: this tells a broken model from a sound one."""
    right = 0
    for seed in range(8):
        scene = draw_scene(seed, size=256)
        pair = write_pair(seed, size=256, gsd_m=0.5)
        right += describe(pair.before, pair.after, model=shipped_model).changed == scene.changed
    assert right >= 6
