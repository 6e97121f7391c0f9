"""The one training loop: any task, one process or many, resumable at any step."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from whatchanged.config import to_mapping
from whatchanged.console import progress as progress_bar
from whatchanged.errors import TrainingError, UsageError
from whatchanged.models.precision import computes_bfloat16
from whatchanged.train import sharding
from whatchanged.train.config import OptimiserConfig, TrainConfig
from whatchanged.train.curves import plot_curves
from whatchanged.train.record import RunLog, write_record
from whatchanged.train.state import (
    Progress,
    drop_states,
    load_state,
    save_state,
    seed_step,
    step_generator,
)

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
    """What the loop needs to know of a model and its data.

    Attributes:
        model: What is trained.
        measures: Names of the numbers that `validate` returns; more is better.
        broken: Entries of the data that were left out, one line each.
    """

    model: nn.Module
    measures: tuple[str, ...]
    broken: tuple[str, ...]

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


def fit(
    task: Task, config: TrainConfig, out: Path, facts: Mapping[str, Any] | None = None
) -> Progress:
    """Train `task` as `config` says and leave `last/`, `best/`, the log and the curves in `out`.

    Args:
        task: Model and data.
        config: The run.
        out: Its folder.
        facts: What `run.json` says of the run, written once the saved state is known to be its own.

    Raises:
        TrainingError: The loss or its gradient is not a number; the message names the batch.
        UsageError: `config.monitor` is not a number of the task.
        CheckpointError: The folder holds the state of a run with another configuration.
    """
    if config.monitor not in task.measures:
        raise UsageError(
            f"monitor '{config.monitor}' is no validation number of task '{config.task}'",
            hint=f"one of {', '.join(task.measures)}",
        )
    accelerator = make_accelerator()
    if sharding.asked():
        sharding.shard_base(task.model, accelerator.device)
    model, optimiser = accelerator.prepare(task.model, _optimiser(task, config.optimiser))
    plain = to_mapping(config)
    progress = Progress()
    if config.resume:
        progress = load_state(out / "state", task.model, optimiser, plain) or progress
    main = accelerator.is_main_process
    if main:
        if not config.resume:
            drop_states(out / "state")
        write_record(out / "run.json", {**(facts or {}), "config": plain})
    record = RunLog(out / "log.jsonl", progress.global_step, main)
    run = _Run(task, config, out, model, optimiser, accelerator, record, plain, progress)
    left = run.n_steps - progress.global_step
    try:
        with progress_bar("training", left) if main else nullcontext(_no_bar) as run.advance:
            while run.progress.epoch < config.epochs and not run.finished():
                run.epoch()
            run.finish()
    finally:
        record.close()
    return run.progress


def _no_bar(amount: float) -> None: ...


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
        progress: Progress,
    ) -> None:
        self.task, self.config, self.out = task, config, out
        self.model, self.optimiser, self.accelerator = model, optimiser, accelerator
        self.record, self.plain = record, plain
        self.progress = self.start = progress
        self.advance: Callable[[float], None] = _no_bar
        whole = math.ceil(len(task) / config.batch_size) * config.epochs
        self.n_steps = min(config.max_steps or whole, whole)
        self.highest = [group["lr"] for group in task.parameter_groups()]
        self.saved_at = time.monotonic()
        if config.precision == "bf16" and not computes_bfloat16(accelerator.device):
            log.warning(
                "precision=bf16: %s does not compute in bfloat16, so this run is float32",
                accelerator.device.type,
            )

    def finished(self) -> bool:
        limit, patience = self.config.max_steps, self.config.patience
        if patience and self.progress.stale >= patience:
            return True
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
        for number, (indices, batch) in enumerate(pieces, start=1):
            # Processes may have different numbers of pieces: all exchange gradients in the last.
            alone = number < len(pieces)
            with self.accelerator.no_sync(self.model) if alone else nullcontext():
                loss = self.forward(indices, batch, epoch)
                share = len(indices) / n_pairs
                self.accelerator.backward(loss.total * share)
            for key, value in {"loss": float(loss.total.detach()), **loss.parts}.items():
                parts[key] = parts.get(key, 0.0) + value * share
        limit = self.config.optimiser.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        if not math.isfinite(norm):
            raise self.not_a_number("gradient", norm, [i for own, _ in pieces for i in own])
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
            steps=self.n_steps,
            lr=rates[0],
            pairs_per_second=n_pairs * self.accelerator.num_processes / seconds,
            **parts,
        )
        self.advance(1)

    def forward(self, indices: list[int], batch: Any, epoch: int) -> Loss:
        device = self.accelerator.device
        with autocast(self.config, device):
            loss = self.task.loss(self.model, batch, epoch, device)
        if not bool(torch.isfinite(loss.total)):
            raise self.not_a_number("loss", loss.total.detach(), indices)
        return loss

    def not_a_number(self, what: str, value: Tensor, indices: list[int]) -> TrainingError:
        names = ", ".join(self.task.names(indices))
        return TrainingError(
            f"the {what} is {float(value)} at step {self.progress.global_step + 1}; "
            f"the batch: {names}",
            hint="look at these samples, lower optimiser.lr, or use precision=float32; "
            "the last saved state is whole and the run resumes from it",
        )

    def set_rates(self) -> list[float]:
        factor = rate_factor(
            self.config.optimiser,
            self.progress.global_step,
            self.n_steps,
        )
        rates = [highest * factor for highest in self.highest]
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        return rates

    def end_epoch(self, epoch: int) -> None:
        self.progress = replace(self.progress, epoch=epoch + 1, step=0)
        last = epoch + 1 == self.config.epochs or self.finished()
        if last or (epoch + 1) % self.config.validate_every == 0:
            self.validate(epoch)
        self.save_state()

    def validate(self, epoch: int) -> None:
        # The blocks of a sharded base are gathered by all processes or by none.
        main = self.accelerator.is_main_process
        numbers = self.task.validate() if main or sharding.asked() else {}
        if main:
            self.record.validation(epoch=epoch, step=self.progress.global_step, **numbers)
            told = numbers[self.config.monitor]
            log.info(
                "epoch %d of %d: %s %.4g", epoch + 1, self.config.epochs, self.config.monitor, told
            )
            self.task.save(self.out / "last", numbers)
            best = self.progress.best
            if best is None or told > best:
                self.progress = replace(self.progress, best=told, stale=0)
                self.task.save(self.out / "best", numbers)
            else:
                self.progress = replace(self.progress, stale=self.progress.stale + 1)
            plot_curves(self.out / "log.jsonl", self.out / "curves.png")
        self.progress = replace(self.progress, stale=self.from_main(self.progress.stale))

    def from_main(self, number: int) -> int:
        """Return the main process's number in every process, once all have come by."""
        from accelerate.utils import broadcast_object_list

        told = [number]
        broadcast_object_list(told)
        return told[0]

    def save_state(self) -> None:
        # No process waits here: within an epoch each has its own clock and may not come by.
        if self.accelerator.is_main_process:
            save_state(
                self.out / "state", self.task.model, self.optimiser, self.progress, self.plain
            )
        self.saved_at = time.monotonic()

    def finish(self) -> None:
        """Leave a model and a state where a step limit stopped the run within an epoch."""
        if self.progress.step and self.progress.global_step > self.start.global_step:
            self.validate(self.progress.epoch)
            self.save_state()
        self.accelerator.wait_for_everyone()


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass at the run's precision, as far as `device` has it."""
    wanted = config.precision == "bf16" and computes_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def rate_factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """Share of the highest learning rate at `step` of `steps`, counted from 0, in [0, 1]."""
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


def make_accelerator() -> Any:
    """Return this process's view of all processes of the run (an `accelerate.Accelerator`).

    Raises:
        UsageError: The launcher asks for DeepSpeed, whose states no process could save or
            resume from as a whole.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch may send no pair down one path of HASD; its parameters then have no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Without a GPU the library joins the processes of `torchrun` only if it is told to use CPUs.
    cpu = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
    # Precision is the loop's own, not that of the user's `accelerate config`.
    with sharding.left_to_us():
        accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[unused])
    if accelerator.distributed_type.value == "DEEPSPEED":
        raise UsageError(
            "training does not run under DeepSpeed: it saves whole states",
            hint="accelerate launch --config_file configs/accelerate/fsdp.yaml, which shards what "
            "is large, the frozen language model",
        )
    return accelerator
