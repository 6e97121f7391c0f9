from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from whatchanged.config import from_mapping
from whatchanged.data.tokens import Vocabulary
from whatchanged.errors import DatasetError, UsageError
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.dense import DenseOutput
from whatchanged.train import run
from whatchanged.train.config import TrainConfig
from whatchanged.train.dense_task import DenseTask
from whatchanged.train.loop import fit
from whatchanged.train.run import build_task

CPU = torch.device("cpu")


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture(scope="module")
def sets(write_pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captioned pairs (some with masks), a mask set of objects and land cover."""
    root = tmp_path_factory.mktemp("sets")
    (root / "captioned").mkdir()
    write_pairs(root / "captioned", n_train=5, n_val=2)
    half = np.zeros((64, 64))
    half[:, :32] = 255
    for split, name in (("train", "train_000"), ("val", "val_000"), ("val", "val_001")):
        save(root / "captioned" / "label" / split / f"{name}.png", half)
    save(root / "captioned" / "sem" / "train" / "A" / "train_000.png", half // 255 * 3)
    save(root / "captioned" / "sem" / "train" / "B" / "train_000.png", half // 255 * 5)
    rng = np.random.default_rng(0)
    for part in ("A", "B"):
        for name in ("p", "q"):
            save(root / "masks" / "cdd" / part / f"{name}.png", rng.integers(0, 255, (64, 64, 3)))
    corner = np.zeros((64, 64))
    corner[:40, :32] = 255
    for name in ("p", "q"):
        save(root / "masks" / "cdd" / "label" / f"{name}.png", corner)
    for kind, name in (("dubai", "t1"), ("loveda", "9")):
        save(root / "cover" / kind / "images" / f"{name}.png", rng.integers(0, 255, (200, 220, 3)))
    save(root / "cover" / "dubai" / "masks" / "t1.png", np.full((200, 220, 3), (60, 16, 152)))
    save(root / "cover" / "loveda" / "masks" / "9.png", np.full((200, 220), 4))
    return root


@pytest.fixture
def config(sets: Path, tmp_path: Path) -> TrainConfig:
    """A small pre-training run with every kind of data."""
    return from_mapping(
        TrainConfig,
        {
            "task": "dense",
            "out": str(tmp_path),
            "model": {"encoder": {"start": None, "channels": 32}},
            "data": {
                "captions": [str(sets / "captioned")],
                "masks_root": str(sets / "masks"),
                "masks": {"cdd": "object"},
                "landcover": str(sets / "cover"),
                "size": 64,
                "min_count": 0,
                "photometric": 0.5,
            },
            "monitor": "score",
            "epochs": 1,
            "batch_size": 6,
            "save_minutes": 1e6,
        },
    )


def built(config: TrainConfig) -> DenseTask:
    task = build_task(config)
    assert isinstance(task, DenseTask)
    return task


def batch(task: DenseTask, indices: list[int], seed: int = 0) -> Any:
    return task.load(indices, torch.Generator().manual_seed(seed))


def test_an_epoch_is_all_pairs_and_crops_of_land_cover(config: TrainConfig) -> None:
    task = built(config)
    assert len(task) == 5 + 2 + 4 * 2
    assert task.names([0, 5, 6, 7, 8, 9]) == [
        *("levir-half/train_000", "cdd/p", "cdd/q", "t1", "9", "t1")
    ]


def test_what_is_known_of_a_pair_depends_on_its_source(config: TrainConfig) -> None:
    task = built(config)
    # Crops of fine pictures know no caption: the first is drawn until it is seen whole.
    seeds = (batch(task, [0], seed).target for seed in range(20))
    whole = next(target for target in seeds if float(target.changed[0]) == 1)
    assert whole.kind.tolist() == [0]
    assert set(whole.mask.unique().tolist()) == {0, 1}
    assert set(whole.classes_before.unique().tolist()) <= {0, 3}
    assert set(whole.classes_after.unique().tolist()) <= {0, 5}
    assert float(whole.words.min()) == 0 and float(whole.words.max()) == 1
    target = batch(task, [5, 7]).target
    assert target.kind.tolist() == [2, 0]
    assert target.changed.tolist() == [-1, -1]
    assert bool((target.words == -1).all())
    assert set(target.mask[0].unique().tolist()) == {0, 1}
    assert set(target.mask[1].unique().tolist()) == {255}
    assert set(target.classes_before[0].unique().tolist()) == {255}
    assert set(target.classes_after[1].unique().tolist()) == {5}  # Dubai's building


def test_words_are_shares_of_the_captions(config: TrainConfig) -> None:
    task = built(config)
    sample = task.samples[0]  # "a house is built on the left side", "a house appears"
    row = dict(zip(task.vocabulary.words[4:], task._words(sample).tolist(), strict=True))
    assert (row["house"], row["a"], row["built"], row["appears"]) == (1, 1, 0.5, 0.5)
    assert row["letter"] == 0
    unchanged = dict(
        zip(task.vocabulary.words[4:], task._words(task.samples[2]).tolist(), strict=True)
    )
    assert unchanged["same"] == 1 and unchanged["house"] == 0


def test_pictures_masks_and_land_cover_turn_together(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = built(replace(config, data=replace(config.data, photometric=0.0)))
    layers = task.store.whole(5)
    marked = np.stack([layers.mask * 255] * 3)  # draw the mask into the picture
    monkeypatch.setattr(task.store, "whole", lambda index: replace(layers, before=marked))
    turns = set()
    for seed in range(48):
        one = batch(task, [5], seed)
        assert torch.equal(one.before[0, 0] == 255, one.target.mask[0] == 1)
        place = one.target.mask[0, ::63, ::63].flatten().tolist().index(1)
        height = int(one.target.mask[0].amax(1).sum())
        turns.add((place, height))
    assert turns == {(place, height) for place in range(4) for height in (32, 40)}


def test_a_batch_is_decided_by_its_generator(config: TrainConfig) -> None:
    task = built(config)
    indices = [0, 3, 5, 7, 8]
    one, again, other = (batch(task, indices, seed) for seed in (3, 3, 4))
    for key in ("mask", "classes_before", "words", "changed"):
        assert torch.equal(getattr(one.target, key), getattr(again.target, key))
    assert torch.equal(one.before, again.before)
    assert not torch.equal(one.before, other.before)


def test_the_loss_is_the_sum_of_its_parts(config: TrainConfig) -> None:
    task = built(config)
    loss = task.loss(task.model, batch(task, [0, 2, 5, 7]), 0, CPU)
    assert set(loss.parts) == {"mask", "cover", "words", "changed"}
    assert float(loss.total.detach()) == pytest.approx(sum(loss.parts.values()), rel=1e-5)
    assert all(value >= 0 for value in loss.parts.values())


def test_a_run_leaves_the_encoder_alone(config: TrainConfig, tmp_path: Path) -> None:
    task = built(replace(config, max_steps=2))
    first = task.encoder.stem[1].weight.detach().clone()
    fit(task, replace(config, max_steps=2), tmp_path)
    saved = load_checkpoint(tmp_path / "best")
    assert saved.family == "encoder"
    assert saved.config["encoder"]["channels"] == 32
    assert saved.tensors.keys() == task.encoder.state_dict().keys()
    assert set(saved.extras["validation"]) == set(task.measures)
    assert not torch.equal(first, task.encoder.stem[1].weight)


def test_only_the_unfrozen_part_trains(config: TrainConfig, tmp_path: Path) -> None:
    model = {"encoder": {"start": None, "channels": 32, "unfreeze_last": 1}}
    config = replace(config, model=model, max_steps=1)
    task = built(config)
    before = {k: v.clone() for k, v in task.encoder.state_dict().items()}
    fit(task, config, tmp_path)
    after = task.encoder.state_dict()
    moved = {k.rpartition(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved and all(name.startswith(("stages.6", "neck")) for name in moved)


def test_rates_of_heads_and_encoder(config: TrainConfig) -> None:
    optimiser = replace(config.optimiser, lr=1e-3, encoder_lr=0.0)
    heads, encoder = built(replace(config, optimiser=optimiser)).parameter_groups()
    assert (heads["lr"], encoder["lr"]) == (1e-3, 0.0)
    heads, encoder = built(replace(config, optimiser=replace(optimiser, encoder_lr=None))
                           ).parameter_groups()  # fmt: skip
    assert encoder["lr"] == 1e-3


def test_validation_counts_masks_words_and_labels(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = built(config)
    words = torch.full((2, len(task.vocabulary) - 4), -9.0)
    known = [Vocabulary.encode(task.vocabulary, c) for c in task.validation[0].captions]
    words[:, [i - 4 for ids in known for i in ids if i >= 4]] = 9.0
    mask = torch.full((2, 3, 16, 16), -9.0)
    mask[0, 1, :, :8] = 9.0  # cropland: right
    mask[1, 1] = 9.0  # twice as much as there is

    def answer(before: torch.Tensor, after: torch.Tensor) -> DenseOutput:
        cover = torch.zeros(2, 8, 8, 8)
        return DenseOutput(mask, cover, cover, words, torch.tensor([9.0, -9.0]))

    monkeypatch.setattr(task.model, "forward", answer)
    numbers = task.validate()
    assert tuple(numbers) == task.measures
    right, found, there = 2 * 16 * 8, 16 * 8 + 16 * 16, 2 * 16 * 8
    assert numbers["f1_cropland"] == pytest.approx(2 * right / (found + there))
    assert numbers["f1_building"] == 0  # no building set in this validation split
    assert numbers["changed_accuracy"] == 0.5
    assert numbers["f1_words"] == 1.0
    mean = (numbers["f1_cropland"] + 0 + 0.5 + 1.0) / 4
    assert numbers["score"] == pytest.approx(mean)


def test_entries_left_out_are_told(config: TrainConfig, sets: Path, tmp_path: Path) -> None:
    source = sets / "captioned"
    content = json.loads((source / "captions.json").read_text())
    content["images"][1]["sentences"] = []
    (tmp_path / "captions.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(source / "images")
    data = replace(config.data, captions=(str(tmp_path),), skip_broken=True)
    task = built(replace(config, data=data))
    assert len(task.broken) == 1 and "train_001.png" in task.broken[0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named(
    config: TrainConfig, write_pairs: Callable[..., Path], tmp_path: Path, split: str
) -> None:
    n = {"n_train": 2, "n_val": 2} | {f"n_{split}": 0}
    folder = write_pairs(tmp_path, **n)
    with pytest.raises(DatasetError, match=f"no pair of split '{split}'"):
        built(replace(config, data=replace(config.data, captions=(str(folder),))))


def test_sizes_and_data_that_do_not_do_are_refused(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match=r"data.size is 72"):
        built(replace(config, data=replace(config.data, size=72)))
    with pytest.raises(UsageError, match=r"data.captions is empty"):
        built(replace(config, data=replace(config.data, captions=())))


def test_only_the_compact_encoder_is_pretrained(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "build_encoder", lambda config: torch.nn.Identity())
    with pytest.raises(UsageError, match="compact encoder only"):
        build_task(config)
