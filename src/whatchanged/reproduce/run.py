"""Train and score what a table needs; what is there already is left as it is."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whatchanged.config import to_mapping
from whatchanged.evaluate import CaptionReport, Route, evaluate_captions
from whatchanged.evaluate_masks import MaskReport, evaluate_masks
from whatchanged.evaluate_masks_report import scores_of
from whatchanged.evaluate_report import KEYS, Numbers, efficiency, gain, mean, numbers
from whatchanged.reproduce.experiments import Experiment, Row
from whatchanged.reproduce.plan import FINISHED, Plan, PlannedRun
from whatchanged.score import Ruler, breakdown_json
from whatchanged.train.record import read_log, write_record
from whatchanged.train.run import train
from whatchanged.train.state import drop_states

log = logging.getLogger(__name__)

RULER = Ruler()
"""Protocol `ids` with the vocabulary of all splits: that of the published numbers."""


@dataclass(frozen=True)
class ScoredRun:
    """A run and its numbers.

    Attributes:
        variant: Name of the variant.
        seed: Its seed.
        folder: Its folder.
        checkpoint: What was scored.
        routes: Way of routing -> numbers by part of the split; one entry for masks.
        floors: Predictor that sees no picture -> numbers by part.
        n_pairs: Pairs scored, or masks.
    """

    variant: str
    seed: int
    folder: Path
    checkpoint: Path
    routes: Mapping[str, Numbers]
    floors: Mapping[str, Numbers]
    n_pairs: int

    def read(self, row: Row) -> dict[str, float | None]:
        """Return the numbers of a row: a way of routing, its gain, or its gain a point."""
        if row.reading in ("predicted", "label"):
            return self.routes[row.reading][row.part]
        gained = gain(self.routes["predicted"], self.routes["label"])
        return (gained if row.reading == "gain" else efficiency(gained))[row.part]


def mean_run(runs: Sequence[ScoredRun]) -> ScoredRun:
    """Return the mean of several seeds' numbers as one run; None where one has no such number."""
    first = runs[0]
    routes = {route: mean(run.routes[route] for run in runs) for route in first.routes}
    return replace(first, routes=routes)


def train_runs(plan: Plan) -> None:
    """Train what is left of a plan; a run that stopped goes on where it was.

    Raises:
        WhatchangedError: As `train`.
    """
    for number, run in enumerate(plan.left, start=1):
        log.info("run %d of %d: %s, seed %d", number, len(plan.left), run.variant, run.seed)
        started = time.monotonic()
        train(run.config)
        _finish(run, time.monotonic() - started)


def score_runs(plan: Plan) -> tuple[ScoredRun, ...]:
    """Score the runs that stand in the rows, from the files beside them where there are any."""
    wanted = [run for run in plan.runs if run.variant in plan.request.experiment.variants]
    return tuple(_score(plan, run) for run in wanted)


def checkpoint(run: PlannedRun, split: str) -> Path:
    """Return what is scored: the best checkpoint, or the last where `val` chose the best."""
    return run.folder / ("best" if split == "test" else "last")


def _finish(run: PlannedRun, seconds: float) -> None:
    """Write that a run is finished, and drop the states it could have gone on from."""
    steps = [r for r in read_log(run.folder / "log.jsonl") if r["event"] == "step"]
    pairs = len(steps) * run.config.batch_size
    write_record(
        run.folder / FINISHED,
        {
            "variant": run.variant,
            "seed": run.seed,
            "steps": len(steps),
            "pairs": pairs,
            # Of a resumed run only the last part was watched: it says nothing of speed.
            "seconds": seconds if run.state == "new" else 0.0,
            "config": to_mapping(run.config),
        },
    )
    drop_states(run.folder / "state")


def _score(plan: Plan, run: PlannedRun) -> ScoredRun:
    experiment, split = plan.request.experiment, plan.split
    chosen = checkpoint(run, split)
    if experiment.kind == "captions":
        routes = _routes(experiment, run.variant)
        records = {route: run.folder / f"scores-{split}-{route}.json" for route in routes}
        missing = [route for route, place in records.items() if not place.is_file()]
        if missing:
            report = evaluate_captions(
                *([chosen], plan.request.data, split),
                routes=missing,
                ruler=RULER,
                skip_broken=run.config.data.skip_broken,
            )
            for evaluation in report.evaluations:
                record = _caption_record(report, numbers(evaluation), evaluation.sha256)
                write_record(records[evaluation.route], record)
    else:
        records = {"predicted": run.folder / f"scores-{split}.json"}
        if experiment.kind == "masks" and not records["predicted"].is_file():
            masks = evaluate_masks(
                *([chosen], plan.request.data, split),
                size=run.config.data.size,
                skip_broken=run.config.data.skip_broken,
            )
            write_record(records["predicted"], _mask_record(masks))
    read = {
        route: json.loads(place.read_text(encoding="utf-8"))
        for route, place in records.items()
        if place.is_file()
    }
    first: dict[str, Any] = next(iter(read.values()), {"floors": {}, "n_pairs": 0})
    return ScoredRun(
        run.variant,
        run.seed,
        run.folder,
        chosen,
        {route: record["scores"] for route, record in read.items()},
        first["floors"],
        first["n_pairs"],
    )


def _routes(experiment: Experiment, variant: str) -> Sequence[Route]:
    readings = {row.reading for row in experiment.rows if row.variant == variant}
    return ("predicted",) if readings == {"predicted"} else ("predicted", "label")


def _mask_record(report: MaskReport) -> dict[str, Any]:
    (evaluation,) = report.evaluations
    return {
        "sha256": evaluation.sha256,
        "split": report.data,
        "n_pairs": len(evaluation.masks),
        "n_changed": sum(mask.changed for mask in evaluation.masks),
        "wish": report.wish,
        "left_out": list(report.left_out),
        "scores": {"overall": scores_of(evaluation.masks, "overall")},
        "floors": {
            name: {"overall": scores_of(masks, "overall")} for name, masks in report.floors.items()
        },
    }


def _caption_record(report: CaptionReport, scores: Numbers, sha256: str) -> dict[str, Any]:
    ruler = report.ruler.to_json()
    floors = {}
    for name, floor in report.floors.items():
        plain = breakdown_json(floor, ruler)
        parts = {"overall": plain, "changed": plain["changed"], "unchanged": plain["unchanged"]}
        floors[name] = {
            part: {key: found.get(key) for key in KEYS} for part, found in parts.items()
        }
    return {
        "sha256": sha256,
        **ruler,
        "split": report.split,
        "beam": report.beam,
        "n_pairs": len(report.evaluations[0].predictions),
        "left_out": list(report.left_out),
        "scores": scores,
        "floors": floors,
    }
