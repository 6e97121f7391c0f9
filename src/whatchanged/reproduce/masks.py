"""Change masks of trained ReasonCDs and of their mask parts, scored as the field does.

One confusion over the pixels of all pairs that have a mask. The wish is "any change": in words
for a ReasonCD, in fields for a mask part, which has no language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatchanged.console import track
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import UNKNOWN
from whatchanged.errors import DatasetError
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models.reasoncd.mask_part import load_mask_part
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.reproduce.experiments import MASK_SCORES
from whatchanged.reproduce.recipes import Stage
from whatchanged.train.config import DataConfig
from whatchanged.train.pair_layers import LayerStore, PairLayers
from whatchanged.train.wish_data import ANY
from whatchanged.train.wish_scores import ask_layers

ANY_WISH = "any change"

Draw = Callable[[PairLayers], NDArray[np.bool_]]
"""A pair to where it changed, [S, S]."""


@dataclass(frozen=True)
class MaskedPair:
    """A pair whose change mask is known.

    Attributes:
        name: Name of the pair.
        layers: Both pictures and the mask: 0, 1, 255 unknown.
    """

    name: str
    layers: PairLayers


def masked_pairs(data: Path, split: str, config: DataConfig) -> Iterator[MaskedPair]:
    """Yield the pairs of a split that have a mask, at the training size.

    Raises:
        DatasetError: No pair of the split has one.
    """
    samples = load_levir_cc(data, split, skip_broken=config.skip_broken).samples
    samples = tuple(sample for sample in samples if sample.mask is not None)
    if not samples:
        raise DatasetError(
            f"{data}: no pair of split '{split}' has a change mask",
            hint="masks are looked for in label/<split>/ and images/<split>/label/",
        )
    store = LayerStore(samples, config.size)
    for index, sample in enumerate(samples):
        yield MaskedPair(sample.name, store.whole(index))


def score_masks(
    stage: Stage, checkpoint: Path, data: Path, split: str, config: DataConfig
) -> dict[str, Any]:
    """Score the masks of a checkpoint beside the floors; in percent, as plain values.

    Returns:
        `split`, `n_pairs`, `n_changed`, `scores` and `floors` by part, of which there is one.
    """
    draw = open_drawer(stage, checkpoint)
    found, truths, n_pairs, n_changed = MaskCounts(), MaskCounts(), 0, 0
    for pair in track(list(masked_pairs(data, split, config)), "drawing masks"):
        truth, known = pair.layers.mask == 1, pair.layers.mask != UNKNOWN
        found = found.add(draw(pair.layers), truth, known)
        truths = truths.add(np.ones_like(truth), truth, known)
        n_pairs, n_changed = n_pairs + 1, n_changed + bool(truth.any())
    nothing = MaskCounts(fn=truths.tp, tn=truths.fp)
    return {
        "split": split,
        "n_pairs": n_pairs,
        "n_changed": n_changed,
        "wish": ANY_WISH,
        "scores": {"overall": _plain(found)},
        "floors": {
            "nothing changed": {"overall": _plain(nothing)},
            "everything changed": {"overall": _plain(truths)},
        },
    }


def open_drawer(stage: Stage, checkpoint: Path) -> Draw:
    """Open a checkpoint as a function that draws where a pair changed.

    Raises:
        CheckpointError: Damaged, or of another family.
    """
    if stage == "masks":
        part = load_mask_part(checkpoint)

        @torch.inference_mode()
        def draw(layers: PairLayers) -> NDArray[np.bool_]:
            before, after = (
                torch.from_numpy(np.ascontiguousarray(date))[None].float()
                for date in (layers.before, layers.after)
            )
            logits = part(before, after, torch.zeros(1, dtype=torch.long), [ANY])
            mask: NDArray[np.bool_] = (logits[0] > 0).numpy()
            return mask

        return draw
    model = load_reasoncd(checkpoint)

    def ask(layers: PairLayers) -> NDArray[np.bool_]:
        (answer,) = ask_layers(model, layers.before, layers.after, [ANY_WISH])
        mask: NDArray[np.bool_] = answer.mask.numpy()
        return mask

    return ask


def _plain(counts: MaskCounts) -> dict[str, float]:
    scores = counts.scores()
    return {name: getattr(scores, name) for name in MASK_SCORES}
