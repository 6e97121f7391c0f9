"""A dense change network that teaches the compact encoder what changes look like.

HiSem's paper starts from an encoder pre-trained on 400 million captioned pictures. The small
preset starts from ImageNet and is first trained here, on pairs with change masks and land
cover: where something changed, what was there before and after, and which words people used.
Only the encoder is kept. Siamese encoding with concatenated and differenced features and
skip connections follows Daudt et al. 2018 (FC-Siam); nothing here is part of HiSem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.backbones import PYRAMID_CHANNELS, CompactEncoder, set_training

N_CLASSES = 8
N_KINDS = 3


@dataclass(frozen=True)
class DenseOutput:
    """What the network says of B pairs of H x W pixels.

    Attributes:
        mask: Change logits per kind of mask, [B, kinds, H / 4, W / 4].
        classes_before: Land-cover logits, [B, 8, H / 8, W / 8].
        classes_after: Land-cover logits, [B, 8, H / 8, W / 8].
        words: Logits of each vocabulary word being in a caption, [B, V].
        changed: Logit of the pair being changed, [B].
    """

    mask: Tensor
    classes_before: Tensor
    classes_after: Tensor
    words: Tensor
    changed: Tensor


def _block(inp: int, out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def _compare(before: Tensor, after: Tensor) -> Tensor:
    return torch.cat([before, after, (before - after).abs()], dim=1)


class DenseChangeNet(nn.Module):
    """Siamese encoder, three comparisons (strides 16, 8, 4) and light heads.

    One output channel per kind of mask keeps annotations apart that mean different things
    by "change": buildings only, cropland only, any object.

    Args:
        encoder: What is to be trained; its frozen part stays as it is.
        n_words: V, words to tell from a pair.
    """

    def __init__(self, encoder: CompactEncoder, n_words: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.channels
        self.deep = nn.Sequential(_block(3 * width, 192, 1), _block(192, 192, 3))
        self.mid = _block(3 * PYRAMID_CHANNELS[1], 64, 1)
        self.fine = _block(3 * PYRAMID_CHANNELS[0], 32, 1)
        self.up8 = _block(192 + 64, 96, 3)
        self.up4 = _block(96 + 32, 48, 3)
        self.mask = nn.Conv2d(48, N_KINDS, 1)
        self.cover = nn.Sequential(
            _block(width + PYRAMID_CHANNELS[1], 96, 1), nn.Conv2d(96, N_CLASSES, 1)
        )
        self.words = nn.Linear(2 * 192, n_words)
        nn.init.constant_(self.words.bias, -4.0)  # most words are in no caption of a pair
        self.changed = nn.Linear(2 * 192, 1)

    def forward(self, before: Tensor, after: Tensor) -> DenseOutput:
        """Compare two normalised pictures [B, 3, H, W], sides multiples of 32."""
        n = before.shape[0]
        maps = self.encoder.pyramid(torch.cat([before, after]))
        joined = self.encoder.join(maps)
        deep = self.deep(_compare(joined[:n], joined[n:]))  # [B, 192, H / 16, W / 16]
        mid = self.mid(_compare(maps[1][:n], maps[1][n:]))
        fine = self.fine(_compare(maps[0][:n], maps[0][n:]))
        x = self.up8(torch.cat([_to(deep, mid), mid], dim=1))
        x = self.up4(torch.cat([_to(x, fine), fine], dim=1))
        cover = self.cover(torch.cat([_to(joined, maps[1]), maps[1]], dim=1))
        pooled = torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], dim=1)
        return DenseOutput(
            mask=self.mask(x),
            classes_before=cover[:n],
            classes_after=cover[n:],
            words=self.words(pooled),
            changed=cast(Tensor, self.changed(pooled)).squeeze(1),
        )

    def train(self, mode: bool = True) -> DenseChangeNet:
        """Set the training mode; the statistics of the encoder's frozen part stay."""
        super().train(mode)
        set_training(self.encoder, mode)
        return self


def _to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class DenseTarget:
    """What is known of B pairs; 255 and -1 stand for "not known".

    Attributes:
        mask: 1 changed, 0 not, 255 unknown, uint8 [B, H, W].
        kind: Which kind of mask each pair has, [B].
        classes_before: Land cover 1-7 where known, else 0 or 255, uint8 [B, H, W].
        classes_after: As `classes_before`.
        words: 1 where a caption has the word, [B, V]; a row of -1 where there is no caption.
        changed: 1, 0 or -1, [B].
    """

    mask: Tensor
    kind: Tensor
    classes_before: Tensor
    classes_after: Tensor
    words: Tensor
    changed: Tensor


def dense_loss(output: DenseOutput, target: DenseTarget) -> dict[str, Tensor]:
    """Return the loss parts `mask`, `cover`, `words` and `changed`, each a scalar."""
    return {
        "mask": _mask_loss(output.mask.float(), target),
        "cover": 0.5 * _cover_loss(output, target),
        "words": _known(
            F.binary_cross_entropy_with_logits(
                output.words.float(), target.words.clamp(min=0), reduction="none"
            ).sum(1)
            / 10,
            target.words[:, 0] >= 0,
        ),
        "changed": 0.5
        * _known(
            F.binary_cross_entropy_with_logits(
                output.changed.float(), target.changed.clamp(min=0), reduction="none"
            ),
            target.changed >= 0,
        ),
    }


def _mask_loss(logits: Tensor, target: DenseTarget) -> Tensor:
    size = (logits.shape[-2], logits.shape[-1])
    logits = logits[torch.arange(len(logits), device=logits.device), target.kind]  # [B, h, w]
    valid = (target.mask != 255).float()
    truth = (target.mask == 1).float()
    area = F.adaptive_avg_pool2d(valid, size)
    truth = F.adaptive_avg_pool2d(truth, size) / area.clamp(min=1e-6)
    valid = (area > 0.5).float()
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    prob = logits.sigmoid() * valid
    overlap = 2 * (prob * truth).sum((1, 2)) + 1
    dice = 1 - overlap / (prob.sum((1, 2)) + (truth * valid).sum((1, 2)) + 1)
    known = valid.sum((1, 2)) > 0
    per_pair = (bce * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1) + 0.5 * dice
    return _known(per_pair, known)


def _cover_loss(output: DenseOutput, target: DenseTarget) -> Tensor:
    logits = torch.cat([output.classes_before, output.classes_after]).float()
    truth = torch.cat([target.classes_before, target.classes_after])
    step = truth.shape[-1] // logits.shape[-1]
    truth = truth[:, step // 2 :: step, step // 2 :: step].long()
    truth = torch.where((truth == 0) | (truth == 255), torch.full_like(truth, -100), truth)
    if not bool((truth >= 0).any()):
        return logits.sum() * 0
    return F.cross_entropy(logits, truth, ignore_index=-100)


def _known(loss: Tensor, known: Tensor) -> Tensor:
    """Mean of a loss per pair [B] over the pairs for which the truth is known."""
    weight = known.float()
    return (loss * weight).sum() / weight.sum().clamp(min=1)
