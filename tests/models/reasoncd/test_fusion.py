"""MSFF and its parts against their formulas, written as slow loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.reasoncd.config import FusionConfig
from whatchanged.models.reasoncd.fusion import (
    ChannelAttention,
    FeaturePyramid,
    MultiScaleFusion,
    feed_forward,
)
from whatchanged.models.reasoncd.vision import VisionFeatures

CONFIG = FusionConfig(grid=4, pyramid=3, reduction=4, hidden=10, width=6)
LEVELS = (2, 3, 4, 5)


def seen(seed: int, n: int = 2) -> VisionFeatures:
    torch.manual_seed(seed)
    levels = tuple(torch.randn(n, c, 8 >> i, 8 >> i) for i, c in enumerate(LEVELS))
    return VisionFeatures(torch.randn(n, 4, 7), torch.randn(n, 5, 4, 4), levels)


def make(config: FusionConfig = CONFIG) -> MultiScaleFusion:
    torch.manual_seed(0)
    fusion = MultiScaleFusion(config, 5, LEVELS)
    for module in fusion.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    scatter(fusion)
    return fusion.eval()


def scatter(module: nn.Module) -> None:
    """Leave no weight where it starts, so that every term of a formula counts."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.reset_parameters()


@torch.no_grad()
def test_half_of_the_fusion_starts_as_differences_of_the_dates() -> None:
    torch.manual_seed(0)
    fusion, features = MultiScaleFusion(CONFIG, 5, LEVELS), seen(2)
    stacked = fusion._stack(features)
    assert fusion.attention is not None
    hidden = fusion.ffn[0](fusion.attention(torch.cat([stacked, stacked], dim=1)))
    units = CONFIG.hidden // 2
    bias = fusion.ffn[0].bias[None, :units, None, None]
    torch.testing.assert_close(hidden[:, :units], bias.expand_as(hidden[:, :units]))
    other = fusion._stack(seen(9))
    for first, second in ((stacked, other), (other, stacked)):
        hidden = fusion.ffn[0](fusion.attention(torch.cat([first, second], dim=1)))
        assert (hidden[:, :units] - bias).std() > 0.1
    assert hidden[:, units:].std() > 0.1


@torch.no_grad()
def test_the_pyramid_starts_without_making_its_maps_smaller() -> None:
    torch.manual_seed(0)
    channels = (24, 40, 112, 320)
    pyramid = FeaturePyramid(channels, 64)
    maps = [torch.randn(4, c, 64 >> i, 64 >> i) for i, c in enumerate(channels)]
    assert 0.8 < float(pyramid(maps)[-1][..., 1:-1, 1:-1].std()) < 1.3


@torch.no_grad()
def test_channel_attention_from_its_formula() -> None:
    torch.manual_seed(3)
    attention, x = ChannelAttention(32, 16), torch.randn(2, 32, 3, 5)
    torch.testing.assert_close(attention(x), x / 2)  # it starts out weighing all alike
    scatter(attention)
    first, second = attention.mlp[0], attention.mlp[2]
    assert first.out_features == 2
    for b in range(2):
        total = torch.zeros(32)
        for pool in (torch.mean, torch.max):
            pooled = torch.stack([pool(x[b, c]) for c in range(32)])
            hidden = torch.relu(first.weight @ pooled + first.bias)
            total += second.weight @ hidden + second.bias
        for c in range(32):
            expected = x[b, c] / (1 + torch.exp(-total[c]))
            torch.testing.assert_close(attention(x)[b, c], expected)


@torch.no_grad()
def test_feed_forward_from_its_formula() -> None:
    torch.manual_seed(4)
    ffn = feed_forward(5, 4, 3).eval()
    nn.init.normal_(ffn[1].running_mean)
    x = torch.randn(1, 5, 2, 2)
    for i in range(2):
        for j in range(2):
            v = x[0, :, i, j]
            for conv, norm in ((ffn[0], ffn[1]), (ffn[3], ffn[4])):
                v = conv.weight[:, :, 0, 0] @ v + conv.bias
                v = (v - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
                v = F.gelu(v * norm.weight + norm.bias)
            torch.testing.assert_close(ffn(x)[0, :, i, j], v)


@torch.no_grad()
def test_pyramid_from_its_formula() -> None:
    torch.manual_seed(5)
    pyramid, maps = FeaturePyramid(LEVELS, 3), seen(1, n=1).levels
    scatter(pyramid)
    top = [pyramid.lateral[3](maps[3])]
    for i in (2, 1, 0):
        lateral, above = pyramid.lateral[i](maps[i]), top[0]
        wide = torch.zeros_like(lateral)
        for y in range(wide.shape[2]):
            for x in range(wide.shape[3]):
                wide[:, :, y, x] = lateral[:, :, y, x] + above[:, :, y // 2, x // 2]
        top.insert(0, wide)
    for level, smooth, x in zip(pyramid(maps), pyramid.smooth, top, strict=True):
        torch.testing.assert_close(level, smooth(x))


@torch.no_grad()
def test_fusion_joins_in_order() -> None:
    fusion, before, after = make(), seen(1), seen(2)
    assert fusion.pyramid is not None and fusion.attention is not None

    def stack(features: VisionFeatures) -> Tensor:
        maps = [features.deep, *fusion.pyramid(features.levels)]  # type: ignore[misc]
        size = (4, 4)
        resized = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        return torch.cat(resized, 1)

    joined = torch.cat([stack(before), stack(after)], 1)
    assert joined.shape[1] == 2 * (5 + 4 * 3)
    expected = fusion.ffn(fusion.attention(joined))
    out = fusion(before, after)
    assert out.shape == (2, 6, 4, 4)
    torch.testing.assert_close(out, expected)
    assert not torch.allclose(out, fusion(after, before))


@torch.no_grad()
def test_concat_sees_deep_maps_alone() -> None:
    fusion, before, after = make(replace(CONFIG, kind="concat")), seen(1), seen(2)
    assert fusion.pyramid is None and fusion.attention is None
    expected = fusion.ffn(torch.cat([before.deep, after.deep], 1))
    torch.testing.assert_close(fusion(before, after), expected)
    other = replace(before, levels=seen(9).levels)
    assert torch.equal(fusion(other, after), fusion(before, after))
    whole = make()
    assert not torch.equal(whole(other, after), whole(before, after))


@pytest.mark.parametrize("change", [{"grid": 8}, {"reduction": 2}, {"hidden": 12}, {"pyramid": 5}])
def test_every_size_matters(change: dict[str, int]) -> None:
    config = replace(CONFIG, **change)  # type: ignore[arg-type]
    one, other = make(config), make()
    same = {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    grid = change.get("grid", 4)
    assert same == ("grid" in change)
    assert one(seen(1), seen(2)).shape == (2, 6, grid, grid)


def test_everything_gets_a_gradient() -> None:
    fusion = make().train()
    fusion(seen(1), seen(2)).square().sum().backward()
    assert [n for n, p in fusion.named_parameters() if p.grad is None] == []
