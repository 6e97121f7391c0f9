"""HiSem: encoder, BDAM, HASD and caption decoder joined (III-A, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.backbones import build_encoder
from whatchanged.models.hisem.bdam import BDAM, as_tokens
from whatchanged.models.hisem.config import HiSemConfig
from whatchanged.models.hisem.decoder import CaptionDecoder
from whatchanged.models.hisem.generate import NULL, START, beam_search, greedy_search
from whatchanged.models.hisem.hasd import HASD
from whatchanged.models.outputs import HiSemMemory, HiSemOutput, Hypothesis


class GridPositions(nn.Module):
    """Learned row and column embeddings, D/2 each, joined; one set for both dates.

    Another grid than the configured one reads them linearly interpolated over the picture,
    so larger pictures work.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(grid, width // 2) * 0.02)
        self.columns = nn.Parameter(torch.randn(grid, width // 2) * 0.02)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions of a grid (h, w), [h w, D]."""
        h, w = grid
        rows = _resample(self.rows, h).unsqueeze(1).expand(h, w, -1)
        columns = _resample(self.columns, w).unsqueeze(0).expand(h, w, -1)
        return torch.cat([rows, columns], dim=2).flatten(0, 1)


class HiSem(nn.Module):
    """Two photographs in, a sentence out.

    Products per pair of the paper's preset: encoder 2 x 17 G; three BDAM layers 5 G, a tenth
    of it attention; HASD 2 G on the unchanged path, 4 G on the changed one; decoder 0.2 G for
    the keys and values of the memory and 0.01 G a word.

    Args:
        config: What it is made of.
        vocabulary_size: V, words with the four special ones.
    """

    def __init__(self, config: HiSemConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder = build_encoder(config.encoder)
        channels = self.encoder.channels
        self.project: nn.Module = nn.Identity() if channels == width else nn.Linear(channels, width)
        self.positions = GridPositions(width, config.grid)
        self.bdam = BDAM(width, config.bdam)
        self.hasd = HASD(width, config.hasd)
        self.norm = nn.LayerNorm(width)
        self.decoder = CaptionDecoder(width, vocabulary_size, config.decoder)

    def encode(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Encode both dates in one call of the encoder.

        Args:
            before: Pictures prepared for the encoder, [B, 3, H, W].
            after: The same place later, [B, 3, H, W].

        Returns:
            Two maps [B, C, h, w] at the encoder's channels: what a cache would hold.
        """
        maps: Tensor = self.encoder(torch.cat([before, after]))
        first, second = maps.chunk(2)
        return first, second

    def embed(self, before_map: Tensor, after_map: Tensor) -> tuple[Tensor, Tensor]:
        """Turn two maps [B, C, h, w] into the tokens that enter BDAM, [B, L, D] each."""
        h, w = before_map.shape[2:]
        tokens = as_tokens(torch.cat([before_map, after_map]))  # [2B, L, C]
        # Encoders hand on channels first; from here on a token's numbers lie together.
        tokens = (self.project(tokens) + self.positions((h, w))).contiguous()  # [2B, L, D]
        n_pairs = before_map.shape[0]  # `chunk` of a batch of any size cannot be exported
        first, second = tokens.split([n_pairs, n_pairs])
        return first, second

    def memory(
        self,
        before_map: Tensor,
        after_map: Tensor,
        changed: Tensor | None = None,
        *,
        detach_router: bool = False,
    ) -> HiSemMemory:
        """See what changed: everything before the first word.

        Args:
            before_map: Encoder features, [B, C, h, w].
            after_map: Encoder features, [B, C, h, w].
            changed: Label per pair to route by, [B] bool; None routes by prediction.
            detach_router: Cut the router's logits from the graph (warm-up, III-D).
        """
        grid = (before_map.shape[2], before_map.shape[3])
        seen = self.bdam(*self.embed(before_map, after_map), grid)
        told = self.hasd(seen.before, seen.after, grid, changed, detach_router=detach_router)
        tokens = self.norm(seen.before + seen.after + told.tokens)
        magnitude = seen.difference.float().pow(2).mean(dim=2).sqrt()  # [B, L]
        return HiSemMemory(
            tokens=tokens,
            grid=grid,
            router_logits=told.router_logits,
            path=told.path,
            balance_loss=told.balance_loss,
            experts=told.experts,
            difference_map=magnitude.view(-1, *grid).detach(),
        )

    def forward(
        self,
        before_map: Tensor,
        after_map: Tensor,
        captions: Tensor | None = None,
        changed: Tensor | None = None,
        *,
        detach_router: bool = False,
    ) -> HiSemOutput:
        """Run one teacher-forced pass over encoder features.

        Args:
            before_map: From `encode` or a cache of it, [B, C, h, w].
            after_map: [B, C, h, w].
            captions: Word ids from START to END, then NULL, [B, T]; None for the memory only.
            changed: Label per pair to route by, [B] bool; None routes by prediction.
            detach_router: Cut the router's logits from the graph (warm-up, III-D).
        """
        memory = self.memory(before_map, after_map, changed, detach_router=detach_router)
        if captions is None:
            return HiSemOutput(None, memory)
        return HiSemOutput(self.decoder(captions[:, :-1], memory.tokens), memory)

    def generate(
        self,
        memory: HiSemMemory,
        *,
        beam: int = 1,
        max_len: int | None = None,
        normalise_length: bool = True,
    ) -> list[list[Hypothesis]]:
        """Say what was seen, for a whole batch; call in evaluation mode.

        Args:
            memory: From `memory`.
            beam: 1 is greedy (the paper's); more keeps that many captions.
            max_len: Longest caption, START and END included; None is the decoder's.
            normalise_length: Rank the captions of a beam by log probability per word.

        Returns:
            Per pair up to `beam` hypotheses, best first.
        """
        limit = min(max_len or self.decoder.max_len, self.decoder.max_len)
        if beam == 1:
            return [[best] for best in greedy_search(self.decoder, memory.tokens, limit)]
        return beam_search(
            self.decoder, memory.tokens, beam, limit, normalise_length=normalise_length
        )

    @torch.no_grad()
    def word_attention(self, memory: HiSemMemory, captions: Sequence[Hypothesis]) -> list[Tensor]:
        """Return where the decoder looked for each word of one caption a pair.

        Costs one teacher-forced pass of the decoder.

        Returns:
            Per pair [words, h, w]; every word's map sums to 1.
        """
        longest = max(len(caption.ids) for caption in captions)
        ids = torch.full((len(captions), longest + 1), NULL, device=memory.tokens.device)
        ids[:, 0] = START
        for row, caption in zip(ids, captions, strict=True):
            row[1 : len(caption.ids) + 1] = torch.tensor(caption.ids, dtype=torch.long)
        # Position n predicts word n, so the last word's own position is not needed.
        weights = self.decoder.attention(ids[:, : max(longest, 1)], memory.tokens)
        maps = weights.view(*weights.shape[:2], *memory.grid)
        return [rows[: len(caption.ids)] for rows, caption in zip(maps, captions, strict=True)]


def _resample(table: Tensor, length: int) -> Tensor:
    """Interpolate a table [n, C] linearly to [length, C]."""
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T.unsqueeze(0), size=length, mode="linear")[0].T
