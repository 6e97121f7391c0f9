"""Training HiSem: captioned pairs, label routing, curriculum, and features cached if frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whatchanged.config import to_mapping
from whatchanged.data.tokens import SPECIALS, Vocabulary
from whatchanged.errors import UsageError
from whatchanged.metrics.captions import score_breakdown
from whatchanged.models.backbones import normalise
from whatchanged.models.checkpoint import save_checkpoint
from whatchanged.models.hisem.generate import UNKNOWN
from whatchanged.models.hisem.loss import curriculum_weight, hisem_loss
from whatchanged.models.hisem.model import HiSem
from whatchanged.models.outputs import HiSemOutput
from whatchanged.train.auxiliary import AuxiliaryHeads, AuxiliaryTarget
from whatchanged.train.caption_data import CaptionData, View
from whatchanged.train.config import TrainConfig, model_config
from whatchanged.train.features import FeatureCache
from whatchanged.train.loop import Loss


@dataclass(frozen=True)
class CaptionBatch:
    """One batch of pairs.

    Attributes:
        before: Pictures [B, 3, H, W] in [0, 255], or encoder features [B, C, h, w].
        after: As `before`.
        captions: Word ids from START to END, then NULL, [B, T].
        changed: Label per pair, [B] bool.
        encoded: Whether `before` and `after` are features.
        auxiliary: What else is known; None where nothing of it is learned.
    """

    before: Tensor
    after: Tensor
    captions: Tensor
    changed: Tensor
    encoded: bool
    auxiliary: AuxiliaryTarget | None = None


class HiSemTask:
    """HiSem and its captioned pairs, as the training loop wants them.

    Args:
        config: The run. Where it freezes the encoder, features are cached in its folder.
    """

    measures: tuple[str, ...] = (
        *("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "s_m"),
        *("s_m_changed", "router_changed", "router_unchanged"),
    )

    def __init__(self, config: TrainConfig) -> None:
        from whatchanged.train.run import start_encoder

        self.config = config
        self.hisem_config = model_config(config)
        self.data = CaptionData.open(config.data)
        self.broken = self.data.broken
        self.hisem = HiSem(self.hisem_config, len(self.data.vocabulary))
        start_encoder(self.hisem.encoder, config)
        heads = AuxiliaryHeads(self.hisem_config.width, len(self.data.vocabulary))
        self.model: nn.Module = _Trained(self.hisem, heads if config.auxiliary else None)
        frozen = self.hisem_config.encoder.unfreeze_last == 0
        if frozen and (config.auxiliary or config.data.zoom < 1):
            raise UsageError(
                "auxiliary and data.zoom need pictures, but a frozen encoder's features are cached",
                hint="set model.encoder.unfreeze_last, or auxiliary=0 and data.zoom=1",
            )
        folder = Path(config.data.feature_cache or config.out)
        self.cache = FeatureCache(self.hisem.encoder, self.data, folder) if frozen else None

    def __len__(self) -> int:
        """Return the number of training pairs, generated ones included."""
        return len(self.data.train)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the names of training pairs."""
        return [self.data.train[i].name for i in indices]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains: the new parts, and the encoder's trained part at its own rate."""
        optimiser = self.config.optimiser
        encoder = [p for p in self.hisem.encoder.parameters() if p.requires_grad]
        own = {id(p) for p in self.hisem.encoder.parameters()}
        rest = [p for p in self.model.parameters() if id(p) not in own]
        groups = [{"params": rest, "lr": optimiser.lr}]
        if encoder:
            rate = optimiser.lr if optimiser.encoder_lr is None else optimiser.encoder_lr
            groups.append({"params": encoder, "lr": rate})
        return groups

    def load(self, indices: Sequence[int], generator: torch.Generator) -> CaptionBatch:
        """Draw a view and a caption for each pair and make a batch of them."""
        return self.load_views(indices, generator)[0]

    def load_views(
        self, indices: Sequence[int], generator: torch.Generator
    ) -> tuple[CaptionBatch, list[View]]:
        """Make a batch as `load` does, and tell the view of each pair."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        views = [self.data.draw_view(index, rng) for index in indices]
        captions = [
            self.data.draw_caption(index, view, rng)
            for index, view in zip(indices, views, strict=True)
        ]
        auxiliary = None
        if self.cache is not None:
            before, after = self.cache.train(indices, views)
        else:
            shown = self.data.pictures(indices, views, generator)
            before, after = shown.before, shown.after
            if self.config.auxiliary:
                words = self.data.draw_words(indices, views)
                auxiliary = AuxiliaryTarget(words, shown.layers)
        batch = CaptionBatch(
            before=before,
            after=after,
            captions=_pad(captions),
            changed=torch.tensor([self.data.train[i].changed for i in indices]),
            encoded=self.cache is not None,
            auxiliary=auxiliary,
        )
        return batch, views

    def maps(self, batch: CaptionBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the encoder's maps of a batch, [B, C, h, w] each."""
        before = self._prepare(batch.before, batch.encoded, device)
        after = self._prepare(batch.after, batch.encoded, device)
        return (before, after) if batch.encoded else self.hisem.encode(before, after)

    def loss(self, model: nn.Module, batch: CaptionBatch, epoch: int, device: torch.device) -> Loss:
        """Return Eq. 19 of a batch; pairs follow their label in the first epochs (design, 10)."""
        config = self.config
        changed = batch.changed.to(device)
        captions = batch.captions.to(device)
        by_label = epoch < round(config.label_routing * config.epochs, 6)
        alpha = curriculum_weight(epoch + 1, config.epochs, config.warmup_epochs)
        output, told = model(
            self._prepare(batch.before, batch.encoded, device),
            self._prepare(batch.after, batch.encoded, device),
            drop_words(captions, config.word_dropout),
            changed if by_label else None,
            encoded=batch.encoded,
            detach_router=alpha == 0,
            target=None if batch.auxiliary is None else batch.auxiliary.to(device),
        )
        parts = hisem_loss(output, captions, changed, alpha, config.router_weight)
        numbers = {"caption": float(parts.caption.detach())}
        if output.router_logits is not None:
            right = (output.router_logits.argmax(1) == changed.long()).float().mean()
            numbers |= {"router": float(parts.router.detach()), "router_accuracy": float(right)}
        total = parts.total
        for name, part in told.items():
            total = total + config.auxiliary * part
            numbers[name] = float(part.detach())
        return Loss(total, numbers)

    def _prepare(self, pixels: Tensor, encoded: bool, device: torch.device) -> Tensor:
        pixels = pixels.to(device)
        if encoded:
            return pixels.float()
        return normalise(pixels, self.hisem_config.encoder).contiguous(
            memory_format=torch.channels_last
        )

    def validate(self) -> dict[str, float]:
        """Score greedy captions of the validation split (`words` protocol) and the router."""
        self.model.eval()
        captions, changed = self.describe_validation()
        labels = [s.changed for s in self.data.validation]
        references = [s.captions for s in self.data.validation]
        scores = score_breakdown(captions, references, labels)
        names = (f.name for f in fields(scores.overall) if f.name != "n")
        # What is undefined, as CIDEr-D is where all references are alike, counts as nothing.
        numbers = {name: float(getattr(scores.overall, name) or 0.0) for name in names}
        numbers["s_m_changed"] = (scores.changed.s_m if scores.changed else None) or 0.0
        right = np.asarray(changed) == np.asarray(labels)
        for name, wanted in (("changed", True), ("unchanged", False)):
            chosen = np.asarray(labels) == wanted
            numbers[f"router_{name}"] = float(right[chosen].mean()) if chosen.any() else 0.0
        return numbers

    @torch.no_grad()
    def describe_validation(self) -> tuple[list[list[str]], list[bool]]:
        """Return the greedy caption and the path of every validation pair."""
        device = next(self.hisem.parameters()).device
        captions: list[list[str]] = []
        changed: list[bool] = []
        indices = range(len(self.data.validation))
        for start in range(0, len(indices), 32):
            chosen = list(indices[start : start + 32])
            if self.cache is not None:
                maps = [m.to(device).float() for m in self.cache.validation(chosen)]
            else:
                before, after = self.data.validation_pictures(chosen)
                maps = list(
                    self.hisem.encode(
                        self._prepare(before, False, device), self._prepare(after, False, device)
                    )
                )
            memory = self.hisem.memory(maps[0], maps[1])
            for best, *_ in self.hisem.generate(memory):
                captions.append(self.data.vocabulary.decode(best.ids))
            changed.extend(memory.path.bool().tolist())
        return captions, changed

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write model, vocabulary and preprocessing as one checkpoint."""
        save_hisem(
            folder,
            self.hisem,
            self.config.preset,
            self.data.vocabulary,
            {"validation": dict(numbers)},
        )


class _Trained(nn.Module):
    """HiSem with one `forward` from pictures or features, which is what DDP wraps."""

    def __init__(self, hisem: HiSem, heads: AuxiliaryHeads | None) -> None:
        super().__init__()
        self.hisem = hisem
        self.heads = heads

    def forward(
        self,
        before: Tensor,
        after: Tensor,
        captions: Tensor,
        changed: Tensor | None,
        *,
        encoded: bool,
        detach_router: bool,
        target: AuxiliaryTarget | None,
    ) -> tuple[HiSemOutput, dict[str, Tensor]]:
        if not encoded:
            before, after = self.hisem.encode(before, after)
        output: HiSemOutput = self.hisem(
            before, after, captions, changed, detach_router=detach_router
        )
        if self.heads is None or target is None:
            return output, {}
        return output, self.heads(output.memory.tokens, output.memory.grid, target)

    def train(self, mode: bool = True) -> _Trained:
        from whatchanged.models.backbones import set_training

        super().train(mode)
        set_training(self.hisem.encoder, mode)
        return self


def drop_words(captions: Tensor, share: float) -> Tensor:
    """Replace words of captions [B, T] by UNKNOWN, but never START, END or NULL.

    A decoder that cannot rely on the word before must look at the pictures (Bowman et al.
    2016, word dropout).
    """
    if share == 0:
        return captions
    words = captions >= len(SPECIALS)
    lost = torch.rand(captions.shape, device=captions.device) < share
    return captions.masked_fill(words & lost, UNKNOWN)


def save_hisem(
    folder: Path,
    model: HiSem,
    preset: str,
    vocabulary: Vocabulary,
    extras: Mapping[str, Any],
    *,
    half: bool = False,
    card: str = "",
) -> None:
    """Write a HiSem as a checkpoint folder that `load_model` opens."""
    encoder = model.config.encoder
    save_checkpoint(
        folder,
        family="hisem",
        config={"preset": preset, "model": to_mapping(model.config)},
        tensors={k: v.contiguous() for k, v in model.state_dict().items()},
        extras={
            "vocabulary": {"words": list(vocabulary.words)},
            "preprocessing": {
                "input_size": encoder.input_size,
                "mean": list(encoder.mean),
                "std": list(encoder.std),
            },
            **extras,
        },
        half=half,
        card=card,
    )


def _pad(captions: Sequence[Sequence[int]]) -> Tensor:
    longest = max(len(caption) for caption in captions)
    return torch.tensor([[*caption, *[0] * (longest - len(caption))] for caption in captions])
