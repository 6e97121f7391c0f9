"""Hierarchical Adaptive Semantic Disentanglement (HiSem, III-C, Fig. 4, Eq. 9-17)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.hisem.bdam import as_map, as_tokens
from whatchanged.models.hisem.config import HASDConfig, PathKind
from whatchanged.models.hisem.moe import MixtureOfExperts, balance_loss
from whatchanged.models.outputs import CHANGED, UNCHANGED


@dataclass(frozen=True)
class PathOutput:
    """What one path makes of its b pairs.

    Attributes:
        tokens: Y, [b, L, D].
        experts: Experts each token visited, [b, L, k]; None if the path has none.
        balance_loss: Mean over the pairs, without coefficient; None if there is none.
    """

    tokens: Tensor
    experts: Tensor | None = None
    balance_loss: Tensor | None = None


@dataclass(frozen=True)
class HASDOutput:
    """What both paths make of a batch.

    Attributes:
        tokens: Y, [B, L, D].
        router_logits: [B, 2]; None without image-level routing.
        path: Path taken, [B], 0 unchanged and 1 changed; all 1 without routing.
        experts: [B, L, k], -1 where a pair met no experts; None if no pair met any.
        balance_loss: Coefficient included, a scalar.
    """

    tokens: Tensor
    router_logits: Tensor | None
    path: Tensor
    experts: Tensor | None
    balance_loss: Tensor


class ImageRouter(nn.Module):
    """Judge each pair changed or unchanged from its mean difference (III-C1, Eq. 9); O(L D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 2, bias=False)  # W_g

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits of the two paths, [B, 2], of tokens [B, L, D]."""
        with torch.autocast(before.device.type, enabled=False):
            difference = (after - before).to(self.project.weight.dtype)
            logits: Tensor = self.project(difference.mean(dim=1))  # Eq. 9
        return logits


def choose_path(logits: Tensor) -> Tensor:
    """Choose the likelier path per pair, [B] (Eq. 10, top-1).

    The weight of a single choice, normalised, is 1: no gradient reaches the router from
    here. The paper does not say what a tie means; it counts as changed.
    """
    return (logits[:, CHANGED] >= logits[:, UNCHANGED]).long()


class FusionBlock(nn.Module):
    """Join both dates with their surroundings (Eq. 12): 1 x 1, residual 3 x 3, LayerNorm.

    Costs 12 L D^2 products. With `batch` norm the statistics are those of the routed pairs
    alone; they exist for a single pair too, over its places.
    """

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()

        def make_norm() -> nn.Module:
            if norm == "batch":
                return nn.BatchNorm2d(width)
            return nn.GroupNorm(math.gcd(32, width), width)

        self.join = nn.Linear(2 * width, width)  # 1 x 1 convolution
        self.residual = nn.Sequential(
            make_norm(),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            make_norm(),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            make_norm(),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, before: Tensor, after: Tensor, grid: tuple[int, int]) -> Tensor:
        """Fuse two [b, L, D] to F_H, [b, L, D]."""
        joined = self.join(torch.cat([before, after], dim=2))
        context = as_tokens(self.residual(as_map(joined, grid)))
        fused: Tensor = self.norm(F.relu(joined + context))
        return fused


class FeedForwardBody(nn.Module):
    """LN(F_H + FFN(F_H)) for pairs whose tokens mean much the same (III-C2); O(L D H)."""

    def __init__(self, width: int, config: HASDConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, width),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, fused: Tensor) -> PathOutput:
        """Map F_H [b, L, D] to Y."""
        return PathOutput(self.norm(fused + self.layers(fused)))


class ExpertBody(nn.Module):
    """LN(F_H + MoE(F_H)) for pairs with heterogeneous change (III-C2, Eq. 13-17)."""

    def __init__(self, width: int, config: HASDConfig) -> None:
        super().__init__()
        self.balanced = config.balance_loss > 0
        self.moe = MixtureOfExperts(width, config)
        self.norm = nn.LayerNorm(width)

    def forward(self, fused: Tensor) -> PathOutput:
        """Map F_H [b, L, D] to Y, and tell which experts it took."""
        n_pairs, n_tokens = fused.shape[:2]
        mixed, route = self.moe(fused.flatten(0, 1))  # [b L, D]
        tokens = self.norm(fused + mixed.view_as(fused))
        experts = route.experts.view(n_pairs, n_tokens, -1)
        return PathOutput(tokens, experts, balance_loss(route, n_pairs) if self.balanced else None)


class FusedBody(nn.Module):
    """F_H as it is: the FusionBlock alone, for the ablations without HASD.

    It stays because the sum of the two dates does not tell which came first.
    """

    def forward(self, fused: Tensor) -> PathOutput:
        """Return F_H [b, L, D]."""
        return PathOutput(fused)


class SemanticPath(nn.Module):
    """One path: its own FusionBlock, then its body."""

    def __init__(self, width: int, config: HASDConfig, kind: PathKind) -> None:
        super().__init__()
        self.fusion = FusionBlock(width, config.norm)
        self.body: nn.Module
        if kind == "ffn":
            self.body = FeedForwardBody(width, config)
        elif kind == "moe":
            self.body = ExpertBody(width, config)
        else:
            self.body = FusedBody()

    def forward(self, before: Tensor, after: Tensor, grid: tuple[int, int]) -> PathOutput:
        """Map two [b, L, D] to Y."""
        out: PathOutput = self.body(self.fusion(before, after, grid))
        return out


class HASD(nn.Module):
    """Route each pair to one path and gather what the paths make of them.

    A path runs on its own pairs alone, and not at all without any: a pair judged unchanged
    costs no expert. The paths of a pair that is not there receive no gradient, so training
    on several processes must allow for unused parameters.
    """

    def __init__(self, width: int, config: HASDConfig) -> None:
        super().__init__()
        self.coefficient = config.balance_loss
        self.router = ImageRouter(width) if config.routing else None
        kinds = (config.unchanged, config.changed) if config.routing else (config.changed,)
        self.paths = nn.ModuleList(SemanticPath(width, config, kind) for kind in kinds)

    def forward(
        self,
        before: Tensor,
        after: Tensor,
        grid: tuple[int, int],
        changed: Tensor | None = None,
        *,
        detach_router: bool = False,
    ) -> HASDOutput:
        """Disentangle a batch.

        Args:
            before: Enhanced features, [B, L, D].
            after: Enhanced features, [B, L, D].
            grid: (h, w) with L = h w.
            changed: Label per pair to route by, [B] bool; None routes by prediction.
            detach_router: Cut the router's logits from the graph (warm-up, III-D).
        """
        n_pairs = before.shape[0]
        if self.router is None:
            path = torch.full((n_pairs,), CHANGED, device=before.device)
            only: PathOutput = self.paths[0](before, after, grid)
            balance = self._balance([(n_pairs, only)], n_pairs, before)
            return HASDOutput(only.tokens, None, path, only.experts, balance)
        logits: Tensor = self.router(before, after)
        if detach_router:
            logits = logits.detach()
        path = choose_path(logits) if changed is None else changed.long()
        rows, parts = [], []
        for index, module in enumerate(self.paths):
            chosen = (path == index).nonzero().squeeze(1)
            if len(chosen):
                rows.append(chosen)
                parts.append(module(before[chosen], after[chosen], grid))
        back = torch.cat(rows).argsort()  # from the order of the paths to that of the batch
        tokens = torch.cat([part.tokens for part in parts])[back]
        balance = self._balance(
            [(len(r), p) for r, p in zip(rows, parts, strict=True)], n_pairs, before
        )
        return HASDOutput(tokens, logits, path, _gather_experts(parts, back), balance)

    def _balance(self, parts: list[tuple[int, PathOutput]], n_pairs: int, like: Tensor) -> Tensor:
        total = like.new_zeros(())
        for count, part in parts:
            if part.balance_loss is not None:
                total = total + part.balance_loss * (count / n_pairs)
        return self.coefficient * total


def _gather_experts(parts: list[PathOutput], back: Tensor) -> Tensor | None:
    known = [part.experts for part in parts if part.experts is not None]
    if not known:
        return None
    n_tokens, top_k = known[0].shape[1:]
    filled = [
        back.new_full((len(part.tokens), n_tokens, top_k), -1)
        if part.experts is None
        else part.experts
        for part in parts
    ]
    return torch.cat(filled)[back]
