"""Modules of HiSem that compute everything and select, for graphs that cannot branch.

HASD looks at values to choose what to compute, which no graph can do. `DenseHASD` runs both
paths and selects, `DenseExperts` runs all experts and weighs them by the route; both return what
the routed modules return. `SmoothPositions` resamples position embeddings at any grid, the
trained one included, where it returns them as they are.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.hisem.hasd import HASD, ExpertBody, HASDOutput, PathOutput, choose_path
from whatchanged.models.hisem.model import GridPositions, HiSem
from whatchanged.models.hisem.moe import MixtureOfExperts, TokenRoute
from whatchanged.models.outputs import CHANGED, UNCHANGED

M = TypeVar("M", bound=nn.Module)


def make_dense(hisem: HiSem) -> HiSem:
    """Return a copy of a model whose `memory` never branches; it shares all weights.

    It is for evaluation and routes by prediction; the model itself is not changed.
    """
    return _with_parts(
        hisem, positions=SmoothPositions(hisem.positions), hasd=DenseHASD(hisem.hasd)
    )


class SmoothPositions(nn.Module):
    """`GridPositions` without its shortcut for the trained grid, which a graph cannot take."""

    def __init__(self, positions: GridPositions) -> None:
        super().__init__()
        self.rows, self.columns = positions.rows, positions.columns

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions of a grid (h, w), [h w, D]."""
        h, w = grid
        rows = _stretch(self.rows, h).unsqueeze(1).expand(h, w, -1)
        columns = _stretch(self.columns, w).unsqueeze(0).expand(h, w, -1)
        return torch.cat([rows, columns], dim=2).flatten(0, 1)


def _stretch(table: Tensor, length: int) -> Tensor:
    return F.interpolate(table.T.unsqueeze(0), size=length, mode="linear")[0].T


class DenseHASD(nn.Module):
    """`HASD` that runs every path on every pair and selects; costs the sum of the paths."""

    def __init__(self, hasd: HASD) -> None:
        super().__init__()
        self.router = hasd.router
        self.paths = nn.ModuleList(_without_dispatch(path) for path in hasd.paths)

    def forward(
        self,
        before: Tensor,
        after: Tensor,
        grid: tuple[int, int],
        changed: Tensor | None = None,
        *,
        detach_router: bool = False,
    ) -> HASDOutput:
        """Disentangle a batch as `HASD` does in evaluation mode, routed by prediction."""
        parts: list[PathOutput] = [path(before, after, grid) for path in self.paths]
        balance = before.new_zeros(())
        if self.router is None:
            path = torch.full((before.shape[0],), CHANGED, device=before.device)
            return HASDOutput(parts[0].tokens, None, path, parts[0].experts, balance)
        logits = self.router(before, after)
        path = choose_path(logits)
        took = (path == CHANGED)[:, None, None]  # [B, 1, 1]
        tokens = torch.where(took, parts[CHANGED].tokens, parts[UNCHANGED].tokens)
        return HASDOutput(tokens, logits, path, _select_experts(took, parts), balance)


def _select_experts(took: Tensor, parts: list[PathOutput]) -> Tensor | None:
    """Take each pair's experts from its path; -1 where that path has none."""
    known = [part.experts for part in parts if part.experts is not None]
    if not known:
        return None
    none = torch.full_like(known[0], -1)
    changed, unchanged = (
        none if parts[index].experts is None else parts[index].experts
        for index in (CHANGED, UNCHANGED)
    )
    return torch.where(took, cast(Tensor, changed), cast(Tensor, unchanged))


def _without_dispatch(path: nn.Module) -> nn.Module:
    """Return a path with its mixture of experts, if any, replaced by the dense one."""
    if not isinstance(path.body, ExpertBody):
        return path
    body = _with_parts(path.body, moe=DenseExperts(path.body.moe))
    body.balanced = False  # a loss of training
    return _with_parts(path, body=body)


def _with_parts(module: M, **parts: nn.Module) -> M:
    """Copy a module with some of its parts replaced; all else is shared with the original."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}
    return twin


class DenseExperts(nn.Module):
    """`MixtureOfExperts` that runs every expert on every token; unchosen ones weigh 0."""

    def __init__(self, moe: MixtureOfExperts) -> None:
        super().__init__()
        self.router, self.experts, self.shared = moe.router, moe.experts, moe.shared

    def forward(self, tokens: Tensor) -> tuple[Tensor, TokenRoute]:
        """Map tokens [N, D] to the sum of Eq. 17, [N, D], and tell their route."""
        route: TokenRoute = self.router(tokens)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            weight = route.weights.masked_fill(route.experts != index, 0.0)  # [N, k]
            mixed = mixed + weight.sum(dim=1, keepdim=True) * expert(tokens)
        if self.shared is not None:
            mixed = mixed + self.shared(tokens)
        return mixed, route
