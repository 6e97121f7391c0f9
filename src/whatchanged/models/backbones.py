"""Image encoders: one picture in, one feature map out, the same network for both dates.

`CompactEncoder` is EfficientNet-Lite0 (Tan and Le 2019; the Lite variant without
squeeze-and-excitation, with ReLU6) written from its published table, with a neck that joins
its scales at stride 16. `ClipEncoder` is CLIP's vision transformer through `transformers`.
Both are built with random weights; `load_start_weights` fills them from a file or folder.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.errors import CheckpointError
from whatchanged.models.checkpoint import load_checkpoint


@dataclass(frozen=True)
class EncoderConfig:
    """What an encoder is made of and how pictures are prepared for it.

    Attributes:
        kind: `compact` (EfficientNet-Lite0 with a neck) or `clip` (CLIP ViT).
        start: Named weights or a folder to start training from; None starts at random.
        unfreeze_last: Trained part: the last blocks of CLIP, or the last of the seven
            stages of the compact encoder (its neck is trained with them); 0 freezes all.
        input_size: Side of the square picture the model is trained at, pixels; training HiSem
            sets that of a compact encoder to `data.size`.
        mean: Per band, of pixels in [0, 1].
        std: Per band, of pixels in [0, 1].
        channels: Channels of the map handed on; for CLIP its width.
        layers: CLIP only: transformer blocks.
        heads: CLIP only: attention heads.
        patch: CLIP only: patch side, pixels.
    """

    kind: Literal["compact", "clip"] = "compact"
    start: str | None = None
    unfreeze_last: int = 7
    input_size: int = 256
    mean: tuple[float, float, float] = (0.498, 0.498, 0.498)
    std: tuple[float, float, float] = (0.502, 0.502, 0.502)
    channels: int = 256
    layers: int = 12
    heads: int = 12
    patch: int = 16


@dataclass(frozen=True)
class _Stage:
    expand: int
    channels: int
    blocks: int
    stride: int
    kernel: int


# Tan and Le 2019, Table 1; Lite0 keeps the stem (32) and the first stage unscaled.
LITE0_STAGES = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)
PYRAMID_CHANNELS = (24, 40, 112, 320)
_PYRAMID_STAGES = (1, 2, 4, 6)  # the last stage at strides 4, 8, 16 and 32


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm and, if asked, ReLU6, with TensorFlow's `SAME` padding.

    At stride 2 an even picture is padded by one pixel more at the bottom and right; the
    published weights expect it.
    """

    def __init__(
        self, inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        layers: list[nn.Module] = []
        padding = kernel // 2
        if stride == 2:
            before = (kernel - 2) // 2
            after = kernel - 2 - before
            layers.append(nn.ZeroPad2d((before, after, before, after)))
            padding = 0
        layers.append(nn.Conv2d(inp, out, kernel, stride, padding, groups=groups, bias=False))
        layers.append(nn.BatchNorm2d(out, eps=1e-3, momentum=0.01))
        if act:
            layers.append(nn.ReLU6(inplace=True))
        super().__init__(*layers)


class InvertedResidual(nn.Module):
    """MBConv without squeeze-and-excitation: expand, depthwise, project; skip if shapes allow."""

    def __init__(self, inp: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        hidden = inp * stage.expand
        layers = [ConvNorm(inp, hidden, 1)] if stage.expand != 1 else []
        layers.append(ConvNorm(hidden, hidden, stage.kernel, stride, groups=hidden))
        layers.append(ConvNorm(hidden, stage.channels, 1, act=False))
        self.layers = nn.Sequential(*layers)
        self.skip = stride == 1 and inp == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to [B, C', h', w']."""
        y: Tensor = self.layers(x)
        return x + y if self.skip else y


class CompactEncoder(nn.Module):
    """EfficientNet-Lite0 and a neck to one map at stride 16 (3.1 M parameters).

    The neck joins strides 8 (average-pooled), 16 and 32 (up-sampled) by one 1 x 1
    convolution, so that a token sees both the edge of a house and the block around it.
    """

    stride = 16

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.stem = ConvNorm(3, 32, 3, 2)
        stages, inp = [], 32
        for stage in LITE0_STAGES:
            blocks = []
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(inp, stage, stage.stride if index == 0 else 1))
                inp = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.neck = nn.Conv2d(sum(PYRAMID_CHANNELS[1:]), config.channels, 1)
        self.neck_norm = nn.GroupNorm(16, config.channels)

    def pyramid(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at strides 4, 8, 16 and 32 of pixels [B, 3, H, W] (normalised)."""
        x = self.stem(pixels)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _PYRAMID_STAGES:
                maps.append(x)
        return tuple(maps)

    def join(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Join a pyramid into one map at stride 16, [B, channels, h, w]."""
        size = maps[2].shape[-2:]
        joined = torch.cat(
            [
                F.adaptive_avg_pool2d(maps[1], cast(Any, size)),
                maps[2],
                F.interpolate(maps[3], size=size, mode="bilinear", align_corners=False),
            ],
            dim=1,
        )
        out: Tensor = self.neck_norm(self.neck(joined))
        return out

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels [B, 3, H, W] to [B, channels, H / 16, W / 16]."""
        return self.join(self.pyramid(pixels))

    def trained_modules(self) -> list[nn.Module]:
        """Modules that train under `unfreeze_last`, the last first."""
        count = min(self.config.unfreeze_last, len(self.stages))
        if count == 0:
            return []
        modules: list[nn.Module] = [self.neck_norm, self.neck, *reversed(self.stages)][: count + 2]
        return [*modules, self.stem] if count == len(self.stages) else modules

    def load_start_weights(self, path: Path) -> None:
        """Fill all of it from a checkpoint folder, or stem and stages from the ImageNet file.

        The file is the published one (`*.pth`, tensors only).
        """
        if path.is_dir():
            load_encoder(self, path)
            return
        published = torch.load(path, map_location="cpu", weights_only=True)
        own = self.state_dict()
        body = [k for k in own if not k.startswith("neck")]
        foreign = [k for k in published if not k.startswith(("_conv_head", "_bn1.", "_fc"))]
        # Both list the same layers in the order of the network; shapes settle any doubt.
        if [published[k].shape for k in foreign] != [own[k].shape for k in body]:
            raise CheckpointError(f"{path.name} does not hold EfficientNet-Lite0 weights")
        renamed = OrderedDict(
            (key, published[source]) for key, source in zip(body, foreign, strict=True)
        )
        self.load_state_dict(renamed, strict=False)


class ClipEncoder(nn.Module):
    """CLIP's vision transformer: patch tokens after the final layer norm, without class token.

    The map is the one before CLIP's projection to its joint space (HiSem, IV-C: ViT-B/16,
    224 px, 14 x 14 tokens of width 768).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.config = config
        self.channels = config.channels
        self.stride = config.patch
        self.vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.channels,
                intermediate_size=4 * config.channels,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.input_size,
                patch_size=config.patch,
            )
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels [B, 3, H, W] to [B, channels, H / patch, W / patch]."""
        height, width = (int(side) // self.stride for side in pixels.shape[-2:])
        size = self.config.input_size
        states = self.vision(
            pixel_values=pixels, interpolate_pos_encoding=tuple(pixels.shape[-2:]) != (size, size)
        ).last_hidden_state[:, 1:]  # [B, L, D]
        states = self._body().post_layernorm(states)
        return cast(Tensor, states.transpose(1, 2).reshape(-1, self.channels, height, width))

    def _body(self) -> Any:
        return getattr(self.vision, "vision_model", self.vision)

    def trained_modules(self) -> list[nn.Module]:
        """Modules that train under `unfreeze_last`, the last first."""
        count = self.config.unfreeze_last
        if count == 0:
            return []
        layers = list(reversed(self._body().encoder.layers))
        modules: list[nn.Module] = [self._body().post_layernorm, *layers[:count]]
        return modules

    def load_start_weights(self, path: Path) -> None:
        """Fill from a folder in the layout of `transformers` (CLIP or its vision tower)."""
        from transformers import CLIPVisionModel

        loaded = CLIPVisionModel.from_pretrained(path, use_safetensors=True)
        try:
            self.vision.load_state_dict(loaded.state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"{path} is not the CLIP of this preset: {error}") from error


Encoder = CompactEncoder | ClipEncoder


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build the encoder of `config` with random weights and its frozen part frozen."""
    encoder: Encoder = CompactEncoder(config) if config.kind == "compact" else ClipEncoder(config)
    freeze(encoder)
    return encoder


def load_encoder(encoder: Encoder, folder: Path) -> None:
    """Fill an encoder from the checkpoint of one, or of a HiSem, whose encoder is taken.

    Raises:
        CheckpointError: The checkpoint holds no encoder, or another one.
    """
    saved = load_checkpoint(folder)
    prefix = {"encoder": "", "hisem": "encoder."}.get(saved.family)
    if prefix is None:
        raise CheckpointError(f"{folder} holds a {saved.family}, not an encoder")
    own = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
    try:
        encoder.load_state_dict(own)  # in the package tensors are float16: it converts
    except RuntimeError as error:
        raise CheckpointError(f"{folder} is not the encoder of this run: {error}") from error


def freeze(encoder: Encoder) -> None:
    """Let only `trained_modules()` of an encoder receive gradients."""
    encoder.requires_grad_(False)
    for module in encoder.trained_modules():
        module.requires_grad_(True)


def set_training(encoder: Encoder, training: bool) -> None:
    """Put only the trained part of an encoder in training mode.

    The statistics of frozen BatchNorms then stay those of the start weights.
    """
    encoder.train(False)
    if training:
        for module in encoder.trained_modules():
            module.train(True)


def normalise(pixels: Tensor, config: EncoderConfig) -> Tensor:
    """Turn pictures [B, 3, H, W], uint8 or float in [0, 255], into what the encoder expects."""
    mean = torch.tensor(config.mean, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(config.std, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std
