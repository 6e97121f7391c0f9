"""Small captioned sets and small models: a whole training run in a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from whatchanged.config import apply_mapping, from_mapping
from whatchanged.train import loop
from whatchanged.train.config import TrainConfig

SIZE = 64
UNCHANGED = ["the scene is the same as before", "there is no difference"]
# What may be shown mirrored: freely, never, and only left to right.
CHANGED = [
    ["a house is built on the left side", "a house appears"],
    ["the letter s is painted on the roof"],
    ["a house is built behind the trees on the right side"],
]


def picture(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth ground without symmetry, [64, 64, 3]."""
    coarse = rng.integers(40, 200, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def write_entry(folder: Path, split: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Write one pair, every third unchanged, and return its entry."""
    name, changed = f"{split}_{number:03d}.png", number % 3 != 2
    before = picture(rng)
    after = before.copy()
    if changed:
        row, column = rng.integers(4, 40, 2)
        after[row : row + 16, column : column + 16] = rng.integers(150, 255, 3)
    for date, pixels in (("A", before), ("B", after)):
        place = folder / "images" / split / date
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / name)
    captions = CHANGED[number % 9 // 3] if changed else UNCHANGED
    return {
        "filename": name,
        "split": split,
        "changeflag": int(changed),
        "sentences": [{"raw": caption} for caption in captions],
        "source": "levir-half" if split == "train" else "clcd",
    }


@pytest.fixture(scope="session")
def write_pairs() -> Callable[..., Path]:
    """Function that writes a captioned set in LEVIR-CC's layout into an empty folder."""

    def write(folder: Path, *, n_train: int = 11, n_val: int = 3) -> Path:
        rng = np.random.default_rng(5)
        entries = [write_entry(folder, "train", i, rng) for i in range(n_train)]
        entries += [write_entry(folder, "val", i, rng) for i in range(n_val)]
        (folder / "captions.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def pairs(write_pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 11 training pairs and 3 validation pairs that no test changes."""
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def tiny(pairs: Path) -> Callable[..., TrainConfig]:
    """Function that makes the configuration of a small HiSem run, values laid over it."""

    def make(out: Path | str, **values: Any) -> TrainConfig:
        base = {
            "task": "hisem",
            "out": str(out),
            "model": {
                "encoder": {"start": None, "channels": 32, "unfreeze_last": 0, "input_size": SIZE},
                "width": 32,
                "grid": 4,
                "bdam": {"layers": 1, "heads": 4},
                "hasd": {"hidden": 32, "expert_hidden": 16},
                "decoder": {"heads": 4, "max_len": 16},
            },
            "data": {"captions": [str(pairs)], "size": SIZE, "min_count": 0, "max_words": 16},
            "optimiser": {"lr": 1e-3},
            "epochs": 2,
            "batch_size": 4,
            "save_minutes": 1e6,
        }
        return from_mapping(TrainConfig, apply_mapping(base, values))

    return make


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the runs; tests of the curves draw them all the same."""
    monkeypatch.setattr(loop, "plot_curves", lambda log, out: None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
