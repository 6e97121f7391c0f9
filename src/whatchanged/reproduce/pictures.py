"""Which pictures an experiment gets, of which pairs, from its trained runs.

Pairs are taken evenly from the split: nobody chose them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from whatchanged.answers import CLASS_WORDS, EXPLAIN, ask_to_explain
from whatchanged.data.asked_pairs import open_pairs
from whatchanged.data.caption_classes import names_class
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import UNKNOWN, PictureStore
from whatchanged.data.prepared import has_samples
from whatchanged.data.samples import CaptionSample
from whatchanged.data.wishes import Wish, load_wishes
from whatchanged.evaluate import predict_samples
from whatchanged.evaluate_masks import open_drawer
from whatchanged.files import replacing
from whatchanged.models.backbones import normalise
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.predict import CaptionModel, load_model
from whatchanged.reproduce import figures
from whatchanged.reproduce.experiments import Picture
from whatchanged.reproduce.figures import ShownPair
from whatchanged.reproduce.plan import Plan
from whatchanged.reproduce.run import ScoredRun
from whatchanged.train.config import DataConfig
from whatchanged.train.record import read_log
from whatchanged.train.wish_data import DrawnWish, PairFacts, ValidationPairs
from whatchanged.train.wish_scores import ask_layers

T = TypeVar("T")

SHOWN, FEW = 12, 6
DPI = 150
_BATCH = 16
_NO_CURVES = {"event", "epoch", "step", "steps", "lr", "pairs_per_second"}


@dataclass(frozen=True)
class DrawnPicture:
    """A picture file.

    Attributes:
        title: What it shows.
        path: PNG file.
    """

    title: str
    path: Path


def draw_pictures(plan: Plan, runs: Sequence[ScoredRun], folder: Path) -> list[DrawnPicture]:
    """Draw what the experiment asks for into a folder."""
    drawn = []
    for kind in plan.request.experiment.pictures:
        for title, name, figure in _DRAWERS[kind](plan, runs):
            place = folder / f"{name}.png"
            with replacing(place) as part:
                figure.savefig(part, dpi=DPI)
            drawn.append(DrawnPicture(title, place))
    return drawn


Named = list[tuple[str, str, Figure]]
"""Title, file name without suffix, figure."""


def _captions(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    run = runs[0]
    samples = _evenly(_samples(plan), SHOWN)
    found = predict_samples(load_model(run.checkpoint), samples)["predicted"]
    pairs = [
        _shown(
            p.sample,
            f"ours: {' '.join(p.caption)}",
            "changed with probability "
            + ("unknown" if p.probability is None else f"{p.probability:.2f}"),
            *(f"reference: {' '.join(caption)}" for caption in p.sample.captions),
            right=p.changed == p.sample.changed,
        )
        for p in found
    ]
    title = "Captions beside the references; red: on the wrong path"
    return [(title, "captions", figures.caption_sheet(pairs))]


@torch.inference_mode()
def _bdam(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    model = load_model(runs[0].checkpoint)
    samples = _evenly([s for s in _samples(plan) if s.changed], FEW)
    maps = []
    for first, second in _encoded(model, samples):
        before, after = model.hisem.embed(first, second)
        grid = (first.shape[2], first.shape[3])
        seen = model.hisem.bdam(before, after, grid)
        maps += [
            (entering.numpy(), leaving.numpy())
            for entering, leaving in zip(
                _distance(before, after, grid),
                _distance(seen.before, seen.after, grid),
                strict=True,
            )
        ]
    pairs = [_shown(s, f"reference: {' '.join(s.captions[0])}") for s in samples]
    title = "How strongly the features of both dates differ before and after BDAM"
    return [(title, "bdam", figures.heat_sheet(pairs, maps))]


def _router(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    counts = np.zeros((2, 2), np.int64)
    samples = _samples(plan)
    for run in runs:
        model = load_model(run.checkpoint)
        for (first, second), start in zip(
            _encoded(model, samples), range(0, len(samples), _BATCH), strict=True
        ):
            with torch.inference_mode():
                path = model.hisem.memory(first, second).path
            for sample, taken in zip(samples[start : start + _BATCH], path.tolist(), strict=True):
                counts[int(sample.changed), taken] += 1
    title = f"Label and path of every pair, {len(runs)} run{'s' if len(runs) > 1 else ''} together"
    return [(title, "router", figures.confusion(counts))]


@torch.inference_mode()
def _experts(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    model = load_model(runs[0].checkpoint)
    n_experts = model.hisem.config.hasd.experts
    samples = [sample for sample in _samples(plan) if sample.changed]
    names = [name for name in CLASS_WORDS if name != "any"]
    visits = {name: np.zeros(n_experts) for name in names}
    n_pairs = dict.fromkeys(names, 0)
    labels = torch.ones(_BATCH, dtype=torch.bool)
    for (first, second), start in zip(
        _encoded(model, samples), range(0, len(samples), _BATCH), strict=True
    ):
        experts = model.hisem.memory(first, second, labels[: len(first)]).experts
        if experts is None:
            continue
        for sample, chosen in zip(samples[start : start + _BATCH], experts, strict=True):
            used = np.bincount(chosen.flatten().numpy(), minlength=n_experts)
            for name in names:
                if names_class(name, sample.captions):
                    visits[name] += used
                    n_pairs[name] += 1
    shares = {name: used / used.sum() for name, used in visits.items() if used.sum()}
    if not shares:
        return []
    title = "Experts visited by the tokens of changed pairs, by what their captions name (pairs)"
    return [(title, "experts", figures.expert_use(shares, n_pairs))]


def _curves(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    drawn: Named = []
    for event, title in (("step", "Training loss"), ("validation", "Validation")):
        curves: dict[str, dict[str, list[figures.Points]]] = {}
        for run in runs:
            records = [r for r in read_log(run.folder / "log.jsonl") if r["event"] == event]
            numbers = {k: None for r in records for k in r if k not in _NO_CURVES}
            for key in numbers:
                points = [(float(r["step"]), float(r[key])) for r in records if key in r]
                smooth = figures.running_mean(points) if event == "step" else points
                curves.setdefault(key, {}).setdefault(run.variant, []).append(smooth)
        if curves:
            figure = figures.curve_sheet(curves, "optimiser step")
            drawn.append((f"{title} curves", f"curves-{event}", figure))
    return drawn


def _masks(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    config = _data_config(plan, runs[0])
    found, _ = open_pairs(
        plan.request.data, plan.split, config.size, skip_broken=config.skip_broken
    )
    pairs = _evenly(found, FEW)
    seeds = [run for run in runs if run.seed == runs[0].seed]
    columns = {}
    for run in seeds:
        _, draw = open_drawer(run.checkpoint)
        columns[run.variant] = [
            draw(p.before, p.after, p.wishes)[0] & (p.masks[0] != UNKNOWN) for p in pairs
        ]
    shown = [ShownPair(p.name, _upright(p.before), _upright(p.after), ()) for p in pairs]
    truths = [pair.masks[0] == 1 for pair in pairs]
    return [("Change masks", "masks", figures.mask_sheet(shown, columns, truths))]


def _wishes(plan: Plan, runs: Sequence[ScoredRun]) -> Named:
    model = load_reasoncd(runs[0].checkpoint)
    kind, explained = _WISH_KINDS[plan.request.experiment.name]
    find = _sample_wishes if has_samples(plan.request.data, plan.split) else _bank_wishes
    asked = list(islice(find(plan, _data_config(plan, runs[0]), kind, explained), FEW))
    shown, masks = [], []
    for wish in asked:
        (answer,) = ask_layers(model, wish.before, wish.after, [wish.text])
        lines = (f"wish: {wish.text}", f"answer: {answer.answer}")
        shown.append(ShownPair(wish.name, _upright(wish.before), _upright(wish.after), lines))
        masks.append(answer.mask.cpu().numpy())
    if not shown:
        return []
    title = plan.request.experiment.title
    truths = [wish.truth for wish in asked]
    return [(title, "wishes", figures.mask_sheet(shown, {"answer": masks}, truths))]


@dataclass(frozen=True)
class _AskedWish:
    """A wish about a pair [3, S, S], and where it is met, [S, S]; None where that is not known."""

    name: str
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    text: str
    truth: NDArray[np.bool_] | None


def _bank_wishes(
    plan: Plan, config: DataConfig, kind: str, explained: bool
) -> Iterator[_AskedWish]:
    """Ask annotated pairs with wordings of the bank's test split."""
    data = ValidationPairs(config)
    rng = np.random.default_rng(0)
    for place in _evenly(range(len(data.validation)), 4 * FEW):
        layers = data.validation_store.whole(place)
        name = data.validation[place].name
        for wish, drawn in _choose(data, place, kind, rng)[: 2 if kind == "explicit" else 1]:
            text = ask_to_explain(wish.text) if explained else wish.text
            truth = drawn.mask == 1 if (drawn.mask != UNKNOWN).all() else None
            yield _AskedWish(name, layers.before, layers.after, text, truth)


def _sample_wishes(
    plan: Plan, config: DataConfig, kind: str, explained: bool
) -> Iterator[_AskedWish]:
    """Take the questions of five-field samples; what the bank does not know fits every kind."""
    pairs, _ = open_pairs(plan.request.data, plan.split, config.size)
    kinds = {ask_to_explain(w.text) if explained else w.text: w.kind for w in load_wishes()}
    for place in _evenly(range(len(pairs)), 4 * FEW):
        pair = pairs[place]
        fitting = [
            (text, mask)
            for text, mask in zip(pair.wishes, pair.masks, strict=True)
            if kinds.get(text, kind) == kind and text.endswith(EXPLAIN) == explained
        ]
        first = {bool((mask == 1).any()): (text, mask) for text, mask in reversed(fitting)}
        wanted = (True, False) if kind == "explicit" else (True,)
        if not first.keys() >= set(wanted):
            continue
        for text, mask in (first[met] for met in wanted):
            truth = mask == 1 if (mask != UNKNOWN).all() else None
            yield _AskedWish(pair.name, pair.before, pair.after, text, truth)


_WISH_KINDS = {
    "reasoncd-fig-15": ("explicit", False),
    "reasoncd-fig-16": ("implicit", False),
    "reasoncd-fig-17": ("implicit", True),
}


def _choose(
    data: ValidationPairs, place: int, kind: str, rng: np.random.Generator
) -> list[tuple[Wish, DrawnWish]]:
    """Choose for a pair a wish that it meets and, of explicit ones, then one it does not."""
    sample = data.validation[place]
    facts = PairFacts(sample.name, sample.changed, sample.captions)
    bank = [w for w in load_wishes("test") if w.kind == kind and w.understood is not None]
    meanings = list(dict.fromkeys(w.understood for w in bank if w.understood is not None))
    known = list(data.met_or_not(data.validation_store.whole(place), facts, meanings))
    chosen = []
    for met in (True, False) if kind == "explicit" else (True,):
        fitting = [drawn for drawn in known if drawn.met == met]
        if not fitting:
            return []
        drawn = fitting[int(rng.integers(len(fitting)))]
        wordings = [wish for wish in bank if wish.understood == drawn.understood]
        chosen.append((wordings[int(rng.integers(len(wordings)))], drawn))
    return chosen


_DRAWERS: dict[Picture, Callable[[Plan, Sequence[ScoredRun]], Named]] = {
    "captions": _captions,
    "bdam": _bdam,
    "router": _router,
    "experts": _experts,
    "curves": _curves,
    "masks": _masks,
    "wishes": _wishes,
}


def _samples(plan: Plan) -> tuple[CaptionSample, ...]:
    skip = plan.runs[0].config.data.skip_broken
    return load_levir_cc(plan.request.data, plan.split, skip_broken=skip).samples


def _data_config(plan: Plan, run: ScoredRun) -> DataConfig:
    return next(p.config.data for p in plan.runs if p.folder == run.folder)


def _evenly(items: Sequence[T], n: int) -> list[T]:
    places = np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)
    return [items[place] for place in places]


def _shown(sample: CaptionSample, *lines: str, right: bool = True) -> ShownPair:
    store = PictureStore.open([sample], 256)
    return ShownPair(sample.name, _upright(store.before[0]), _upright(store.after[0]), lines, right)


def _upright(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """View [3, H, W] as [H, W, 3]."""
    return np.ascontiguousarray(picture.transpose(1, 2, 0))


def _encoded(
    model: CaptionModel, samples: Sequence[CaptionSample]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Encode samples at the model's size, `_BATCH` pairs at a time: maps [B, C, h, w]."""
    encoder = model.hisem.config.encoder
    maps = []
    with torch.inference_mode():
        for start in range(0, len(samples), _BATCH):
            store = PictureStore.open(samples[start : start + _BATCH], encoder.input_size)
            before, after = (torch.from_numpy(np.array(p)) for p in (store.before, store.after))
            maps.append(model.hisem.encode(normalise(before, encoder), normalise(after, encoder)))
    return maps


def _distance(before: torch.Tensor, after: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Root mean square difference of two [B, L, D] a place, [B, h, w]."""
    return (before - after).float().pow(2).mean(dim=2).sqrt().view(-1, *grid)
