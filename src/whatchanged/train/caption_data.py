"""The captioned pairs of a run, from every source, as arrays and word ids ready to draw from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whatchanged.console import track
from whatchanged.data.augment import mirror, misregister, photometric, zoom
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.levir_cc_tiles import load_tiles
from whatchanged.data.pictures import UNKNOWN, PictureStore
from whatchanged.data.positions import possible_flips
from whatchanged.data.samples import CaptionSample
from whatchanged.data.synthetic import draw_scene
from whatchanged.data.tokens import SPECIALS, UNCHANGED_CAPTION, Vocabulary, tokenise
from whatchanged.errors import DatasetError, UsageError
from whatchanged.train.config import DataConfig

Words = tuple[str, ...]
FLIPS = ((False, False), (True, False), (False, True), (True, True))
_SHIFT = 1.0  # pixels: how far the dates of a pair may be moved against each other


@dataclass(frozen=True)
class View:
    """One way to show a pair: a flip (index into `FLIPS`) and a draw of light (0: as it is)."""

    flip: int = 0
    light: int = 0


@dataclass(frozen=True)
class TrainPair:
    """One training pair.

    Attributes:
        name: For messages.
        changed: The label the router learns.
        captions: Per flip, the captions that stay true in known words; none where a flip is
            not to be shown.
        before: Picture [3, S, S] uint8.
        after: Picture [3, S, S] uint8.
        same: Both are one picture: shown only in two different lights.
        layers: Change mask, land cover before and after, [3, S, S] uint8, 255 unknown; None
            where nothing is known.
    """

    name: str
    changed: bool
    captions: tuple[tuple[Words, ...], ...]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    same: bool = False
    layers: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Shown:
    """Training pairs as a view shows them.

    Attributes:
        before: Pictures [B, 3, S, S], float in [0, 255].
        after: Pictures [B, 3, S, S], float in [0, 255].
        layers: Change mask, land cover before and after in the same view, [B, 3, S, S] uint8,
            255 unknown.
    """

    before: Tensor
    after: Tensor
    layers: Tensor


@dataclass(frozen=True)
class CaptionData:
    """Everything a captioning run draws from.

    Attributes:
        config: What was asked for.
        train: Training pairs.
        validation: Samples of the validation split, as annotated.
        store: Their pictures.
        vocabulary: Of the training captions, drawn ones included, or of all splits.
        broken: Entries left out.
    """

    config: DataConfig
    train: tuple[TrainPair, ...]
    validation: tuple[CaptionSample, ...]
    store: PictureStore
    vocabulary: Vocabulary
    broken: tuple[str, ...]

    @classmethod
    def open(cls, config: DataConfig) -> CaptionData:
        """Read all sets, draw what is to be drawn, and build the vocabulary.

        Raises:
            DatasetError: Broken or missing data, or no pair to train or to validate on.
            UsageError: No captioned set, or no word that is frequent enough.
        """
        if not config.captions:
            raise UsageError("data.captions is empty", hint="name a folder in LEVIR-CC's layout")
        sets = [load_levir_cc(Path(r), skip_broken=config.skip_broken) for r in config.captions]
        real = tuple(s for one in sets for s in one.of_split("train"))
        validation = tuple(s for one in sets for s in one.of_split("val"))
        for split, samples in (("train", real), ("val", validation)):
            if not samples:
                raise DatasetError(f"{', '.join(config.captions)}: no pair of split '{split}'")
        splits = [s for one in sets for s in one.samples if config.vocabulary == "all-splits"]
        drawn = _synthetic_pairs(round(config.synthetic * len(real)), config)
        tiled = _tile_pairs(config)
        annotated = (c for s in splits or real for c in s.captions)
        vocabulary = Vocabulary.build(
            chain(annotated, (c for pair in [*tiled, *drawn] for c in pair.captions[0])),
            config.min_count,
        )
        if len(vocabulary) == len(SPECIALS):
            raise UsageError(
                f"no word occurs more than {config.min_count} times", hint="lower data.min_count"
            )
        pairs = [*_real_pairs(real, config), *tiled]
        pairs += [*_self_pairs(pairs, round(config.self_pairs * len(real))), *drawn]
        if config.flips:
            known = set(vocabulary.words)
            pairs = [replace(pair, captions=_flipped(pair.captions[0], known)) for pair in pairs]
        return cls(
            config,
            tuple(pairs),
            validation,
            PictureStore.open(validation, config.size),
            vocabulary,
            tuple(line for one in sets for line in one.broken),
        )

    def draw_view(self, index: int, rng: np.random.Generator) -> View:
        """Draw a view of a training pair under which it has a caption."""
        pair = self.train[index]
        flips = [f for f, captions in enumerate(pair.captions) if captions]
        light = int(rng.integers(int(pair.same), self.config.views + int(pair.same)))
        return View(flips[int(rng.integers(len(flips)))], light)

    def draw_caption(self, index: int, view: View, rng: np.random.Generator) -> list[int]:
        """Draw one caption that is true of a view, as word ids."""
        captions = self.train[index].captions[view.flip]
        chosen = captions[int(rng.integers(len(captions)))]
        return self.vocabulary.encode(chosen, self.config.max_words)

    def draw_words(self, indices: Sequence[int], views: Sequence[View]) -> Tensor:
        """Return the share of each pair's captions under its view that hold a word, [B, V]."""
        shares = torch.zeros(len(indices), len(self.vocabulary))
        for row, (index, view) in enumerate(zip(indices, views, strict=True)):
            captions = self.train[index].captions[view.flip]
            for caption in captions:
                ids = {i for i in self.vocabulary.encode(caption) if i >= len(SPECIALS)}
                shares[row, sorted(ids)] += 1 / len(captions)
        return shares.clamp(max=1)

    def pictures(
        self, indices: Sequence[int], views: Sequence[View], generator: torch.Generator
    ) -> Shown:
        """Show training pairs in light and colours drawn from `generator`.

        Light 0 shows a pair as it is; in every other both dates get their own draw, and one is
        moved by up to a pixel. Both dates and their layers are zoomed alike.
        """
        rows = list(zip(indices, views, strict=True))

        def stack(layer: str) -> Tensor:
            drawn = [mirror(self._layer(self.train[i], layer), *FLIPS[v.flip]) for i, v in rows]
            return torch.from_numpy(np.stack(drawn))

        before, after, layers = stack("before").float(), stack("after").float(), stack("layers")
        if self.config.zoom < 1:
            parts = zoom([before, after, *layers.unbind(1)], self.config.zoom, generator)
            before, after, layers = parts[0], parts[1], torch.stack(parts[2:], dim=1)
        lit = [n for n, view in enumerate(views) if view.light]
        if lit and self.config.photometric:
            strength = self.config.photometric
            first, second = photometric(before[lit], after[lit], strength, generator)
            before[lit], after[lit] = first, misregister(second, _SHIFT, generator)
        return Shown(before, after, layers)

    def _layer(self, pair: TrainPair, name: str) -> NDArray[np.uint8]:
        if name == "layers" and pair.layers is None:
            return np.full((3, self.config.size, self.config.size), UNKNOWN, np.uint8)
        found: NDArray[np.uint8] = getattr(pair, name)
        return found

    def validation_pictures(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Show validation pairs as they are, [B, 3, S, S] each."""
        rows = list(indices)
        return torch.from_numpy(self.store.before[rows]), torch.from_numpy(self.store.after[rows])


def _real_pairs(samples: Sequence[CaptionSample], config: DataConfig) -> list[TrainPair]:
    store = PictureStore.open(samples, config.size, progress=True)
    return [
        TrainPair(
            name=f"{sample.source}/{sample.name}",
            changed=sample.changed,
            captions=(sample.targets,),
            before=store.before[index],
            after=store.after[index],
            layers=_known_layers(store, index),
        )
        for index, sample in enumerate(samples)
    ]


def _known_layers(store: PictureStore, index: int) -> NDArray[np.uint8] | None:
    stored = (store.mask, store.classes_before, store.classes_after)
    if all(layer is None for layer in stored):
        return None
    unknown = np.full((store.size, store.size), UNKNOWN, np.uint8)
    return np.stack([unknown if layer is None else layer[index] for layer in stored])


def _tile_pairs(config: DataConfig) -> list[TrainPair]:
    if not (config.tiles and config.tiles_captions and config.tiles_pictures):
        return []
    tiles = load_tiles(
        Path(config.tiles), Path(config.tiles_captions), Path(config.tiles_pictures), config.size
    )
    return [TrainPair(t.name, t.changed, (t.captions,), t.before, t.after) for t in tiles]


def _self_pairs(pairs: Sequence[TrainPair], n: int) -> list[TrainPair]:
    """Make unchanged pairs of single pictures, evenly over the real ones, dates in turn."""
    sentence = tuple(tokenise(UNCHANGED_CAPTION))
    chosen = [pairs[i * len(pairs) // n] for i in range(n)]
    made = []
    for index, pair in enumerate(chosen):
        picture = pair.after if index % 2 else pair.before
        name = f"same/{pair.name}"
        layers = np.zeros((3, *picture.shape[1:]), np.uint8)
        made.append(
            TrainPair(name, False, ((sentence,),), picture, picture, same=True, layers=layers)
        )
    return made


def _synthetic_pairs(n: int, config: DataConfig) -> list[TrainPair]:
    made = []
    for seed in track(range(n), "drawing scenes"):
        scene = draw_scene(seed, size=config.size)
        captions = tuple(tuple(tokenise(c)) for c in scene.captions)
        if not scene.changed:
            captions = (tuple(tokenise(UNCHANGED_CAPTION)),)
        before, after = (
            np.ascontiguousarray(p.transpose(2, 0, 1)) for p in (scene.before, scene.after)
        )
        made.append(TrainPair(f"synthetic/{seed}", scene.changed, (captions,), before, after))
    return made


def _flipped(captions: tuple[Words, ...], known: Collection[str]) -> tuple[tuple[Words, ...], ...]:
    """Rewrite captions for every flip; those that would not stay true are left out."""
    flips = possible_flips(captions, known)
    found = {(flip.horizontal, flip.vertical): flip.captions for flip in flips}
    return tuple(found.get(flip, ()) for flip in FLIPS)
