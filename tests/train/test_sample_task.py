"""Training on five-field samples: what is read, learned, scored and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from whatchanged.config import apply_mapping, to_mapping
from whatchanged.data.prepared import samples_file
from whatchanged.data.reason_json import ReasonSample, encode_reason_mask, write_reason_json
from whatchanged.errors import DatasetError, UsageError
from whatchanged.models.reasoncd.config import ReasonCDConfig
from whatchanged.models.reasoncd.loss import reasoncd_loss
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.models.reasoncd.vision import ClipSamVision
from whatchanged.train import sample_task
from whatchanged.train.config import TrainConfig
from whatchanged.train.record import read_log
from whatchanged.train.run import build_task, train
from whatchanged.train.sample_task import SampleTask

SIZE = 64
CPU = torch.device("cpu")
THERE = np.zeros((SIZE, SIZE), np.uint8)
THERE[:, :32] = 1
UNKNOWN_BELOW = THERE.copy()
UNKNOWN_BELOW[32:] = 255
NOTHING = np.zeros((SIZE, SIZE), np.uint8)
# Split -> samples: pair, question, answer, mask.
SAMPLES = {
    "train": [
        ("one", "new houses", "It's buildings that appeared: <CHG>.", THERE),
        ("one", "flooded fields", "There is no water that appeared.", NOTHING),
        ("two", "new houses", "It's <CHG>.", UNKNOWN_BELOW),
    ],
    "val": [
        ("three", "new houses", "It's <CHG>.", THERE),
        ("three", "flooded fields", "There is none.", NOTHING),
    ],
}


@pytest.fixture(autouse=True)
def random_base(reasoncd_kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model that starts at random has no tokenizer of its own."""

    def start(config: ReasonCDConfig) -> ReasonCD:
        model: ReasonCD = reasoncd_kit.make(config)
        return model.train()

    monkeypatch.setattr(sample_task, "start_reasoncd", start)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples as a preparation leaves them; never changed."""
    folder = tmp_path_factory.mktemp("prepared")
    write_all(folder, SAMPLES)
    return folder


def write_all(folder: Path, splits: dict[str, list[tuple[str, str, str, Any]]]) -> None:
    rng = np.random.default_rng(0)
    for split, samples in splits.items():
        written = []
        for number, (pair, question, answer, mask) in enumerate(samples):
            places = [folder / f"{pair}-{date}.png" for date in ("before", "after")]
            for place in places:
                if not place.exists():
                    pixels = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place)
            mask_place = folder / f"{split}-{number}.png"
            Image.fromarray(encode_reason_mask(mask)).save(mask_place)
            written.append(ReasonSample(*places, mask_place, question, answer))
        write_reason_json(folder / f"{split}.jsonl", written)


@pytest.fixture(scope="module")
def configure(
    prepared: Path, tiny_wishes: Callable[..., TrainConfig]
) -> Callable[..., TrainConfig]:
    """Function that makes the configuration of a small run, values laid over it."""

    def make(out: Path | str = "unused", **values: Any) -> TrainConfig:
        own = {
            "data": {"samples": str(prepared)},
            "optimiser": {"lr": 1e-2},
            "batch_size": 2,
            "monitor": "f1",
        }
        return tiny_wishes("samples", out, **apply_mapping(own, values))

    return make


def build(config: TrainConfig) -> SampleTask:
    task = build_task(config)
    assert isinstance(task, SampleTask)
    return task


def load(task: SampleTask, indices: list[int], seed: int = 0) -> sample_task.SampleBatch:
    return task.load(indices, torch.Generator().manual_seed(seed))


def test_a_batch_is_what_the_samples_say(
    configure: Callable[..., TrainConfig], prepared: Path
) -> None:
    task = build(configure())
    assert len(task) == 3
    batch = load(task, [0, 2])
    with Image.open(prepared / "two-after.png") as picture:
        assert np.array_equal(batch.after[1].numpy(), np.asarray(picture).transpose(2, 0, 1))
    assert np.array_equal(batch.masks.numpy(), np.stack([THERE, UNKNOWN_BELOW]))
    (sample,) = batch.groups[0]
    assert sample == task.reasoncd.writer.sample(*SAMPLES["train"][0][1:3])
    assert task.names([1]) == [str(prepared / "train-1.png")]


def test_pictures_and_masks_are_mirrored_together(configure: Callable[..., TrainConfig]) -> None:
    task = build(configure(data={"flips": True}))
    plain = build(configure())
    original = load(plain, [0])
    seen = set()
    for seed in range(16):
        batch = load(task, [0], seed)
        for axes in ((), (-1,), (-2,), (-1, -2)):
            if torch.equal(batch.before, original.before.flip(axes)):
                seen.add(axes)
                assert torch.equal(batch.masks, original.masks.flip(axes))
                assert torch.equal(batch.after, original.after.flip(axes))
    assert len(seen) == 4


def test_the_loss_is_the_papers(configure: Callable[..., TrainConfig]) -> None:
    task = build(configure())
    task.model.eval()
    batch = load(task, [0, 1, 2])
    loss = task.loss(task.model, batch, 0, CPU)
    output = task.model(batch.before, batch.after, batch.groups)
    expected = reasoncd_loss(output, batch.masks, task.reasoncd.writer.ids.target)
    assert float(loss.total.detach()) == pytest.approx(float(expected.total.detach()))
    assert loss.parts == pytest.approx(
        {k: float(getattr(expected, k).detach()) for k in ("text", "bce", "dice")}
    )
    assert output.has_target.tolist() == [True, False, True]


def test_what_is_trained_is_what_the_design_says(configure: Callable[..., TrainConfig]) -> None:
    task = build(configure())
    task.model.train()
    task.loss(task.model, load(task, [0, 1, 2]), 0, CPU).total.backward()
    trained = {n for n, p in task.reasoncd.named_parameters() if p.grad is not None}
    for part in ("lora_A", "language.rows", "project", "fusion", "state_prompt", "mask_decoder"):
        assert any(part in name for name in trained), part
    assert not any(name.startswith("vision") for name in trained)


def test_validation_is_one_confusion_over_all_pixels(
    configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = build(configure())

    class Answer:
        found = True
        mask = torch.ones(SIZE, SIZE, dtype=torch.bool)

    monkeypatch.setattr(sample_task, "ask_layers", lambda m, b, a, wishes: [Answer()] * len(wishes))
    numbers = task.validate()
    assert numbers == pytest.approx(
        {"f1": 0.4, "iou": 0.25, "precision": 0.25, "recall": 1.0, "answered": 0.5}
    )


def test_a_run_leaves_a_model_that_can_be_asked(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    best = train(configure(tmp_path / "run", epochs=3, optimiser={"clip": 1.0}))
    losses = [r["loss"] for r in read_log(best.parent / "log.jsonl") if r["event"] == "step"]
    assert len(losses) == 6 and np.mean(losses[-2:]) < np.mean(losses[:2])
    assert load_reasoncd(best).writer.ids.target > 0


def test_frozen_eyes_see_every_picture_once(
    configure: Callable[..., TrainConfig],
    reasoncd_kit: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three samples of two pairs and one validation pair, over two epochs: six pictures."""
    seen = []
    see = ClipSamVision._see_frozen
    monkeypatch.setattr(
        ClipSamVision, "_see_frozen", lambda self, p: seen.append(len(p)) or see(self, p)
    )
    cache = tmp_path / "cache"
    config = configure(
        tmp_path / "run",
        model=to_mapping(reasoncd_kit.TINY_CLIP_SAM),
        data={"feature_cache": str(cache)},
        epochs=2,
    )
    train(config)
    assert sum(seen) == 6 == len(list(cache.glob("frozen-*/*.safetensors")))


def test_what_cannot_be_trained_on_is_said(
    configure: Callable[..., TrainConfig], reasoncd_kit: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="the compact encoder trains"):
        build(configure(data={"feature_cache": str(tmp_path)}))
    with pytest.raises(UsageError, match="would find nothing again"):
        build(
            configure(
                model=to_mapping(reasoncd_kit.TINY_CLIP_SAM),
                data={"feature_cache": str(tmp_path), "photometric": 0.5},
            )
        )
    with pytest.raises(UsageError, match=r"needs data\.samples"):
        build(configure(data={"samples": None}))
    with pytest.raises(DatasetError, match=r"holds no train\.jsonl"):
        samples_file(tmp_path, "train")
    long = {**SAMPLES, "train": [("one", "new houses " * 40, "It's <CHG>.", THERE)]}
    write_all(tmp_path, long)
    with pytest.raises(DatasetError, match=r"train-0\.png: the wish has 4\d\d characters"):
        build(configure(data={"samples": str(tmp_path)}))
