"""Losses and curriculum of HiSem (III-D, Eq. 11, 18 and 19)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from whatchanged.errors import UsageError
from whatchanged.models.hisem.generate import NULL
from whatchanged.models.outputs import HiSemOutput, LossParts

ROUTER_WEIGHT = 0.8
"""Lambda of Eq. 19."""


def curriculum_weight(epoch: float, epochs: int, warmup: int = 3) -> float:
    """Return alpha(e) of Eq. 19: 0 in the warm-up, then a cosine ramp up to 1.

    Args:
        epoch: The epoch being trained, counted from 1, so that exactly `warmup` epochs weigh
            0 and the last one weighs 1. Fractions are allowed.
        epochs: All epochs of the training.
        warmup: Epochs without router loss; detach the router's logits in them.
    """
    if epoch <= warmup:
        return 0.0
    x = min(1.0, (epoch - warmup) / (epochs - warmup)) if epochs > warmup else 1.0
    return 0.5 * (1.0 - math.cos(math.pi * x))


def caption_loss(logits: Tensor, captions: Tensor) -> Tensor:
    """Return the cross-entropy of the next words, mean over all words that are not NULL (Eq. 18).

    Args:
        logits: [B, T-1, V].
        captions: Word ids from START to END, then NULL, [B, T].
    """
    targets = captions[:, 1:].reshape(-1)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=NULL)


def hisem_loss(
    output: HiSemOutput,
    captions: Tensor,
    changed: Tensor,
    alpha: float,
    router_weight: float = ROUTER_WEIGHT,
) -> LossParts:
    """Return L = L_cap + lambda alpha(e) L_cls (Eq. 19), plus the balance loss if it is on.

    Args:
        output: Of `HiSem.forward` with the same captions.
        captions: Word ids, [B, T].
        changed: Label per pair, [B] bool.
        alpha: `curriculum_weight` of the epoch.
        router_weight: Lambda of Eq. 19, 0.8 in the paper.
    """
    if output.caption_logits is None:
        raise UsageError("the caption loss needs a forward pass with captions")
    caption = caption_loss(output.caption_logits, captions)
    router = caption.new_zeros(())
    if output.router_logits is not None:
        router = F.cross_entropy(output.router_logits.float(), changed.long())  # Eq. 11
    balance = output.balance_loss
    total = caption + router_weight * alpha * router + balance
    return LossParts(total, caption, router, balance)
