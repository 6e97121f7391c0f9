"""What cannot be sharded; two processes with a sharded base are in test_run.py."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import nn

from whatchanged.errors import UsageError
from whatchanged.models.reasoncd.language import LanguageModel, build_base
from whatchanged.train.sharding import is_shard, left_to_us, shard_base

CPU = torch.device("cpu")


def test_a_model_without_language_model_is_refused() -> None:
    with pytest.raises(UsageError, match="no language model to shard") as caught:
        shard_base(nn.Linear(2, 2), CPU)
    assert "multi_gpu.yaml" in caught.value.hint


def test_a_random_base_is_refused_and_one_process_keeps_all(reasoncd_kit: ModuleType) -> None:
    config = reasoncd_kit.TINY.language
    language = LanguageModel(config, build_base(config), (300, 301, 302, 303, 304))
    with pytest.raises(UsageError, match="cannot be sharded"):
        shard_base(language, CPU)
    language.config = replace(config, start="somewhere")
    shard_base(language, CPU)
    assert not any(is_shard(p) for p in language.parameters())


def test_the_wish_is_kept_when_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(KeyError), left_to_us():
        assert "ACCELERATE_USE_FSDP" not in os.environ
        raise KeyError
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
