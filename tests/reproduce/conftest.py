"""A drawn data set and overrides that make every run a matter of a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from whatchanged.config import to_mapping
from whatchanged.reproduce.experiments import experiment
from whatchanged.reproduce.plan import FINISHED, PlannedRun, Request
from whatchanged.train import loop

SIZE = 64
UNCHANGED = ["the scene is the same as before", "there is no difference"]
CHANGED = ["a house is built on the left side", "new houses appear near the trees"]

# What turns the small recipes into models of a second.
TINY = (
    "model.encoder={start: null, channels: 32, input_size: 64, unfreeze_last: 1}",
    "model.width=32",
    "model.grid=4",
    "model.bdam.heads=4",
    "model.hasd={norm: group, hidden: 32, expert_hidden: 16}",
    "model.decoder={heads: 4, max_len: 16}",
    "data.size=64",
    "data.min_count=0",
    "data.max_words=16",
    "data.synthetic=0",
    "data.self_pairs=0",
    "data.views=1",
    "precision=float32",
    "validate_every=1",
    "batch_size=8",
)
# The same for the mask part of ReasonCD.
TINY_MASKS = (
    "model.compact.side=2",
    "model.compact.encoder={start: null, channels: 16, input_size: 64, unfreeze_last: 1}",
    "model.fusion={grid: 8, pyramid: 8, hidden: 24, width: 16}",
    "model.decoder={layers: 1, heads: 2, mlp: 32, masks: 0}",
    "data.size=64",
    "data.synthetic=0",
    "precision=float32",
    "batch_size=8",
)


def write_pair(
    folder: Path, split: str, number: int, rng: np.random.Generator
) -> dict[str, object]:
    """Write one pair, every second unchanged, with mask and land cover; return its entry."""
    name, changed = f"{split}_{number:03d}.png", number % 2 == 0
    coarse = rng.integers(40, 200, (8, 8, 3), dtype=np.uint8)
    before = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    after, mask = before.copy(), np.zeros((SIZE, SIZE), np.uint8)
    if changed:
        after[8:32, 16:40] = 230
        mask[8:32, 16:40] = 255
    for place, pixels in (
        (folder / "images" / split / "A", before),
        (folder / "images" / split / "B", after),
        (folder / "label" / split, mask),
        # Low vegetation, then a building.
        (folder / "sem" / split / "A", np.where(mask > 0, 3, 0).astype(np.uint8)),
        (folder / "sem" / split / "B", np.where(mask > 0, 5, 0).astype(np.uint8)),
    ):
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / name)
    return {
        "filename": name,
        "split": split,
        "changeflag": int(changed),
        "sentences": [{"raw": caption} for caption in (CHANGED if changed else UNCHANGED)],
    }


def _write_set(folder: Path, counts: dict[str, int]) -> Path:
    """Write a set in LEVIR-CC's layout with masks."""
    rng = np.random.default_rng(3)
    entries = [write_pair(folder, s, i, rng) for s, n in counts.items() for i in range(n)]
    (folder / "captions.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """Function that writes a set into a folder: split -> number of pairs."""
    return _write_set


@pytest.fixture(scope="session")
def finish() -> Callable[..., None]:
    """Function that makes a planned run look finished."""

    def finished(run: PlannedRun, *, seconds: float, pairs: int) -> None:
        record = {
            "variant": run.variant,
            "seed": run.seed,
            "seconds": seconds,
            "pairs": pairs,
            "config": to_mapping(run.config),
        }
        run.folder.mkdir(parents=True)
        (run.folder / FINISHED).write_text(json.dumps(record), encoding="utf-8")

    return finished


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training, 4 validation and 4 test pairs that no test changes."""
    return _write_set(tmp_path_factory.mktemp("pairs"), {"train": 8, "val": 4, "test": 4})


@pytest.fixture(scope="session")
def ask_for(pairs: Path) -> Callable[..., Request]:
    """Function that asks for a table at the size of a second."""

    def make(name: str, out: Path, seeds: tuple[int, ...] = (0,), *more: str) -> Request:
        found = experiment(name)
        tiny = TINY if found.paper == "HiSem" else TINY_MASKS
        return Request(found, pairs, out, seeds, "small", 1, (*tiny, *more))

    return make


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw no curves of single runs, and sum in one order."""
    monkeypatch.setattr(loop, "plot_curves", lambda log, out: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
