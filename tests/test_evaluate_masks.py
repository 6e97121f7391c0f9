"""Masks of models beside the floors, on sets with masks and on five-field samples."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from whatchanged import evaluate_masks as module
from whatchanged.config import to_mapping
from whatchanged.data.asked_pairs import ANY_WISH, open_pairs
from whatchanged.data.prepared import write_record, write_splits
from whatchanged.data.reason_json import ReasonSample, encode_reason_mask, write_reason_json
from whatchanged.errors import CheckpointError, DatasetError, UsageError
from whatchanged.evaluate_masks import (
    MASK_FAMILIES,
    evaluate_masks,
    family_of,
    open_drawer,
)
from whatchanged.evaluate_masks_report import HEADS, as_text, scores_of, to_json, write_report
from whatchanged.models.checkpoint import save_checkpoint
from whatchanged.models.reasoncd.mask_part import MASKS_FAMILY, MaskPart
from whatchanged.models.reasoncd.store import save_reasoncd

SIZE = 64


def load_kit(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_of_" + path.parent.name, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def kit(repository: Path) -> ModuleType:
    """What the tests of ReasonCD build their models of."""
    return load_kit(repository / "tests" / "models" / "reasoncd" / "conftest.py")


@pytest.fixture(scope="module")
def pairs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four test pairs, two of them with a change of 24 x 24 of 64 x 64 pixels."""
    write: Callable[..., Path] = load_kit(
        repository / "tests" / "reproduce" / "conftest.py"
    )._write_set
    return write(tmp_path_factory.mktemp("masked"), {"train": 2, "test": 4})


@pytest.fixture(scope="module")
def part(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mask part, in the `best/` of a run."""
    torch.manual_seed(0)
    tensors = MaskPart(kit.TINY).state_dict()
    folder = tmp_path_factory.mktemp("run") / "best"
    config = {"preset": "reasoncd-small", "model": to_mapping(kit.TINY)}
    save_checkpoint(folder, family=MASKS_FAMILY, config=config, tensors=tensors, extras={})
    return folder.parent


@pytest.fixture(scope="module")
def whole(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ReasonCD with its words."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    save_reasoncd(folder, kit.make(), "reasoncd-small")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Function that puts a drawing function in the place of every model."""

    def put(draw: Any) -> None:
        monkeypatch.setattr(module, "open_drawer", lambda model: ("0" * 64, draw))

    return put


def bright(before: Any, after: Any, wishes: Any) -> list[Any]:
    """The test pairs' changes are the only pixels that are 230."""
    return [(after == 230).all(axis=0) & (before != 230).any(axis=0)] * len(wishes)


def write_samples(folder: Path, masks: dict[str, tuple[str, np.ndarray]]) -> Path:
    """Write one pair and samples about it: file of the mask -> question and mask."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    samples = []
    for name, (question, mask) in masks.items():
        Image.fromarray(encode_reason_mask(mask)).save(folder / name)
        samples.append(
            ReasonSample(folder / "a.png", folder / "b.png", folder / name, question, "It's <CHG>.")
        )
    write_reason_json(folder / "samples.json", samples)
    return folder / "samples.json"


def test_one_confusion_over_all_pairs_beside_the_floors(pairs: Path, fake: Any) -> None:
    fake(bright)
    report = evaluate_masks(["perfect"], pairs, size=SIZE)
    (evaluation,) = report.evaluations
    assert [mask.changed for mask in evaluation.masks] == [True, False, True, False]
    assert scores_of(evaluation.masks, "overall") == dict.fromkeys(HEADS, 100.0)
    share = 100 * 2 * 24 * 24 / (4 * SIZE * SIZE)
    nothing = scores_of(report.floors["nothing changed"], "overall")
    everything = scores_of(report.floors["everything changed"], "overall")
    assert (nothing["f1"], nothing["oa"]) == pytest.approx((0, 100 - share))
    assert (everything["precision"], everything["recall"]) == pytest.approx((share, 100))


def test_a_part_without_changes_has_an_accuracy_and_nothing_else(pairs: Path, fake: Any) -> None:
    fake(lambda before, after, wishes: [np.ones((SIZE, SIZE), np.bool_)])
    (evaluation,) = evaluate_masks(["all"], pairs, size=SIZE).evaluations
    unchanged = scores_of(evaluation.masks, "unchanged")
    assert unchanged.pop("oa") == 0 and set(unchanged.values()) == {None}
    changed = scores_of(evaluation.masks, "changed")
    assert changed["precision"] == pytest.approx(100 * 24 * 24 / SIZE**2)
    assert changed["recall"] == 100


def test_several_models_are_seeds_of_one(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = [np.zeros((SIZE, SIZE), np.bool_)]
    draws = {"right": bright, "blind": lambda *_: nothing}
    monkeypatch.setattr(module, "open_drawer", lambda model: (model, draws[model]))
    report = evaluate_masks(list(draws), pairs, size=SIZE)
    plain = to_json(report)
    assert plain["f1"] == 50 and plain["deviation"]["overall"]["f1"] == pytest.approx(70.7107)
    assert (plain["n"], plain["changed"]["n"]) == (4, 2)
    assert [run["overall"]["f1"] for run in plain["runs"]] == [100, 0]
    assert plain["runs"][0]["interval"]["f1"] == (100, 100)
    text = as_text(report)
    for told in ("mean of 2 runs ± deviation", "50.00 ± 70.71", "floor: nothing changed",
                 "4 masks, 2 with a change, asked for any change", "64 x 64"):  # fmt: skip
        assert told in text
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["f1"] == 50
    with (tmp_path / "pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    assert [row["fn"] for row in rows if row["model"] == "blind"] == ["576", "0", "576", "0"]
    assert rows[1]["f1"] == "" and rows[1]["oa"] == "100.0000"


def test_a_trained_mask_part_draws_what_it_predicts(part: Path, kit: Any, pairs: Path) -> None:
    assert family_of(part) == MASKS_FAMILY in MASK_FAMILIES
    (evaluation,) = evaluate_masks([part], pairs, size=SIZE).evaluations
    torch.manual_seed(0)
    model = MaskPart(kit.TINY).eval()
    found, _ = open_pairs(pairs, "test", SIZE)
    for pair, scored in zip(found, evaluation.masks, strict=True):
        dates = (torch.from_numpy(d)[None].float() for d in (pair.before, pair.after))
        with torch.no_grad():
            mask = model(*dates, torch.zeros(1, dtype=torch.long), [module.ANY])[0] > 0
        assert scored.counts.tp + scored.counts.fp == int(mask.sum())


def test_five_field_samples_are_asked_their_own_questions(whole: Path, tmp_path: Path) -> None:
    met = np.zeros((SIZE, SIZE), np.uint8)
    met[:8, :8] = 1
    unknown = met.copy()
    unknown[32:] = 255
    path = write_samples(
        tmp_path, {"one.png": ("new houses", met), "two.png": ("flooded fields", unknown)}
    )
    assert family_of(whole) in MASK_FAMILIES
    report = evaluate_masks([whole], path, size=SIZE)
    assert (report.data, report.wish) == ("samples.json", None)
    (evaluation,) = report.evaluations
    assert [mask.wish for mask in evaluation.masks] == ["new houses", "flooded fields"]
    assert [mask.counts.n_pixels for mask in evaluation.masks] == [SIZE**2, SIZE**2 // 2]
    before, after = (np.zeros((3, SIZE, SIZE), np.uint8) for _ in range(2))
    _, draw = open_drawer(whole)
    assert [m.shape for m in draw(before, after, ["a", "b"])] == [(SIZE, SIZE)] * 2
    assert "each asked for its own wish" in as_text(report)


def test_pairs_of_one_file_name_stay_apart(tmp_path: Path, fake: Any) -> None:
    """Two folders with before.png are two pairs, for pairs.csv and for the bootstrap."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:8] = 1
    samples = []
    for folder in (tmp_path / "p1", tmp_path / "p2"):
        folder.mkdir()
        write_samples(folder, {"mask.png": ("new houses", mask)})
        samples.append(
            ReasonSample(
                folder / "a.png", folder / "b.png", folder / "mask.png", "new houses", "It's <CHG>."
            )
        )
    write_reason_json(tmp_path / "all.json", samples)
    right = [mask == 1, mask == 9]  # the first pair is drawn, the second is not
    fake(lambda before, after, wishes: [right.pop(0)])
    report = evaluate_masks(["model"], tmp_path / "all.json", size=SIZE)
    (evaluation,) = report.evaluations
    assert [m.pair for m in evaluation.masks] == ["p1/a.png", "p2/a.png"]
    assert to_json(report)["runs"][0]["interval"]["f1"] == (0, 100)


def test_the_report_names_set_recipe_and_list(tmp_path: Path, pairs: Path, fake: Any) -> None:
    write_samples(tmp_path, {"m.png": ("changed buildings", np.ones((SIZE, SIZE), np.uint8))})
    (tmp_path / "samples.json").rename(tmp_path / "test.json")
    sums = write_splits(tmp_path, "blocks-1", {"test": ["a"]})
    write_record(tmp_path, "bcdd", {"recipe": "blocks-1"}, sha256=sums)
    fake(bright)
    report = evaluate_masks(["model"], tmp_path, size=SIZE)
    plain = to_json(report)
    told = [plain[key] for key in ("data", "set", "recipe", "split_sha256")]
    assert told == ["test", "bcdd", "blocks-1", sums["test"]]
    line = f"set bcdd, recipe blocks-1, list of the split has sha256 {sums['test']}"
    assert line in as_text(report).splitlines()
    bare = evaluate_masks(["model"], pairs, size=SIZE)
    assert to_json(bare)["recipe"] is to_json(bare)["split_sha256"] is None
    assert "set captioned" in as_text(bare).splitlines()


def test_a_mask_part_has_no_words(part: Path, tmp_path: Path) -> None:
    path = write_samples(tmp_path, {"m.png": ("new houses", np.zeros((SIZE, SIZE), np.uint8))})
    with pytest.raises(UsageError, match="has no words"):
        evaluate_masks([part], path, size=SIZE)


@pytest.fixture
def levir_cd(tmp_path: Path) -> Path:
    """One pair a split in LEVIR-CD's layout: the lower right quarter is changed and bright."""
    for split in ("train", "val", "test"):
        for place in ("A", "B", "label"):
            pixels = np.full((1024, 1024, 3), 9, np.uint8)
            if place != "A":
                pixels[512:, 512:] = 230 if place == "B" else 255
            if place == "label":
                pixels[pixels == 9] = 0
            folder = tmp_path / "LEVIR-CD" / split / place
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / f"{split}_1.png")
    return tmp_path / "LEVIR-CD"


def test_a_set_of_masks_is_scored_in_its_usual_windows(levir_cd: Path, fake: Any) -> None:
    """LEVIR-CD's 1,024 pixels are seen in 16 windows of 256, which become one mask."""
    seen: list[tuple[int, ...]] = []

    def draw(before: Any, after: Any, wishes: Any) -> list[Any]:
        seen.append(before.shape)
        return bright(before, after, wishes)

    fake(draw)
    report = evaluate_masks(["perfect"], levir_cd, "val")
    (mask,) = report.evaluations[0].masks
    assert seen == [(3, 256, 256)] * 16
    assert (mask.counts.tp, mask.counts.fn, mask.wish) == (512 * 512, 0, ANY_WISH)
    assert report.windows and to_json(report)["windows"] is True
    assert "256 x 256, windows cut at their own resolution" in as_text(report)


def test_pictures_can_be_reduced_instead(levir_cd: Path, fake: Any) -> None:
    fake(bright)
    report = evaluate_masks(["perfect"], levir_cd, "val", windows=False)
    (mask,) = report.evaluations[0].masks
    assert mask.counts.n_pixels == 256 * 256
    assert "pictures reduced to it" in as_text(report)
    unusual = evaluate_masks(["perfect"], levir_cd, "val", size=32)
    assert unusual.evaluations[0].masks[0].counts.n_pixels == 32 * 32


def test_windows_must_fill_the_picture(levir_cd: Path, pairs: Path, fake: Any) -> None:
    fake(bright)
    with pytest.raises(DatasetError, match="val_1 is 1024 x 1024 pixels, which windows of 100"):
        evaluate_masks(["perfect"], levir_cd, "val", size=100, windows=True)
    (evaluation,) = evaluate_masks(["perfect"], pairs, size=32, windows=True).evaluations
    assert scores_of(evaluation.masks, "overall") == dict.fromkeys(HEADS, 100.0)


def test_what_cannot_be_evaluated_is_said(
    pairs: Path, tiny_model: Path, tmp_path: Path, repository: Path
) -> None:
    with pytest.raises(CheckpointError, match="draws no masks"):
        open_drawer(tiny_model)
    with pytest.raises(UsageError, match="needs a model"):
        evaluate_masks([], pairs)
    write = load_kit(repository / "tests" / "reproduce" / "conftest.py")._write_set
    data = write(tmp_path, {"train": 1, "test": 1})
    (data / "label" / "test" / "test_000.png").unlink()
    with pytest.raises(DatasetError, match="no pair of split 'test' has a change mask"):
        open_pairs(data, "test", SIZE)


def test_shipped_weights_say_which_test_sets_they_have_seen(pairs: Path, fake: Any) -> None:
    fake(bright)
    own, shipped = (evaluate_masks([m], pairs, size=SIZE) for m in ("own", "reasoncd-small"))
    (note,) = to_json(shipped)["notes"]
    assert "reasoncd-small was trained on" in note and "LEVIR-CD" in note
    assert note in as_text(shipped)
    assert to_json(own)["notes"] == [] and "trained on" not in as_text(own)
