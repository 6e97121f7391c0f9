"""The one training loop: any task, one process or many, resumable at any step."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from whatchanged.config import to_mapping
from whatchanged.errors import TrainingError
from whatchanged.train.config import OptimiserConfig, TrainConfig
from whatchanged.train.curves import plot_curves
from whatchanged.train.record import RunLog
from whatchanged.train.state import Progress, load_state, save_state, seed_step, step_generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """The loss of one batch and what it is made of.

    Attributes:
        total: What is minimised, a scalar.
        parts: Named scalars for the log.
    """

    total: Tensor
    parts: Mapping[str, float]


class Task(Protocol):
    """What the loop needs to know of a model and its data."""

    model: nn.Module

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, each group with its highest `lr`."""

    def __len__(self) -> int:
        """Number of training samples in an epoch."""

    def names(self, indices: Sequence[int]) -> list[str]:
        """Names of samples, for error messages."""

    def load(self, indices: Sequence[int], generator: torch.Generator) -> Any:
        """Make one batch; runs beside the step before it, so draws come from `generator` only."""

    def loss(self, model: nn.Module, batch: Any, epoch: int, device: torch.device) -> Loss:
        """Return the loss of a batch; called under autocast."""

    def validate(self) -> dict[str, float]:
        """Numbers on the validation split."""

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write the model as a checkpoint folder."""


def fit(task: Task, config: TrainConfig, out: Path) -> Progress:
    """Train `task` as `config` says and leave `last/`, `best/`, the log and the curves in `out`.

    Raises:
        TrainingError: The loss is not a number; the message names the batch.
    """
    accelerator = _accelerator()
    model, optimiser = accelerator.prepare(task.model, _optimiser(task, config.optimiser))
    plain = to_mapping(config)
    progress = Progress()
    if config.resume:
        progress = load_state(out / "state", task.model, optimiser, plain) or progress
    record = RunLog(out / "log.jsonl", progress.global_step, accelerator.is_main_process)
    run = _Run(task, config, out, model, optimiser, accelerator, record, plain)
    run.progress = progress
    while run.progress.epoch < config.epochs and not run.finished():
        run.epoch()
    run.close()
    return run.progress


class _Run:
    """The moving parts of one run; `epoch` and `step` are the loop."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        out: Path,
        model: nn.Module,
        optimiser: Optimizer,
        accelerator: Any,
        record: RunLog,
        plain: dict[str, Any],
    ) -> None:
        self.task, self.config, self.out = task, config, out
        self.model, self.optimiser, self.accelerator = model, optimiser, accelerator
        self.record, self.plain = record, plain
        self.progress = Progress()
        self.per_epoch = math.ceil(len(task) / config.batch_size)
        self.highest = [group["lr"] for group in task.parameter_groups()]
        self.saved_at = time.monotonic()

    def finished(self) -> bool:
        limit = self.config.max_steps
        return bool(limit) and self.progress.global_step >= limit

    def epoch(self) -> None:
        epoch = self.progress.epoch
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.task))
        size = self.config.batch_size
        batches = [order[i : i + size].tolist() for i in range(0, len(order), size)]
        with ThreadPoolExecutor(1) as loader:
            coming = None
            for step in range(self.progress.step, len(batches)):
                pieces = coming or loader.submit(self.load, epoch, step, batches[step])
                after = step + 1
                coming = (
                    loader.submit(self.load, epoch, after, batches[after])
                    if after < len(batches)
                    else None
                )
                self.step(epoch, step, pieces.result())
                if self.finished():
                    break
                if time.monotonic() - self.saved_at > 60 * self.config.save_minutes:
                    self.save_state()
        if self.progress.step >= len(batches):
            self.end_epoch(epoch)

    def load(self, epoch: int, step: int, batch: list[int]) -> list[tuple[list[int], Any]]:
        """Make this process's share of a batch, in pieces of one forward pass each."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        own = batch[process::processes] or batch[:1]  # a short last batch leaves none empty
        generator = step_generator(self.config.seed, epoch, step, process)
        pieces = [own[i :: self.config.accumulate] for i in range(self.config.accumulate)]
        return [(piece, self.task.load(piece, generator)) for piece in pieces if piece]

    def step(self, epoch: int, step: int, pieces: list[tuple[list[int], Any]]) -> None:
        started = time.monotonic()
        self.model.train()
        rates = self.set_rates()
        seed_step(self.config.seed, epoch, step, self.accelerator.process_index)
        self.optimiser.zero_grad(set_to_none=True)
        n_pairs = sum(len(indices) for indices, _ in pieces)
        parts: dict[str, float] = {}
        for indices, batch in pieces:
            loss = self.forward(indices, batch, epoch)
            share = len(indices) / n_pairs
            self.accelerator.backward(loss.total * share)
            for key, value in {"loss": float(loss.total.detach()), **loss.parts}.items():
                parts[key] = parts.get(key, 0.0) + value * share
        if self.config.optimiser.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip)
        self.optimiser.step()
        seconds = time.monotonic() - started
        self.progress = replace(
            self.progress,
            step=step + 1,
            global_step=self.progress.global_step + 1,
            seconds=self.progress.seconds + seconds,
        )
        self.record.step(
            epoch=epoch,
            step=self.progress.global_step,
            steps=self.per_epoch * self.config.epochs,
            lr=rates[0],
            pairs_per_second=n_pairs * self.accelerator.num_processes / seconds,
            **parts,
        )

    def forward(self, indices: list[int], batch: Any, epoch: int) -> Loss:
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = self.task.loss(self.model, batch, epoch, device)
        if not bool(torch.isfinite(loss.total)):
            names = ", ".join(self.task.names(indices))
            raise TrainingError(
                f"the loss is {float(loss.total)} at step {self.progress.global_step + 1}; "
                f"the batch: {names}",
                hint="look at these samples, lower optimiser.lr, or use precision=float32; "
                "the last saved state is whole and the run resumes from it",
            )
        return loss

    def set_rates(self) -> list[float]:
        factor = rate_factor(
            self.config.optimiser,
            self.progress.global_step,
            self.config.max_steps or self.per_epoch * self.config.epochs,
        )
        rates = [highest * factor for highest in self.highest]
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        return rates

    def end_epoch(self, epoch: int) -> None:
        self.progress = replace(self.progress, epoch=epoch + 1, step=0)
        if (epoch + 1) % self.config.validate_every == 0 or epoch + 1 == self.config.epochs:
            self.validate(epoch)
        self.save_state()

    def validate(self, epoch: int) -> None:
        if self.accelerator.is_main_process:
            numbers = self.task.validate()
            self.record.validation(epoch=epoch, step=self.progress.global_step, **numbers)
            self.task.save(self.out / "last", numbers)
            best = self.progress.best
            if best is None or numbers[self.config.monitor] > best:
                self.progress = replace(self.progress, best=numbers[self.config.monitor])
                self.task.save(self.out / "best", numbers)
            plot_curves(self.out / "log.jsonl", self.out / "curves.png")
        self.accelerator.wait_for_everyone()

    def save_state(self) -> None:
        if self.accelerator.is_main_process:
            save_state(
                self.out / "state", self.task.model, self.optimiser, self.progress, self.plain
            )
        self.saved_at = time.monotonic()
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Save where a step limit stopped the run, and leave a model whatever happened."""
        if self.progress.step:
            self.save_state()
            self.validate(self.progress.epoch)
        self.record.close()
        (self.out / "progress.json").write_text(json.dumps(vars(self.progress), indent=1))


def rate_factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """Share of the highest learning rate at `step` of `steps`, in [0, 1]."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    falling = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final + (1 - config.final) * falling


def _optimiser(task: Task, config: OptimiserConfig) -> Optimizer:
    groups = task.parameter_groups()
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def _accelerator() -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch may send no pair down one path of HASD; its parameters then have no gradient.
    return Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
