"""How well wishes are understood, refused and found, asked on validation pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from whatchanged.answers import Understood
from whatchanged.data.pictures import UNKNOWN
from whatchanged.data.transitions import wish_mask
from whatchanged.data.wishes import Wish, load_wishes
from whatchanged.geo.vector import has_patch
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.outputs import WishAnswer
from whatchanged.train.pair_layers import Array
from whatchanged.train.wish_data import ANY, DrawnWish, PairFacts, ValidationPairs

_PER_PAIR = 4
_BATCH = 16
_OFF_SUBJECT = 0.4  # wishes a pair that no pair can meet


@dataclass(frozen=True)
class AskedWish:
    """One wish that was asked about a validation pair.

    Attributes:
        pair: Name of the pair.
        wish: Words and meaning.
        met: Whether the pair meets it; False off the subject, None where label and mask of
            the pair do not say the same.
        answer: What the model said.
        counts: Pixels right and wrong; None where no mask is known.
    """

    pair: str
    wish: Wish
    met: bool | None
    answer: WishAnswer
    counts: MaskCounts | None

    @property
    def right(self) -> bool:
        """Whether class, direction and former class were understood."""
        return self.answer.understood == self.wish.understood

    @property
    def found(self) -> bool:
        """Whether a user is shown something: a target token, and a mask of more than specks."""
        return self.answer.found and has_patch(self.answer.mask.cpu().numpy())


@dataclass(frozen=True)
class WishScores:
    """All wishes that were asked."""

    asked: tuple[AskedWish, ...]

    def understood(self, kind: str) -> float:
        """Share of wishes of a kind whose meaning was stated rightly."""
        return _share([a.right for a in self.asked if a.wish.kind == kind and a.wish.understood])

    def refused(self, *, met: bool) -> float:
        """Share of wishes refused, of those that the pair meets or of those it does not."""
        return _share([not a.found for a in self.asked if a.met == met])

    def masks(self, wish: Understood) -> MaskCounts:
        """Pixels of all wishes that mean the same."""
        total = MaskCounts()
        for asked in self.asked:
            if asked.wish.understood == wish and asked.counts is not None:
                total = total.merge(asked.counts)
        return total

    def numbers(self) -> dict[str, float]:
        """Return what training watches, as shares; `score` is the mean of what should be high."""
        counts = self.masks(ANY)
        numbers = {
            "understood_explicit": self.understood("explicit"),
            "understood_implicit": self.understood("implicit"),
            "refused": self.refused(met=False),
            "refused_wrongly": self.refused(met=True),
            "f1_any": counts.scores().f1 / 100 if counts.n_pixels else 0.0,
        }
        good = [v for k, v in numbers.items() if k != "refused_wrongly"]
        return {**numbers, "score": float(np.mean([*good, 1 - numbers["refused_wrongly"]]))}


def score_wishes(
    model: ReasonCD, data: ValidationPairs, split: str, *, n_pairs: int = 64, seed: int = 0
) -> WishScores:
    """Ask validation pairs wishes in wordings of one split of the bank.

    Every pair with a mask is asked for any change, every pair for some of what is known to be
    there or not, and some for what is off the subject.

    Args:
        model: In evaluation mode.
        data: Holds the validation pairs.
        split: Of the bank: `validation` or `test`.
        n_pairs: Pairs asked, evenly over the split.
        seed: Decides pairs' wishes and their wordings.
    """
    bank: dict[Understood | None, list[Wish]] = {}
    for wish in load_wishes(split):
        bank.setdefault(wish.understood, []).append(wish)
    rng = np.random.default_rng(seed)
    places = np.linspace(0, len(data.validation) - 1, min(n_pairs, len(data.validation)))
    asked: list[AskedWish] = []
    for place in sorted({int(p) for p in places.round()}):
        asked += _ask_pair(model, data, place, bank, rng)
    return WishScores(tuple(asked))


def _ask_pair(
    model: ReasonCD,
    data: ValidationPairs,
    place: int,
    bank: dict[Understood | None, list[Wish]],
    rng: np.random.Generator,
) -> list[AskedWish]:
    sample = data.validation[place]
    layers = data.validation_store.whole(place)
    facts = PairFacts(sample.name, sample.changed, sample.captions)
    others = [m for m in bank if m is not None and m != ANY]
    order = [others[i] for i in rng.permutation(len(others))]
    known = list(data.met_or_not(layers, facts, order))
    met = [w for w in known if w.met][: _PER_PAIR // 2]
    unmet = [w for w in known if not w.met][: _PER_PAIR - len(met)]
    wanted: list[DrawnWish | None] = [*met, *unmet]
    if sample.mask is not None:
        mask = wish_mask(ANY, None, None, layers.mask)
        wanted.append(DrawnWish(ANY, mask, bool((mask == 1).any())))
    if rng.random() < _OFF_SUBJECT:
        wanted.append(None)
    choices = [bank[w.understood if w else None] for w in wanted]
    wishes = [words[int(rng.integers(len(words)))] for words in choices]
    answers = ask_layers(model, layers.before, layers.after, [w.text for w in wishes])
    asked = []
    for drawn, wish, answer in zip(wanted, wishes, answers, strict=True):
        counts = None
        if drawn is not None and (drawn.mask != UNKNOWN).any():
            counts = MaskCounts().add(
                answer.mask.cpu().numpy(), drawn.mask == 1, drawn.mask != UNKNOWN
            )
        is_met: bool | None = drawn is not None and drawn.met
        if drawn is not None and drawn.understood == ANY and drawn.met != sample.changed:
            is_met = None
        asked.append(AskedWish(sample.name, wish, is_met, answer, counts))
    return asked


@torch.no_grad()
def ask_layers(
    model: ReasonCD,
    before: Array,
    after: Array,
    wishes: Sequence[str],
) -> list[WishAnswer]:
    """Ask wishes about one pair of pictures [3, S, S]."""
    if not wishes:
        return []
    device = model.project.weight.device
    pictures = [
        torch.from_numpy(np.ascontiguousarray(p))[None].float().to(device) for p in (before, after)
    ]
    pairs = model.encode(model.see(*pictures))
    answers: list[WishAnswer] = []
    for start in range(0, len(wishes), _BATCH):
        answers += model.ask(pairs, list(wishes[start : start + _BATCH]))
    return answers


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0
