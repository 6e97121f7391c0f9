"""What an evaluation of masks prints and writes: table, JSON, and a CSV file of every mask."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from whatchanged.evaluate_masks import MaskReport, ScoredMask
from whatchanged.metrics.masks import MaskCounts, bootstrap_intervals
from whatchanged.models.weights import seen_notes
from whatchanged.score_table import table

HEADS = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "oa": "OA",
    "iou": "IoU",
    "kappa": "kappa",
}
PARTS = ("overall", "changed", "unchanged")

Scores = dict[str, float | None]

_PART_NAMES = {
    "overall": "all masks",
    "changed": "masks with a change",
    "unchanged": "masks without one",
}
_SHOWN = 10  # broken entries that are named; all of them are in the JSON


def part_of(masks: Sequence[ScoredMask], part: str) -> list[ScoredMask]:
    """Return all masks, or those whose truth has a changed pixel, or those whose has none."""
    return [m for m in masks if part == "overall" or m.changed == (part == "changed")]


def scores_of(masks: Sequence[ScoredMask], part: str) -> Scores:
    """Return the scores of one part in percent, of one confusion over its pixels.

    Without a changed pixel in the truth only the overall accuracy tells anything; all other
    scores are None there, and everywhere where the part has no pixel.
    """
    total = MaskCounts()
    for mask in part_of(masks, part):
        total = total.merge(mask.counts)
    if not total.n_pixels:
        return dict.fromkeys(HEADS)
    scores = total.scores()
    told = ("oa",) if part == "unchanged" else tuple(HEADS)
    return {name: getattr(scores, name) if name in told else None for name in HEADS}


def to_json(report: MaskReport) -> dict[str, Any]:
    """Return a report as plain values, None where a score is undefined.

    The scores at the top, under `changed` and under `unchanged` are the mean over the models
    where there are several.
    """
    runs = [
        {
            "model": evaluation.model,
            "sha256": evaluation.sha256,
            **{part: scores_of(evaluation.masks, part) for part in PARTS},
            "interval": _intervals(evaluation.masks),
        }
        for evaluation in report.evaluations
    ]
    counts = _counts(report)
    parts = {
        part: {"n": counts[part], **_combine([run[part] for run in runs], fmean)} for part in PARTS
    }
    several = len(runs) > 1
    return {
        "data": report.data,
        "set": report.origin.name,
        "recipe": report.origin.recipe,
        "split_sha256": report.origin.sha256,
        "size": report.size,
        "windows": report.windows,
        "wish": report.wish,
        **parts["overall"],
        "changed": parts["changed"],
        "unchanged": parts["unchanged"],
        "deviation": {part: _combine([run[part] for run in runs], stdev) for part in PARTS}
        if several
        else None,
        "floors": {
            name: {part: scores_of(masks, part) for part in PARTS}
            for name, masks in report.floors.items()
        },
        "left_out": list(report.left_out),
        "notes": _seen(report),
        "runs": runs,
    }


def _seen(report: MaskReport) -> list[str]:
    return seen_notes(evaluation.model for evaluation in report.evaluations)


def as_text(report: MaskReport) -> str:
    """Return the table: each run, their mean, and the floors, under the protocol."""
    counts = _counts(report)
    asked = f"asked for {report.wish}" if report.wish else "each asked for its own wish"
    how = "windows cut at their own resolution" if report.windows else "pictures reduced to it"
    head = (
        f"{report.data}: {counts['overall']} masks, {counts['changed']} with a change, {asked}\n"
        f"one confusion over all pixels at {report.size} x {report.size}, {how};\n"
        "positive = changed, unknown pixels skipped; percent"
    )
    if origin := _origin(report):
        head += f"\n{origin}"
    if report.left_out:
        shown = "".join(f"\n  {line}" for line in report.left_out[:_SHOWN])
        head += (
            f"\n{len(report.left_out)} broken entries left out, so no score is of the split:{shown}"
        )
    blocks = [
        table((_PART_NAMES[part], *HEADS.values()), _rows(report, part))
        for part in PARTS
        if counts[part]
    ]
    note = "95 % of F1 over all masks, pairs drawn anew: " + "; ".join(
        f"{e.model} {low:.2f} to {high:.2f}"
        for e in report.evaluations
        for low, high in [_intervals(e.masks)["f1"]]
    )
    return "\n\n".join([head, *blocks, "\n".join([note, *_seen(report)])])


def write_report(report: MaskReport, folder: Path) -> None:
    """Write `scores.json`, `table.txt` and `pairs.csv` into a folder, made where absent."""
    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps(to_json(report), indent=1, allow_nan=False)
    (folder / "scores.json").write_text(record + "\n", encoding="utf-8")
    (folder / "table.txt").write_text(as_text(report) + "\n", encoding="utf-8")
    # File names may hold what is no valid text.
    with (folder / "pairs.csv").open(
        "w", encoding="utf-8", errors="backslashreplace", newline=""
    ) as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "pair", "wish", "changed", "tp", "fp", "fn", "tn", *HEADS])
        for evaluation in report.evaluations:
            for mask in evaluation.masks:
                scores = scores_of([mask], "changed" if mask.changed else "unchanged")
                counts = (mask.counts.tp, mask.counts.fp, mask.counts.fn, mask.counts.tn)
                values = ("" if v is None else f"{v:.4f}" for v in scores.values())
                row = (evaluation.model, mask.pair, mask.wish, int(mask.changed))
                writer.writerow([*row, *counts, *values])


def _origin(report: MaskReport) -> str:
    """Return one line: set, recipe and the sum of the split's list, as far as they are known."""
    origin = report.origin
    parts = {
        "set": origin.name,
        "recipe": origin.recipe,
        "list of the split has sha256": origin.sha256,
    }
    return ", ".join(f"{what} {value}" for what, value in parts.items() if value)


def _rows(report: MaskReport, part: str) -> list[list[str]]:
    runs = [scores_of(evaluation.masks, part) for evaluation in report.evaluations]
    rows = [
        [evaluation.model, *(_cell(run[key]) for key in HEADS)]
        for evaluation, run in zip(report.evaluations, runs, strict=True)
    ]
    if len(runs) > 1:
        means, spreads = _combine(runs, fmean), _combine(runs, stdev)
        cells = [_cell(means[key], spreads[key]) for key in HEADS]
        rows.append([f"mean of {len(runs)} runs ± deviation", *cells])
    for name, masks in report.floors.items():
        floor = scores_of(masks, part)
        rows.append([f"floor: {name}", *(_cell(floor[key]) for key in HEADS)])
    return rows


def _cell(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def _combine(runs: Sequence[Any], how: Any) -> Scores:
    """Apply `how` to each score over runs; None where one of them has no such score."""
    columns = {key: [run[key] for run in runs] for key in HEADS}
    return {key: None if None in column else how(column) for key, column in columns.items()}


def _intervals(masks: Sequence[ScoredMask]) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each score over all masks, by bootstrap over pairs."""
    pairs: dict[str, MaskCounts] = {}
    for mask in masks:
        pairs[mask.pair] = pairs.get(mask.pair, MaskCounts()).merge(mask.counts)
    found = bootstrap_intervals(list(pairs.values()))
    return {key: (found[key].low, found[key].high) for key in HEADS}


def _counts(report: MaskReport) -> dict[str, int]:
    return {part: len(part_of(report.evaluations[0].masks, part)) for part in PARTS}
