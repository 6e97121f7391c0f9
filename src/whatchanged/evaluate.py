"""Scores of a captioning model on a data set, beside the floors that any model must beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import PictureStore
from whatchanged.data.samples import CaptionSample
from whatchanged.data.tokens import UNCHANGED_CAPTION, tokenise
from whatchanged.errors import DatasetError
from whatchanged.metrics.captions import CaptionBreakdown, MeteorBackend, score_breakdown
from whatchanged.predict import CaptionModel

_BATCH = 16

Words = tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one pair of a data set.

    Attributes:
        sample: The pair with its references.
        caption: Words of the best caption.
        changed: Path the image router chose.
        probability: Probability of the changed path.
    """

    sample: CaptionSample
    caption: Words
    changed: bool
    probability: float


@dataclass(frozen=True)
class CaptionEvaluation:
    """Scores of a model on one split, protocol `words`.

    Attributes:
        predictions: Per pair, in the data set's order.
        scores: Overall, changed and unchanged pairs.
        floors: Name of a predictor that sees no picture -> its scores.
        router: Share of pairs routed rightly: `all`, `changed`, `unchanged`.
    """

    predictions: tuple[Prediction, ...]
    scores: CaptionBreakdown
    floors: dict[str, CaptionBreakdown]
    router: dict[str, float]


def evaluate_captions(
    model: CaptionModel,
    root: Path | str,
    split: str = "val",
    *,
    beam: int = 1,
    meteor: MeteorBackend = "exact",
) -> CaptionEvaluation:
    """Describe every pair of a split in LEVIR-CC's layout and score the captions as words.

    The modal caption of the second floor is the most frequent one of the training split's
    changed pairs, the first in the alphabet where several are; without such pairs that floor
    is left out.

    Raises:
        DatasetError: The data set is broken or missing, or has no such split.
    """
    data = load_levir_cc(Path(root))
    samples = data.of_split(split)
    if not samples:
        raise DatasetError(f"{root} has no pairs of split '{split}'", hint="train, val or test")
    predictions = predict_samples(model, samples, beam=beam)
    references = [sample.captions for sample in samples]
    changed = [sample.changed for sample in samples]
    scores = score_breakdown([p.caption for p in predictions], references, changed, meteor=meteor)
    right = np.array([p.changed == p.sample.changed for p in predictions])
    labels = np.array(changed)
    router = {"all": float(right.mean())}
    for name, chosen in (("changed", labels), ("unchanged", ~labels)):
        router[name] = float(right[chosen].mean()) if chosen.any() else float("nan")
    floors = {
        name: score_breakdown(captions, references, changed, meteor=meteor)
        for name, captions in floor_captions(data.of_split("train"), changed).items()
    }
    return CaptionEvaluation(tuple(predictions), scores, floors, router)


def predict_samples(
    model: CaptionModel, samples: Sequence[CaptionSample], *, beam: int = 1
) -> list[Prediction]:
    """Describe samples at the model's training size."""
    store = PictureStore.open(samples, model.hisem.config.encoder.input_size)
    predictions: list[Prediction] = []
    for start in range(0, len(samples), _BATCH):
        rows = slice(start, start + _BATCH)
        before = torch.from_numpy(np.array(store.before[rows]))
        after = torch.from_numpy(np.array(store.after[rows]))
        memory = model.see(before, after)
        found = model.say(memory, beam)
        probability = memory.changed_probability
        for index, (sample, hypotheses) in enumerate(zip(samples[rows], found, strict=True)):
            predictions.append(
                Prediction(
                    sample=sample,
                    caption=tuple(model.vocabulary.decode(hypotheses[0].ids)),
                    changed=bool(memory.path[index]),
                    probability=1.0 if probability is None else float(probability[index]),
                )
            )
    return predictions


def floor_captions(
    train: Sequence[CaptionSample], changed: Sequence[bool]
) -> dict[str, list[Words]]:
    """Return the captions of predictors that see no picture.

    `constant` says of every pair that nothing changed. `right label + modal caption` knows
    which pairs changed and says one sentence of all of them; it is left out where no training
    pair changed.

    Args:
        train: Training pairs, the source of the modal caption.
        changed: Label of every pair to be described.
    """
    constant = tuple(tokenise(UNCHANGED_CAPTION))
    counts = Counter(caption for sample in train if sample.changed for caption in sample.captions)
    floors = {"constant": [constant] * len(changed)}
    if counts:
        modal = min(counts, key=lambda caption: (-counts[caption], caption))
        floors["right label + modal caption"] = [modal if c else constant for c in changed]
    return floors
