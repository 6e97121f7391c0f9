"""One command from a YAML file to a trained model: what `whatchanged train` calls."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from whatchanged import __version__
from whatchanged.config import load_config, to_mapping
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.models import weights
from whatchanged.models.backbones import Encoder, build_encoder
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.hisem.config import PRESETS
from whatchanged.train.config import TrainConfig
from whatchanged.train.loop import Task, fit
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
        TrainingError: The loss is not a number.
    """
    if not isinstance(config, TrainConfig):
        config = load_config(TrainConfig, config, overrides)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    task = build_task(config)
    _write_record(config, task, out)
    progress = fit(task, config, out)
    log.info("trained %d steps in %.0f s", progress.global_step, progress.seconds)
    return out / "best"


def build_task(config: TrainConfig) -> Task:
    """Build model and data of a configuration."""
    if config.preset not in PRESETS:
        raise UsageError(
            f"preset '{config.preset}' is unknown", hint=f"one of {', '.join(sorted(PRESETS))}"
        )
    if config.task == "dense":
        from whatchanged.models.backbones import CompactEncoder
        from whatchanged.train.dense_task import DenseTask

        encoder = build_encoder(PRESETS[config.preset].encoder)
        if not isinstance(encoder, CompactEncoder):
            raise UsageError("task 'dense' trains the compact encoder only")
        start_encoder(encoder, config)
        return DenseTask(config, encoder)
    from whatchanged.train.hisem_task import HiSemTask

    return HiSemTask(config)


def start_encoder(encoder: Encoder, config: TrainConfig) -> None:
    """Fill an encoder from a trained checkpoint, else from the named start of its preset."""
    if config.encoder is not None:
        saved = load_checkpoint(Path(config.encoder))
        if saved.family != "encoder":
            raise CheckpointError(f"{config.encoder} holds a {saved.family}, not an encoder")
        encoder.load_state_dict(saved.tensors)
    elif encoder.config.start is not None:
        encoder.load_start_weights(weights.fetch(encoder.config.start))


def _write_record(config: TrainConfig, task: Task, out: Path) -> None:
    record = {
        "whatchanged": __version__,
        "torch": version("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "config": to_mapping(config),
        "samples": len(task),
        "left_out": list(getattr(task, "broken", ())),
    }
    (out / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


__all__ = ["Progress", "build_task", "start_encoder", "train"]
