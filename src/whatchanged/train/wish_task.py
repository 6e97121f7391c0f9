"""Training ReasonCD on wishes in words, over a trained mask part (task `wishes`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.answers import Understood, ask_to_explain, format_absent, format_answer
from whatchanged.data.augment import photometric
from whatchanged.data.wish_phrases import can_compose, compose_wish
from whatchanged.data.wishes import Wish, load_wishes
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.models import weights
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.reasoncd.loss import LossWeights, mask_bce, mask_dice, text_loss
from whatchanged.models.reasoncd.mask_part import WishTable, load_mask_part
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.prompt import TextSample
from whatchanged.models.reasoncd.store import FAMILY as REASONCD
from whatchanged.models.reasoncd.store import save_reasoncd, start_reasoncd
from whatchanged.train.config import TrainConfig, reasoncd_config
from whatchanged.train.loop import Loss
from whatchanged.train.wish_data import DrawnWish, WishPairs
from whatchanged.train.wish_scores import score_wishes

_OFF_SUBJECT = 0.12  # share of wishes that no pair can meet
_COMPOSED = 0.4  # share of wishes that are composed of names and phrases, where they can be
_FEW = 4.0  # families added to each meaning's own, so that the rarely worded is drawn as well
_EXPLAINED = 0.2  # share of wishes that ask for a reason
_NOISY = 0.3  # share of wordings that are written a little differently

_LANGUAGE_PART = ("language.", "project.", "state_prompt.")

Rng = np.random.Generator


@dataclass(frozen=True)
class WishBatch:
    """Pairs and wishes in words about them.

    Attributes:
        before: Pictures [B, 3, S, S] in [0, 255].
        after: Pictures [B, 3, S, S].
        groups: Per pair the samples to learn.
        understood: In fields, one a sample; None off the subject.
        masks: Where each is met, [n, S, S] uint8, 255 unknown.
    """

    before: Tensor
    after: Tensor
    groups: tuple[tuple[TextSample, ...], ...]
    understood: tuple[Understood | None, ...]
    masks: Tensor


class WishTask:
    """ReasonCD and wishes of the bank, as the training loop wants them.

    The language model learns the answers (Eq. 11) and, by `align`, to say in its target
    token's state what the mask part's table says of the same wish; with `decode` the masks
    of Eq. 16 are learned through it as well.

    Args:
        config: The run; `start` names the best/ folder of a run of task `wish-masks`, or is
            None where masks are learned with the words alone, as in the paper.
    """

    measures: tuple[str, ...] = (
        *("understood_explicit", "understood_implicit", "refused", "refused_wrongly"),
        *("f1_any", "score"),
    )

    def __init__(self, config: TrainConfig) -> None:
        wanted = config.wishes
        if config.start is None and (wanted.align or not wanted.decode):
            raise UsageError(
                "task 'wishes' needs a trained mask part",
                hint="train configs/reasoncd-small-masks.yaml and set start to its best/ folder, "
                "or learn masks with the words alone: wishes.decode=true wishes.align=0",
            )
        self.config = config
        preset = reasoncd_config(config)
        self.data = WishPairs(config.data)
        self.broken = self.data.broken
        self.reasoncd = start_reasoncd(preset)
        self.table = WishTable(self.reasoncd.config.fusion.width)
        if config.start is not None:
            load_masks(self.reasoncd, self.table, weights.require(config.start))
        if config.language is not None:
            load_language(self.reasoncd, weights.require(config.language))
        self.table.requires_grad_(False)
        self.model: nn.Module = TrainedReasonCD(self.reasoncd, decode=wanted.decode)
        self.bank = _by_meaning(load_wishes("train"))
        # Every idea is met about as often as every other, however many a meaning has.
        self.weights = {m: _FEW + len(self.bank[m]) for m in self.data.meanings}

    def __len__(self) -> int:
        """Return the pairs of an epoch."""
        return len(self.data)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the names of training pairs."""
        return [self.data.name(index) for index in indices]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what trains: adapters, new rows, projection and prompt MLP; all with masks."""
        own = [p for p in self.model.parameters() if p.requires_grad]
        return [{"params": own, "lr": self.config.optimiser.lr}]

    def load(self, indices: Sequence[int], generator: torch.Generator) -> WishBatch:
        """Show pairs, draw wishes about them and word them."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        wanted = self.config.wishes
        before, after, groups = [], [], []
        understood: list[Understood | None] = []
        masks = []
        for index in indices:
            layers, facts = self.data.draw(index, rng)
            before.append(layers.before)
            after.append(layers.after)
            group = []
            drawn = self.data.wishes(
                layers, facts, wanted.per_pair, wanted.absent, rng, self.weights
            )
            nothing = np.zeros_like(layers.mask)
            for wish in drawn:
                off = rng.random() < _OFF_SUBJECT
                chosen = None if off else wish
                group.append(self._word(chosen, rng))
                understood.append(None if off else wish.understood)
                masks.append(nothing if off else wish.mask)
            if not group:  # nothing is known of this view: what is off the subject always is
                group.append(self._word(None, rng))
                understood.append(None)
                masks.append(nothing)
            groups.append(tuple(group))
        first, second = (torch.from_numpy(np.stack(date)) for date in (before, after))
        first, second = photometric(first, second, self.config.data.photometric, generator)
        return WishBatch(
            first, second, tuple(groups), tuple(understood), torch.from_numpy(np.stack(masks))
        )

    def _word(self, drawn: DrawnWish | None, rng: Rng) -> TextSample:
        """Choose words for a wish and write its prompt and answer."""
        meaning = drawn.understood if drawn else None
        if meaning is not None and can_compose(meaning) and rng.random() < _COMPOSED:
            wish = compose_wish(meaning, rng)
        else:
            families = self.bank[meaning]
            family = families[int(rng.integers(len(families)))]
            wish = family[int(rng.integers(len(family)))]
        text = vary(wish.text, rng) if rng.random() < _NOISY else wish.text
        explained = bool(rng.random() < _EXPLAINED)
        return self.reasoncd.writer.sample(
            ask_to_explain(text) if explained else text,
            answer_to(wish, met=drawn is not None and drawn.met, explained=explained),
        )

    def loss(self, model: nn.Module, batch: WishBatch, epoch: int, device: torch.device) -> Loss:
        """Return Eq. 16 with the alignment of prompts beside the masks."""
        output = model(batch.before.to(device), batch.after.to(device), batch.groups)
        terms, target = LossWeights(), self.reasoncd.writer.ids.target
        text = text_loss(output.text_logits, output.text_labels, target, terms.missed_target)
        owners = output.owners.tolist()
        said = [u for u in (batch.understood[i] for i in owners) if u is not None]
        align = output.prompts.sum() * 0
        if said and self.config.wishes.align:
            align = F.mse_loss(output.prompts.float(), self.table.to(device)(said))
        total = terms.text * text + self.config.wishes.align * align
        parts = {"text": float(text.detach()), "align": float(align.detach())}
        if self.config.wishes.decode:
            masks = batch.masks.to(device)[output.has_target]
            bce, dice = mask_bce(output.mask_logits, masks), mask_dice(output.mask_logits, masks)
            total = total + terms.bce * bce + terms.dice * dice
            parts |= {"bce": float(bce.detach()), "dice": float(dice.detach())}
        return Loss(total, parts)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Ask the validation pairs wishes of the bank's validation split."""
        self.model.eval()
        return score_wishes(self.reasoncd, self.data, "validation").numbers()

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        """Write everything trained as one checkpoint; the language model's base is not in it."""
        save_reasoncd(folder, self.reasoncd, self.config.preset)


class TrainedReasonCD(nn.Module):
    """ReasonCD with one `forward` from pictures and samples, which is what DDP wraps."""

    def __init__(self, reasoncd: ReasonCD, *, decode: bool) -> None:
        super().__init__()
        self.reasoncd = reasoncd
        self.decode = decode
        if not decode:
            for part in (reasoncd.vision, reasoncd.fusion, reasoncd.decoder):
                part.requires_grad_(False)

    def forward(self, before: Tensor, after: Tensor, groups: Sequence[Sequence[TextSample]]) -> Any:
        """Run one teacher-forced pass on pictures [B, 3, H, W] of both dates."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.decode):
            features = self.reasoncd.see(before, after)
        text = self.reasoncd.batch(groups).to(before.device)
        return self.reasoncd(features, text, decode=self.decode)

    def train(self, mode: bool = True) -> TrainedReasonCD:
        """Set the training mode of what trains."""
        super().train(mode)
        if not self.decode:  # what does not train keeps its statistics
            self.reasoncd.vision.train(False)
            self.reasoncd.fusion.train(False)
        return self


def load_masks(model: ReasonCD, table: WishTable, folder: Path) -> None:
    """Fill image encoders, fusion and mask decoder of a ReasonCD, and the table of wishes.

    Raises:
        CheckpointError: The folder holds no mask part, or one of another size.
    """
    trained = load_mask_part(folder)
    parts = {
        trained.vision: model.vision,
        trained.fusion: model.fusion,
        trained.decoder: model.decoder,
        trained.table: table,
    }
    try:
        for source, part in parts.items():
            part.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{folder} is not the mask part of this preset: {error}") from error


def load_language(model: ReasonCD, folder: Path) -> None:
    """Fill adapters, new rows, projection and prompt MLP from a ReasonCD's checkpoint.

    Raises:
        CheckpointError: The folder holds no ReasonCD, or one of another size.
    """
    saved = load_checkpoint(folder)
    own = {
        name: tensor for name, tensor in saved.tensors.items() if name.startswith(_LANGUAGE_PART)
    }
    if saved.family != REASONCD or not own:
        raise CheckpointError(f"{folder} is a {saved.family}, not a ReasonCD")
    try:
        unknown = model.load_state_dict(own, strict=False).unexpected_keys
    except RuntimeError as error:
        raise CheckpointError(f"{folder} is not of this preset: {error}") from error
    if unknown:
        raise CheckpointError(f"{folder} is not of this preset: it has {unknown[0]}")


def answer_to(wish: Wish, *, met: bool, explained: bool) -> str:
    """Return the answer to a wish of the bank (design, 4)."""
    why = wish.why if explained else ""
    if met:
        return format_answer(wish.understood, why)
    return f"{why} {format_absent(wish.understood)}".strip()


def vary(text: str, rng: Rng) -> str:
    """Write a wish as a hasty person might: other capitals, punctuation, one slip."""
    change = int(rng.integers(5))
    if change == 0:
        return text.lower()
    if change == 1:
        return text[0].upper() + text[1:]
    if change == 2:
        return text.rstrip("?.!") or text
    if change == 3:
        return text if text[-1] in "?.!" else text + str(rng.choice(["?", ".", "!"]))
    letters = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha()]
    if not letters:
        return text
    place = letters[int(rng.integers(len(letters)))]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def _by_meaning(wishes: Sequence[Wish]) -> dict[Understood | None, list[list[Wish]]]:
    """Group wishes by meaning and family: families are drawn alike, however many wordings."""
    found: dict[Understood | None, dict[str, list[Wish]]] = defaultdict(dict)
    for wish in wishes:
        found[wish.understood].setdefault(wish.family, []).append(wish)
    return {meaning: list(families.values()) for meaning, families in found.items()}
