"""Training ReasonCD on five-field samples, as in the paper (task `samples`; IV-A to IV-C).

Each sample is a pair, a question, an answer and a mask; text and mask are learned at once
(Eq. 16). `whatchanged prepare` makes such samples of BCDD, SECOND and annotated pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whatchanged.data.asked_pairs import Pairs, by_pair
from whatchanged.data.augment import mirror, photometric
from whatchanged.data.pictures import UNKNOWN
from whatchanged.data.prepared import samples_file
from whatchanged.data.reason_json import ReasonSample, load_reason_json
from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models import weights
from whatchanged.models.reasoncd.loss import reasoncd_loss
from whatchanged.models.reasoncd.mask_part import WishTable
from whatchanged.models.reasoncd.prompt import TextSample
from whatchanged.models.reasoncd.store import save_reasoncd, start_reasoncd
from whatchanged.models.reasoncd.vision import ClipSamVision
from whatchanged.train.config import TrainConfig, reasoncd_config
from whatchanged.train.frozen_features import FrozenFeatures
from whatchanged.train.loop import Loss
from whatchanged.train.wish_scores import ask_layers
from whatchanged.train.wish_task import TrainedReasonCD, load_masks


@dataclass(frozen=True)
class SampleBatch:
    """Samples to learn.

    Attributes:
        before: Pictures [B, 3, S, S] in [0, 255].
        after: Pictures [B, 3, S, S].
        groups: Per pair its one question and answer.
        masks: Where the question is met, [B, S, S] uint8, 255 unknown.
    """

    before: Tensor
    after: Tensor
    groups: tuple[tuple[TextSample, ...], ...]
    masks: Tensor


class SampleTask:
    """ReasonCD and five-field samples, as the training loop wants them.

    Args:
        config: The run; `start` may name a mask part whose eyes, fusion and decoder begin it.

    Raises:
        UsageError: `data.samples` is not set, or a cache is asked for without frozen eyes or
            with lights that are drawn anew.
        DatasetError: Samples are missing or broken, or a question is too long to be asked.
    """

    measures: tuple[str, ...] = ("f1", "iou", "precision", "recall", "answered")
    broken: tuple[str, ...] = ()

    def __init__(self, config: TrainConfig) -> None:
        if config.data.samples is None:
            raise UsageError(
                "task 'samples' needs data.samples",
                hint="a folder that `whatchanged prepare` made",
            )
        self.config = config
        folder = Path(config.data.samples)
        self.samples = load_reason_json(samples_file(folder, "train"))
        validation = load_reason_json(samples_file(folder, "val"))
        size = config.data.size
        self.training = Pairs([(sample,) for sample in self.samples], size)
        self.validation = Pairs(by_pair(validation), size)
        self.reasoncd = start_reasoncd(reasoncd_config(config))
        if config.start is not None:
            table = WishTable(self.reasoncd.config.fusion.width)
            load_masks(self.reasoncd, table, weights.require(config.start))
        if config.data.feature_cache is not None:
            vision = self.reasoncd.vision
            if not isinstance(vision, ClipSamVision):
                raise UsageError(
                    "data.feature_cache is for the frozen CLIP and SAM; the compact encoder trains"
                )
            if config.data.photometric:
                raise UsageError(
                    "data.feature_cache would find nothing again: data.photometric draws every "
                    "light anew",
                    hint="leave one of them out",
                )
            vision.kept = FrozenFeatures(vision, Path(config.data.feature_cache))
        self.model: nn.Module = TrainedReasonCD(self.reasoncd, decode=True)
        self.texts = [self._text(sample) for sample in self.samples]

    def _text(self, sample: ReasonSample) -> TextSample:
        try:
            return self.reasoncd.writer.sample(sample.question, sample.answer)
        except UsageError as error:
            raise DatasetError(f"{sample.mask}: {error.message}", hint=error.hint) from error

    def __len__(self) -> int:
        """Return the samples of an epoch."""
        return len(self.samples)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the mask files of training samples."""
        return [str(self.samples[index].mask) for index in indices]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains (design, 10)."""
        own = [p for p in self.model.parameters() if p.requires_grad]
        return [{"params": own, "lr": self.config.optimiser.lr}]

    def load(self, indices: Sequence[int], generator: torch.Generator) -> SampleBatch:
        """Read pairs and masks; mirrored with `data.flips`, lit anew with `data.photometric`."""
        shown = []
        for index in indices:
            pair = self.training[index]
            ways = torch.randint(2, (2,), generator=generator).bool().tolist()
            horizontal, vertical = ways if self.config.data.flips else (False, False)
            layers = (pair.before, pair.after, pair.masks[0])
            shown.append([mirror(layer, horizontal, vertical) for layer in layers])
        before, after, masks = zip(*shown, strict=True)
        first, second = (torch.from_numpy(np.stack(date)) for date in (before, after))
        first, second = photometric(first, second, self.config.data.photometric, generator)
        groups = tuple((self.texts[index],) for index in indices)
        return SampleBatch(first, second, groups, torch.from_numpy(np.stack(masks)))

    def loss(self, model: nn.Module, batch: SampleBatch, epoch: int, device: torch.device) -> Loss:
        """Return Eq. 16."""
        output = model(batch.before.to(device), batch.after.to(device), batch.groups)
        found = reasoncd_loss(output, batch.masks.to(device), self.reasoncd.writer.ids.target)
        parts = {name: float(getattr(found, name).detach()) for name in ("text", "bce", "dice")}
        return Loss(found.total, parts)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Ask every validation pair its questions: one confusion over all pixels, as shares.

        `answered` is the share of questions that got a mask where there is one to be found and
        none where there is not.
        """
        self.model.eval()
        counts, right = MaskCounts(), []
        for pair in self.validation:
            answers = ask_layers(self.reasoncd, pair.before, pair.after, pair.wishes)
            for answer, mask in zip(answers, pair.masks, strict=True):
                truth = mask == 1
                counts = counts.add(answer.mask.cpu().numpy(), truth, mask != UNKNOWN)
                right.append(answer.found == bool(truth.any()))
        scores = counts.scores()
        numbers = {name: getattr(scores, name) / 100 for name in self.measures[:-1]}
        return {**numbers, "answered": float(np.mean(right))}

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write everything trained as one checkpoint; the language model's base is not in it."""
        save_reasoncd(folder, self.reasoncd, self.config.preset)
