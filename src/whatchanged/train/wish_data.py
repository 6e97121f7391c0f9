"""Pairs to ask wishes about: annotated ones, mask sets, composites and generated scenes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whatchanged.answers import CLASS_WORDS, Understood
from whatchanged.console import track
from whatchanged.data.composites import draw_composite, load_covers
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.mask_sets import CoverPicture, load_mask_set
from whatchanged.data.samples import CaptionSample
from whatchanged.data.synthetic import draw_scene
from whatchanged.data.transitions import presence, wish_mask
from whatchanged.data.wishes import load_families
from whatchanged.errors import DatasetError, UsageError
from whatchanged.train.config import DataConfig
from whatchanged.train.pair_layers import LayerStore, PairLayers

Array = NDArray[np.uint8]

ANY = Understood(("any",), "either")
BUILDINGS = Understood(("building",), "either")
_CROPPED = 0.5  # share of the visits at which a large pair is seen in part


@dataclass(frozen=True)
class PairFacts:
    """What decides whether a pair meets a wish, beside its layers.

    Attributes:
        name: For messages.
        changed: Label; None if the pair has none.
        captions: Tokenised captions; none for a crop, which need not show what they tell.
        complete: The land cover knows every change.
        only: The wishes a mask answers that marks one kind of change; None for all.
        reverse: The dates were exchanged: captions tell of the other way round.
    """

    name: str
    changed: bool | None = None
    captions: tuple[tuple[str, ...], ...] = ()
    complete: bool = False
    only: tuple[Understood, ...] | None = None
    reverse: bool = False


@dataclass(frozen=True)
class DrawnWish:
    """A wish about a pair.

    Attributes:
        understood: The wish in fields.
        mask: Where it is met, [S, S] uint8: 0, 1, 255 unknown.
        met: Whether the pair meets it.
    """

    understood: Understood
    mask: Array
    met: bool


def meanings() -> tuple[Understood, ...]:
    """Return what the wishes of the bank mean, each once, in a fixed order."""
    found = {family.understood for family in load_families() if family.understood is not None}
    return tuple(sorted(found, key=lambda u: (u.classes, u.direction, u.former)))


def single_classes() -> tuple[Understood, ...]:
    """Return every class with every direction, "any" apart: what results are told for."""
    names = [name for name in CLASS_WORDS if name != "any"]
    return tuple(
        Understood((name,), direction)
        for name in names
        for direction in ("appeared", "disappeared", "either")
    )


class ValidationPairs:
    """The validation pairs of captioned sets and what is known of wishes about them.

    Args:
        config: Where the pairs come from.
    """

    def __init__(self, config: DataConfig) -> None:
        if not config.captions:
            raise UsageError("data.captions is empty", hint="name a folder in LEVIR-CC's layout")
        sets = [load_levir_cc(Path(r), skip_broken=config.skip_broken) for r in config.captions]
        self.config = config
        self.broken = tuple(line for one in sets for line in one.broken)
        self.annotated = tuple(s for one in sets for s in one.of_split("train"))
        self.validation = tuple(s for one in sets for s in one.of_split("val"))
        for split, found in (("train", self.annotated), ("val", self.validation)):
            if not found:
                raise DatasetError(f"{', '.join(config.captions)}: no pair of split '{split}'")
        self.validation_store = LayerStore(self.validation, config.size, crops=False)

    def met_or_not(
        self, layers: PairLayers, facts: PairFacts, asked: Sequence[Understood]
    ) -> Iterator[DrawnWish]:
        """Yield those of the wishes, "any" apart, whose answer about a pair is known."""
        before, after = layers.classes_before, layers.classes_after
        # The same three values stand in thousands of pixels: each combination is asked once.
        code = (before.astype(np.int32) << 16) | (after.astype(np.int32) << 8) | layers.mask
        values, place = np.unique(code, return_inverse=True)
        kinds = [((values >> shift) & 255).astype(np.uint8)[None] for shift in (16, 8, 0)]
        for understood in asked:
            if understood == ANY:
                continue
            if facts.only is not None:
                if understood in facts.only:
                    yield DrawnWish(understood, layers.mask, bool((layers.mask == 1).any()))
                continue
            mask = wish_mask(understood, *kinds)[0][place].reshape(before.shape)
            yield from _if_known(understood, mask, facts)


class WishPairs(ValidationPairs):
    """The pairs of a run and the wishes that can be asked about each.

    An epoch visits every annotated pair and mask pair once, or as often as `repeat` says, and
    composites and scenes in the shares that were asked for.

    Args:
        config: Where the pairs come from.

    Raises:
        UsageError: `repeat` names a source that no pair has.
    """

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        masked = [
            sample
            for name, kind in config.masks.items()
            if kind == "building"
            for sample in load_mask_set(Path(config.masks_root or ".") / name)
        ]
        self.samples = (*self.annotated, *masked)
        self.facts = [
            *(_facts(s) for s in self.annotated),
            *(_mask_facts(s) for s in masked),
        ]
        self.store = LayerStore(self.samples, config.size)
        self.covers = _covers(config)
        self.visits = _visits(self.samples, config.repeat)
        self.n_composites = round(config.composites * len(self.visits)) if self.covers else 0
        self.scenes = _scenes(round(config.synthetic * len(self.visits)), config.size)
        self.meanings = meanings()

    def __len__(self) -> int:
        """Return the pairs of an epoch."""
        return len(self.visits) + self.n_composites + len(self.scenes)

    def name(self, index: int) -> str:
        """Return the name of a training pair."""
        if index < len(self.visits):
            return self.facts[self.visits[index]].name
        return f"made/{index - len(self.visits)}"

    def draw(self, index: int, rng: np.random.Generator) -> tuple[PairLayers, PairFacts]:
        """Show a training pair: whole or in part, mirrored and turned, either date first."""
        made = index - len(self.visits)
        if made < 0:
            layers, facts = self._seen(self.visits[index], rng)
            if self.config.swap and rng.random() < self.config.swap:
                return layers.swapped(), replace(facts, reverse=True)
            return layers, facts
        facts = PairFacts(self.name(index), complete=True)
        if made >= self.n_composites:
            return self.scenes[made - self.n_composites].turned(rng), facts
        pair = draw_composite(self.covers, rng, self.config.size)
        return (
            PairLayers(
                pair.before, pair.after, pair.mask, pair.classes_before, pair.classes_after
            ).turned(rng),
            facts,
        )

    def _seen(self, place: int, rng: np.random.Generator) -> tuple[PairLayers, PairFacts]:
        """Show a sample: whole, or a part of it, whose captions need not hold."""
        facts = self.facts[place]
        crop = self.store.crop(place, rng) if rng.random() < _CROPPED else None
        if crop is not None:
            return crop.turned(rng), replace(facts, captions=())
        return self.store.whole(place).turned(rng), facts

    def wishes(
        self,
        layers: PairLayers,
        facts: PairFacts,
        n: int,
        absent: float,
        rng: np.random.Generator,
        weights: Mapping[Understood, float] | None = None,
    ) -> list[DrawnWish]:
        """Draw up to `n` different wishes about a pair, "any" among them where it is known.

        Args:
            layers: Of the pair.
            facts: Of the pair.
            n: Wishes wanted.
            absent: Share of wishes that the pair does not meet, where it meets others.
            rng: Source of the draws.
            weights: How often each of `meanings` is drawn beside the others; None draws all
                alike.
        """
        drawn = _everything(layers, facts)
        wanted = n - len(drawn)
        missing = [rng.random() < absent for _ in range(wanted)]
        order = _order(self.meanings, weights, rng)
        found = self.met_or_not(layers, facts, [self.meanings[i] for i in order])
        met: list[DrawnWish] = []
        unmet: list[DrawnWish] = []
        for wish in found:
            (met if wish.met else unmet).append(wish)
            if len(unmet) >= wanted and len(met) >= wanted:
                break
        n_unmet = min(len(unmet), max(sum(missing), wanted - len(met)))
        return [*drawn, *met[: wanted - n_unmet], *unmet[:n_unmet]]


def _order(
    meanings: Sequence[Understood],
    weights: Mapping[Understood, float] | None,
    rng: np.random.Generator,
) -> list[int]:
    """Draw the places of all meanings, one after the other, by weight."""
    if weights is None:
        return [int(i) for i in rng.permutation(len(meanings))]
    share = np.array([weights[meaning] for meaning in meanings])
    places = rng.choice(len(share), len(share), replace=False, p=share / share.sum())
    return [int(i) for i in places]


def _everything(layers: PairLayers, facts: PairFacts) -> list[DrawnWish]:
    """Return the wish for any change, or nothing where mask and label do not settle it."""
    if facts.only is not None:  # a mask of buildings alone counts as all change, as in the field
        return [DrawnWish(ANY, layers.mask, bool((layers.mask == 1).any()))]
    mask = wish_mask(ANY, layers.classes_before, layers.classes_after, layers.mask)
    return _if_known(ANY, mask, facts)


def _if_known(understood: Understood, mask: Array, facts: PairFacts) -> list[DrawnWish]:
    told = presence(
        understood,
        mask,
        changed=facts.changed,
        captions=facts.captions,
        complete=facts.complete,
        reverse=facts.reverse,
    )
    if told == "unknown":
        return []
    if facts.changed is False:  # the label knows more than a mask that is missing
        mask = np.zeros_like(mask)
    return [DrawnWish(understood, mask, told == "present")]


def _facts(sample: CaptionSample) -> PairFacts:
    return PairFacts(f"{sample.source}/{sample.name}", sample.changed, sample.captions)


def _mask_facts(sample: CaptionSample) -> PairFacts:
    return PairFacts(f"{sample.source}/{sample.name}", only=(BUILDINGS,))


def _visits(samples: Sequence[CaptionSample], repeat: Mapping[str, int]) -> tuple[int, ...]:
    """Return the place of every visit of an epoch among the samples."""
    sources = {sample.source for sample in samples}
    unknown = sorted(repeat.keys() - sources)
    if unknown:
        raise UsageError(
            f"data.repeat names '{unknown[0]}', which no training pair comes from",
            hint=f"one of {', '.join(sorted(sources))}",
        )
    return tuple(place for place, s in enumerate(samples) for _ in range(repeat.get(s.source, 1)))


def _covers(config: DataConfig) -> tuple[CoverPicture, ...]:
    if config.landcover is None or not config.composites:
        return ()
    return tuple(load_covers(Path(config.landcover)))


def _scenes(n: int, size: int) -> list[PairLayers]:
    made = []
    for seed in track(range(n), "drawing scenes"):
        scene = draw_scene(seed, size=size)
        before, after = (
            np.ascontiguousarray(p.transpose(2, 0, 1)) for p in (scene.before, scene.after)
        )
        mask = scene.mask.astype(np.uint8)
        made.append(PairLayers(before, after, mask, scene.classes_before, scene.classes_after))
    return made
