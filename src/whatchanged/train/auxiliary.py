"""What a captioning run can also learn from: the words of a pair and what lies in each place.

Captions of a few thousand pairs teach a decoder to speak sooner than they teach the modules
before it to see: greedy captions then fall back on what is said most often. Two light heads
on the decoder's memory tell those modules directly which words belong to a pair and what each
place was before and after. They are not part of HiSem's paper and not of its checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_CLASSES = 8
"""Land cover 1 to 7 of the annotated pairs; 0 is not used."""

_UNKNOWN = 255
_RARE = -4.0  # most words are in no caption of a pair: the start of their logits


@dataclass(frozen=True)
class AuxiliaryTarget:
    """What is known of B pairs beside the caption to say.

    Attributes:
        words: Share of the pair's captions that hold each word, [B, V] in [0, 1].
        layers: Change mask, land cover before and after as shown, uint8 [B, 3, S, S];
            255 unknown.
    """

    words: Tensor
    layers: Tensor

    def to(self, device: torch.device) -> AuxiliaryTarget:
        """Return the same on a device."""
        return AuxiliaryTarget(self.words.to(device), self.layers.to(device))


class AuxiliaryHeads(nn.Module):
    """Linear heads on the memory of the caption decoder.

    Args:
        width: D of the memory.
        vocabulary_size: V.
    """

    def __init__(self, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Linear(2 * width, vocabulary_size)
        self.places = nn.Linear(width, 1 + 2 * N_CLASSES)
        nn.init.constant_(self.words.bias, _RARE)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], target: AuxiliaryTarget
    ) -> dict[str, Tensor]:
        """Return the loss parts `words`, `mask` and `cover`, each a scalar.

        Args:
            tokens: Memory, [B, L, D].
            grid: Rows and columns of the tokens.
            target: What is known.
        """
        pooled = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=1)  # [B, 2 D]
        told = F.binary_cross_entropy_with_logits(
            self.words(pooled).float(), target.words, reduction="none"
        )
        places = self.places(tokens).float().transpose(1, 2).unflatten(2, grid)  # [B, 17, h, w]
        share, known = changed_share(target.layers[:, 0], grid)
        mask = F.binary_cross_entropy_with_logits(places[:, 0], share, reduction="none")
        before, after = places[:, 1:].chunk(2, dim=1)
        cover = [
            cover_loss(logits, target.layers[:, layer])
            for layer, logits in ((1, before), (2, after))
        ]
        return {
            "words": told.sum(dim=1).mean() / 10,
            "mask": (mask * known).sum() / known.sum().clamp(min=1),
            "cover": (cover[0] + cover[1]) / 2,
        }


def changed_share(mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the changed share of each cell and whether it is known.

    Args:
        mask: 1 changed, 0 not, 255 unknown, [B, S, S].
        grid: Cells a side.

    Returns:
        Two of [B, h, w]: the share of the cell's known pixels, and 1.0 where most are known.
    """
    area = F.adaptive_avg_pool2d((mask != _UNKNOWN).float(), grid)
    share = F.adaptive_avg_pool2d((mask == 1).float(), grid) / area.clamp(min=1e-6)
    return share.clamp(max=1), (area > 0.5).float()


def cover_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the cross-entropy of each cell's land cover, weighed by how much of it is known.

    Args:
        logits: [B, 8, h, w].
        classes: Land cover 1-7 at changed pixels, else 0 or 255, [B, S, S].
    """
    grid = (logits.shape[-2], logits.shape[-1])
    known = torch.where(classes < N_CLASSES, classes, 0).long()
    shares = F.adaptive_avg_pool2d(
        F.one_hot(known, N_CLASSES).movedim(-1, 1)[:, 1:].float(), grid
    )  # [B, 7, h, w]
    surprise = -(logits[:, 1:].log_softmax(dim=1) * shares).sum(dim=1)
    return surprise.sum() / shares.sum().clamp(min=1)
