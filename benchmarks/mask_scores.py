"""One scorer for every row of a "what changed" mask table, whichever model drew the masks.

A model is a function of two pictures. All see the same pairs, 256 pixels a side, and are cut
at the same probability.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.config import from_mapping, to_mapping
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import UNKNOWN, PictureStore
from whatchanged.data.samples import CaptionSample
from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.masks import Interval, MaskCounts, MaskScores, bootstrap_intervals

SIDE = 256
THRESHOLD = 0.5
SHOWN = 12
COLUMNS = ("f1", "precision", "recall", "iou", "oa", "kappa")
HEADS = ("F1", "precision", "recall", "IoU", "OA", "kappa")
# True positive, false positive, false negative; what is rightly unchanged stays dark.
COLOURS = {"tp": (255, 255, 255), "fp": (230, 60, 40), "fn": (60, 140, 255)}

Picture = NDArray[np.uint8]
Predict = Callable[[Picture, Picture], NDArray[np.floating]]
"""Before and after, [H, W, 3] uint8, to the probability of change, [H, W] in [0, 1]."""


@dataclass(frozen=True)
class MaskSample:
    """One pair to be scored on.

    Attributes:
        name: Name of the pair.
        source: Set it comes from.
        before: RGB, [H, W, 3] uint8.
        after: RGB, [H, W, 3] uint8.
        truth: Where it changed, [H, W] bool.
    """

    name: str
    source: str
    before: Picture
    after: Picture
    truth: NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Scores of some pairs: one confusion over all their pixels.

    Attributes:
        n_pairs: Pairs.
        n_changed: Pairs with a changed pixel in their truth.
        scores: Percent points.
        intervals: Of each score, 95 %, by bootstrap over pairs.
    """

    n_pairs: int
    n_changed: int
    scores: MaskScores
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class MaskRow:
    """Scores of one model, of all pairs and by the set they come from."""

    overall: Scored
    sources: dict[str, Scored]


def load_validation(captioned: Path) -> list[MaskSample]:
    """Read the validation pairs that have a mask, whole, reduced to 256 pixels a side.

    Args:
        captioned: Folder in LEVIR-CC's layout.
    """
    samples = with_masks(load_levir_cc(captioned, "val").samples)
    store = PictureStore.open(samples, SIDE)
    if store.mask is None:
        raise DatasetError(f"{captioned}: no pair of split 'val' has a mask")
    return [
        MaskSample(sample.name, group(sample.source), before, after, mask == 1)
        for sample, before, after, mask in zip(
            samples,
            store.before.transpose(0, 2, 3, 1),
            store.after.transpose(0, 2, 3, 1),
            store.mask,
            strict=True,
        )
        if not (mask == UNKNOWN).any()
    ]


def with_masks(samples: Sequence[CaptionSample]) -> list[CaptionSample]:
    """Leave out pairs without a mask, and land cover, which nobody asks for here."""
    return [
        replace(sample, classes_before=None, classes_after=None)
        for sample in samples
        if sample.mask is not None
    ]


def group(source: str) -> str:
    """Name of the set; crops (`crop-<set>_<split>`) belong to the set they were cut from."""
    return source.removeprefix("crop-").split("_")[0] if source.startswith("crop-") else source


def score_masks(predict: Predict, samples: Sequence[MaskSample]) -> MaskRow:
    """Draw the mask of every pair, probability at least 0.5, and score them.

    Args:
        predict: See `Predict`; called once a pair.
        samples: At least one pair.

    Raises:
        UsageError: What `predict` returns is no probability.
        DatasetError: It has another shape than the pair; or there is no pair.
    """
    counts = [MaskCounts().add(drawn(predict, s), s.truth) for s in samples]
    if not counts:
        raise DatasetError("there is no pair to score")
    sources: dict[str, list[MaskCounts]] = {}
    for sample, count in zip(samples, counts, strict=True):
        sources.setdefault(sample.source, []).append(count)
    return MaskRow(_scored(counts), {name: _scored(own) for name, own in sources.items()})


def drawn(predict: Predict, sample: MaskSample) -> NDArray[np.bool_]:
    """Return the mask that a model draws of one pair, [H, W]; raises as `score_masks`."""
    probability = np.asarray(predict(sample.before, sample.after))
    if not ((probability >= 0) & (probability <= 1)).all():  # not-a-number fails this too
        raise UsageError(
            f"{sample.name}: what the model returned is not a probability in [0, 1]",
            hint="apply the sigmoid to logits",
        )
    mask: NDArray[np.bool_] = probability >= THRESHOLD
    return mask


def _scored(counts: Sequence[MaskCounts]) -> Scored:
    total = MaskCounts()
    for one in counts:
        total = total.merge(one)
    changed = sum(one.tp + one.fn > 0 for one in counts)
    return Scored(len(counts), changed, total.scores(), bootstrap_intervals(counts))


def mask_table(rows: Mapping[str, MaskRow], source: str | None = None) -> str:
    """Markdown table of models; one set only where `source` names it."""
    lines = ["| | " + " | ".join(HEADS) + " |", "|---|" + "---:|" * len(HEADS)]
    for name, row in rows.items():
        scored = row.overall if source is None else row.sources[source]
        f1 = scored.intervals["f1"]
        cells = [f"{getattr(scored.scores, column):.2f}" for column in COLUMNS]
        cells[0] += f" ({f1.low:.1f} to {f1.high:.1f})"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mask_tables(rows: Mapping[str, MaskRow]) -> str:
    """All tables: of all pairs, then of each set."""
    first = next(iter(rows.values()))
    parts: dict[str | None, Scored] = {None: first.overall, **first.sources}
    return "\n\n".join(
        f"### {source or 'all'}: {part.n_pairs} pairs, {part.n_changed} changed\n\n"
        + mask_table(rows, source)
        for source, part in parts.items()
    )


def write_rows(path: Path, rows: Mapping[str, MaskRow], facts: Mapping[str, Any]) -> None:
    """Write rows, and facts of how they came about beside them, as JSON."""
    content = {**facts, "rows": {name: to_mapping(row) for name, row in rows.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_rows(path: Path) -> dict[str, MaskRow]:
    """Read the rows of a file of `write_rows`, to print them beside others."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {name: from_mapping(MaskRow, row, str(path)) for name, row in rows.items()}


def draw_sheet(samples: Sequence[MaskSample], models: Mapping[str, Predict], out: Path) -> None:
    """Draw pairs, taken evenly from the list, with the truth and what each model got right."""
    from matplotlib.figure import Figure

    places = np.linspace(0, len(samples) - 1, min(SHOWN, len(samples))).round().astype(int)
    heads = ("before", "after", "truth", *models)
    figure = Figure(figsize=(2.2 * len(heads), 2.3 * len(places)), layout="constrained")
    grid = figure.subplots(len(places), len(heads), squeeze=False)
    for row, place in zip(grid, places, strict=True):
        sample = samples[place]
        truth = judged(sample.truth, sample.truth)
        masks = [judged(drawn(predict, sample), sample.truth) for predict in models.values()]
        for axes, picture in zip(row, (sample.before, sample.after, truth, *masks), strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
        row[0].set_title(sample.name, fontsize=7, loc="left")
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=9)
    figure.suptitle("white: found; red: found wrongly; blue: missed", fontsize=9)
    figure.savefig(out, dpi=80)


def judged(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Picture:
    """Colour a mask by what is right in it, [H, W, 3] uint8."""
    picture = np.full((*truth.shape, 3), 24, np.uint8)
    picture[mask & truth] = COLOURS["tp"]
    picture[mask & ~truth] = COLOURS["fp"]
    picture[~mask & truth] = COLOURS["fn"]
    return picture
