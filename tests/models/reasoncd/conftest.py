"""Tiny random ReasonCDs of the real classes, and tokenizers of both kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from whatchanged.models.backbones import EncoderConfig
from whatchanged.models.reasoncd.config import (
    ClipSamConfig,
    CompactConfig,
    FusionConfig,
    LanguageConfig,
    MaskDecoderConfig,
    PromptConfig,
    ReasonCDConfig,
    ResNetSettings,
    SamEncoderConfig,
    SightConfig,
)
from whatchanged.models.reasoncd.language import build_base
from whatchanged.models.reasoncd.model import ReasonCD

CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "It's buildings that appeared: roads that disappeared, bare ground that changed.",
    "For the Change Detection task, the earlier image is and the later image is.",
    "Please produce the changemap for me. user assistant new houses flooded fields",
]
PROMPT = PromptConfig(max_length=400, max_answer_tokens=12)


def byte_tokenizer() -> Any:
    """Byte-level BPE with chat markers, as SmolLM2 has it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CHAT])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")


def piece_tokenizer() -> Any:
    """Pieces with a space mark and bytes to fall back on, as LLaMA 2 has it."""
    special = ["<unk>", "<s>", "</s>"]
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*special, *bytes_], show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    values = json.loads(core.to_str())
    values["added_tokens"] = values["added_tokens"][:3]  # bytes are ordinary tokens
    core = Tokenizer.from_str(json.dumps(values))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TINY_LANGUAGE = LanguageConfig(
    vocabulary=len(byte_tokenizer()),
    width=32,
    hidden=48,
    layers=2,
    heads=4,
    key_heads=2,
    positions=512,
    lora_rank=2,
    lora_dropout=0.0,
)
TINY = ReasonCDConfig(
    language=TINY_LANGUAGE,
    prompt=PROMPT,
    compact=CompactConfig(EncoderConfig(input_size=64, channels=16, unfreeze_last=0), side=2),
    fusion=FusionConfig(grid=8, pyramid=8, hidden=24, width=16),
    decoder=MaskDecoderConfig(layers=1, heads=2, mlp=32, masks=0),
    sight=SightConfig(tile=64, unknown=128),
)
TINY_CLIP_SAM = replace(
    TINY,
    compact=None,
    clip_sam=ClipSamConfig(
        clip=EncoderConfig(
            kind="clip", unfreeze_last=0, input_size=32, channels=24, layers=3, heads=2, patch=16
        ),
        sam=SamEncoderConfig(None, 16, 2, 2, (1,), 2, 64, 8, 12),
        resnet=ResNetSettings(None, 8, (8, 8, 12, 16), (1, 1, 1, 1)),
    ),
    decoder=MaskDecoderConfig(layers=2, heads=2, mlp=32, masks=3),
)


def make(config: ReasonCDConfig = TINY, seed: int = 0) -> ReasonCD:
    """Build a random model; adapters are drawn too, so that they matter."""
    torch.manual_seed(seed)
    model = ReasonCD(config, build_base(config.language), byte_tokenizer())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def pictures(n: int = 1, size: tuple[int, int] = (64, 64), seed: int = 1) -> torch.Tensor:
    """Draw both dates of n pairs, [2, n, 3, H, W] in [0, 255]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, n, 3, *size, generator=generator) * 255


@pytest.fixture(scope="module")
def model() -> ReasonCD:
    """A tiny ReasonCD over the compact encoder, in evaluation mode."""
    return make()


@pytest.fixture(scope="module", params=[TINY, TINY_CLIP_SAM], ids=["compact", "clip_sam"])
def each_model(request: pytest.FixtureRequest) -> ReasonCD:
    """A tiny ReasonCD of both kinds of eyes."""
    return make(request.param)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """What tests build their own models of."""
    return SimpleNamespace(
        make=make,
        pictures=pictures,
        tiny=TINY,
        tiny_clip_sam=TINY_CLIP_SAM,
        prompt=PROMPT,
        byte_tokenizer=byte_tokenizer,
        piece_tokenizer=piece_tokenizer,
    )
