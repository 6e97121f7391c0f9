"""Dense pre-training of the compact encoder: masks, land cover and words of real pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whatchanged.config import to_mapping
from whatchanged.data.augment import photometric
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.mask_sets import CoverPicture, load_dubai, load_loveda, load_mask_set
from whatchanged.data.pictures import UNKNOWN, PictureStore, resize_classes, resize_picture
from whatchanged.data.samples import CaptionSample
from whatchanged.data.tokens import Vocabulary
from whatchanged.errors import DatasetError, UsageError
from whatchanged.models.backbones import CompactEncoder, normalise
from whatchanged.models.checkpoint import save_checkpoint
from whatchanged.models.dense import DenseChangeNet, DenseTarget, dense_loss
from whatchanged.train.config import TrainConfig
from whatchanged.train.loop import Loss
from whatchanged.train.pair_layers import LayerStore, PairLayers

KINDS = {"building": 0, "cropland": 1, "object": 2}
_SPECIALS = 4
_COVER_REPEATS = 4  # a land-cover picture is larger than a crop: several crops an epoch


@dataclass(frozen=True)
class DenseBatch:
    """Pictures [B, 3, H, W] in [0, 255] of both dates and what is known of them."""

    before: Tensor
    after: Tensor
    target: DenseTarget


class DenseTask:
    """Pairs, masks and words for `DenseChangeNet`; the encoder is what comes out.

    Args:
        config: The run.
        encoder: What is trained, with its start weights.
    """

    measures: tuple[str, ...] = (
        *("f1_building", "f1_cropland", "changed_accuracy", "f1_words"),
        "score",
    )

    def __init__(self, config: TrainConfig, encoder: CompactEncoder) -> None:
        data = config.data
        if not data.captions:
            raise UsageError("data.captions is empty", hint="name a folder in LEVIR-CC's layout")
        if data.size % 32:
            raise UsageError(
                f"data.size is {data.size}", hint="use a multiple of 32 for task dense"
            )
        self.config, self.size = config, data.size
        sets = [load_levir_cc(Path(root), skip_broken=data.skip_broken) for root in data.captions]
        captioned = [s for one in sets for s in one.of_split("train")]
        self.broken = tuple(line for one in sets for line in one.broken)
        masked = [
            sample
            for name in data.masks
            for sample in load_mask_set(Path(data.masks_root or ".") / name)
        ]
        self.samples = [*captioned, *masked]
        self.kinds = [_kind(s, data.masks) for s in self.samples]
        self.vocabulary = Vocabulary.build(
            (c for s in captioned for c in s.targets), data.min_count
        )
        self.store = LayerStore(self.samples, self.size)
        self.cover = _load_cover(data.landcover)
        self.validation = [s for one in sets for s in one.of_split("val")]
        if not captioned or not self.validation:
            split = "val" if captioned else "train"
            raise DatasetError(f"{', '.join(data.captions)}: no pair of split '{split}'")
        self.validation_store = PictureStore.open(self.validation, self.size)
        self.model: nn.Module = DenseChangeNet(encoder, len(self.vocabulary) - _SPECIALS)
        self.encoder = encoder

    def __len__(self) -> int:
        """Return the pairs of an epoch: all samples, and crops of land-cover pictures."""
        return len(self.samples) + _COVER_REPEATS * len(self.cover)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the names of samples."""
        return [self._name(i) for i in indices]

    def _name(self, index: int) -> str:
        if index < len(self.samples):
            sample = self.samples[index]
            return f"{sample.source}/{sample.name}"
        return self.cover[(index - len(self.samples)) % len(self.cover)].name

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains: the heads, and the encoder at its own rate."""
        optimiser = self.config.optimiser
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        own = {id(p) for p in encoder}
        heads = [p for p in self.model.parameters() if id(p) not in own and p.requires_grad]
        rate = optimiser.lr if optimiser.encoder_lr is None else optimiser.encoder_lr
        return [
            {"params": heads, "lr": optimiser.lr},
            {"params": encoder, "lr": rate},
        ]

    def load(self, indices: Sequence[int], generator: torch.Generator) -> DenseBatch:
        """Cut, turn and light one batch."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        items = [self._item(index, rng) for index in indices]
        before = torch.from_numpy(np.stack([item["before"] for item in items]))
        after = torch.from_numpy(np.stack([item["after"] for item in items]))
        before, after = photometric(before, after, self.config.data.photometric, generator)
        target = DenseTarget(
            mask=_stack(items, "mask"),
            kind=torch.tensor([item["kind"] for item in items]),
            classes_before=_stack(items, "classes_before"),
            classes_after=_stack(items, "classes_after"),
            words=_stack(items, "words"),
            changed=torch.tensor([item["changed"] for item in items]).float(),
        )
        return DenseBatch(before, after, target)

    def loss(self, model: nn.Module, batch: DenseBatch, epoch: int, device: torch.device) -> Loss:
        """Return the sum of the losses of what is known."""
        output = model(self._prepare(batch.before, device), self._prepare(batch.after, device))
        known = DenseTarget(**{k: v.to(device) for k, v in vars(batch.target).items()})
        parts = dense_loss(output, known)
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, {k: float(v.detach()) for k, v in parts.items()})

    def _prepare(self, pixels: Tensor, device: torch.device) -> Tensor:
        return normalise(pixels.to(device), self.encoder.config).contiguous(
            memory_format=torch.channels_last
        )

    def _item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": 0, "words": self._no_words(), "changed": -1.0}
        if index >= len(self.samples):
            place = (index - len(self.samples)) % len(self.cover)
            layers = self._cover_layers(self.cover[place], rng)
        else:
            sample = self.samples[index]
            told["kind"] = self.kinds[index]
            crop = self.store.crop(index, rng) if rng.random() < 0.5 else None
            layers = crop or self.store.whole(index)
            if crop is None and sample.captions:  # a crop need not show what they tell
                told |= {"words": self._words(sample), "changed": float(sample.changed)}
        return vars(layers.turned(rng)) | told

    def _cover_layers(self, picture: CoverPicture, rng: np.random.Generator) -> PairLayers:
        height, width = picture.classes.shape
        layers: dict[str, NDArray[np.uint8]] = {}
        for date in ("before", "after"):
            side = int(rng.integers(min(160, height), min(height, width, 640) + 1))
            top = int(rng.integers(0, height - side + 1))
            left = int(rng.integers(0, width - side + 1))
            window = (slice(top, top + side), slice(left, left + side))
            layers[date] = resize_picture(picture.pixels[window], self.size).transpose(2, 0, 1)
            layers[f"classes_{date}"] = resize_classes(picture.classes[window], self.size)
        return PairLayers(mask=np.full((self.size, self.size), UNKNOWN, np.uint8), **layers)

    def _no_words(self) -> NDArray[np.float32]:
        return np.full(len(self.vocabulary) - _SPECIALS, -1, np.float32)

    def _words(self, sample: CaptionSample) -> NDArray[np.float32]:
        if not sample.captions:
            return self._no_words()
        words = np.zeros(len(self.vocabulary) - _SPECIALS, np.float32)
        for caption in sample.targets:
            ids = [i - _SPECIALS for i in self.vocabulary.encode(caption) if i >= _SPECIALS]
            words[ids] += 1 / len(sample.targets)
        return np.minimum(words, 1)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """F1 of cropland and building masks, accuracy of "changed", F1 of words, their mean."""
        self.model.eval()
        device = next(self.model.parameters()).device
        counts = np.zeros((len(KINDS), 3))  # true positives, predicted, actual
        right, word_counts = [], np.zeros(3)
        for start in range(0, len(self.validation), 16):
            chosen = range(start, min(start + 16, len(self.validation)))
            store = self.validation_store
            before = torch.from_numpy(np.asarray(store.before[start : start + 16]))
            after = torch.from_numpy(np.asarray(store.after[start : start + 16]))
            output = self.model(
                self._prepare(before, device),
                self._prepare(after, device),
            )
            for row, index in enumerate(chosen):
                sample = self.validation[index]
                kind = _kind(sample, {})
                if sample.mask is not None and store.mask is not None:
                    truth = store.mask[index][2::4, 2::4] == 1
                    found = output.mask[row, kind].cpu().numpy() > 0
                    counts[kind] += [(truth & found).sum(), found.sum(), truth.sum()]
                right.append(bool(output.changed[row] > 0) == sample.changed)
                words = self._words(sample) > 0
                said = output.words[row].cpu().numpy() > -0.85  # probability 0.3
                word_counts += [(words & said).sum(), said.sum(), words.sum()]
        f1 = 2 * counts[:, 0] / np.maximum(counts[:, 1] + counts[:, 2], 1)
        numbers = {
            "f1_building": float(f1[0]),
            "f1_cropland": float(f1[1]),
            "changed_accuracy": float(np.mean(right)),
            "f1_words": float(2 * word_counts[0] / max(word_counts[1] + word_counts[2], 1)),
        }
        return {**numbers, "score": float(np.mean(list(numbers.values())))}

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write the encoder alone."""
        save_checkpoint(
            folder,
            family="encoder",
            config={"encoder": to_mapping(self.encoder.config)},
            tensors={k: v.contiguous() for k, v in self.encoder.state_dict().items()},
            extras={"validation": dict(numbers)},
        )


def _kind(sample: CaptionSample, masks: Mapping[str, str]) -> int:
    if sample.source in masks:
        return KINDS[masks[sample.source]]
    return KINDS["cropland" if "clcd" in sample.source else "building"]


def _load_cover(root: str | None) -> list[CoverPicture]:
    if root is None:
        return []
    return [*load_dubai(Path(root) / "dubai"), *load_loveda(Path(root) / "loveda")]


def _stack(items: list[dict[str, Any]], key: str) -> Tensor:
    return torch.from_numpy(np.stack([item[key] for item in items]))
