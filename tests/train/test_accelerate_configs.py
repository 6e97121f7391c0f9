"""The files for `accelerate launch --config_file`: read as accelerate itself reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from transformers.models.llama import modeling_llama

from whatchanged.errors import UsageError
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


def test_blocks_of_the_language_model_are_sharded() -> None:
    arguments = launched("fsdp")
    assert hasattr(modeling_llama, arguments.fsdp_transformer_layer_cls_to_wrap)
    assert arguments.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"
    assert arguments.fsdp_version == 2 and arguments.fsdp_reshard_after_forward
    assert not arguments.fsdp_cpu_ram_efficient_loading  # every process reads the weights


def test_only_gradients_and_optimiser_are_sharded_by_zero2() -> None:
    arguments = launched("deepspeed_zero2")
    assert arguments.zero_stage == 2
    assert (arguments.offload_optimizer_device, arguments.offload_param_device) == ("none", "none")


@pytest.mark.parametrize("name", KINDS)
def test_sharded_runs_are_refused_before_they_cost_anything(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would stop at the first validation, hours later."""
    kind = load_config_from_file(path_of(name)).distributed_type
    made = SimpleNamespace(distributed_type=kind)
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: made)
    if name == "multi_gpu":
        assert make_accelerator() is made
        return
    with pytest.raises(UsageError, match=f"does not run under {kind.value}") as caught:
        make_accelerator()
    assert "multi_gpu.yaml" in caught.value.hint
