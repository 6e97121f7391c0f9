"""What the models hand back: results with names and shapes instead of tuples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNCHANGED, CHANGED = 0, 1
"""Index of the two paths of HiSem (III-C1) and of the columns of the router's logits."""


@dataclass(frozen=True)
class HiSemMemory:
    """What HiSem has seen, before a word is said.

    Attributes:
        tokens: Memory of the caption decoder, [B, L, D].
        grid: Rows and columns of the tokens, L = h * w.
        router_logits: Unchanged and changed, [B, 2]; None without image-level routing.
        path: Path taken, [B], 0 unchanged and 1 changed; all 1 without routing.
        balance_loss: Balance loss of the experts, its coefficient included; a scalar.
        experts: Experts each token visited, [B, L, k]; -1 where a pair met no experts,
            None if no pair met any.
        difference_map: How strongly each place differs, [B, h, w], never negative: the
            magnitude of the first BDAM layer's gated difference. Exactly 0 for equal dates.
    """

    tokens: Tensor
    grid: tuple[int, int]
    router_logits: Tensor | None
    path: Tensor
    balance_loss: Tensor
    experts: Tensor | None
    difference_map: Tensor

    @property
    def changed_probability(self) -> Tensor | None:
        """Probability of the changed path, [B] in [0, 1] (Eq. 10); None without routing."""
        if self.router_logits is None:
            return None
        return torch.softmax(self.router_logits.float(), dim=1)[:, CHANGED]


@dataclass(frozen=True)
class HiSemOutput:
    """One teacher-forced pass.

    Attributes:
        caption_logits: Logit of every next word, [B, T-1, V]; None if no captions were given.
        memory: What the decoder attended to, and how it came about.
    """

    caption_logits: Tensor | None
    memory: HiSemMemory

    @property
    def router_logits(self) -> Tensor | None:
        """Unchanged and changed, [B, 2]; None without image-level routing."""
        return self.memory.router_logits

    @property
    def path(self) -> Tensor:
        """Path taken, [B]."""
        return self.memory.path

    @property
    def balance_loss(self) -> Tensor:
        """Balance loss of the experts, a scalar."""
        return self.memory.balance_loss


@dataclass(frozen=True)
class LossParts:
    """The loss of Eq. 19 and what it is made of; all scalars.

    Attributes:
        total: What is minimised.
        caption: Eq. 18, mean over words.
        router: Eq. 11, mean over pairs, before its weight; 0 without routing.
        balance: Balance loss, its coefficient included.
    """

    total: Tensor
    caption: Tensor
    router: Tensor
    balance: Tensor


@dataclass(frozen=True)
class Hypothesis:
    """One caption as word ids.

    Attributes:
        ids: Words without START and END.
        log_probability: Sum over the words, END included if it was reached.
        score: What hypotheses are ranked by: `log_probability`, divided by the number of
            summed words if the search normalises by length.
    """

    ids: tuple[int, ...]
    log_probability: float
    score: float
