"""The mask part of ReasonCD on its own: a wish in fields instead of a language model's state.

Masks need tens of thousands of pixels a step and no language; wishes need language and few
pixels. So the mask part is trained first, with the wish given as embeddings of classes and
direction; the language model then learns to say in its target token's state what those
embeddings say. Not in the paper, which trains both at once on GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from whatchanged.answers import CLASS_WORDS, Direction, Understood
from whatchanged.config import from_mapping
from whatchanged.errors import CheckpointError
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.reasoncd.config import ReasonCDConfig
from whatchanged.models.reasoncd.fusion import MultiScaleFusion
from whatchanged.models.reasoncd.mask_decoder import ChangeMapDecoder, restore_size
from whatchanged.models.reasoncd.vision import PairFeatures, build_vision, see_pair

MASKS_FAMILY = "reasoncd-masks"

_CLASSES = tuple(CLASS_WORDS)
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class WishTable(nn.Module):
    """Sparse prompts of the mask decoder for wishes in fields.

    The sum of what is wished, its direction and what stood there before goes through two
    layers, so that a combination may mean more than its parts.

    Args:
        width: Channels of a prompt.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(len(_CLASSES), width)
        self.former = nn.Embedding(len(_CLASSES), width)
        self.directions = nn.Embedding(len(_DIRECTIONS), width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, wishes: Sequence[Understood]) -> Tensor:
        """Return one prompt a wish, [n, width]."""
        device = self.classes.weight.device
        chosen = torch.zeros(len(wishes), len(_CLASSES), device=device)
        former = torch.zeros_like(chosen)
        for row, wish in enumerate(wishes):
            chosen[row, [_CLASSES.index(name) for name in wish.classes]] = 1
            former[row, [_CLASSES.index(name) for name in wish.former]] = 1
        numbers = [_DIRECTIONS.index(wish.direction) for wish in wishes]
        direction = torch.tensor(numbers, dtype=torch.long, device=device)
        x = chosen @ self.classes.weight + former @ self.former.weight + self.directions(direction)
        out: Tensor = x + self.mlp(x)
        return out


@dataclass(frozen=True)
class SeenPairs:
    """B pairs before any wish: their features and the map that masks are decoded from.

    Attributes:
        features: Of the image encoders.
        fused: [B, C, h, w].
    """

    features: PairFeatures
    fused: Tensor


class MaskPart(nn.Module):
    """Image encoders, fusion and mask decoder under a table of wishes.

    Its parameters carry ReasonCD's names, so that a ReasonCD takes them over.

    Args:
        config: Of the ReasonCD it is a part of.
    """

    def __init__(self, config: ReasonCDConfig) -> None:
        super().__init__()
        self.vision = build_vision(config.vision)
        self.fusion = MultiScaleFusion(
            config.fusion, self.vision.deep_channels, self.vision.level_channels
        )
        self.table = WishTable(config.fusion.width)
        self.decoder = ChangeMapDecoder(config.fusion.width, config.decoder)

    def see(self, before: Tensor, after: Tensor) -> SeenPairs:
        """See pictures [B, 3, H, W] in [0, 255] of both dates."""
        features = see_pair(self.vision, before, after)
        return SeenPairs(features, self.fusion(features.before, features.after))

    def forward(
        self, before: Tensor, after: Tensor, rows: Tensor, wishes: Sequence[Understood]
    ) -> Tensor:
        """Return the mask logits of wishes at the pictures' size, [n, H, W].

        Args:
            before: Pictures [B, 3, H, W] in [0, 255].
            after: The same places later, [B, 3, H, W].
            rows: Pair of each wish, [n].
            wishes: In fields.
        """
        return self.masks(self.see(before, after), rows, self.table(wishes))

    def masks(self, seen: SeenPairs, rows: Tensor, prompts: Tensor) -> Tensor:
        """Decode prompts [n, C] on the pairs `rows` [n] to logits [n, H, W]."""
        if len(prompts) == 0:  # of some pairs nothing is known
            return prompts.sum(dim=1).view(0, 1, 1).expand(0, *seen.features.size)
        logits = self.decoder(seen.fused[rows], prompts)
        shown = seen.features
        return restore_size(logits, shown.square, shown.valid, shown.size)


def load_mask_part(folder: Path) -> MaskPart:
    """Load the mask part that a run of task `wish-masks` left, in evaluation mode.

    Raises:
        CheckpointError: Damaged, or of another family.
    """
    saved = load_checkpoint(folder)
    if saved.family != MASKS_FAMILY:
        raise CheckpointError(f"{folder} holds a {saved.family}, not a mask part of ReasonCD")
    part = MaskPart(from_mapping(ReasonCDConfig, saved.config["model"], f"{folder}"))
    try:
        part.load_state_dict(dict(saved.tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit its configuration: {error}") from error
    return part.eval()
