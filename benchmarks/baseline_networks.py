"""Three published change-detection networks, written from their papers, as baselines.

All take two normalised pictures [B, 3, H, W], sides multiples of 16, and give one logit a
pixel, [B, H, W], where the papers' own have two classes and a softmax: the same model, with
one output channel less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models import weights
from whatchanged.models.backbones import LITE0_STAGES, CompactEncoder, EncoderConfig

DAUDT_WIDTHS = (16, 32, 64, 128)
DAUDT_DEPTHS = (2, 2, 3, 3)
DAUDT_DROPOUT = 0.2
TINY_STAGES = 4
TINY_WIDTHS = (64, 64, 64, 32)


class FCEF(nn.Module):
    """FC-EF: both dates in one picture of six bands, then a U-Net (Daudt et al. 2018).

    Four scales of 16, 32, 64 and 128 channels with 2, 2, 3 and 3 convolutions, 2 x 2
    max-pooling, transposed convolutions upwards, skip connections by concatenation; each
    convolution with BatchNorm, ReLU and dropout. 1.35 M parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder(6)
        self.decoder = _Decoder()

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return change logits [B, H, W]."""
        skips, deepest = self.encoder(torch.cat([before, after], dim=1))
        logits: Tensor = self.decoder(skips, deepest)
        return logits


class FCSiamDiff(nn.Module):
    """FC-Siam-diff: one encoder for each date, compared by absolute difference (ibid.).

    Sizes as FC-EF; the encoder sees three bands. The paper gives the decoder the absolute
    difference at every skip connection. What enters the decoder at the bottom is here the
    absolute difference too (not the later date's map), so that the order of the dates does
    not matter. 1.35 M parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder(3)
        self.decoder = _Decoder()

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return change logits [B, H, W]; exchanging the dates does not change them."""
        skips, deepest = self.encoder(torch.cat([before, after]))
        compared = [_difference(skip) for skip in skips]
        logits: Tensor = self.decoder(compared, _difference(deepest))
        return logits


class TinyCDLike(nn.Module):
    """A network in the manner of TinyCD (Codegoni et al. 2022), 0.28 M parameters.

    As in the paper: the first blocks of a small ImageNet network, shared by the dates; mixing
    of equal channels of both dates by grouped convolution; one-channel masks from the finer
    scales (the pictures themselves included) that weigh the up-sampled features; a
    classifier of 1 x 1 convolutions.

    Other than in the paper: EfficientNet-Lite0 instead of EfficientNet-B4, up to its fourth
    stage at stride 16 instead of stride 8 (its blocks are narrower: so the size is near the
    paper's 0.29 M), and one scale of masks and up-sampling more.
    """

    def __init__(self) -> None:
        super().__init__()
        encoder = CompactEncoder(EncoderConfig())
        self.stem, self.stages = encoder.stem, encoder.stages[:TINY_STAGES]
        widths = [3, *(stage.channels for stage in LITE0_STAGES[:TINY_STAGES])]
        self.masks = nn.ModuleList(MixMask(width) for width in reversed(widths[:-1]))
        self.mix = Mixing(widths[-1])
        inputs = (widths[-1], *TINY_WIDTHS[:-1])
        self.ups = nn.ModuleList(map(MaskedUp, inputs, TINY_WIDTHS))
        self.classifier = _pixel_mlp((TINY_WIDTHS[-1], 16, 8, 1))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return change logits [B, H, W]."""
        pixels = torch.cat([before, after])
        maps, x = [pixels], self.stem(pixels)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)  # strides 1, 2, 4, 8, 16
        x = self.mix(*maps.pop().chunk(2))
        for up, mask in zip(self.ups, self.masks, strict=True):
            x = up(x, mask(*maps.pop().chunk(2)))
        logits: Tensor = self.classifier(x)
        return logits.squeeze(1)


class Mixing(nn.Module):
    """Mix dates: channels interleaved, each pair convolved by itself to one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2 * channels, channels, 3, padding=1, groups=channels)
        self.act = nn.PReLU()
        self.norm = nn.InstanceNorm2d(channels)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Map two [B, C, h, w] to one."""
        pairs = torch.stack([before, after], dim=2).flatten(1, 2)  # [B, 2 C, h, w]
        out: Tensor = self.norm(self.act(self.convolution(pairs)))
        return out


class MixMask(nn.Module):
    """Mix dates and say in one number a pixel how much it matters, unbounded (the paper's MAMB)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = Mixing(channels)
        self.mlp = _pixel_mlp((channels, max(4, channels // 2), max(2, channels // 4), 1))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Map two [B, C, h, w] to [B, 1, h, w]."""
        out: Tensor = self.mlp(self.mix(before, after))
        return out


class MaskedUp(nn.Module):
    """Double the resolution, weigh by a mask, convolve depthwise, then pointwise."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inp, inp, 3, padding=1, groups=inp),
            nn.PReLU(),
            nn.InstanceNorm2d(inp),
            nn.Conv2d(inp, out, 1),
            nn.PReLU(),
            nn.InstanceNorm2d(out),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, C, h / 2, w / 2] and [B, 1, h, w] to [B, C', h, w]."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        out: Tensor = self.layers(x * mask)
        return out


@dataclass(frozen=True)
class Baseline:
    """How one baseline is named, built and trained.

    Attributes:
        title: Name in tables.
        source: Paper.
        build: Returns the network with its start weights.
        rate: Highest learning rate.
    """

    title: str
    source: str
    build: Callable[[], nn.Module]
    rate: float


def build_tinycd() -> TinyCDLike:
    """Build the TinyCD-like network over ImageNet weights.

    Raises:
        WeightsUnavailableError: `efficientnet-lite0` is not on this machine.
    """
    network = TinyCDLike()
    whole = CompactEncoder(EncoderConfig())
    whole.load_start_weights(weights.require("efficientnet-lite0"))
    network.stem.load_state_dict(whole.stem.state_dict())
    network.stages.load_state_dict(whole.stages[:TINY_STAGES].state_dict())
    return network


BASELINES = {
    "fc-ef": Baseline("FC-EF", "Daudt et al. 2018", FCEF, 1e-3),
    "fc-siam-diff": Baseline("FC-Siam-diff", "Daudt et al. 2018", FCSiamDiff, 1e-3),
    "tinycd-like": Baseline("TinyCD-like", "after Codegoni et al. 2022", build_tinycd, 1e-3),
}


class _Encoder(nn.Module):
    """Daudt's contracting path: the map before each pooling, and the last one pooled."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        scales, inp = [], bands
        for width, depth in zip(DAUDT_WIDTHS, DAUDT_DEPTHS, strict=True):
            widths = [inp] + [width] * depth
            scales.append(_chain(nn.Conv2d, widths))
            inp = width
        self.scales = nn.ModuleList(scales)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        skips = []
        for scale in self.scales:
            skips.append(scale(x))
            x = F.max_pool2d(skips[-1], 2)
        return skips, x


class _Decoder(nn.Module):
    """Daudt's expanding path: double, join the skip, convolve down to the next scale's width."""

    def __init__(self) -> None:
        super().__init__()
        ups, scales = [], []
        for place in reversed(range(len(DAUDT_WIDTHS))):
            width, depth = DAUDT_WIDTHS[place], DAUDT_DEPTHS[place]
            out = DAUDT_WIDTHS[place - 1] if place else width
            ups.append(nn.ConvTranspose2d(width, width, 3, padding=1, stride=2, output_padding=1))
            widths = [2 * width] + [width] * (depth - 1) + ([out] if place else [])
            scales.append(_chain(nn.ConvTranspose2d, widths))
        self.ups, self.scales = nn.ModuleList(ups), nn.ModuleList(scales)
        self.classifier = nn.ConvTranspose2d(DAUDT_WIDTHS[0], 1, 3, padding=1)

    def forward(self, skips: Sequence[Tensor], x: Tensor) -> Tensor:
        for up, scale, skip in zip(self.ups, self.scales, reversed(skips), strict=True):
            x = scale(torch.cat([up(x), skip], dim=1))
        logits: Tensor = self.classifier(x)
        return logits.squeeze(1)


def _chain(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for inp, out in pairwise(widths):
        layers += [kind(inp, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        layers.append(nn.Dropout2d(DAUDT_DROPOUT))
    return nn.Sequential(*layers)


def _difference(both: Tensor) -> Tensor:
    before, after = both.chunk(2)
    return (before - after).abs()


def _pixel_mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inp, out in pairwise(widths):
        layers += [nn.Conv2d(inp, out, 1), nn.PReLU()]
    return nn.Sequential(*layers[:-1])
