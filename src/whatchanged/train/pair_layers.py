"""Pairs with all that is known of their pixels, as whole pictures, crops, and turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from whatchanged.data.augment import mirror
from whatchanged.data.pictures import UNKNOWN, PictureStore, resize_picture
from whatchanged.data.samples import CaptionSample

Array = NDArray[np.uint8]

FINE = 512
"""Pictures of this side are also seen as crops at full resolution."""

_FINE_SOURCES = ("clcd", "levir-half")


@dataclass(frozen=True)
class PairLayers:
    """One pair and what is known of its pixels, S pixels a side.

    Attributes:
        before: Picture, [3, S, S] uint8.
        after: Picture, [3, S, S] uint8.
        mask: 0 unchanged, 1 changed, 255 unknown, [S, S] uint8.
        classes_before: Land cover 1-7, else 0 or 255, [S, S] uint8.
        classes_after: Likewise.
    """

    before: Array
    after: Array
    mask: Array
    classes_before: Array
    classes_after: Array

    def turned(self, rng: np.random.Generator) -> PairLayers:
        """Mirror and turn by 90 degrees, one of eight ways, all layers alike."""
        horizontal, vertical, turn = (bool(b) for b in rng.integers(0, 2, 3))

        def change(layer: Array) -> Array:
            layer = mirror(layer, horizontal, vertical)
            return np.ascontiguousarray(layer.swapaxes(-1, -2)) if turn else layer

        return PairLayers(*(change(getattr(self, f.name)) for f in fields(self)))

    def swapped(self) -> PairLayers:
        """Exchange the dates: what appeared has then disappeared."""
        return PairLayers(
            self.after, self.before, self.mask, self.classes_after, self.classes_before
        )


class LayerStore:
    """All layers of N samples, read once, S pixels a side.

    Args:
        samples: With or without captions.
        size: S, pixels.
        crops: Whether parts of large pairs are wanted, for which they are kept in full.

    Raises:
        DatasetError: A picture or mask that cannot be read.
    """

    def __init__(self, samples: Sequence[CaptionSample], size: int, *, crops: bool = True) -> None:
        self.size = size
        self._whole = PictureStore.open(samples, size, progress=True)
        fine = [
            (index, sample)
            for index, sample in enumerate(samples)
            if crops and sample.source in _FINE_SOURCES and size <= FINE
        ]
        self._places = {index: place for place, (index, _) in enumerate(fine)}
        self._fine = PictureStore.open([s for _, s in fine], FINE, progress=True) if fine else None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._whole)

    def whole(self, index: int) -> PairLayers:
        """Return the whole pair, reduced to S pixels a side."""
        return _layers(self._whole, index)

    def crop(self, index: int, rng: np.random.Generator) -> PairLayers | None:
        """Return a part of a large pair at up to full resolution; None of a small one."""
        if self._fine is None or index not in self._places:
            return None
        side = int(rng.integers(self.size, FINE + 1))
        top, left = rng.integers(0, FINE - side + 1, 2)
        window = (Ellipsis, slice(top, top + side), slice(left, left + side))
        step = ((np.arange(self.size) + 0.5) * side / self.size).astype(int)

        def cut(layer: Array) -> Array:
            part: Array = layer[window]
            if part.ndim == 2:
                return np.ascontiguousarray(part[np.ix_(step, step)])
            smaller = resize_picture(part.transpose(1, 2, 0).copy(), self.size)
            return np.ascontiguousarray(smaller.transpose(2, 0, 1))

        layers = _layers(self._fine, self._places[index])
        return PairLayers(*(cut(getattr(layers, f.name)) for f in fields(layers)))


def _layers(store: PictureStore, index: int) -> PairLayers:
    unknown = np.full((store.size, store.size), UNKNOWN, np.uint8)

    def known(layer: Array | None) -> Array:
        return unknown if layer is None else layer[index]

    return PairLayers(
        store.before[index],
        store.after[index],
        known(store.mask),
        known(store.classes_before),
        known(store.classes_after),
    )
