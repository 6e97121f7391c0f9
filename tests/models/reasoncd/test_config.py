"""Configurations: presets as the paper and the design have them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from whatchanged.config import from_mapping, to_mapping
from whatchanged.errors import UsageError
from whatchanged.models.backbones import EncoderConfig
from whatchanged.models.reasoncd.config import (
    PRESETS,
    SAM_ENCODERS,
    ClipSamConfig,
    CompactConfig,
    FusionConfig,
    LanguageConfig,
    MaskDecoderConfig,
    PromptConfig,
    ReasonCDConfig,
    SamEncoderConfig,
)


def test_the_papers_preset() -> None:
    paper = PRESETS["reasoncd-llama2-7b"]
    language = paper.language
    assert (language.width, language.layers, language.vocabulary) == (4096, 32, 32_000)
    assert (language.lora_rank, language.lora_alpha, language.lora_dropout) == (8, 16.0, 0.05)
    assert language.lora_targets == ("q_proj", "v_proj") and language.dtype == "float32"
    assert paper.vision.image_tokens == 256 and paper.prompt.max_length >= 1024
    assert isinstance(paper.vision, ClipSamConfig) and paper.vision.clip.channels == 1024
    assert paper.vision.sam == SAM_ENCODERS["h"] and paper.fusion.kind == "msff"
    assert paper.vision.resnet.depths == (3, 4, 6, 3)
    assert (paper.fusion.grid, paper.fusion.width, paper.fusion.reduction) == (64, 256, 16)
    assert paper.prompt.max_answer_tokens == 256 and paper.state == "own"


def test_the_small_preset() -> None:
    small = PRESETS["reasoncd-small"]
    assert small.vision.image_tokens == 64 and small.language.width == 576
    assert isinstance(small.vision, CompactConfig) and small.language.tied


@pytest.mark.parametrize("size", ["l", "b"])
def test_sam_comes_in_three_sizes(size: str) -> None:
    config = PRESETS[f"reasoncd-llama2-7b-sam-{size}"]
    assert config.clip_sam is not None and config.clip_sam.sam == SAM_ENCODERS[size]
    assert (
        replace(config, clip_sam=PRESETS["reasoncd-llama2-7b"].clip_sam)
        == (PRESETS["reasoncd-llama2-7b"])
    )


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_plain_values(name: str) -> None:
    assert from_mapping(ReasonCDConfig, to_mapping(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: ReasonCDConfig(), "exactly one"),
        (lambda: ReasonCDConfig(compact=CompactConfig(), clip_sam=ClipSamConfig()), "exactly one"),
        (
            lambda: ReasonCDConfig(compact=CompactConfig(), prompt=PromptConfig(max_length=128)),
            "max_length",
        ),
        (
            lambda: ReasonCDConfig(compact=CompactConfig(), language=LanguageConfig(positions=512)),
            "positions",
        ),
        (
            lambda: ReasonCDConfig(compact=CompactConfig(), fusion=FusionConfig(width=60)),
            "fusion.width",
        ),
        (lambda: LanguageConfig(lora_rank=0), "lora_rank"),
        (lambda: LanguageConfig(width=100), "divide"),
        (lambda: LanguageConfig(key_heads=2), "divide"),
        (lambda: LanguageConfig(lora_dropout=1.0), "lora_dropout"),
        (lambda: LanguageConfig(lora_targets=()), "no projection"),
        (lambda: PromptConfig(request="only <T1>"), "exactly once"),
        (lambda: PromptConfig(request="<T2> then <T1>"), "before"),
        (lambda: PromptConfig(demand="<CHG>"), "put in by the program"),
        (lambda: SamEncoderConfig(heads=7), "heads"),
        (lambda: ClipSamConfig(clip=EncoderConfig()), "clip"),
        (lambda: CompactConfig(EncoderConfig(kind="clip")), "compact"),
        (lambda: CompactConfig(side=0), "side"),
        (lambda: FusionConfig(reduction=0), "reduction"),
        (lambda: MaskDecoderConfig(masks=-1), "masks"),
    ],
)
def test_refused(build: Any, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        build()
