"""Encoder features of a run, computed once where the encoder is frozen."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whatchanged.config import to_mapping
from whatchanged.console import track
from whatchanged.models.backbones import Encoder, normalise
from whatchanged.train.caption_data import CaptionData, View

_BATCH = 16


class FeatureCache:
    """Features [n, 2, C, h, w] in float16 on disk: of every view of every training pair.

    The folder is named by a digest of the encoder, the pictures and how they are shown, so that
    a changed encoder or set never meets old features. It is complete or not there: a build
    that is killed leaves a folder named `.part`, which the next one replaces.

    Args:
        encoder: Frozen encoder.
        data: Pairs and views.
        folder: Folder that holds the caches of any number of runs; one process at a time
            builds in it.
    """

    def __init__(self, encoder: Encoder, data: CaptionData, folder: Path) -> None:
        self.data = data
        self.lights = data.config.views
        self.flips = len(data.train[0].captions)
        key = _digest(encoder, data)
        target = folder / f"features-{key}"
        if not target.exists():
            _build(target, encoder, data, self.flips, self.lights)
        self._train: NDArray[np.float16] = np.load(target / "train.npy", mmap_mode="r")
        self._validation: NDArray[np.float16] = np.load(target / "validation.npy", mmap_mode="r")

    def train(self, indices: Sequence[int], views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Return features of views of training pairs, before and after, [B, C, h, w] each."""
        rows = [
            _row(i, view.flip, view.light - int(self.data.train[i].same), self.flips, self.lights)
            for i, view in zip(indices, views, strict=True)
        ]
        # Rows in order of the file read faster; the batch keeps its own order.
        order = np.argsort(rows)
        read = np.empty((len(rows), *self._train.shape[1:]), np.float16)
        read[order] = self._train[np.asarray(rows)[order]]
        pairs = torch.from_numpy(read)
        return pairs[:, 0], pairs[:, 1]

    def validation(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return features of validation pairs, [B, C, h, w] each."""
        pairs = torch.from_numpy(self._validation[list(indices)])
        return pairs[:, 0], pairs[:, 1]


def _row(index: int, flip: int, light: int, flips: int, lights: int) -> int:
    return (index * flips + flip) * lights + light


def _build(target: Path, encoder: Encoder, data: CaptionData, flips: int, lights: int) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed run
    part.mkdir(parents=True)
    try:
        n = len(data.train) * flips * lights
        _write(part / "train.npy", n, encoder, _training_batches(data, flips, lights))
        _write(part / "validation.npy", len(data.validation), encoder, _validation_batches(data))
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _training_batches(
    data: CaptionData, flips: int, lights: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pictures of all views in order of their rows."""
    rows = [
        (index, View(flip, light + int(pair.same)))
        for index, pair in enumerate(data.train)
        for flip in range(flips)
        for light in range(lights)
    ]
    for start in range(0, len(rows), _BATCH):
        chosen = rows[start : start + _BATCH]
        generator = torch.Generator().manual_seed(start)
        shown = data.pictures([i for i, _ in chosen], [v for _, v in chosen], generator)
        yield shown.before, shown.after


def _validation_batches(data: CaptionData) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(data.validation), _BATCH):
        stop = min(start + _BATCH, len(data.validation))
        yield data.validation_pictures(range(start, stop))


@torch.no_grad()
def _write(path: Path, n: int, encoder: Encoder, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    encoder.eval()
    features = None
    row = 0
    total = -(-n // _BATCH)
    for before, after in track(batches, f"encoding {path.stem}", total):
        pixels = normalise(torch.cat([before, after]), encoder.config)
        maps = encoder(pixels.contiguous(memory_format=torch.channels_last))
        pairs = torch.stack(maps.chunk(2), dim=1).to(torch.float16).numpy()  # [b, 2, C, h, w]
        if features is None:
            features = np.lib.format.open_memmap(
                path, mode="w+", dtype=np.float16, shape=(n, *pairs.shape[1:])
            )
        features[row : row + len(pairs)] = pairs
        row += len(pairs)
    if features is not None:
        features.flush()


def _digest(encoder: Encoder, data: CaptionData) -> str:
    views = {k: v for k, v in to_mapping(data.config).items() if k != "feature_cache"}
    shown = (to_mapping(encoder.config), views)
    digest = hashlib.sha256(repr(shown).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    pictures = [(pair.before, pair.after) for pair in data.train]
    for dates in (*pictures, (data.store.before, data.store.after)):
        for date in dates:
            digest.update(np.ascontiguousarray(date).reshape(-1).data)
    digest.update(bytes(pair.same for pair in data.train))
    return digest.hexdigest()[:16]
