"""Describing pairs with a small random model, and golden scenes with the shipped one."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from whatchanged import predict, prepare
from whatchanged.data.synthetic import draw_scene
from whatchanged.data.tokens import END, SPECIALS, START, Vocabulary
from whatchanged.errors import (
    CheckpointError,
    InputError,
    PairMismatchError,
    UsageError,
    WeightsUnavailableError,
    WhatchangedError,
)
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.hisem.config import HASDConfig
from whatchanged.models.hisem.model import HiSem
from whatchanged.models.outputs import HiSemMemory, Hypothesis
from whatchanged.predict import (
    CaptionModel,
    Description,
    PairPaths,
    describe_arrays,
    describe_pairs,
    load_model,
)

Picture = NDArray[np.uint8]
CONTRACT = {
    "before",
    "after",
    "caption",
    "changed",
    "changed_probability",
    "captions",
    "model",
    "warnings",
}


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> CaptionModel:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[PairPaths]:
    """Seven pairs as PNG: five square ones and two wide ones that run in a batch of their own."""
    folder = tmp_path_factory.mktemp("pairs")
    return [
        write_pngs(folder, str(seed), scene.before[:height], scene.after[:height])
        for seed, height in enumerate([64, 64, 24, 64, 64, 24, 64])
        for scene in [draw_scene(seed, size=64, gsd_m=2.0)]
    ]


def write_pngs(folder: Path, name: str, before: Picture, after: Picture) -> PairPaths:
    paths = PairPaths(folder / f"{name}_before.png", folder / f"{name}_after.png")
    Image.fromarray(before).save(paths.before)
    Image.fromarray(after).save(paths.after)
    return paths


def write_tiff(path: Path, picture: NDArray[Any], gsd_m: float = 2.0, **profile: Any) -> Path:
    height, width, count = picture.shape
    options = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": picture.dtype,
        "crs": "EPSG:32650",
        "transform": Affine(gsd_m, 0, 450_000, 0, -gsd_m, 4_300_000),
    }
    with rasterio.open(path, "w", **{**options, **profile}) as target:
        target.write(np.moveaxis(picture, 2, 0))
    return path


def as_tensor(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())  # [1, 3, H, W]


def describe_one(model: CaptionModel, before: Path, after: Path, **options: Any) -> Description:
    (description,) = describe_pairs(model, [PairPaths(before, after)], **options)
    return description


def assert_same(one: Description, two: Description) -> None:
    assert (one.before, one.after) == (two.before, two.after)
    assert [c.text for c in one.captions] == [c.text for c in two.captions]
    scores = [[c.score for c in d.captions] for d in (one, two)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    assert one.changed == two.changed
    assert one.changed_probability == pytest.approx(two.changed_probability, abs=1e-5)
    assert one.warnings == two.warnings
    if one.explanation is not None and two.explanation is not None:
        for name in ("change_map", "word_maps"):
            values = [getattr(d.explanation, name) for d in (one, two)]
            np.testing.assert_allclose(values[0], values[1], atol=1e-5)


# --- batches ---------------------------------------------------------------------------------


def test_batch_size_and_order_change_nothing(tiny: CaptionModel, pairs: list[PairPaths]) -> None:
    alone = list(describe_pairs(tiny, pairs, batch_size=1, explain=True))
    together = list(describe_pairs(tiny, pairs, batch_size=8, explain=True))
    backwards = list(describe_pairs(tiny, pairs[::-1], batch_size=3, explain=True))[::-1]
    assert [d.before for d in alone] == [str(p.before) for p in pairs]
    for one, two, three in zip(alone, together, backwards, strict=True):
        assert_same(one, two)
        assert_same(one, three)
    # The answers depend on the pictures, else nothing above would be shown.
    assert len({d.caption for d in alone}) > 1
    assert {d.changed for d in alone} == {True, False}


def test_what_runs_together_has_one_size(
    tiny: CaptionModel, pairs: list[PairPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    see = CaptionModel.see

    def recorded(self: CaptionModel, before: torch.Tensor, after: torch.Tensor) -> HiSemMemory:
        seen.append(tuple(before.shape))
        return see(self, before, after)

    monkeypatch.setattr(CaptionModel, "see", recorded)
    list(describe_pairs(tiny, pairs, batch_size=2))
    assert [shape[0] for shape in seen] == [2, 1, 2, 1, 1]
    assert {shape[2:] for shape in seen} == {(64, 64), (32, 96)}


def test_descriptions_come_as_soon_as_their_batch_is_done(
    tiny: CaptionModel, pairs: list[PairPaths]
) -> None:
    missing = PairPaths(Path("nowhere_before.png"), Path("nowhere_after.png"))
    stream = describe_pairs(tiny, [pairs[0], missing], batch_size=1)
    assert next(stream).before == str(pairs[0].before)
    with pytest.raises(InputError, match="nowhere_before"):
        next(stream)


def test_one_broken_pair_does_not_lose_the_others(
    tiny: CaptionModel, pairs: list[PairPaths], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    broken = PairPaths(empty, pairs[0].after)
    unequal = PairPaths(pairs[0].before, pairs[2].after)
    failures: list[tuple[PairPaths, WhatchangedError]] = []
    listed = [broken, pairs[0], unequal, pairs[1]]
    found = list(describe_pairs(tiny, listed, failures=failures))
    assert [d.before for d in found] == [str(p.before) for p in pairs[:2]]
    assert [paths for paths, _ in failures] == [broken, unequal]
    assert [type(error) for _, error in failures] == [InputError, PairMismatchError]


@pytest.mark.parametrize("options", [{"beam": 0}, {"batch_size": 0}])
def test_numbers_below_one(tiny: CaptionModel, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        next(describe_pairs(tiny, [], **options))  # type: ignore[arg-type]


def test_each_size_is_noted_once(
    tiny: CaptionModel, pairs: list[PairPaths], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="whatchanged"):
        list(describe_pairs(tiny, pairs, batch_size=1))
    assert [record.getMessage() for record in caplog.records] == [
        "64 x 64 pixels, seen at 64 x 64",
        "64 x 24 pixels, seen at 96 x 32",
    ]


# --- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_lossless_formats_say_the_same(tiny: CaptionModel, tmp_path: Path, suffix: str) -> None:
    scene = draw_scene(2, size=64, gsd_m=2.0)
    paths = []
    for name, picture in (("before", scene.before), ("after", scene.after)):
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".tif":
            write_tiff(path, picture)
        else:
            Image.fromarray(picture).save(path, lossless=True)
        paths.append(path)
    described = describe_one(tiny, *paths)
    direct = describe_arrays(scene.before, scene.after, model=tiny.name)
    assert described.caption == direct.caption
    assert described.changed_probability == pytest.approx(direct.changed_probability, abs=1e-5)


def test_sixteen_bits_and_four_bands(tiny: CaptionModel, tmp_path: Path) -> None:
    scene = draw_scene(3, size=96, gsd_m=1.0)
    paths = []
    for name, picture in (("before", scene.before), ("after", scene.after)):
        near_infrared = np.full((96, 96, 1), 9000)
        colours = picture[..., ::-1].astype(np.uint16) * 40 + 300
        counts = np.concatenate([colours, near_infrared], 2, dtype=np.uint16, casting="unsafe")
        paths.append(write_tiff(tmp_path / f"{name}.tif", counts, gsd_m=1.0))
    described = describe_one(tiny, *paths, bands=(3, 2, 1))
    assert described.reading is not None
    assert described.reading["before"] == {
        "path": str(paths[0].resolve()),
        "bands": [3, 2, 1],
        "dtype": "uint16",
    }
    assert described.reading["grid"]["crs"] == "EPSG:32650"
    assert described.report is not None
    assert described.report.stretch.kind == "percentile"
    assert described.scale.gsd_m == pytest.approx(1.5)
    # Stretched back, it is about the 8-bit scene.
    shades = described.pixels.before.astype(float), scene.before.astype(float)
    assert np.corrcoef(shades[0].ravel(), shades[1].ravel())[0, 1] > 0.98


def test_invalid_pixels_never_count_as_change(tiny: CaptionModel, tmp_path: Path) -> None:
    """A gap in one date says the same as the same gap in both, whatever the other date shows."""
    before = np.maximum(draw_scene(4, size=64, gsd_m=2.0).before, 1)
    gap = np.s_[10:40, 20:50]
    after, holed, other = before.copy(), before.copy(), before.copy()
    after[gap] = holed[gap] = 0
    other[gap] = 255 - before[gap]
    files = {
        name: write_tiff(tmp_path / f"{name}.tif", picture, nodata=0)
        for name, picture in (
            ("before", before),
            ("after", after),
            ("holed", holed),
            ("other", other),
        )
    }
    both = describe_one(tiny, files["holed"], files["after"], explain=True)
    one = describe_one(tiny, files["before"], files["after"], explain=True)
    different = describe_one(tiny, files["other"], files["after"], explain=True)
    for described in (one, different):
        assert_same(dataclasses.replace(described, before=both.before), both)
        assert described.explanation is not None
        assert np.array_equal(described.explanation.change_map, np.zeros((4, 4)))
        assert 0.7 < described.pixels.valid.mean() < 0.8


def test_nothing_valid_is_refused(tiny: CaptionModel, tmp_path: Path) -> None:
    nothing = write_tiff(tmp_path / "nothing.tif", np.zeros((64, 64, 3), np.uint8), nodata=0)
    with pytest.raises(InputError, match="no pixel that is valid in both"):
        describe_one(tiny, nothing, nothing)


def test_a_cut_file_is_named(tiny: CaptionModel, pairs: list[PairPaths], tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    content = pairs[0].after.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.png"):
        describe_one(tiny, pairs[0].before, cut)


def test_large_pictures_are_kept_small(
    tiny: CaptionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_STRIP_PIXELS", 10_000)
    monkeypatch.setattr(prepare, "_KEPT", 100)
    picture = np.zeros((220, 230, 3), np.uint8)
    picture[:110] = 80
    path = write_tiff(tmp_path / "large.tif", picture, gsd_m=0.3)
    described = describe_one(tiny, path, path)
    assert described.pixels.before.shape == (110, 115, 3)
    assert described.scale.source == (220, 230)
    assert described.before == str(path)


# --- captions and their scores ---------------------------------------------------------------


def log_probability(model: CaptionModel, memory: HiSemMemory, ids: Sequence[int]) -> float:
    """Mean log probability a word, teacher-forced: END counts unless the caption was cut."""
    longest = model.hisem.config.decoder.max_len - 1
    target = [*ids, END][:longest]
    with torch.inference_mode():
        logits = model.hisem.decoder(torch.tensor([[START, *target[:-1]]]), memory.tokens)[0]
    chosen = logits.double().log_softmax(1)[torch.arange(len(target)), torch.tensor(target)]
    return float(chosen.mean())


@pytest.mark.parametrize("beam", [1, 4])
def test_scores_are_log_probabilities_a_word_best_first(
    tiny: CaptionModel, pairs: list[PairPaths], beam: int
) -> None:
    lengths = set()
    for description in describe_pairs(tiny, pairs, beam=beam, batch_size=1):
        scores = [caption.score for caption in description.captions]
        assert len(scores) == beam
        assert len({caption.text for caption in description.captions}) == beam
        assert scores == sorted(scores, reverse=True)
        assert max(scores) < 0
        assert description.caption == description.captions[0].text
        scale = description.scale
        size = (scale.width, scale.height)
        before, after = (
            np.array(Image.open(path).resize(size, Image.Resampling.LANCZOS))
            for path in (description.before, description.after)
        )
        memory = tiny.see(as_tensor(before), as_tensor(after))
        for caption in description.captions:
            ids = tiny.vocabulary.encode(caption.text.split())[1:-1]
            lengths.add(len(ids))
            assert caption.score == pytest.approx(log_probability(tiny, memory, ids), abs=1e-4)
    longest = tiny.hisem.config.decoder.max_len - 1
    assert longest in lengths  # captions that were cut off take part in the test,
    assert lengths - {longest}  # and such that ended by themselves


def test_json_has_the_keys_of_the_contract(tiny: CaptionModel, pairs: list[PairPaths]) -> None:
    (description,) = describe_pairs(tiny, pairs[:1])
    record = json.loads(json.dumps(description.to_json(), allow_nan=False))
    assert set(record) == CONTRACT
    assert record["before"] == str(pairs[0].before)
    assert record["model"] == tiny.name
    assert type(record["changed"]) is bool
    assert record["changed_probability"] == pytest.approx(description.changed_probability, abs=1e-4)
    assert [set(caption) for caption in record["captions"]] == [{"text", "score"}] * 3
    assert record["captions"][0]["text"] == record["caption"]
    assert all(isinstance(warning, str) for warning in record["warnings"])


def test_the_router_decides(tiny: CaptionModel, pairs: list[PairPaths]) -> None:
    for description in describe_pairs(tiny, pairs):
        assert description.changed == (description.changed_probability >= 0.5)


@pytest.mark.parametrize(
    ("text", "changed"), [("the two scenes seem identical", False), ("a house is built", True)]
)
def test_a_model_without_router_says_it_in_words(text: str, changed: bool) -> None:
    words = ("the", "two", "scenes", "seem", "identical", "a", "house", "is", "built")
    vocabulary = Vocabulary((*SPECIALS, *words))

    class Says(CaptionModel):
        def say(self, memory: HiSemMemory, beam: int) -> list[list[Hypothesis]]:
            ids = tuple(self.vocabulary.encode(text.split())[1:-1])
            return [[Hypothesis(ids, -3.0, -3.0)] for _ in memory.tokens]

    config = dataclasses.replace(
        load_tiny_config(), hasd=HASDConfig(routing=False, unchanged="none", changed="none")
    )
    model = Says(HiSem(config, len(vocabulary)).eval(), vocabulary, "m", "0")
    picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert model.see(picture, picture).changed_probability is None
    black = np.zeros((64, 64, 3), np.uint8)
    prepared = predict.prepare(
        PairPaths(Path("a"), Path("b")),
        predict.PairPixels(black, black, np.ones((64, 64), bool)),
        predict.choose_scale(64, 64, None, 64),
    )
    (description,) = predict._describe_batch(model, [prepared], 1, False)
    assert (description.caption, description.changed) == (text, changed)
    assert description.changed_probability == float(changed)


def load_tiny_config() -> Any:
    from whatchanged.models.backbones import EncoderConfig
    from whatchanged.models.hisem.config import BDAMConfig, DecoderConfig, HiSemConfig

    return HiSemConfig(
        encoder=EncoderConfig(kind="compact", input_size=64, channels=32),
        width=32,
        grid=4,
        bdam=BDAMConfig(layers=1, heads=4),
        decoder=DecoderConfig(heads=4, max_len=9),
    )


# --- explanations ----------------------------------------------------------------------------


def test_explanations_have_a_map_a_word(tiny: CaptionModel, pairs: list[PairPaths]) -> None:
    for description in describe_pairs(tiny, pairs, explain=True):
        explanation = description.explanation
        assert explanation is not None
        grid = (description.scale.height // 16, description.scale.width // 16)
        assert explanation.words == tuple(description.caption.split())
        assert explanation.word_maps.shape == (len(explanation.words), *grid)
        np.testing.assert_allclose(explanation.word_maps.sum((1, 2)), 1, atol=1e-5)
        assert explanation.change_map.shape == grid
        assert explanation.change_map.min() >= 0
        assert explanation.change_map.max() > 0


def test_explanations_are_made_on_request(tiny: CaptionModel, pairs: list[PairPaths]) -> None:
    assert next(describe_pairs(tiny, pairs[:1])).explanation is None


# --- arrays ----------------------------------------------------------------------------------


def test_arrays_are_described_like_files(tiny_model: Path, pairs: list[PairPaths]) -> None:
    model = load_model(tiny_model)
    before, after = (np.asarray(Image.open(p)) for p in (pairs[0].before, pairs[0].after))
    direct = describe_arrays(before, after, model=tiny_model)
    filed = describe_one(model, pairs[0].before, pairs[0].after)
    assert direct.captions == filed.captions
    assert (direct.before, direct.after) == ("before", "after")
    assert direct.report is None
    assert direct.reading is None


def test_the_resolution_of_arrays_sets_their_size(tiny_model: Path) -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    assert describe_arrays(picture, picture, model=tiny_model).scale.width == 64
    described = describe_arrays(picture, picture, model=tiny_model, gsd_m=0.8)
    assert described.scale.width == 96
    assert described.scale.gsd_m == pytest.approx(0.8 * 256 / 96)


GOOD = np.zeros((64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (GOOD, GOOD[:32], "not on one grid"),
        (GOOD[..., 0], GOOD[..., 0], r"not \[H, W, 3\]"),
        (GOOD[..., :2], GOOD[..., :2], r"not \[H, W, 3\]"),
        (GOOD[:0], GOOD[:0], r"not \[H, W, 3\]"),
        (GOOD, GOOD.astype(np.float32), "float32 values, not uint8"),
    ],
)
def test_arrays_that_are_no_pictures(before: Any, after: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        describe_arrays(before, after, model="no model is needed to see this")


@pytest.mark.parametrize("gsd_m", [0.0, -1.0, float("nan"), float("inf")])
def test_a_resolution_that_is_none(gsd_m: float) -> None:
    with pytest.raises(UsageError, match="gsd_m is"):
        describe_arrays(GOOD, GOOD, gsd_m=gsd_m)


def test_a_beam_that_is_none(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="beam"):
        describe_arrays(GOOD, GOOD, model=tiny_model, beam=0)


# --- models ----------------------------------------------------------------------------------


def test_a_model_is_loaded_once(tiny_model: Path) -> None:
    assert load_model(tiny_model) is load_model(str(tiny_model))
    assert load_model(tiny_model).sha256 == load_checkpoint(tiny_model).manifest.sha256
    assert not load_model(tiny_model).hisem.training


def resave(source: Path, target: Path, **changes: Any) -> Path:
    """Write a sound checkpoint that differs in what it holds."""
    saved = load_checkpoint(source)
    values: dict[str, Any] = {
        "family": saved.family,
        "config": saved.config,
        "tensors": saved.tensors,
        "extras": saved.extras,
    }
    save_checkpoint(target, **{**values, **changes})
    return target


def test_a_replaced_checkpoint_is_read_again(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "best"
    shutil.copytree(tiny_model, folder)
    first = load_model(folder)
    tensors = {k: v * 2 for k, v in load_checkpoint(folder).tensors.items()}
    second = load_model(resave(tiny_model, folder, tensors=tensors))
    assert second.sha256 != first.sha256
    before, after = first.hisem.norm.weight, second.hisem.norm.weight
    assert torch.equal(after, 2 * before)


def test_half_precision_on_disk_says_the_same(
    tiny_model: Path, tmp_path: Path, pairs: list[PairPaths]
) -> None:
    half = load_model(resave(tiny_model, tmp_path / "half", half=True))
    assert {p.dtype for p in half.hisem.parameters()} == {torch.float32}
    for one, two in zip(
        describe_pairs(half, pairs), describe_pairs(load_model(tiny_model), pairs), strict=True
    ):
        assert one.changed_probability == pytest.approx(two.changed_probability, abs=1e-2)


def test_a_foreign_family_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    dense = resave(tiny_model, tmp_path / "dense", family="dense")
    with pytest.raises(CheckpointError, match="dense is a checkpoint of family 'dense'") as caught:
        load_model(dense)
    assert "hisem-small" in caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary.json", "config.json"])
def test_a_damaged_file_is_named(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"extras": {}},
        {"extras": {"vocabulary": ["a"]}},
        {"extras": {"vocabulary": {"words": ["a", "b"]}}},
        {"extras": {"vocabulary": {"words": [*SPECIALS, "a"]}}},
        {"config": {}},
        {"config": {"model": {"widht": 32}}},
        {"config": {"model": {"width": 31}}},
        {"tensors": {"x": torch.zeros(1)}},
    ],
)
def test_a_sound_checkpoint_that_does_not_fit_is_named(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = resave(tiny_model, tmp_path / "odd", **changes)
    with pytest.raises(CheckpointError, match=r"odd: .* do not fit together"):
        load_model(folder)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(WeightsUnavailableError, match="hisem-smal"):
        load_model("hisem-smal")


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        load_model(tmp_path)


# --- precision, and the shipped weights on golden scenes -------------------------------------


def test_bfloat16_agrees_with_float32(tiny: CaptionModel) -> None:
    for seed in range(2):
        scene = draw_scene(seed, size=64, gsd_m=2.0)
        pictures = as_tensor(scene.before), as_tensor(scene.after)
        exact = tiny.see(*pictures)
        with torch.autocast("cpu", torch.bfloat16):
            rough = tiny.see(*pictures)
        assert exact.changed_probability is not None
        assert rough.changed_probability is not None
        assert rough.changed_probability.dtype == torch.float32
        torch.testing.assert_close(
            exact.changed_probability, rough.changed_probability, atol=0.08, rtol=0
        )
        relative = (rough.difference_map - exact.difference_map).abs() / exact.difference_map.max()
        assert float(relative.max()) < 0.15


def test_golden_bfloat16_agrees_with_float32(shipped_model: str) -> None:
    model = load_model(shipped_model)
    scene = draw_scene(12, size=256, kinds=["houses"])
    pictures = as_tensor(scene.before), as_tensor(scene.after)
    exact = model.see(*pictures)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.see(*pictures)
        said = model.say(rough, 1)
    assert torch.equal(exact.path, rough.path)
    assert exact.changed_probability is not None
    assert rough.changed_probability is not None
    torch.testing.assert_close(
        exact.changed_probability, rough.changed_probability, atol=0.05, rtol=0
    )
    maps = torch.stack([exact.difference_map.flatten(), rough.difference_map.flatten().float()])
    assert float(torch.corrcoef(maps)[0, 1]) > 0.99
    assert said[0][0].ids == model.say(exact, 1)[0][0].ids


@pytest.mark.parametrize("seed", range(6))
def test_golden_equal_dates_are_unchanged(shipped_model: str, seed: int) -> None:
    scene = draw_scene(seed, size=256)
    for picture in (scene.before, scene.after):
        described = describe_arrays(picture, picture, model=shipped_model, gsd_m=0.5, explain=True)
        assert not described.changed
        assert described.changed_probability < 0.5
        assert tuple(described.caption.split()) in predict._UNCHANGED
        assert described.explanation is not None
        assert not described.explanation.change_map.any()
