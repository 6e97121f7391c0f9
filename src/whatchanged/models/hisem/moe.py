"""Token-level mixture of experts of the changed path (HiSem, III-C2, Eq. 13-17)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.hisem.config import HASDConfig


@dataclass(frozen=True)
class TokenRoute:
    """Where each of N tokens goes.

    Attributes:
        scores: Score of every expert, [N, E] in (0, 1).
        experts: Chosen experts, best first, [N, k].
        weights: Their weights, [N, k].
    """

    scores: Tensor
    experts: Tensor
    weights: Tensor


class SwiGLU(nn.Module):
    """f(x) = W_down (silu(W_gate x) * W_up x), without bias (Shazeer 2020); 3 N D H products."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [N, D] to [N, D]."""
        gate, up = self.gate_up(tokens).chunk(2, dim=1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class TokenRouter(nn.Module):
    """Group-constrained top-k choice of experts per token (Eq. 13-16); O(N D E)."""

    def __init__(self, width: int, config: HASDConfig) -> None:
        super().__init__()
        self.config = config
        self.score = nn.Linear(width, config.experts, bias=False)  # W_c

    def forward(self, tokens: Tensor) -> TokenRoute:
        """Route tokens [N, D]."""
        config = self.config
        # Full precision: in bfloat16 near-equal scores would flip the choice of experts.
        with torch.autocast(tokens.device.type, enabled=False):
            scores = self.score(tokens.to(self.score.weight.dtype)).sigmoid()  # Eq. 13, [N, E]
        grouped = scores.detach().unflatten(1, (config.groups, -1))  # [N, groups, E / groups]
        group_scores = grouped.amax(dim=2)  # Eq. 14
        kept = group_scores.topk(config.top_groups, dim=1).indices  # Eq. 15, [N, k_g]
        closed = torch.ones_like(group_scores, dtype=torch.bool).scatter(1, kept, False)
        filtered = grouped.masked_fill(closed.unsqueeze(2), -1.0).flatten(1)  # [N, E]
        experts = filtered.topk(config.top_k, dim=1).indices  # Eq. 16, [N, k]
        weights = scores.gather(1, experts)
        if config.normalise:
            weights = weights / weights.sum(dim=1, keepdim=True)
        return TokenRoute(scores, experts, weights)


class MixtureOfExperts(nn.Module):
    """Specialised experts each token chooses, and shared experts it always visits (Eq. 17).

    Only routed tokens are computed: tokens are sorted by expert, each expert sees one
    contiguous block, and the weighted results are added back to their rows. N tokens cost
    3 N D (k H + shared) products and k N D numbers for the sorted copy, whatever E is.
    An expert without tokens does not run and receives no gradient in that step.
    """

    def __init__(self, width: int, config: HASDConfig) -> None:
        super().__init__()
        self.router = TokenRouter(width, config)
        self.experts = nn.ModuleList(
            SwiGLU(width, config.expert_hidden) for _ in range(config.experts)
        )
        # A sum of SwiGLUs is one SwiGLU with their hidden units side by side.
        shared = config.shared_experts * (config.shared_hidden or width)
        self.shared = SwiGLU(width, shared) if shared else None

    def forward(self, tokens: Tensor) -> tuple[Tensor, TokenRoute]:
        """Map tokens [N, D] to the sum of Eq. 17, [N, D], and tell their route."""
        route = self.router(tokens)
        mixed = self._dispatch(tokens, route)
        if self.shared is not None:
            mixed = mixed + self.shared(tokens)  # Eq. 17
        return mixed, route

    def _dispatch(self, tokens: Tensor, route: TokenRoute) -> Tensor:
        chosen = route.experts.flatten()  # [N k]
        order = chosen.argsort(stable=True)
        rows = order // route.experts.shape[1]
        counts = torch.bincount(chosen, minlength=len(self.experts)).tolist()
        blocks = torch.split(tokens[rows], counts)
        results = [
            expert(block) for expert, block in zip(self.experts, blocks, strict=True) if len(block)
        ]
        weighted = torch.cat(results) * route.weights.flatten()[order].unsqueeze(1)
        return torch.zeros(tokens.shape, dtype=weighted.dtype, device=weighted.device).index_add(
            0, rows, weighted
        )


def balance_loss(route: TokenRoute, n_pairs: int) -> Tensor:
    """Sequence-level balance loss of DeepSeek-V3 (its Eq. 17-20), mean over pairs; a scalar.

    Per pair sum_e f_e P_e with f_e the share of its tokens that chose expert e, times E / k,
    and P_e its mean score after the scores of a token are scaled to sum 1. It is 1 for an
    even load. Not in the HiSem paper; the published runs add it.

    Args:
        route: Route of the tokens of `n_pairs` pairs, one pair after the other.
        n_pairs: Pairs among them, each with the same number of tokens.
    """
    scores = route.scores.view(n_pairs, -1, route.scores.shape[1])  # [pairs, L, E]
    n_experts, top_k = scores.shape[2], route.experts.shape[1]
    hits = torch.zeros_like(route.scores).scatter(1, route.experts, 1.0)
    share = hits.view_as(scores).mean(dim=1) * (n_experts / top_k)  # f, [pairs, E]
    chance = (scores / scores.sum(dim=2, keepdim=True)).mean(dim=1)  # P, [pairs, E]
    return (share * chance).sum(dim=1).mean()
