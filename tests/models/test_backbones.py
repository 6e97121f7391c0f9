"""The encoders: shapes, start weights, what trains and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from whatchanged.errors import CheckpointError
from whatchanged.models.backbones import (
    LITE0_STAGES,
    PYRAMID_CHANNELS,
    CompactEncoder,
    ConvNorm,
    EncoderConfig,
    build_encoder,
    normalise,
    set_training,
)

TINY_CLIP = EncoderConfig(
    kind="clip", channels=32, layers=3, heads=2, patch=8, input_size=32, unfreeze_last=2
)


def published_state() -> dict[str, torch.Tensor]:
    """Random weights under the names and in the order of the published EfficientNet-Lite0."""
    own = CompactEncoder(EncoderConfig()).state_dict()
    state = {}
    for index, (name, tensor) in enumerate(own.items()):
        if not name.startswith("neck"):
            value = torch.rand_like(tensor) if tensor.is_floating_point() else tensor + 7
            state[f"_blocks.{index:04d}"] = value
    state["_conv_head.weight"] = torch.zeros(1280, 320, 1, 1)
    state["_bn1.weight"] = torch.zeros(1280)
    state["_fc.weight"] = torch.zeros(1000, 1280)
    return state


def test_compact_encoder_has_a_pyramid_and_one_map_at_stride_16() -> None:
    encoder = build_encoder(EncoderConfig(channels=64)).eval()
    assert isinstance(encoder, CompactEncoder)
    pixels = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        maps = encoder.pyramid(pixels)
        out = encoder(pixels)
    assert [m.shape[1] for m in maps] == list(PYRAMID_CHANNELS)
    assert [tuple(m.shape[2:]) for m in maps] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    assert out.shape == (2, 64, 6, 4)


def test_compact_encoder_has_the_published_size() -> None:
    encoder = build_encoder(EncoderConfig())
    body = sum(p.numel() for n, p in encoder.named_parameters() if not n.startswith("neck"))
    # EfficientNet-Lite0 has 4.652 M parameters; its head (1280 features, 1000 classes) has
    # 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000 of them.
    assert body == 4_652_008 - (320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000)
    assert sum(stage.blocks for stage in LITE0_STAGES) == 16


def test_stride_two_pads_as_the_published_weights_expect() -> None:
    layer = ConvNorm(1, 1, 3, stride=2, act=False).eval()
    with torch.no_grad():
        layer[1].weight.zero_()
        layer[1].weight[0, 0, 0, 0] = 1  # picks the top left of its window
        picture = torch.arange(16.0).view(1, 1, 4, 4)
        out = layer(picture)
    # SAME on an even side pads at the bottom and right only: windows start at 0 and 2.
    expected = picture[0, 0, ::2, ::2] / (1 + 1e-3) ** 0.5
    assert torch.allclose(out[0, 0], expected)


def test_start_weights_fill_the_body_and_leave_the_neck(tmp_path: Path) -> None:
    state = published_state()
    torch.save(state, tmp_path / "start.pth")
    encoder = CompactEncoder(EncoderConfig())
    neck = encoder.neck.weight.clone()
    encoder.load_start_weights(tmp_path / "start.pth")
    body = [v for k, v in encoder.state_dict().items() if not k.startswith("neck")]
    given = [v for k, v in state.items() if k.startswith("_blocks")]
    assert all(torch.equal(a, b) for a, b in zip(body, given, strict=True))
    assert torch.equal(encoder.neck.weight, neck)


def test_foreign_start_weights_are_refused(tmp_path: Path) -> None:
    state = published_state()
    state.pop("_blocks.0000")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        CompactEncoder(EncoderConfig()).load_start_weights(tmp_path / "other.pth")


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_unfreeze_last_trains_the_last_stages(count: int) -> None:
    encoder = build_encoder(EncoderConfig(unfreeze_last=count))
    assert isinstance(encoder, CompactEncoder)
    trained = {
        name.split(".")[1]
        for name, p in encoder.named_parameters()
        if p.requires_grad and name.startswith("stages")
    }
    assert trained == {str(i) for i in range(7 - count, 7)}
    assert encoder.neck.weight.requires_grad == (count > 0)
    stem = next(encoder.stem.parameters())
    assert stem.requires_grad == (count == 7)


def test_frozen_statistics_stay_while_training() -> None:
    encoder = build_encoder(EncoderConfig(unfreeze_last=1))
    assert isinstance(encoder, CompactEncoder)
    set_training(encoder, True)
    frozen = encoder.stages[0][0].layers[0][1].running_mean.clone()
    moving = encoder.stages[6][0].layers[0][1].running_mean.clone()
    encoder(torch.randn(2, 3, 64, 64))
    assert torch.equal(frozen, encoder.stages[0][0].layers[0][1].running_mean)
    assert not torch.equal(moving, encoder.stages[6][0].layers[0][1].running_mean)


def test_clip_encoder_drops_the_class_token_and_applies_the_last_norm() -> None:
    encoder = build_encoder(TINY_CLIP).eval()
    with torch.no_grad():
        out = encoder(torch.randn(2, 3, 32, 32))
        larger = encoder(torch.randn(1, 3, 48, 32))
    assert out.shape == (2, 32, 4, 4)
    assert larger.shape == (1, 32, 6, 4)
    # A fresh LayerNorm leaves every token with mean 0 and variance 1.
    assert torch.allclose(out.mean(1), torch.zeros(2, 4, 4), atol=1e-5)
    assert torch.allclose(out.var(1, unbiased=False), torch.ones(2, 4, 4), atol=1e-3)


def test_clip_encoder_trains_its_last_blocks() -> None:
    encoder = build_encoder(TINY_CLIP)
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert any("layers.1." in n for n in trained) and any("layers.2." in n for n in trained)
    assert not any("layers.0." in n or "embedding" in n for n in trained)
    assert any("post_layernorm" in n for n in trained)


def test_clip_start_weights_come_from_a_local_folder(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    source = build_encoder(TINY_CLIP)
    config = source.vision.config
    assert isinstance(config, CLIPVisionConfig)
    torch.manual_seed(1)
    saved = CLIPVisionModel(config)
    saved.save_pretrained(tmp_path)
    source.load_start_weights(tmp_path)
    loaded = source.vision.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in saved.state_dict().items())
    other = build_encoder(
        EncoderConfig(kind="clip", channels=64, layers=1, heads=2, patch=8, input_size=32)
    )
    with pytest.raises(CheckpointError, match="not the CLIP"):
        other.load_start_weights(tmp_path)


def test_normalise_takes_bytes_and_floats_alike() -> None:
    config = EncoderConfig(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    pixels = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    out = normalise(pixels, config)
    assert torch.allclose(out, normalise(pixels.float(), config))
    assert torch.allclose(out[0, 2], (pixels[0, 2] / 255 - 0.3) / 0.1, atol=1e-5)
