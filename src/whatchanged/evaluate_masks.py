"""Scores of change masks on a data set: ReasonCD, and mask parts of it, asked as a user would.

One confusion over the pixels of all pairs, as the field counts (BCDD, LEVIR-CD): positive is
changed, pixels of which nothing is known do not count. Sets with change masks are asked for
any change; five-field samples (ReasonCD, IV-A) for what their question says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from whatchanged.console import track
from whatchanged.data.asked_pairs import (
    ANY_WISH,
    AskedPair,
    SplitOrigin,
    known_masks,
    open_pairs,
    split_origin,
)
from whatchanged.data.pictures import UNKNOWN
from whatchanged.errors import CheckpointError, DatasetError, UsageError
from whatchanged.evaluate import best_of
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models import weights
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.reasoncd.mask_part import MASKS_FAMILY, load_mask_part
from whatchanged.models.reasoncd.store import FAMILY as REASONCD_FAMILY
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.train.wish_data import ANY
from whatchanged.train.wish_scores import ask_layers

Array = NDArray[np.uint8]
Bits = NDArray[np.bool_]

SIDE = 256
"""Pictures are scored at this side, pixels, unless told otherwise."""

MASK_FAMILIES = (REASONCD_FAMILY, MASKS_FAMILY)

Draw = Callable[[Array, Array, Sequence[str]], list[Bits]]
"""Pictures [3, S, S] of both dates and wishes, to where each is met, [S, S]."""


@dataclass(frozen=True)
class ScoredMask:
    """One mask that was drawn.

    Attributes:
        pair: Name of the pair.
        wish: In words.
        changed: Whether the true mask has a pixel.
        counts: Pixels right and wrong.
    """

    pair: str
    wish: str
    changed: bool
    counts: MaskCounts


@dataclass(frozen=True)
class MaskEvaluation:
    """One model on one split.

    Attributes:
        model: Name or folder of the model.
        sha256: Of its checkpoint's manifest.
        masks: In the data set's order.
    """

    model: str
    sha256: str
    masks: tuple[ScoredMask, ...]


@dataclass(frozen=True)
class MaskReport:
    """Evaluations beside the floors.

    Attributes:
        data: What was asked about: the split's name, or the name of a file of samples.
        size: Side at which masks were compared, pixels.
        windows: Whether pictures were cut into windows of that side, not reduced to it.
        wish: What all pairs were asked for; None if each has wishes of its own.
        evaluations: Of every model, in the order asked for.
        floors: Name of a predictor that sees no picture -> its masks.
        left_out: Broken entries of the split that were skipped, with the reason.
        origin: The set, how it was divided, and the sum of the split's list.
    """

    data: str
    size: int
    wish: str | None
    evaluations: tuple[MaskEvaluation, ...]
    floors: dict[str, tuple[ScoredMask, ...]]
    left_out: tuple[str, ...] = ()
    windows: bool = False
    origin: SplitOrigin = field(default_factory=SplitOrigin)


def family_of(model: str | Path) -> str:
    """Return which family of models a checkpoint belongs to: `hisem`, `reasoncd`, ...

    Raises:
        WeightsUnavailableError: It cannot be had; CheckpointError: it is damaged.
    """
    return load_checkpoint(weights.require(best_of(model))).family


def evaluate_masks(
    models: Sequence[str | Path],
    data: Path | str,
    split: str = "test",
    *,
    size: int = SIDE,
    windows: bool | None = None,
    skip_broken: bool = False,
) -> MaskReport:
    """Ask about every pair of a split that has a mask and compare the masks.

    Args:
        models: Named weights, model folders or run folders (their `best/` is taken); several
            are runs of one experiment with different seeds.
        data: Folder in LEVIR-CC's layout, of a known set with change masks, or prepared; or a
            file of five-field samples, of which the split is not asked.
        split: Of a folder.
        size: Side at which pictures are shown and masks compared, pixels.
        windows: Cut larger pictures into windows of that side, True, or reduce them to it,
            False; None does what is usual for the set: LEVIR-CD is cut, others are reduced.
        skip_broken: Leave out broken entries of a captioned set; the report names them.

    Raises:
        DatasetError: The data set is broken or missing, no pair of the split has a mask, or
            windows do not fill a picture.
        UsageError: No model; or wishes of their own asked of a mask part, which has no words.
        WeightsUnavailableError: A model cannot be had; CheckpointError: it is damaged.
    """
    if not models:
        raise UsageError("evaluation needs a model")
    if size < 1:
        raise UsageError(f"masks cannot be compared at {size} pixels")
    draws = [(str(name), *open_drawer(name)) for name in models]
    if windows is None:
        known = known_masks(data)
        windows = known is not None and known.windows == size
    shown = None if windows else size
    pairs, left_out = open_pairs(data, split, shown, skip_broken=skip_broken)
    origin = split_origin(data, split)
    masks: list[list[ScoredMask]] = [[] for _ in draws]
    floors: dict[str, list[ScoredMask]] = {"nothing changed": [], "everything changed": []}
    for pair in track(pairs, "drawing masks"):
        for (_, _, draw), found in zip(draws, masks, strict=True):
            found += _compare(pair, _draw_windows(draw, pair, size))
        for share, found in enumerate(floors.values()):
            found += _compare(pair, [np.full(m.shape, bool(share)) for m in pair.masks])
    wishes = {mask.wish for mask in masks[0]}
    return MaskReport(
        split if Path(data).is_dir() else Path(data).name,
        size,
        wishes.pop() if len(wishes) == 1 else None,
        tuple(
            MaskEvaluation(name, sha256, tuple(found))
            for (name, sha256, _), found in zip(draws, masks, strict=True)
        ),
        {name: tuple(found) for name, found in floors.items()},
        left_out,
        windows,
        origin,
    )


def _draw_windows(draw: Draw, pair: AskedPair, side: int) -> list[Bits]:
    """Draw the masks of a pair in windows of the side that the model is shown."""
    height, width = pair.before.shape[1:]
    if height % side or width % side:
        raise DatasetError(
            f"{pair.name} is {width} x {height} pixels, which windows of {side} do not fill",
            hint="choose a --size that divides its sides, or --reduce",
        )
    masks = [np.zeros((height, width), np.bool_) for _ in pair.wishes]
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = (Ellipsis, slice(top, top + side), slice(left, left + side))
            drawn = draw(pair.before[window], pair.after[window], pair.wishes)
            for mask, part in zip(masks, drawn, strict=True):
                mask[window] = part
    return masks


def open_drawer(model: str | Path) -> tuple[str, Draw]:
    """Open a checkpoint as a function that draws masks; also returns its sha256.

    Raises:
        CheckpointError: Damaged, or of a family that draws no masks.
    """
    folder = weights.require(best_of(model))
    saved = load_checkpoint(folder)
    if saved.family == MASKS_FAMILY:
        return saved.manifest.sha256, _draw_any(folder)
    if saved.family != REASONCD_FAMILY:
        raise CheckpointError(
            f"{model} is a {saved.family} model, which draws no masks",
            hint="evaluate a ReasonCD, such as reasoncd-small or a run of task wishes",
        )
    reasoncd = load_reasoncd(folder)

    def draw(before: Array, after: Array, wishes: Sequence[str]) -> list[Bits]:
        return [answer.mask.numpy() for answer in ask_layers(reasoncd, before, after, wishes)]

    return saved.manifest.sha256, draw


def _draw_any(folder: Path) -> Draw:
    part = load_mask_part(folder)

    @torch.inference_mode()
    def draw(before: Array, after: Array, wishes: Sequence[str]) -> list[Bits]:
        if set(wishes) != {ANY_WISH}:
            raise UsageError(
                f"{folder} is a mask part and has no words: it cannot be asked questions",
                hint="evaluate it on a set with change masks, or a whole ReasonCD on samples",
            )
        pictures = (torch.from_numpy(np.ascontiguousarray(d))[None].float()
                    for d in (before, after))  # fmt: skip
        logits = part(*pictures, torch.zeros(1, dtype=torch.long), [ANY])
        return [(logits[0] > 0).numpy()] * len(wishes)

    return draw


def _compare(pair: AskedPair, drawn: Sequence[Bits]) -> list[ScoredMask]:
    scored = []
    for wish, mask, found in zip(pair.wishes, pair.masks, drawn, strict=True):
        truth = mask == 1
        counts = MaskCounts().add(found, truth, mask != UNKNOWN)
        scored.append(ScoredMask(pair.name, wish, bool(truth.any()), counts))
    return scored
