"""What a table costs before anything is trained: runs, hours and disk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from whatchanged.config import apply_mapping, apply_overrides, from_mapping, to_mapping
from whatchanged.data.known_sets import known_set, missing
from whatchanged.data.prepared import has_samples
from whatchanged.errors import UsageError
from whatchanged.models import weights
from whatchanged.reproduce.dataset import FoundData, look_at, prepared_data
from whatchanged.reproduce.experiments import VARIANTS, Experiment
from whatchanged.reproduce.recipes import RECIPES, Preset, Stage
from whatchanged.train.config import TrainConfig, model_config, reasoncd_config
from whatchanged.train.record import read_log
from whatchanged.train.state import run_identity

FINISHED = "finished.json"
State = Literal["new", "started", "finished"]

_TIMED_STEPS = 3
_STATE_COPIES = 2 * 3  # two saved states, each of weights and two moments
_MODEL_COPIES = 2  # best and last


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        experiment: Table or figure.
        data: Folder of the data set: in LEVIR-CC's layout; for ReasonCD also prepared, or BCDD
            or SECOND as they are distributed.
        out: Folder of runs and results.
        seeds: One run of each variant for each.
        preset: Size of model and recipe.
        epochs: Passes over the training pairs; None for the recipe's.
        overrides: `key=value` texts laid over the recipe, below what a row ablates.
    """

    experiment: Experiment
    data: Path
    out: Path
    seeds: tuple[int, ...] = (0,)
    preset: Preset = "small"
    epochs: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One training run.

    Attributes:
        variant: Name of the variant.
        seed: Its seed.
        config: All of it.
        state: Whether it has to be trained, gone on with, or is there.
    """

    variant: str
    seed: int
    config: TrainConfig
    state: State

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.config.out)


@dataclass(frozen=True)
class Plan:
    """Runs in the order they are trained, and what is left to pay for them.

    Attributes:
        request: What was asked for.
        found: What the data set holds.
        runs: In the order of training.
        hours: Of what is left; None where nothing is known.
        timed_by: What the hours come from.
        disk_gb: At the most while training, and what stays; None where nothing is known.
    """

    request: Request
    found: FoundData
    runs: tuple[PlannedRun, ...]
    hours: float | None
    timed_by: str
    disk_gb: tuple[float, float] | None

    @property
    def split(self) -> Literal["test", "val"]:
        """Split that is scored."""
        return self.found.scored

    @property
    def left(self) -> tuple[PlannedRun, ...]:
        """Runs that are not finished."""
        return tuple(run for run in self.runs if run.state != "finished")


def make_plan(request: Request, *, timed: bool = False) -> Plan:
    """Look at data and earlier runs and say what is to be done.

    BCDD and SECOND as they are distributed are turned into samples first, below `out`.

    Args:
        request: What was asked for.
        timed: Train three steps of each variant that no finished run can speak for.

    Raises:
        UsageError: No seed, a preset that the experiment has no recipe for, an override that
            does not fit, or runs of another configuration in the out folder.
        DatasetError: The data set is missing or in no layout that is known, or has no masks
            where masks are scored.
    """
    if not request.seeds:
        raise UsageError("no seed given", hint="such as --seeds 0..4")
    if not request.data.is_dir():
        raise missing(request.data, "does not exist", known_set(request.experiment.dataset))
    if request.experiment.paper == "ReasonCD":
        request = replace(request, data=prepared_data(request.data, request.out))
    _check_recipes(request)
    skip = "data.skip_broken=true" in request.overrides
    found = look_at(request.experiment, request.data, skip_broken=skip)
    runs = tuple(
        _planned(request, variant, seed)
        for seed in request.seeds
        for variant in _with_starts(request)
    )
    known = _known_rates(request.out)
    if timed:
        left = {run.variant: run for run in runs if run.state != "finished" and _can_start(run)}
        known |= {v: time_steps(run.config) for v, run in left.items() if v not in known}
    plan = Plan(request, found, runs, None, "", _disk(runs))
    return replace(plan, **_hours(plan, known))


def to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    return {
        "table": plan.request.experiment.name,
        "data": str(plan.request.data),
        "data_name": plan.found.name,
        "split": plan.split,
        "preset": plan.request.preset,
        "training_pairs": plan.found.counts["train"],
        "unit": plan.found.unit,
        "runs": [
            {
                "variant": run.variant,
                "seed": run.seed,
                "folder": str(run.folder),
                "epochs": run.config.epochs,
                "state": run.state,
            }
            for run in plan.runs
        ],
        "hours": plan.hours,
        "hours_from": plan.timed_by,
        "disk_gb": None if plan.disk_gb is None else dict(zip(_DISK, plan.disk_gb, strict=True)),
    }


def as_text(plan: Plan) -> str:
    """Return a plan as lines to read."""
    request = plan.request
    states = [run.state for run in plan.runs]
    lines = [
        f"{request.experiment.name}: {request.experiment.title} ({request.experiment.paper})",
        f"{'data':<8}{plan.found}; scored on {plan.split}",
        f"{'runs':<8}{len(states)}: {states.count('finished')} finished, "
        f"{states.count('started')} started, {states.count('new')} new",
    ]
    lines += [
        f"{'':<8}{run.variant:<16} seed {run.seed}  epochs {run.config.epochs}  {run.state}"
        for run in plan.runs
    ]
    hours = "not known" if plan.hours is None else f"about {plan.hours:.1f}"
    lines.append(f"{'hours':<8}{hours} ({plan.timed_by})")
    if plan.disk_gb is not None:
        most, stays = plan.disk_gb
        lines.append(f"{'disk':<8}{most:.1f} GB at the most, {stays:.1f} GB stay")
    return "\n".join(lines)


def same_run(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Tell whether two configurations, as plain values, train the same model."""
    return run_identity(first, finished=True) == run_identity(second, finished=True)


def stage_of(request: Request, variant: str) -> Stage:
    """Return what a variant trains: on five-field samples ReasonCD is trained all at once."""
    stage = VARIANTS[variant].stage
    return "samples" if stage != "hisem" and has_samples(request.data, "train") else stage


def run_config(request: Request, name: str, seed: int) -> TrainConfig:
    """Return the configuration of a variant: recipe, overrides, and above them the ablation."""
    variant = VARIANTS[name]
    data = str(request.data.resolve())
    stage = stage_of(request, name)
    where = {"samples": data} if stage == "samples" else {"captions": [data]}
    values = apply_mapping(RECIPES[stage, request.preset], {"data": where})
    values = apply_overrides(_copied(values), request.overrides)
    values = apply_mapping(values, variant.values)
    if variant.start is not None and stage != "samples" and "start" not in values:
        values["start"] = str(_folder(request, variant.start, seed) / "best")
    if request.epochs is not None:
        values["epochs"] = request.epochs
    values |= {"seed": seed, "out": str(_folder(request, name, seed)), "resume": True}
    config = from_mapping(TrainConfig, values, "reproduce")
    (model_config if variant.stage == "hisem" else reasoncd_config)(config)  # refuses early
    return config


def time_steps(config: TrainConfig) -> float:
    """Return pairs per second of three training steps after a first one that only warms up."""
    from whatchanged.train.loop import autocast
    from whatchanged.train.run import build_task
    from whatchanged.train.state import step_generator

    task = build_task(config)
    device = next(task.model.parameters()).device
    indices = list(range(min(config.batch_size, len(task))))
    started = 0.0
    for step in range(_TIMED_STEPS + 1):
        started = time.monotonic() if step == 1 else started
        batch = task.load(indices, step_generator(config.seed, 0, step))
        with autocast(config, device):
            loss = task.loss(task.model, batch, 0, device)
        torch.autograd.backward(loss.total)
    return _TIMED_STEPS * len(indices) / (time.monotonic() - started)


_DISK = ("most", "stays")


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _folder(request: Request, variant: str, seed: int) -> Path:
    return request.out / "runs" / f"{variant}-seed{seed}"


def _check_recipes(request: Request) -> None:
    """Refuse, before anything else, what this package cannot train."""
    for name in request.experiment.variants:
        stage = stage_of(request, name)
        if (stage, request.preset) not in RECIPES:
            raise UsageError(
                f"{request.experiment.name} with --preset {request.preset} trains ReasonCD on "
                f"five-field samples, and {request.data} holds none",
                hint="make them with `whatchanged prepare` and name that folder, or train on "
                "annotated pairs with --preset small",
            )


def _can_start(run: PlannedRun) -> bool:
    """Whether what a run starts from is there."""
    start = run.config.start
    return start is None or start in weights.NAMED_WEIGHTS or Path(start).exists()


def _with_starts(request: Request) -> list[str]:
    """Return variants in the order of training: what another starts from comes before it."""
    given = any(text.startswith("start=") for text in request.overrides)
    order: dict[str, None] = {}
    for name in request.experiment.variants:
        first = VARIANTS[name].start
        if first is not None and not given and stage_of(request, name) != "samples":
            order[first] = None
        order[name] = None
    return list(order)


def _planned(request: Request, variant: str, seed: int) -> PlannedRun:
    config = run_config(request, variant, seed)
    folder = Path(config.out)
    state: State = "new"
    for name, found in ((FINISHED, "finished"), ("run.json", "started")):
        if (folder / name).is_file():
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            if not same_run(record["config"], to_mapping(config)):
                raise UsageError(
                    f"{folder} holds a run with another configuration",
                    hint="use another --out, or the seeds, epochs, data and overrides of that run",
                )
            state = "finished" if found == "finished" else "started"
            break
    return PlannedRun(variant, seed, config, state)


def _known_rates(out: Path) -> dict[str, float]:
    """Return pairs per second of variants with a finished run, validation included."""
    rates: dict[str, float] = {}
    for place in sorted(out.glob(f"runs/*/{FINISHED}")):
        record = json.loads(place.read_text(encoding="utf-8"))
        if record["seconds"] > 0 and record["pairs"] > 0:
            rates[record["variant"]] = record["pairs"] / record["seconds"]
    return rates


def _hours(plan: Plan, known: Mapping[str, float]) -> dict[str, Any]:
    """Return hours of what is left, and where they come from."""
    if not plan.left:
        return {"hours": 0.0, "timed_by": "every run is finished"}
    seconds = 0.0
    for run in plan.left:
        same = [rate for v, rate in known.items() if _stage(v) == _stage(run.variant)]
        rate = known.get(run.variant) or (sum(same) / len(same) if same else None)
        if rate is None:
            return {
                "hours": None,
                "timed_by": "no finished run of this kind; --time takes three steps"
                if _can_start(run)
                else f"{run.variant} starts from a run that is still to be trained",
            }
        data = run.config.data
        pairs = plan.found.counts["train"] * (1 + data.synthetic + data.self_pairs)
        pairs *= run.config.epochs
        if run.config.max_steps:
            pairs = min(pairs, run.config.max_steps * run.config.batch_size)
        seconds += max(0.0, pairs - _pairs_done(run)) / rate
    return {
        "hours": seconds / 3600,
        "timed_by": "from finished runs and timed steps of this machine",
    }


def _stage(variant: str) -> str:
    return VARIANTS[variant].stage if variant in VARIANTS else ""


def _pairs_done(run: PlannedRun) -> float:
    steps = [r for r in read_log(run.folder / "log.jsonl") if r["event"] == "step"]
    return float(len(steps) * run.config.batch_size)


def _disk(runs: Sequence[PlannedRun]) -> tuple[float, float] | None:
    """Return gigabytes while training and afterwards; states of finished runs are removed."""
    stays, most = 0.0, 0.0
    for run in runs:
        size = _model_bytes(run.config)
        if size is None:
            return None
        stays += _MODEL_COPIES * size
        most = max(most, _STATE_COPIES * size)
    return (stays + most) / 1e9, stays / 1e9


def _model_bytes(config: TrainConfig) -> int | None:
    """Return the size of a model's weights in float32; None for the language model's."""
    from whatchanged.models.hisem.model import HiSem
    from whatchanged.models.reasoncd.mask_part import MaskPart

    with torch.device("meta"):
        if config.task == "hisem":
            model: torch.nn.Module = HiSem(model_config(config), 1000)
        elif config.task == "wish-masks":
            model = MaskPart(reasoncd_config(config))
        else:
            return None
    return 4 * sum(p.numel() for p in model.parameters())
