"""Losses of ReasonCD (III-I, Eq. 11-16; design, 11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whatchanged.models.reasoncd.outputs import ReasonCDOutput


@dataclass(frozen=True)
class LossWeights:
    """Weights of Eq. 11 and 16.

    Attributes:
        text: Of the text's cross-entropy.
        bce: Of the mask's binary cross-entropy.
        dice: Of the mask's Dice loss.
        missed_target: Of the cross-entropy at a target token that is predicted as another.
    """

    text: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    missed_target: float = 10.0


@dataclass(frozen=True)
class ReasonCDLoss:
    """Eq. 16 and what it is made of, before their weights; all scalars."""

    total: Tensor
    text: Tensor
    bce: Tensor
    dice: Tensor


def text_loss(logits: Tensor, labels: Tensor, target: int, missed_target: float = 10.0) -> Tensor:
    """Return the cross-entropy of the answers' tokens, mean over tokens (Eq. 11-12).

    Where the target token should be said and another is likeliest, it counts
    `missed_target` times.

    Args:
        logits: [n, V].
        labels: [n].
        target: Id of the target token.
        missed_target: Weight of a target token that is predicted as another.
    """
    if len(labels) == 0:
        return logits.sum() * 0
    each = F.cross_entropy(logits.float(), labels, reduction="none")
    missed = (labels == target) & (logits.argmax(dim=1) != target)
    return (each * torch.where(missed, missed_target, 1.0)).mean()


def mask_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the binary cross-entropy, mean over pixels (Eq. 14).

    Args:
        logits: [n, H, W].
        truth: 1 changed, 0 not, [n, H, W]; 255 is unknown and does not count.
    """
    known = (truth != 255).float()
    each = F.binary_cross_entropy_with_logits(
        logits.float(), (truth == 1).float(), reduction="none"
    )
    return (each * known).sum() / known.sum().clamp(min=1)


def mask_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - (2 sum pq + 1) / (sum p + sum q + 1), mean over masks (Eq. 15).

    Args as `mask_bce`.
    """
    if len(logits) == 0:
        return logits.sum() * 0
    known = (truth != 255).float()
    p = logits.float().sigmoid() * known
    q = (truth == 1).float()
    overlap, area = (p * q).sum((1, 2)), p.sum((1, 2)) + q.sum((1, 2))
    return (1 - (2 * overlap + 1) / (area + 1)).mean()


def reasoncd_loss(
    output: ReasonCDOutput, truth: Tensor, target: int, weights: LossWeights | None = None
) -> ReasonCDLoss:
    """Return Eq. 16: the text's loss and, where an answer has a target token, the mask's.

    Args:
        output: Of `ReasonCD.forward`.
        truth: Masks of all samples, [B, H, W], those without a target token included.
        target: Id of the target token.
        weights: None takes the paper's 1.0, 2.0 and 0.5.
    """
    weights = weights or LossWeights()
    text = text_loss(output.text_logits, output.text_labels, target, weights.missed_target)
    masks = truth[output.has_target]
    bce, dice = mask_bce(output.mask_logits, masks), mask_dice(output.mask_logits, masks)
    total = weights.text * text + weights.bce * bce + weights.dice * dice
    return ReasonCDLoss(total, text, bce, dice)
