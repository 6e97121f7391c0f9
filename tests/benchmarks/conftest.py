"""A folder in the layout of the shared data, small enough to train on in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIDE = 64


def write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def draw_pair(seed: int, changed: bool) -> tuple[np.ndarray[Any, Any], ...]:
    """Before, after and mask: a bright square appears on dark ground."""
    rng = np.random.default_rng(seed)
    before = rng.integers(40, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    after, mask = before.copy(), np.zeros((SIDE, SIDE), np.uint8)
    if changed:
        top, left = rng.integers(4, 28, 2)
        after[top : top + 28, left : left + 28] = 240
        mask[top : top + 28, left : left + 28] = 255
    return before, after, mask


def entry(name: str, split: str, changed: bool, source: str) -> dict[str, Any]:
    sentences = ["a house is built"] if changed else ["the scene is the same as before"]
    return {
        "filename": f"{name}.png",
        "split": split,
        "changeflag": int(changed),
        "sentences": [{"raw": text} for text in sentences],
        "source": source,
    }


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training pairs with captions, one of them without mask; three sets of two; four to
    validate on, one of them without mask."""
    root = tmp_path_factory.mktemp("data")
    pairs = [(f"t{i}", "train", i % 3 != 2, "levir-cc", i != 5) for i in range(6)]
    pairs += [
        ("v0", "val", True, "clcd", True),
        ("v1", "val", False, "crop-clcd_val", True),
        ("v2", "val", True, "levir-val", True),
        ("v3", "val", True, "crop-clcd_val", False),
    ]
    for seed, (name, split, changed, _, masked) in enumerate(pairs):
        before, after, mask = draw_pair(seed, changed)
        images = root / "captioned" / "images" / split
        write(images / "A" / f"{name}.png", before)
        write(images / "B" / f"{name}.png", after)
        if masked:
            write(root / "captioned" / "label" / split / f"{name}.png", mask)
    entries = [entry(name, split, changed, source) for name, split, changed, source, _ in pairs]
    (root / "captioned" / "captions.json").write_text(json.dumps({"images": entries}))
    for number, folder in enumerate(("levir_train_plain", "levir_train_jitter", "gz_cd")):
        for index in range(2):
            layers = draw_pair(100 + 10 * number + index, changed=index == 0)
            for part, pixels in zip(("A", "B", "label"), layers, strict=True):
                write(root / "masks" / folder / part / f"{index}.png", pixels)
    return root
