"""The files for `accelerate launch --config_file`: read as accelerate itself reads them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from whatchanged.errors import UsageError
from whatchanged.train import sharding
from whatchanged.train.loop import make_accelerator

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "accelerate"
KINDS = {"multi_gpu": "MULTI_GPU", "fsdp": "FSDP", "deepspeed_zero2": "DEEPSPEED"}


def path_of(name: str) -> str:
    return str(FOLDER / f"{name}.yaml")


def launched(name: str) -> Any:
    """Arguments of a launch as accelerate completes them from the file."""
    command = ["--config_file", path_of(name), "-m", "whatchanged", "train", "run.yaml"]
    return _validate_launch_command(launch_command_parser().parse_args(command))[0]


def test_there_is_a_file_a_kind() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_every_key(name: str) -> None:
    config = load_config_from_file(path_of(name))  # an unknown key is an error
    assert config.distributed_type.value == KINDS[name]
    # The loop has a precision of its own: what stands here must not say otherwise.
    assert (config.mixed_precision, config.use_cpu, config.num_machines) == ("no", False, 1)
    values = yaml.safe_load(Path(path_of(name)).read_text(encoding="utf-8"))
    known = vars(launched(name))
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(values.get(section, {})) <= set(known)


@pytest.mark.parametrize("name", KINDS)
def test_a_launch_runs_the_command(name: str) -> None:
    arguments = launched(name)
    assert arguments.module and arguments.training_script == "whatchanged"
    assert arguments.training_script_args == ["train", "run.yaml"]
    kinds = (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed)
    assert kinds == tuple(name == kind for kind in KINDS)


def test_only_gradients_and_optimiser_are_sharded_by_zero2() -> None:
    arguments = launched("deepspeed_zero2")
    assert arguments.zero_stage == 2
    assert (arguments.offload_optimizer_device, arguments.offload_param_device) == ("none", "none")


def test_deepspeed_is_refused_before_it_costs_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stop at the first saved state."""
    made = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: made)
    with pytest.raises(UsageError, match="does not run under DeepSpeed") as caught:
        make_accelerator()
    assert "fsdp.yaml" in caught.value.hint
    made.distributed_type = DistributedType.MULTI_GPU
    assert make_accelerator() is made


def test_accelerate_does_not_shard_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def make(**options: Any) -> Any:
        seen.append(os.environ.get("ACCELERATE_USE_FSDP"))
        return SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)

    monkeypatch.setattr(accelerate, "Accelerator", make)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # what a launch with fsdp.yaml sets
    make_accelerator()
    assert seen == [None] and sharding.asked()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert not sharding.asked()
