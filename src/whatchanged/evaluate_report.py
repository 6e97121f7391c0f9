"""What an evaluation prints and writes: table, JSON, and a CSV file of every pair.

Several models are runs of one experiment: their mean stands in the table with the standard
deviation (n - 1). Two ways of routing give HiSem's Tables VI and VII: the gain of routing by
label, and rho, the gain of a score a point of router accuracy gained.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from whatchanged.evaluate import CaptionEvaluation, CaptionReport, Prediction, Route
from whatchanged.models.weights import seen_notes
from whatchanged.score import PARTS, SCORES, breakdown_json
from whatchanged.score_table import HEADS, PART_NAMES, floor_rows, notes, table

Numbers = dict[str, dict[str, float | None]]
"""For `overall`, `changed` and `unchanged`: `router` and the scores, in percent."""

KEYS = ("router", *SCORES)
_COLUMNS = (
    "model",
    "route",
    "filename",
    "changed",
    "routed_changed",
    "changed_probability",
    "caption",
    "references",
)
_SHOWN = 10  # broken entries that are named; all of them are in the JSON
ROUTE_NAMES: dict[Route, str] = {"predicted": "routed by prediction", "label": "routed by label"}


def numbers(evaluation: CaptionEvaluation) -> Numbers:
    """Return router accuracy and scores of one evaluation."""
    found: Numbers = {}
    for part in PARTS:
        scores = getattr(evaluation.scores, part)
        row = {key: None if scores is None else getattr(scores, key) for key in SCORES}
        found[part] = {"router": evaluation.router[part], **row}
    return found


def mean(runs: Iterable[Numbers]) -> Numbers:
    """Return the mean over runs; None where a run has no such score."""
    return _combine(list(runs), fmean)


def deviation(runs: Iterable[Numbers]) -> Numbers | None:
    """Return the standard deviation over runs with n - 1; None for a single run."""
    listed = list(runs)
    return _combine(listed, stdev) if len(listed) > 1 else None


def gain(predicted: Numbers, label: Numbers) -> Numbers:
    """Return what routing by label gains over routing by prediction (Table VI, improvement)."""
    return _combine([predicted, label], lambda pair: pair[1] - pair[0])


def efficiency(gained: Numbers) -> Numbers:
    """Return rho = gain of a score / gain of router accuracy (Table VI).

    None where the router was right already, and for the router itself.
    """
    return {
        part: {
            key: None
            if key == "router" or not row["router"] or value is None
            else value / row["router"]
            for key, value in row.items()
        }
        for part, row in gained.items()
    }


def to_json(report: CaptionReport) -> dict[str, Any]:
    """Return a report as plain values, None where a score is undefined.

    The scores at the top, under `changed` and under `unchanged` are those of the first way
    of routing, and the mean over the runs where there are several.
    """
    routes = _by_route(report)
    means = {route: mean(map(numbers, runs)) for route, runs in routes.items()}
    deviations = {route: deviation(map(numbers, runs)) for route, runs in routes.items()}
    first = next(iter(routes))
    ruler = report.ruler.to_json()
    counts = _counts(report)
    parts = {
        part: {**ruler, "n": counts[part], **{key: means[first][part][key] for key in SCORES}}
        for part in PARTS
    }
    gained = gain(means["predicted"], means["label"]) if len(means) > 1 else None
    return {
        "split": report.split,
        "beam": report.beam,
        "route": first,
        **parts["overall"],
        "changed": parts["changed"],
        "unchanged": parts["unchanged"],
        "routes": means,
        "deviation": None if None in deviations.values() else deviations,
        "gain": gained,
        "rho": efficiency(gained) if gained else None,
        "floors": {name: breakdown_json(floor, ruler) for name, floor in report.floors.items()},
        "left_out": list(report.left_out),
        "notes": _seen(report),
        "runs": [
            {
                "model": evaluation.model,
                "sha256": evaluation.sha256,
                "route": evaluation.route,
                "scores": numbers(evaluation),
            }
            for evaluation in report.evaluations
        ],
    }


def _seen(report: CaptionReport) -> list[str]:
    return seen_notes(evaluation.model for evaluation in report.evaluations)


def as_text(report: CaptionReport) -> str:
    """Return the table: each run, their mean, gain and rho, and the floors."""
    counts = _counts(report)
    head = (
        f"split {report.split}, {counts['overall']} pairs, {counts['changed']} changed; "
        f"beam {report.beam}\n{report.ruler.describe()}"
    )
    if report.left_out:
        shown = "".join(f"\n  {line}" for line in report.left_out[:_SHOWN])
        head += (
            f"\n{len(report.left_out)} broken entries left out, so no score is of the split:{shown}"
        )
    blocks = [
        table((f"{PART_NAMES[part]} pairs", "router", *HEADS), _rows(report, part))
        for part in PARTS
        if counts[part]
    ]
    said = [*_seen(report), notes(report.ruler, report.floors)]
    return "\n\n".join([head, *blocks, "\n".join(said)])


def write_report(report: CaptionReport, folder: Path) -> None:
    """Write `scores.json`, `table.txt` and `pairs.csv` into a folder, made where absent."""
    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps(to_json(report), indent=1, allow_nan=False)
    (folder / "scores.json").write_text(record + "\n", encoding="utf-8")
    (folder / "table.txt").write_text(as_text(report) + "\n", encoding="utf-8")
    place = folder / "pairs.csv"
    # File names may hold what is no valid text.
    with place.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*_COLUMNS, *SCORES])
        for evaluation in report.evaluations:
            for index, prediction in enumerate(evaluation.predictions):
                writer.writerow(_csv_row(evaluation, index, prediction))


def _csv_row(evaluation: CaptionEvaluation, index: int, prediction: Prediction) -> list[str]:
    sample, probability = prediction.sample, prediction.probability
    scores = evaluation.scores.pairs[index]
    values = [getattr(scores, key) for key in SCORES]
    return [
        evaluation.model,
        evaluation.route,
        sample.before.name,
        str(int(sample.changed)),
        str(int(prediction.changed)),
        "" if probability is None else f"{probability:.4f}",
        " ".join(prediction.caption),
        " | ".join(" ".join(caption) for caption in sample.captions),
        *("" if value is None else f"{value:.4f}" for value in values),
    ]


def _rows(report: CaptionReport, part: str) -> list[list[str]]:
    rows: list[list[str]] = []
    means: dict[Route, Numbers] = {}
    several_routes = len(_by_route(report)) > 1
    for route, evaluations in _by_route(report).items():
        runs = [numbers(evaluation) for evaluation in evaluations]
        means[route] = mean(runs)
        for evaluation, run in zip(evaluations, runs, strict=True):
            name = evaluation.model
            if several_routes or route == "label":
                name = f"{name}, {ROUTE_NAMES[route]}"
            rows.append([name, *(_cell(run[part][key]) for key in KEYS)])
        if spread := deviation(runs):
            cells = [_cell(means[route][part][key], spread[part][key]) for key in KEYS]
            rows.append([f"mean of {len(runs)} runs ± deviation", *cells])
    if len(means) > 1:
        gained = gain(means["predicted"], means["label"])
        ratio = efficiency(gained)
        rows.append(["gain by label", *(_cell(gained[part][key], sign="+") for key in KEYS)])
        rows.append(["rho = gain / gain of router", *(_cell(ratio[part][key]) for key in KEYS)])
    # Floors have no router; their second column is the number of pairs.
    floors = floor_rows(report.floors, part)
    return [*rows, *([name, "-", *cells] for name, _, *cells in floors)]


def _cell(value: float | None, spread: float | None = None, *, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def _by_route(report: CaptionReport) -> dict[Route, list[CaptionEvaluation]]:
    routes: dict[Route, list[CaptionEvaluation]] = {}
    for evaluation in report.evaluations:
        routes.setdefault(evaluation.route, []).append(evaluation)
    return routes


def _counts(report: CaptionReport) -> dict[str, int]:
    changed = [p.sample.changed for p in report.evaluations[0].predictions]
    return {
        "overall": len(changed),
        "changed": sum(changed),
        "unchanged": len(changed) - sum(changed),
    }


def _combine(runs: list[Numbers], how: Callable[[list[float]], float]) -> Numbers:
    """Apply `how` to each score over runs; None where one of them has no such score."""
    combined: Numbers = {}
    for part in PARTS:
        combined[part] = {}
        for key in KEYS:
            values = [value for run in runs if (value := run[part][key]) is not None]
            combined[part][key] = how(values) if len(values) == len(runs) else None
    return combined
