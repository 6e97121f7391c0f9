"""Training the mask part of ReasonCD: wishes in fields, masks out (task `wish-masks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from whatchanged.answers import Understood
from whatchanged.config import to_mapping
from whatchanged.data.augment import photometric
from whatchanged.data.pictures import UNKNOWN
from whatchanged.data.transitions import wish_mask
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models import weights
from whatchanged.models.checkpoint import save_checkpoint
from whatchanged.models.reasoncd.loss import LossWeights, mask_bce, mask_dice
from whatchanged.models.reasoncd.mask_part import MASKS_FAMILY, MaskPart, load_mask_part
from whatchanged.models.reasoncd.vision import CompactVision
from whatchanged.train.config import TrainConfig, reasoncd_config
from whatchanged.train.loop import Loss
from whatchanged.train.wish_data import ANY, PairFacts, ValidationPairs, WishPairs, single_classes

_LEAST_PAIRS = 5  # a class and direction that fewer validation pairs show has no number


@dataclass(frozen=True)
class MaskBatch:
    """Pairs and wishes about them.

    Attributes:
        before: Pictures [B, 3, S, S] in [0, 255].
        after: Pictures [B, 3, S, S].
        rows: Pair of each wish, [n].
        wishes: In fields.
        masks: Where each is met, [n, S, S] uint8, 255 unknown.
    """

    before: Tensor
    after: Tensor
    rows: Tensor
    wishes: tuple[Understood, ...]
    masks: Tensor


class MaskTask:
    """The mask part and pairs with known land cover, as the training loop wants them.

    Args:
        config: The run; `start` names a mask part to go on from, with its encoder.
    """

    measures: tuple[str, ...] = ("f1_any", "iou_any", "f1_any_exchanged", "f1_classes", "score")

    def __init__(self, config: TrainConfig) -> None:
        from whatchanged.train.run import start_encoder

        self.config = config
        self.reasoncd = reasoncd_config(config)
        if self.reasoncd.compact is None:
            raise UsageError("task 'wish-masks' trains the compact encoder only")
        self.data = WishPairs(config.data)
        self.broken = self.data.broken
        self.part = MaskPart(self.reasoncd)
        if config.start is None:
            start_encoder(cast(CompactVision, self.part.vision).encoder, config)
        else:
            self._go_on_from(weights.require(config.start))
        if config.wishes.keep_table:
            if config.start is None:
                raise UsageError(
                    "wishes.keep_table keeps a table that no run has trained",
                    hint="name the mask part it comes from as start",
                )
            self.part.table.requires_grad_(False)
        self.model: nn.Module = self.part
        self.terms = LossWeights()

    def _go_on_from(self, folder: Path) -> None:
        try:
            self.part.load_state_dict(load_mask_part(folder).state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"{folder} is not the mask part of this run: {error}") from error

    def __len__(self) -> int:
        """Return the pairs of an epoch."""
        return len(self.data)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the names of training pairs."""
        return [self.data.name(index) for index in indices]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains: fusion, decoder, table if not kept; the encoder at its own rate."""
        optimiser = self.config.optimiser
        encoder = [p for p in self.part.vision.parameters() if p.requires_grad]
        own = {id(p) for p in encoder}
        rest = [p for p in self.part.parameters() if p.requires_grad and id(p) not in own]
        rate = optimiser.lr if optimiser.encoder_lr is None else optimiser.encoder_lr
        groups: list[dict[str, Any]] = [{"params": rest, "lr": optimiser.lr}]
        return [*groups, {"params": encoder, "lr": rate}] if encoder else groups

    def load(self, indices: Sequence[int], generator: torch.Generator) -> MaskBatch:
        """Show pairs and draw wishes about them."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        before, after, rows, wishes, masks = [], [], [], [], []
        for row, index in enumerate(indices):
            layers, facts = self.data.draw(index, rng)
            before.append(layers.before)
            after.append(layers.after)
            drawn = self.data.wishes(
                layers, facts, self.config.wishes.per_pair, self.config.wishes.absent, rng
            )
            rows += [row] * len(drawn)
            wishes += [wish.understood for wish in drawn]
            masks += [wish.mask for wish in drawn]
        first, second = (torch.from_numpy(np.stack(date)) for date in (before, after))
        first, second = photometric(first, second, self.config.data.photometric, generator)
        side = self.config.data.size
        known = np.stack(masks) if masks else np.zeros((0, side, side), np.uint8)
        return MaskBatch(
            first, second, torch.tensor(rows, dtype=torch.long), tuple(wishes),
            torch.from_numpy(known),
        )  # fmt: skip

    def loss(self, model: nn.Module, batch: MaskBatch, epoch: int, device: torch.device) -> Loss:
        """Return the mask's terms of Eq. 16.

        Dice is of wishes that are met: the paper's samples all have a mask, and for an empty
        one Dice is near 1 until nothing at all is predicted, which teaches to predict nothing.
        """
        logits = model(
            _pixels(batch.before, device),
            _pixels(batch.after, device),
            batch.rows.to(device),
            batch.wishes,
        )
        masks = batch.masks.to(device)
        met = (masks == 1).flatten(1).any(dim=1)
        bce, dice = mask_bce(logits, masks), mask_dice(logits[met], masks[met])
        total = self.terms.bce * bce + self.terms.dice * dice
        return Loss(total, {"bce": float(bce.detach()), "dice": float(dice.detach())})

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """F1 and IoU of "any change", and mean F1 over classes and directions.

        F1 of "any change" also with the dates exchanged, which must not matter to it; `score`
        is the mean of what both orders reach and of the classes' F1. All as shares; 0 of what
        no validation pair has a mask of.
        """
        self.part.eval()
        counts = count_masks(self.data, self._probabilities)
        anything = counts[ANY][0].scores() if ANY in counts else None
        exchanged = count_masks(self.data, self._exchanged, asked=())
        classes = [
            found.scores().f1 / 100
            for wish, (found, n_met) in counts.items()
            if wish != ANY and n_met >= _LEAST_PAIRS
        ]
        numbers = {
            "f1_any": anything.f1 / 100 if anything else 0.0,
            "iou_any": anything.iou / 100 if anything else 0.0,
            "f1_any_exchanged": exchanged[ANY][0].scores().f1 / 100 if anything else 0.0,
            "f1_classes": float(np.mean(classes)) if classes else 0.0,
        }
        both = (numbers["f1_any"] + numbers["f1_any_exchanged"]) / 2
        return {**numbers, "score": (both + numbers["f1_classes"]) / 2}

    def _exchanged(self, pair: PairPictures, wishes: Sequence[Understood]) -> Tensor:
        return self._probabilities((pair[1], pair[0]), wishes)

    def _probabilities(self, pair: PairPictures, wishes: Sequence[Understood]) -> Tensor:
        device = next(self.part.parameters()).device
        rows = torch.zeros(len(wishes), dtype=torch.long, device=device)
        logits = self.part(_pixels(pair[0], device), _pixels(pair[1], device), rows, wishes)
        out: Tensor = logits.sigmoid().cpu()
        return out

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write the mask part."""
        save_checkpoint(
            folder,
            family=MASKS_FAMILY,
            config={"preset": self.config.preset, "model": to_mapping(self.reasoncd)},
            tensors={k: v.contiguous() for k, v in self.part.state_dict().items()},
            extras={"validation": dict(numbers)},
        )


PairPictures = tuple[Tensor, Tensor]


def count_masks(
    data: ValidationPairs, ask: Any, asked: Sequence[Understood] | None = None
) -> dict[Understood, tuple[MaskCounts, int]]:
    """Count right and wrong pixels of every class and direction on the validation pairs.

    Args:
        data: Holds the validation pairs.
        ask: Function of both pictures [1, 3, S, S] and wishes in fields to probabilities
            [n, S, S].
        asked: Wishes beside "any"; None for every class and direction.

    Returns:
        Per wish the counts over pairs whose answer is known, and how many pairs meet it.
        "Any" is counted on the pairs that have a change mask, as the field does.
    """
    counts: dict[Understood, tuple[MaskCounts, int]] = {}
    for index, sample in enumerate(data.validation):
        layers = data.validation_store.whole(index)
        facts = PairFacts(sample.name, sample.changed, sample.captions)
        wished = single_classes() if asked is None else asked
        known = [(w.understood, w.mask, w.met) for w in data.met_or_not(layers, facts, wished)]
        if sample.mask is not None:
            mask = wish_mask(ANY, None, None, layers.mask)
            known.append((ANY, mask, bool((mask == 1).any())))
        if not known:
            continue
        pictures = (torch.from_numpy(layers.before)[None], torch.from_numpy(layers.after)[None])
        found = ask(pictures, [wish for wish, _, _ in known]).numpy() > 0.5
        for (wish, mask, met), said in zip(known, found, strict=True):
            before, n_met = counts.get(wish, (MaskCounts(), 0))
            counts[wish] = (before.add(said, mask == 1, mask != UNKNOWN), n_met + met)
    return counts


def _pixels(pictures: Tensor, device: torch.device) -> Tensor:
    return pictures.to(device).float().contiguous(memory_format=torch.channels_last)
