"""Self-critical training: a trained decoder learns from the scores of captions it draws.

Cross-entropy teaches the words of one reference after another; what is wanted is a caption that
agrees with all of them. Here the decoder draws several captions a pair, each is scored against
all references, and those above the mean of the others become likelier (Rennie et al. 2017, with
the baseline of Luo 2020). Not part of HiSem's paper; encoder, BDAM and HASD stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.errors import CheckpointError, UsageError
from whatchanged.metrics.cider import CiderScorer
from whatchanged.metrics.rouge import rouge_l
from whatchanged.models import weights
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.hisem.generate import END, NULL, sample
from whatchanged.models.hisem.loss import caption_loss
from whatchanged.train.config import TrainConfig
from whatchanged.train.hisem_task import CaptionBatch, HiSemTask
from whatchanged.train.loop import Loss

_STOP = "<END>"  # scored as a word, or captions would stop after "and a"

Words = tuple[str, ...]


@dataclass(frozen=True)
class RewardBatch:
    """A batch of pairs with all captions that are true of them.

    Attributes:
        pairs: Pictures, one drawn caption and the label of each pair.
        references: Per pair all captions under its view.
        seed: Of the captions to draw.
    """

    pairs: CaptionBatch
    references: tuple[tuple[Words, ...], ...]
    seed: int


class SelfCriticalTask:
    """The decoder of a trained HiSem and the references that reward it.

    Args:
        config: The run; `start` names the trained HiSem, `data` must give its vocabulary.
    """

    measures = HiSemTask.measures

    def __init__(self, config: TrainConfig) -> None:
        if config.start is None:
            raise UsageError(
                "task self-critical needs a trained model", hint="set start to its best/ folder"
            )
        self.config = config
        self.base = HiSemTask(config)
        self.hisem, self.data, self.broken = self.base.hisem, self.base.data, self.base.broken
        self._load(weights.require(config.start))
        self.hisem.requires_grad_(False)
        self.hisem.decoder.requires_grad_(True)
        self.model: nn.Module = self.hisem.decoder
        self.scorer = CiderScorer(
            [_ended(captions) for pair in self.data.train for captions in pair.captions if captions]
        )

    def _load(self, folder: Path) -> None:
        saved = load_checkpoint(folder)
        if saved.family != "hisem":
            raise CheckpointError(f"{folder} holds a {saved.family}, not a HiSem")
        if tuple(saved.extras["vocabulary"]["words"]) != self.data.vocabulary.words:
            raise CheckpointError(
                f"{folder} was trained with another vocabulary",
                hint="give this run the data of the run that made it",
            )
        self.hisem.load_state_dict({k: v.float() for k, v in saved.tensors.items()})

    def __len__(self) -> int:
        """Return the number of training pairs."""
        return len(self.base)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the names of training pairs."""
        return self.base.names(indices)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains: the decoder."""
        return [{"params": list(self.model.parameters()), "lr": self.config.optimiser.lr}]

    def load(self, indices: Sequence[int], generator: torch.Generator) -> RewardBatch:
        """Draw a view and a caption for each pair; all captions of the view are references."""
        pairs, views = self.base.load_views(indices, generator)
        references = tuple(
            self.data.train[index].captions[view.flip]
            for index, view in zip(indices, views, strict=True)
        )
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return RewardBatch(pairs, references, seed)

    def loss(self, model: nn.Module, batch: RewardBatch, epoch: int, device: torch.device) -> Loss:
        """Return the reward's loss on changed pairs and the caption loss on all."""
        changed = batch.pairs.changed.to(device)
        captions = batch.pairs.captions.to(device)
        self.hisem.eval()
        with torch.no_grad():
            memory = self.hisem.memory(*self.base.maps(batch.pairs, device), changed).tokens
            rows = changed.nonzero().flatten()
            drawn = sample(
                self.hisem.decoder,
                memory[rows],
                self.config.samples,
                self.hisem.decoder.max_len,
                torch.Generator().manual_seed(batch.seed),
            )  # [b, K, T]
        self.model.train()
        caption = caption_loss(model(captions[:, :-1], memory), captions)
        if not len(rows):
            return Loss(self.config.caption_weight * caption, {"caption": float(caption.detach())})
        rewards = self._rewards(drawn, [batch.references[row] for row in rows.tolist()])
        flat = drawn.flatten(0, 1)  # [b K, T]
        logits = model(flat[:, :-1], memory[rows].repeat_interleave(self.config.samples, dim=0))
        reward_loss = policy_loss(logits, flat, advantages(rewards).to(device))
        numbers = {
            "caption": float(caption.detach()),
            "reward": float(rewards.mean()),
            "best_reward": float(rewards.amax(1).mean()),
        }
        return Loss(reward_loss + self.config.caption_weight * caption, numbers)

    def _rewards(self, drawn: Tensor, references: Sequence[Sequence[Words]]) -> Tensor:
        """Score drawn captions [b, K, T]: CIDEr-D in [0, 10] plus ROUGE-L in [0, 1], [b, K]."""
        rewards = np.zeros(drawn.shape[:2], np.float32)
        for row, (samples, truths) in enumerate(zip(drawn.tolist(), references, strict=True)):
            ended = _ended(truths)
            for column, ids in enumerate(samples):
                said = tuple(self.data.vocabulary.decode(ids))
                said = (*said, _STOP) if END in ids else said
                rewards[row, column] = self.scorer.score(said, ended) + rouge_l(said, ended)
        return torch.from_numpy(rewards)

    def validate(self) -> dict[str, float]:
        """Score as task hisem does."""
        self.hisem.eval()
        return self.base.validate()

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write the whole HiSem."""
        self.base.save(folder, numbers)


def advantages(rewards: Tensor) -> Tensor:
    """Return how far each caption's reward is above the mean of the others of its pair.

    Args:
        rewards: [b, K], K at least 2.
    """
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def policy_loss(logits: Tensor, ids: Tensor, advantage: Tensor) -> Tensor:
    """Return minus the log probability of drawn words, weighed by their caption's advantage.

    Args:
        logits: Of the words after START, [N, T-1, V].
        ids: Drawn captions from START to END, then NULL, [N, T].
        advantage: [b, K] with b K = N.

    Returns:
        Mean over all words drawn, a scalar.
    """
    words = ids[:, 1:]
    surprise = F.cross_entropy(
        logits.float().transpose(1, 2), words, ignore_index=NULL, reduction="none"
    )  # [N, T-1], 0 at NULL
    weighed = surprise * advantage.flatten().unsqueeze(1)
    return weighed.sum() / (words != NULL).sum()


def _ended(captions: Sequence[Words]) -> tuple[Words, ...]:
    return tuple((*caption, _STOP) for caption in captions)
