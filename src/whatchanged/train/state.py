"""The saved state of a run: weights, optimiser and place, so that it resumes exactly.

Everything random in a step is drawn from a seed made of (run seed, epoch, step, process), so
no generator state has to be kept: a resumed step draws what the uninterrupted one drew.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from whatchanged.config import apply_mapping, to_mapping
from whatchanged.errors import CheckpointError
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.train.config import TrainConfig
from whatchanged.train.sharding import is_shard

log = logging.getLogger(__name__)

FAMILY = "training-state"
KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the next step to take, the best validation, and those since it."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0


def seed_step(seed: int, epoch: int, step: int, process: int = 0) -> None:
    """Seed the generators that layers such as dropout draw from, for one step."""
    torch.manual_seed(_mixed(seed, epoch, step, process, 0))


def step_generator(seed: int, epoch: int, step: int, process: int = 0) -> torch.Generator:
    """Return the generator that everything drawn for one step's data comes from."""
    return torch.Generator().manual_seed(_mixed(seed, epoch, step, process, 1))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def save_state(
    folder: Path, model: nn.Module, optimiser: Optimizer, progress: Progress, config: dict[str, Any]
) -> Path:
    """Write a state folder named by its step, atomically, and keep one more: the one before it.

    Shares of a sharded, frozen base are left out: they never change.
    """
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in _whole(model).items()}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimiser.{index}.{key}"] = torch.as_tensor(value).detach().contiguous()
    target = folder / f"state-{progress.global_step:08d}"
    save_checkpoint(
        target, family=FAMILY, config=config, tensors=tensors, extras={"progress": vars(progress)}
    )
    states = sorted(folder.glob("state-????????"))
    place = states.index(target) + 1
    # Later ones are damaged or of a run that was started over: never to be resumed from.
    for old in [*states[: max(0, place - KEPT)], *states[place:]]:
        shutil.rmtree(old)
    return target


def drop_states(folder: Path) -> None:
    """Remove what earlier runs saved, so that none is resumed from."""
    shutil.rmtree(folder, ignore_errors=True)


def load_state(
    folder: Path, model: nn.Module, optimiser: Optimizer, config: dict[str, Any]
) -> Progress | None:
    """Restore the newest state that is whole; a damaged one is named and the previous used.

    Raises:
        CheckpointError: The state belongs to a run with another configuration or other data.
    """
    for target in sorted(folder.glob("state-????????"), reverse=True):
        try:
            saved = load_checkpoint(target)
        except CheckpointError as error:
            log.warning("saved state %s is damaged and skipped: %s", target.name, error.message)
            continue
        if saved.family != FAMILY or run_identity(saved.config) != run_identity(config):
            raise CheckpointError(
                f"{target} belongs to a run with another configuration",
                hint="use another out folder, or resume=false to start over",
            )
        try:
            _restore(model, optimiser, saved.tensors)
        except (RuntimeError, ValueError) as error:  # another vocabulary, another encoder
            raise CheckpointError(
                f"{target} does not fit the model: {error}", hint="use another out folder"
            ) from error
        return Progress(**saved.extras["progress"])
    return None


# What may differ between a run and the run that goes on with it.
_FREE = ("out", "resume", "max_steps", "save_minutes", "patience")
_PLACES = ("out", "resume", "save_minutes")
_DEFAULTS = to_mapping(TrainConfig(task="hisem", out=""))


def run_identity(config: Mapping[str, Any], *, finished: bool = False) -> dict[str, Any]:
    """Return what makes a run the run it is, of a configuration as plain values.

    A `start` beside the run's folder is told from there: both may be moved together, and named
    from anywhere. A key that is missing, since the run is older than it, has its default.

    Args:
        config: Of the run.
        finished: Whether its end is part of it: steps and patience.
    """
    free = _PLACES if finished else _FREE
    told = {k: v for k, v in apply_mapping(_DEFAULTS, config).items() if k not in free}
    if told["start"] is not None:
        start, runs = Path(told["start"]).resolve(), Path(config["out"]).resolve().parent
        if start.is_relative_to(runs):
            told["start"] = start.relative_to(runs).as_posix()
    return told


def _restore(model: nn.Module, optimiser: Optimizer, tensors: Any) -> None:
    saved = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    own, whole = model.state_dict().keys(), _whole(model).keys()
    if odd := sorted((whole - saved.keys()) | (saved.keys() - own)):
        raise ValueError(f"{len(odd)} tensors are in one of both only, such as {odd[0]}")
    model.load_state_dict({k: saved[k] for k in whole}, strict=False)
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    current = optimiser.state_dict()
    optimiser.load_state_dict({"state": states, "param_groups": current["param_groups"]})


def _whole(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that every process has whole."""
    return {k: v for k, v in model.state_dict().items() if not is_shard(v)}
