"""The eyes of ReasonCD: per date image tokens, one deep map and a pyramid (III-E, III-H).

`ClipSamVision` is the paper's: CLIP for the language model, SAM's encoder and ResNet34 for the
mask. `CompactVision` takes all three from one compact encoder. Both prepare pictures
themselves, so that whoever calls hands over pixels in [0, 255] of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.backbones import (
    PYRAMID_CHANNELS,
    ClipEncoder,
    CompactEncoder,
    build_encoder,
    normalise,
    set_training,
)
from whatchanged.models.reasoncd.config import ClipSamConfig, CompactConfig


@dataclass(frozen=True)
class VisionFeatures:
    """What is seen on B pictures of one date.

    Attributes:
        tokens: Image tokens for the language model, [B, N, C].
        deep: High-level map, [B, c, h, w].
        levels: Low-level maps at strides 4, 8, 16 and 32.
    """

    tokens: Tensor
    deep: Tensor
    levels: tuple[Tensor, ...]

    def take(self, rows: Tensor | slice) -> VisionFeatures:
        """Return the features of some of the pictures."""
        levels = tuple(level[rows] for level in self.levels)
        return VisionFeatures(self.tokens[rows], self.deep[rows], levels)


@dataclass(frozen=True)
class PairFeatures:
    """What is seen on B pairs, before any wish.

    Attributes:
        before: Features of the earlier date.
        after: Features of the later date.
        size: Height and width of the pictures, pixels.
        square: Side of the padded square that the maps cover.
        valid: Height and width of the picture inside that square.
    """

    before: VisionFeatures
    after: VisionFeatures
    size: tuple[int, int]
    square: int
    valid: tuple[int, int]

    def take(self, rows: Tensor | slice) -> PairFeatures:
        """Return the features of some of the pairs."""
        before, after = self.before.take(rows), self.after.take(rows)
        return PairFeatures(before, after, self.size, self.square, self.valid)


def fit_square(pictures: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Resize to a longest side and pad right and below with zeros (design, 9).

    Args:
        pictures: Normalised, [B, 3, H, W].
        side: Of the square.

    Returns:
        [B, 3, side, side], and height and width of the picture in it.
    """
    height, width = (int(n) for n in pictures.shape[-2:])
    scale = side / max(height, width)
    fitted = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    if fitted != (height, width):
        pictures = F.interpolate(
            pictures, size=fitted, mode="bilinear", align_corners=False, antialias=True
        )
    return F.pad(pictures, (0, side - fitted[1], 0, side - fitted[0])), fitted


KeptFeatures = Callable[[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]], tuple[Tensor, Tensor]]
"""Pictures and a function that sees them, to image tokens and deep map: from a cache, or by it."""


class ClipSamVision(nn.Module):
    """CLIP ViT-L/14, SAM's encoder and ResNet34 (Eq. 5-6, Fig. 7a)."""

    def __init__(self, config: ClipSamConfig) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel, SamVisionConfig
        from transformers.models.sam.modeling_sam import SamVisionEncoder

        self.config = config
        self.clip = cast(ClipEncoder, build_encoder(config.clip))
        sam, resnet = config.sam, config.resnet
        self.sam = SamVisionEncoder(
            SamVisionConfig(
                hidden_size=sam.width,
                output_channels=sam.channels,
                num_hidden_layers=sam.layers,
                num_attention_heads=sam.heads,
                image_size=sam.input_size,
                patch_size=sam.patch,
                window_size=sam.window,
                global_attn_indexes=list(sam.global_layers),
                mlp_dim=4 * sam.width,
            )
        )
        self.sam.requires_grad_(False)
        self.resnet = ResNetModel(
            ResNetConfig(
                embedding_size=resnet.stem,
                hidden_sizes=list(resnet.channels),
                depths=list(resnet.depths),
                layer_type="basic",
            )
        )
        self.n_tokens = config.image_tokens
        self.token_channels = config.clip.channels
        self.deep_channels = sam.channels
        self.level_channels: tuple[int, ...] = resnet.channels
        self.square = sam.input_size
        self.kept: KeptFeatures | None = None
        """Where what CLIP and SAM see is kept; None computes it every time."""

    def forward(self, pictures: Tensor) -> tuple[VisionFeatures, tuple[int, int]]:
        """See pictures [B, 3, H, W] in [0, 255]; also returns their size in the square."""
        padded, valid = fit_square(self._scale(pictures), self.square)
        with torch.no_grad():  # both are frozen (design, 10)
            see = self._see_frozen
            tokens, deep = see(pictures) if self.kept is None else self.kept(pictures, see)
        states = self.resnet(padded, output_hidden_states=True).hidden_states
        return VisionFeatures(tokens, deep, tuple(states[-4:])), valid

    def _see_frozen(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        padded, _ = fit_square(self._scale(pictures), self.square)
        return self._image_tokens(pictures), self.sam(padded).last_hidden_state

    def _image_tokens(self, pictures: Tensor) -> Tensor:
        side = self.config.clip.input_size
        pixels = F.interpolate(
            pictures.float(), size=(side, side), mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 255)
        states = self.clip.vision(
            pixel_values=normalise(pixels, self.config.clip), output_hidden_states=True
        ).hidden_states
        # [-2] is the penultimate layer, [1:] drops the class token (Eq. 5-6).
        return cast(Tensor, states[-2][:, 1:])  # [B, N, C]

    def _scale(self, pictures: Tensor) -> Tensor:
        mean = torch.tensor(self.config.mean, device=pictures.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.config.std, device=pictures.device).view(1, 3, 1, 1) * 255
        return (pictures.float() - mean) / std

    def train(self, mode: bool = True) -> ClipSamVision:
        """Set the training mode of ResNet34 alone; CLIP and SAM are frozen."""
        super().train(mode)
        self.clip.train(False)
        self.sam.train(False)
        return self

    def elsewhere(self) -> tuple[str, ...]:
        """Prefixes of frozen tensors that their start weights hold, unchanged."""
        starts = (("clip.", self.config.clip.start), ("sam.", self.config.sam.start))
        return tuple(prefix for prefix, start in starts if start is not None)


class CompactVision(nn.Module):
    """One compact encoder: its joined map pooled to tokens, the map itself, its pyramid."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = cast(CompactEncoder, build_encoder(config.encoder))
        self.n_tokens = config.image_tokens
        self.token_channels = self.deep_channels = config.encoder.channels
        self.level_channels: tuple[int, ...] = PYRAMID_CHANNELS
        self.square = config.encoder.input_size

    def forward(self, pictures: Tensor) -> tuple[VisionFeatures, tuple[int, int]]:
        """See pictures [B, 3, H, W] in [0, 255]; also returns their size in the square."""
        padded, valid = fit_square(normalise(pictures, self.config.encoder), self.square)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._is_trained()):
            levels = self.encoder.pyramid(padded)
            deep = self.encoder.join(levels)
        pooled = F.adaptive_avg_pool2d(deep, self.config.side)  # [B, C, side, side]
        return VisionFeatures(pooled.flatten(2).transpose(1, 2), deep, levels), valid

    def _is_trained(self) -> bool:
        return self.config.encoder.unfreeze_last > 0

    def train(self, mode: bool = True) -> CompactVision:
        """Set the training mode of the encoder's trained part alone."""
        super().train(mode)
        set_training(self.encoder, mode)
        return self

    def elsewhere(self) -> tuple[str, ...]:
        """Nothing: a small encoder travels with the checkpoint."""
        return ()

    def load_start_weights(self, path: Path) -> None:
        """Fill the encoder, see `CompactEncoder.load_start_weights`."""
        self.encoder.load_start_weights(path)


Vision = ClipSamVision | CompactVision


def build_vision(config: ClipSamConfig | CompactConfig) -> Vision:
    """Build the image encoders of `config` with random weights, frozen parts frozen."""
    return CompactVision(config) if isinstance(config, CompactConfig) else ClipSamVision(config)


def see_pair(vision: Vision, before: Tensor, after: Tensor) -> PairFeatures:
    """See both dates in one call of each encoder.

    Args:
        vision: Of `build_vision`.
        before: Pictures [B, 3, H, W] in [0, 255].
        after: The same places later, [B, 3, H, W].
    """
    both: Any = vision(torch.cat([before, after]))
    features: VisionFeatures = both[0]
    n = before.shape[0]
    size = (int(before.shape[-2]), int(before.shape[-1]))
    return PairFeatures(
        features.take(slice(0, n)), features.take(slice(n, None)), size, vision.square, both[1]
    )
