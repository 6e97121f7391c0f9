"""Multi-scale feature fusion, MSFF (III-H, Fig. 7): deep and shallow maps of both dates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.reasoncd.config import FusionConfig
from whatchanged.models.reasoncd.vision import VisionFeatures


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): laterals, the top-down way, one 3 x 3 convolution a level."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(inp, width, 1) for inp in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for convolution in (*self.lateral, *self.smooth):
            # Deviation is kept: torch's own start would hand on a third of it, and the fusion
            # would hear little of the shallow maps beside the deep one.
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn C2 to C5, finest first, into P2 to P5, [B, width, h, w] each."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[-2:])
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


class ChannelAttention(nn.Module):
    """Channel attention of CBAM (Woo et al. 2018; Fig. 7c).

    Average and maximum over all places go through one shared MLP; the sigmoid of their sum
    weighs the channels. It starts out weighing all alike, so that what both dates share
    cancels where they are compared.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        last = nn.Linear(hidden, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), last)

    def scores(self, x: Tensor) -> Tensor:
        """Return the weight of every channel of [B, C, h, w], [B, C] in (0, 1)."""
        total: Tensor = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))
        return total.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of [B, C, h, w]."""
        return x * self.scores(x)[:, :, None, None]


def feed_forward(inp: int, hidden: int, out: int) -> nn.Sequential:
    """Build the two blocks of 1 x 1 convolution, BatchNorm and GELU (Fig. 7b)."""
    blocks: list[nn.Module] = []
    for first, second in ((inp, hidden), (hidden, out)):
        blocks += [nn.Conv2d(first, second, 1), nn.BatchNorm2d(second), nn.GELU()]
    return nn.Sequential(*blocks)


class MultiScaleFusion(nn.Module):
    """Fuse both dates to the one map that the mask is decoded from.

    Half of the hidden units start as differences of the dates, which is what a change is.
    Nothing keeps them so, and the paper says nothing of the start.

    Args:
        config: What it is made of.
        deep_channels: Channels of the deep maps.
        level_channels: Channels of the pyramid's source, finest first.
    """

    def __init__(
        self, config: FusionConfig, deep_channels: int, level_channels: Sequence[int]
    ) -> None:
        super().__init__()
        self.config = config
        self.pyramid: FeaturePyramid | None = None
        self.attention: ChannelAttention | None = None
        channels = 2 * deep_channels
        if config.kind == "msff":
            channels += 2 * len(level_channels) * config.pyramid
            self.pyramid = FeaturePyramid(level_channels, config.pyramid)
            self.attention = ChannelAttention(channels, config.reduction)
        self.ffn = feed_forward(channels, config.hidden, config.width)
        self._start_on_differences()

    def forward(self, before: VisionFeatures, after: VisionFeatures) -> Tensor:
        """Fuse the features of B pairs to [B, width, grid, grid]."""
        x = torch.cat([self._stack(before), self._stack(after)], dim=1)  # earlier date first
        if self.attention is not None:
            x = self.attention(x)
        out: Tensor = self.ffn(x)
        return out

    @torch.no_grad()
    def _start_on_differences(self) -> None:
        first = cast(nn.Conv2d, self.ffn[0]).weight  # [hidden, channels of both dates, 1, 1]
        units, half = len(first) // 2, first.shape[1] // 2
        first[:units, half:] = -first[:units, :half]

    def _stack(self, features: VisionFeatures) -> Tensor:
        """Put the maps of one date on one grid, [B, channels of a date, grid, grid]."""
        maps = [features.deep]
        if self.pyramid is not None:
            maps += self.pyramid(features.levels)
        return torch.cat([self._resize(x) for x in maps], dim=1)

    def _resize(self, x: Tensor) -> Tensor:
        grid = (self.config.grid, self.config.grid)
        if tuple(x.shape[-2:]) == grid:
            return x
        return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
