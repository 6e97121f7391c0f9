"""Sharding the frozen language model over the processes of a run.

What is large in a ReasonCD is its frozen base; what trains beside it (adapters, new rows, fusion,
decoder) is small. So each process keeps a share of every block of the base and gathers one block at
a time (FSDP 2), and everything that trains stays whole in every process with gradients averaged,
as without sharding. Checkpoints hold no base either way, saved states no block of it.

`accelerate launch --config_file configs/accelerate/fsdp.yaml` asks for it, and elsewhere
`ACCELERATE_USE_FSDP=true`. The other keys of that file are of accelerate's own sharding, which
would cut up what trains as well, and are not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import nn

from whatchanged.errors import UsageError
from whatchanged.models.reasoncd.language import LanguageModel

_ASKED = "ACCELERATE_USE_FSDP"


def asked() -> bool:
    """Whether the launcher asks for sharding."""
    return os.environ.get(_ASKED, "false").lower() == "true"


@contextmanager
def left_to_us() -> Iterator[None]:
    """Keep accelerate from seeing that sharding is asked for."""
    told = os.environ.pop(_ASKED, None)
    try:
        yield
    finally:
        if told is not None:
            os.environ[_ASKED] = told


def shard_base(model: nn.Module, device: torch.device) -> None:
    """Leave each process its share of the blocks of the frozen base; a single one keeps all.

    Call in every process, before the model is wrapped.

    Raises:
        UsageError: The model has no language model, or one that began at random and would have
            to be saved.
    """
    languages = [module for module in model.modules() if isinstance(module, LanguageModel)]
    if not languages:
        raise UsageError(
            "there is no language model to shard in this run",
            hint="accelerate launch --config_file configs/accelerate/multi_gpu.yaml",
        )
    if any(language.config.start is None for language in languages):
        raise UsageError(
            "a language model without start weights cannot be sharded: no process could save it",
            hint="name its weights in language.start",
        )
    if not torch.distributed.is_initialized():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for language in languages:
        # The tables are used without calling their modules, so nothing would gather them.
        blocks: list[nn.Module] = list(language.base.model.layers)
        whole = {p for p in language.parameters() if p.requires_grad}
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        outside = set(language.base.model.parameters()) - {
            p for b in blocks for p in b.parameters()
        }
        fully_shard(language.base.model, mesh=mesh, ignored_params=whole | outside)
    wrapper: Any = DistributedDataParallel
    wrapper._set_params_and_buffers_to_ignore_for_model(
        model, [name for name, p in model.named_parameters() if is_shard(p)]
    )


def is_shard(tensor: torch.Tensor) -> bool:
    """Whether a tensor is this process's share of one."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
