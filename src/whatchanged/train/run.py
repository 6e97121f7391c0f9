"""One command from a YAML file to a trained model: what `whatchanged train` calls."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from whatchanged import __version__
from whatchanged.config import load_config
from whatchanged.errors import UsageError
from whatchanged.models import weights
from whatchanged.models.backbones import Encoder, build_encoder, load_encoder
from whatchanged.train.config import TrainConfig, model_config
from whatchanged.train.loop import Task, fit, make_accelerator
from whatchanged.train.state import Progress

log = logging.getLogger(__name__)


def train(config: str | Path | TrainConfig, overrides: Iterable[str] = ()) -> Path:
    """Train a model and return the folder of its best checkpoint.

    Args:
        config: YAML file or a finished configuration. Relative paths in it are relative to
            the working directory.
        overrides: `key=value` texts laid over the file, dotted for nested keys.

    Raises:
        UsageError: An unknown key or preset.
        DatasetError: Broken or missing data.
        CheckpointError: A saved state or a start encoder that does not belong to this run.
        TrainingError: The loss is not a number.
    """
    if not isinstance(config, TrainConfig):
        config = load_config(TrainConfig, config, overrides)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with make_accelerator().main_process_first():  # the others find its feature cache
        task = build_task(config)
    progress = fit(task, config, out, _facts(task))
    log.info("trained %d steps in %.0f s", progress.global_step, progress.seconds)
    return out / "best"


def build_task(config: TrainConfig) -> Task:
    """Build model and data of a configuration; the seed decides all random weights."""
    torch.manual_seed(config.seed)
    if config.task == "dense":
        from whatchanged.models.backbones import CompactEncoder
        from whatchanged.train.dense_task import DenseTask

        encoder = build_encoder(model_config(config).encoder)
        if not isinstance(encoder, CompactEncoder):
            raise UsageError("task 'dense' trains the compact encoder only")
        start_encoder(encoder, config)
        return DenseTask(config, encoder)
    if config.task == "self-critical":
        from whatchanged.train.self_critical import SelfCriticalTask

        return SelfCriticalTask(config)
    if config.task == "wish-masks":
        from whatchanged.train.mask_task import MaskTask

        return MaskTask(config)
    if config.task == "wishes":
        from whatchanged.train.wish_task import WishTask

        return WishTask(config)
    if config.task == "samples":
        from whatchanged.train.sample_task import SampleTask

        return SampleTask(config)
    from whatchanged.train.hisem_task import HiSemTask

    return HiSemTask(config)


def start_encoder(encoder: Encoder, config: TrainConfig) -> None:
    """Fill an encoder from a trained checkpoint, else from the named start of its preset.

    Raises:
        CheckpointError: The checkpoint holds no encoder, or another one.
        WeightsUnavailableError: The named start cannot be had.
    """
    if config.encoder is not None:
        load_encoder(encoder, weights.require(config.encoder))
    elif encoder.config.start is not None:
        encoder.load_start_weights(weights.fetch(encoder.config.start))


def _facts(task: Task) -> dict[str, Any]:
    """Return what `run.json` says beside the configuration."""
    return {
        "whatchanged": __version__,
        "torch": version("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "samples": len(task),
        "left_out": list(task.broken),
    }


__all__ = ["Progress", "build_task", "start_encoder", "train"]
