"""Which configurations of HiSem exist, and which are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from whatchanged.config import apply_overrides, from_mapping, to_mapping
from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import (
    PRESETS,
    BDAMConfig,
    DecoderConfig,
    HASDConfig,
    HiSemConfig,
)


def test_defaults_are_the_papers() -> None:
    paper = PRESETS["hisem-clip-b16"]
    assert (paper.width, paper.grid) == (768, 14)
    assert (paper.encoder.kind, paper.encoder.input_size, paper.encoder.patch) == ("clip", 224, 16)
    assert paper.encoder.unfreeze_last == 4
    assert paper.bdam == BDAMConfig(
        layers=3, heads=8, gate_reduction=4, alpha=(1.0, 0.5), balance=0.9
    )
    hasd = paper.hasd
    assert (hasd.experts, hasd.groups, hasd.top_groups, hasd.top_k) == (8, 4, 2, 2)
    assert (hasd.expert_hidden, hasd.shared_experts, hasd.hidden) == (2048, 2, 2048)
    assert hasd.routing and (hasd.unchanged, hasd.changed, hasd.norm) == ("ffn", "moe", "batch")
    assert hasd.normalise and hasd.balance_loss == 0
    assert paper.decoder == DecoderConfig(1, 8, 4, 0.1, 41, outer_residual=False)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_plain_values(name: str) -> None:
    assert from_mapping(HiSemConfig, to_mapping(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize(
    "overrides",
    [
        ["bdam.layers=0"],
        ["hasd.routing=false", "hasd.unchanged=none", "hasd.changed=none"],
        ["bdam.dfc=false"],
        ["bdam.bdci=false"],
        ["hasd.routing=false", "hasd.unchanged=moe"],
        ["hasd.changed=ffn"],
        ["hasd.unchanged=moe"],
        ["bdam.layers=1"],
        ["decoder.layers=3"],
        ["hasd.normalise=false", "hasd.balance_loss=0.001", "decoder.outer_residual=true"],
    ],
)
def test_ablations_are_overrides(overrides: list[str]) -> None:
    config = from_mapping(HiSemConfig, apply_overrides(to_mapping(HiSemConfig()), overrides))
    assert config != HiSemConfig()


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        (BDAMConfig, {"layers": -1}, "layers is -1"),
        (BDAMConfig, {"heads": 0}, "heads is 0"),
        (HASDConfig, {"experts": 8, "groups": 3}, "equal groups"),
        (HASDConfig, {"top_groups": 5}, "top_groups 5 of only 4"),
        (HASDConfig, {"top_k": 5}, "top_k 5"),
        (HASDConfig, {"top_k": 0}, "top_k is 0"),
        (HASDConfig, {"routing": False}, "must be the same"),
        (HASDConfig, {"shared_experts": -1}, "shared_experts is -1"),
        (DecoderConfig, {"max_len": 2}, "max_len is 2"),
        (DecoderConfig, {"layers": 0}, "layers is 0"),
        (HiSemConfig, {"width": 100}, "bdam.heads 8"),
        (HiSemConfig, {"grid": 0}, "grid is 0"),
        (
            HiSemConfig,
            {"width": 9, "bdam": BDAMConfig(heads=3), "decoder": DecoderConfig(heads=3)},
            "odd",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(config: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config(**values)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HiSemConfig().width = 4  # type: ignore[misc]
