"""Bidirectional Differential Attention Modulation (HiSem, III-B, Fig. 3, Eq. 1-8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whatchanged.models.hisem.config import BDAMConfig


@dataclass(frozen=True)
class BDAMOutput:
    """Enhanced features of both dates.

    Attributes:
        before: [B, L, D].
        after: [B, L, D].
        difference: Gated difference of the first layer, [B, L, D], never negative. Later
            layers compare streams that have already attended to each other through separate
            projections; only the first is exactly zero where the dates are equal.
    """

    before: Tensor
    after: Tensor
    difference: Tensor


class FeatureConditioning(nn.Module):
    """Discrepancy-aware feature conditioning, DFC (III-B1, Eq. 1-3).

    Costs O(L D^2) for the gate and O(9 L D) for the depthwise convolution. One convolution
    and norm serve both dates, so equal dates stay equal.
    """

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        narrow = max(1, width // reduction)
        self.gate = nn.Sequential(
            nn.Linear(2 * width, narrow), nn.ReLU(), nn.Linear(narrow, width), nn.Sigmoid()
        )
        self.convolution = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, before: Tensor, after: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return both streams and the gated difference, each [B, L, D]."""
        difference = (before - after).abs()  # Eq. 1
        gate = self.gate(torch.cat([before, after], dim=2))  # Eq. 2
        difference = difference * gate  # Eq. 3
        streams = torch.cat([before, after])  # [2B, L, D]
        local = self.convolution(as_map(streams, grid))  # [2B, D, h, w]
        streams = self.norm(streams + as_tokens(local))  # [2B, L, D]
        before, after = streams.split([before.shape[0], before.shape[0]])
        return before + difference, after + difference, difference


class GatedFusion(nn.Module):
    """Mix a stream with what attention brought to it (end of III-B2); O(L D^2).

    The paper says "a gated mechanism"; this is g = sigmoid(W[f; o]), then
    LN(proj(g o + (1 - g) f)).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, stream: Tensor, attended: Tensor) -> Tensor:
        """Mix two [B, L, D] into one."""
        gate = torch.sigmoid(self.gate(torch.cat([stream, attended], dim=2)))
        mixed = gate * attended + (1 - gate) * stream
        out: Tensor = self.norm(self.project(mixed))
        return out


class CrossTemporalInteraction(nn.Module):
    """Bidirectional discrepancy-guided cross-temporal interaction, BDCI (III-B2, Eq. 4-8).

    Costs 6 L^2 D + 12 L D^2 products a pair. Eq. 7 and 8 set two attention matrices against
    each other, so both are held: 2 heads L^2 numbers, and no fused attention applies. The
    biases are diagonal and cost O(L): they are added to the diagonal of the logits in place,
    no L x L matrix is made for them.
    """

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        # Six projections (query, key, value per date), the three of one date in one product.
        self.before_qkv = nn.Linear(width, 3 * width, bias=False)
        self.after_qkv = nn.Linear(width, 3 * width, bias=False)
        # W of Eq. 4, before -> after and after -> before as two rows. A constant added to all
        # diagonal elements is a bias of its own and stays: it favours the same place.
        self.score = nn.Linear(width, 2) if bias else None
        self.before_fusion = GatedFusion(width)
        self.after_fusion = GatedFusion(width)

    def forward(
        self, before: Tensor, after: Tensor, difference: Tensor, alpha: Tensor, balance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let each date look at the other.

        Args:
            before: [B, L, D].
            after: [B, L, D].
            difference: Gated difference of Eq. 3, [B, L, D].
            alpha: Scales of Eq. 4, before -> after and after -> before, [2].
            balance: Lambda of Eq. 7 and 8, a scalar.

        Returns:
            Both streams, [B, L, D].
        """
        q1, k1, v1 = self._split(self.before_qkv(before))  # [B, heads, L, D / heads] each
        q2, k2, v2 = self._split(self.after_qkv(after))
        scale: float = q1.shape[3] ** -0.5
        logits12 = (q1 * scale) @ k2.transpose(2, 3)  # [B, heads, L, L]
        logits21 = (q2 * scale) @ k1.transpose(2, 3)
        if self.score is not None:
            bias = alpha * self.score(difference)  # Eq. 4, [B, L, 2]
            logits12.diagonal(dim1=2, dim2=3).add_(bias[:, None, :, 0])
            logits21.diagonal(dim1=2, dim2=3).add_(bias[:, None, :, 1])
        a12 = logits12.softmax(dim=3)  # Eq. 5
        a21 = logits21.softmax(dim=3)  # Eq. 6
        # Eq. 7: (A12 - lambda A21) V2, and Eq. 8: (A21 - lambda A12) V1. Each matrix meets
        # both dates' values in one product, which spares the two L x L differences.
        v12, weighted12 = (a12 @ torch.cat([v2, balance * v1], dim=3)).chunk(2, dim=3)
        v21, weighted21 = (a21 @ torch.cat([v1, balance * v2], dim=3)).chunk(2, dim=3)
        to_after = v12 - weighted21  # Eq. 7
        to_before = v21 - weighted12  # Eq. 8
        return (
            self.before_fusion(before, _join(to_before)),
            self.after_fusion(after, _join(to_after)),
        )

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, width = qkv.shape
        parts = qkv.view(b, n, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]


class BDAMLayer(nn.Module):
    """One layer: feature conditioning, then cross-temporal interaction."""

    def __init__(self, width: int, config: BDAMConfig) -> None:
        super().__init__()
        self.dfc = FeatureConditioning(width, config.gate_reduction) if config.dfc else None
        self.bdci = (
            CrossTemporalInteraction(width, config.heads, config.bias) if config.bdci else None
        )

    def forward(
        self,
        before: Tensor,
        after: Tensor,
        grid: tuple[int, int],
        alpha: Tensor,
        balance: Tensor,
    ) -> BDAMOutput:
        """Map [B, L, D] of both dates to the same."""
        if self.dfc is not None:
            before, after, difference = self.dfc(before, after, grid)
        else:
            difference = (before - after).abs()
        if self.bdci is not None:
            before, after = self.bdci(before, after, difference, alpha, balance)
        return BDAMOutput(before, after, difference)


class BDAM(nn.Module):
    """The stack of BDAM layers; alpha of Eq. 4 and lambda of Eq. 7-8 are shared by them."""

    alpha: Tensor
    balance: Tensor

    def __init__(self, width: int, config: BDAMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BDAMLayer(width, config) for _ in range(config.layers))
        attends = config.bdci and config.layers > 0
        alpha, balance = torch.tensor(config.alpha), torch.tensor(config.balance)
        # What cannot be trained is not saved: the configuration already holds it.
        if attends and config.bias:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha, persistent=False)
        if attends and config.learnable_balance:
            self.balance = nn.Parameter(balance)
        else:
            self.register_buffer("balance", balance, persistent=False)

    def forward(self, before: Tensor, after: Tensor, grid: tuple[int, int]) -> BDAMOutput:
        """Enhance [B, L, D] of both dates; `grid` is (h, w) with L = h w."""
        first: Tensor | None = None
        for layer in self.layers:
            out: BDAMOutput = layer(before, after, grid, self.alpha, self.balance)
            before, after = out.before, out.after
            first = out.difference if first is None else first
        difference = (before - after).abs() if first is None else first
        return BDAMOutput(before, after, difference)


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """View tokens [B, L, D] as a map [B, D, h, w] in channels-last memory, without a copy."""
    b, _, width = tokens.shape
    return tokens.view(b, *grid, width).permute(0, 3, 1, 2)


def as_tokens(maps: Tensor) -> Tensor:
    """View a map [B, D, h, w] as tokens [B, L, D]."""
    return maps.flatten(2).transpose(1, 2)


def _join(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # [B, heads, L, D / heads] -> [B, L, D]
