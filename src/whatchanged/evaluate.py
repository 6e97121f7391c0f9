"""Scores of captioning models on a data set, beside the floors that any model must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from whatchanged.console import track
from whatchanged.data.levir_cc import find_captions_file, load_levir_cc, load_references
from whatchanged.data.pictures import PictureStore
from whatchanged.data.samples import CaptionReferences, CaptionSample
from whatchanged.errors import UsageError
from whatchanged.metrics.captions import CaptionBreakdown
from whatchanged.models import weights
from whatchanged.models.backbones import normalise
from whatchanged.models.checkpoint import MANIFEST
from whatchanged.predict import CaptionModel, load_model
from whatchanged.score import Ruler, Words, floor_captions

_BATCH = 16

Route = Literal["predicted", "label"]
"""What chooses a pair's path: the image router, or the pair's label (HiSem, Table VI)."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one pair of a data set.

    Attributes:
        sample: The pair with its references.
        caption: Words of the best caption.
        changed: Path that was taken.
        probability: Probability of the changed path by the router; None without one.
    """

    sample: CaptionSample
    caption: Words
    changed: bool
    probability: float | None


@dataclass(frozen=True)
class CaptionEvaluation:
    """One model on one split with one way of routing.

    Attributes:
        model: Name or folder of the model.
        sha256: Of its checkpoint's manifest.
        route: What chose the paths.
        predictions: Per pair, in the data set's order.
        scores: Overall, changed and unchanged pairs, and every pair.
        router: Share of pairs on the right path in percent, `overall`, `changed` and
            `unchanged`; None where there is no such pair, or no router.
    """

    model: str
    sha256: str
    route: Route
    predictions: tuple[Prediction, ...]
    scores: CaptionBreakdown
    router: dict[str, float | None]


@dataclass(frozen=True)
class CaptionReport:
    """Evaluations under one ruler, beside the floors.

    Attributes:
        split: Split of the data set.
        beam: Captions kept while decoding.
        ruler: How captions were compared.
        evaluations: Of every model, its routes together, in the order asked for.
        floors: Name of a predictor that sees no picture -> its scores.
        left_out: Broken entries of the split that were skipped, with the reason.
    """

    split: str
    beam: int
    ruler: Ruler
    evaluations: tuple[CaptionEvaluation, ...]
    floors: dict[str, CaptionBreakdown]
    left_out: tuple[str, ...] = ()


def evaluate_captions(
    models: Sequence[str | Path],
    root: Path | str,
    split: str = "test",
    *,
    routes: Sequence[Route] = ("predicted",),
    ruler: Ruler | None = None,
    beam: int = 1,
    skip_broken: bool = False,
) -> CaptionReport:
    """Describe every pair of a split in LEVIR-CC's layout and score the captions.

    Pictures of other splits need not be on disk.

    Args:
        models: Named weights, model folders or run folders (their `best/` is taken); several
            are runs of one experiment with different seeds.
        root: Folder of the data set.
        split: `train`, `val` or `test`.
        routes: Ways of routing; the encoder runs once for all of them.
        ruler: How to compare captions; None is the published protocol.
        beam: Captions kept while decoding; 1 is greedy, as in the paper.
        skip_broken: Leave out broken entries, also of the captions that vocabulary and floors
            are made of, instead of failing at the first. The report names those of the split.

    Raises:
        DatasetError: The data set is broken or missing, or has no such split.
        UsageError: No model, no route, a beam below 1, a model without router to be routed
            by label, or a vocabulary that the data set cannot give.
        WeightsUnavailableError: A model cannot be had; CheckpointError: it is damaged.
    """
    if not models or not routes or beam < 1:
        raise UsageError("evaluation needs a model, a route and a beam of at least 1")
    ruler = ruler or Ruler()
    dataset = load_levir_cc(root, split, skip_broken=skip_broken)
    samples = dataset.samples
    everything = load_references(find_captions_file(Path(root)), skip_broken=skip_broken)
    predictions: dict[tuple[int, Route], list[Prediction]] = {}
    identities: list[tuple[str, str]] = []
    for run, name in enumerate(models):
        model = load_model(best_of(name))
        identities.append((str(name), model.sha256))
        for route, found in predict_samples(model, samples, routes=routes, beam=beam).items():
            predictions[run, route] = found

    pairs = [CaptionReferences(s.before.name, s.split, s.captions, s.changed) for s in samples]
    said = {key: [p.caption for p in found] for key, found in predictions.items()}
    scores = ruler.measure(said, pairs, everything)
    floors = floor_captions(everything, [sample.changed for sample in samples])
    evaluations = tuple(
        CaptionEvaluation(
            *identities[run], route, tuple(found), scores[run, route], router_accuracy(found)
        )
        for (run, route), found in predictions.items()
    )
    floor_scores = ruler.measure(floors, pairs, everything)
    return CaptionReport(split, beam, ruler, evaluations, floor_scores, dataset.broken)


@torch.inference_mode()
def predict_samples(
    model: CaptionModel,
    samples: Sequence[CaptionSample],
    *,
    routes: Sequence[Route] = ("predicted",),
    beam: int = 1,
) -> dict[Route, list[Prediction]]:
    """Describe samples at the model's training size, once for each way of routing.

    Raises:
        DatasetError: A picture that cannot be read.
        UsageError: Routing by label asked of a model without image router.
    """
    if "label" in routes and model.hisem.hasd.router is None:
        raise UsageError(
            f"{model.name} has no image router, so labels cannot take its place",
            hint="evaluate it with --route predicted",
        )
    encoder = model.hisem.config.encoder
    found: dict[Route, list[Prediction]] = {route: [] for route in routes}
    for start in track(range(0, len(samples), _BATCH), "describing"):
        batch = samples[start : start + _BATCH]
        photographs = [
            replace(sample, mask=None, classes_before=None, classes_after=None) for sample in batch
        ]
        pictures = PictureStore.open(photographs, encoder.input_size)
        before, after = (torch.from_numpy(np.array(p)) for p in (pictures.before, pictures.after))
        maps = model.hisem.encode(normalise(before, encoder), normalise(after, encoder))
        labels = torch.tensor([sample.changed for sample in batch])
        for route, predictions in found.items():
            memory = model.hisem.memory(*maps, labels if route == "label" else None)
            probability = memory.changed_probability
            for index, hypotheses in enumerate(model.say(memory, beam)):
                predictions.append(
                    Prediction(
                        sample=batch[index],
                        caption=tuple(model.vocabulary.decode(hypotheses[0].ids)),
                        changed=bool(memory.path[index]),
                        probability=None if probability is None else float(probability[index]),
                    )
                )
    return found


def router_accuracy(predictions: Sequence[Prediction]) -> dict[str, float | None]:
    """Return the share of pairs on the right path, in percent, as Table VI counts it.

    Returns:
        `overall`, `changed`, `unchanged`; None where no such pair met a router.
    """
    right = [
        (p.sample.changed, p.changed == p.sample.changed)
        for p in predictions
        if p.probability is not None
    ]
    parts = {
        "overall": [hit for _, hit in right],
        "changed": [hit for changed, hit in right if changed],
        "unchanged": [hit for changed, hit in right if not changed],
    }
    return {part: 100 * sum(hits) / len(hits) if hits else None for part, hits in parts.items()}


def best_of(model: str | Path) -> str | Path:
    """Return the best checkpoint of a run's folder; anything else as it is."""
    folder = Path(model)
    if str(model) in weights.NAMED_WEIGHTS or (folder / MANIFEST).exists():
        return model
    return folder / "best" if (folder / "best").is_dir() else model
