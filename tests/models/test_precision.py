"""bfloat16 is used where the device computes in it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from whatchanged.models import precision
from whatchanged.models.precision import computes_bfloat16
from whatchanged.models.reasoncd import language
from whatchanged.models.reasoncd.config import LanguageConfig
from whatchanged.train import loop
from whatchanged.train.config import TrainConfig

CPU = torch.device("cpu")
TINY = LanguageConfig(
    vocabulary=16, width=8, hidden=8, layers=1, heads=2, key_heads=1, positions=8,
    dtype="bfloat16",
)  # fmt: skip


def ask_processor(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    library = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: answer)
    monkeypatch.setattr(precision.torch.ops, "mkldnn", library)


@pytest.mark.parametrize("answer", [True, False])
def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    ask_processor(monkeypatch, answer)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert computes_bfloat16(CPU) is answer
    assert computes_bfloat16() is answer


def test_a_gpu_is_asked_and_its_imitation_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda", 0))
    assert computes_bfloat16(torch.device("cuda")) is False
    assert computes_bfloat16() is False
    assert asked == [False, False]


@pytest.mark.parametrize(("answer", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_base_of_the_language_model_follows_the_device(
    monkeypatch: pytest.MonkeyPatch, answer: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(language, "computes_bfloat16", lambda device: answer)
    weights: Any = language.build_base(TINY)
    assert {p.dtype for p in weights.parameters()} == {expected}
    plain = language.build_base(replace(TINY, dtype="float32"))
    assert {p.dtype for p in plain.parameters()} == {torch.float32}


def test_the_base_is_of_a_type_for_where_it_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is asked stays on the processor, whatever accelerator there is."""
    ask_processor(monkeypatch, False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert language.base_dtype(TINY) == torch.bfloat16
    assert language.base_dtype(TINY, CPU) == torch.float32


@pytest.mark.parametrize("answer", [True, False])
def test_a_run_computes_in_bfloat16_only_where_the_device_does(
    monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    monkeypatch.setattr(loop, "computes_bfloat16", lambda _: answer)
    a = torch.ones(2, 2)
    for wanted, used in (("bf16", torch.bfloat16 if answer else torch.float32),
                         ("float32", torch.float32)):  # fmt: skip
        config = TrainConfig(task="hisem", out="run", precision=wanted)
        with loop.autocast(config, CPU):
            assert (a @ a).dtype == used
