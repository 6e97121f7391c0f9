"""Pairs with wishes in words and masks of where each is met, read when they are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whatchanged.data.integrity import identify
from whatchanged.data.known_sets import RECIPES
from whatchanged.data.levir_cc import captions_files, load_levir_cc
from whatchanged.data.pictures import (
    PictureStore,
    picture_size,
    read_picture,
    resize_classes,
    resize_picture,
)
from whatchanged.data.prepared import has_samples, noted_recipe, read_record, samples_file
from whatchanged.data.reason_json import ReasonSample, load_reason_json, read_reason_mask
from whatchanged.data.samples import CaptionSample
from whatchanged.data.set_files import listed_names, load_change_set
from whatchanged.data.set_types import KnownSet
from whatchanged.errors import DatasetError

Array = NDArray[np.uint8]

ANY_WISH = "any change"
"""What a set of change masks is asked for."""


@dataclass(frozen=True)
class AskedPair:
    """A pair, wishes about it, and where each is met.

    Attributes:
        name: Name of the pair.
        before: Picture, [3, S, S] uint8.
        after: Picture, [3, S, S] uint8.
        wishes: In words.
        masks: One a wish: 1 met, 0 not, 255 unknown, [S, S] uint8.
    """

    name: str
    before: Array
    after: Array
    wishes: tuple[str, ...]
    masks: tuple[Array, ...]


@dataclass(frozen=True)
class SplitOrigin:
    """Which pairs a split consists of, so that scores of different divisions are told apart.

    Attributes:
        name: Of the set, as `whatchanged data --list` has it; of pairs that were prepared, the
            folder they are from. None if it is not known.
        recipe: Name of the way the set was divided; None if it has none.
        sha256: Of the list of the split's pairs; None if there is no list.
    """

    name: str | None = None
    recipe: str | None = None
    sha256: str | None = None


class Pairs(Sequence[AskedPair]):
    """Pairs that are read when they are looked at.

    Args:
        sources: Samples of one pair each.
        size: Side to which they are brought, pixels; None leaves each at its own.
        names: One for each pair; None for those of the samples or their earlier pictures.
    """

    def __init__(
        self,
        sources: Sequence[CaptionSample | tuple[ReasonSample, ...]],
        size: int | None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.sources, self.size, self.names = sources, size, names

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.sources)

    def __getitem__(self, index: int) -> AskedPair:  # type: ignore[override]  # no slices
        """Read one pair.

        Raises:
            DatasetError: Its pictures cannot be read or are not square.
        """
        source = self.sources[index]
        first = source.before if isinstance(source, CaptionSample) else source[0].before
        size = picture_size(first)[0] if self.size is None else self.size
        if isinstance(source, CaptionSample):
            return _masked_pair(source, size)
        return _wished_pair(source, size, self.names[index] if self.names else first.name)


def open_pairs(
    data: Path | str, split: str, size: int | None, *, skip_broken: bool = False
) -> tuple[Pairs, tuple[str, ...]]:
    """Find the pairs of a split that have a mask; also returns what was left out.

    Args:
        data: Folder of a data set, or file of five-field samples.
        split: Of a folder.
        size: Side to which pairs are brought, pixels; None leaves each at its own.
        skip_broken: Leave out broken entries of a captioned set.

    Raises:
        DatasetError: No pair of the split has one, or the data are broken or missing.
    """
    data = Path(data)
    if data.is_file() or has_samples(data, split):
        file = data if data.is_file() else samples_file(data, split)
        pairs = by_pair(load_reason_json(file))
        return Pairs(pairs, size, _pair_names(pairs, file.parent)), ()
    left_out: tuple[str, ...] = ()
    known = known_masks(data)
    if known is not None:
        samples = load_change_set(data, known.name, split)
    else:
        captioned = load_levir_cc(data, split, skip_broken=skip_broken)
        samples, left_out = captioned.samples, captioned.broken
    masked = [sample for sample in samples if sample.mask is not None]
    if not masked:
        raise DatasetError(
            f"{data}: no pair of split '{split}' has a change mask",
            hint="masks are looked for in label/<split>/ and images/<split>/label/",
        )
    return Pairs(masked, size), left_out


def split_origin(data: Path | str, split: str) -> SplitOrigin:
    """Tell which set a split belongs to and how that was divided, as far as its files say.

    Args:
        data: Folder of a data set, or file of five-field samples, as in `open_pairs`.
        split: Of a folder; of a file its name tells.

    Raises:
        DatasetError: A data set whose annotation file is broken.
    """
    data = Path(data)
    if data.is_file():
        return _prepared_origin(data.parent, data.stem)
    if has_samples(data, split):
        return _prepared_origin(data, split)
    known = identify(data)
    if known is None:
        return SplitOrigin()
    if not known.lists or not (path := data / known.lists.format(split=split)).is_file():
        return SplitOrigin(known.name)
    recipe = noted_recipe(data)
    if known.name in RECIPES and len(listed_names(data, known, split)) == known.counts[split]:
        recipe = RECIPES[known.name]
    return SplitOrigin(known.name, recipe, hashlib.sha256(path.read_bytes()).hexdigest())


def _prepared_origin(folder: Path, split: str) -> SplitOrigin:
    record = read_record(folder)
    if record is None:
        return SplitOrigin()
    name = record["kind"]
    if name == "pairs":  # the splits and the name are those of the set they are from
        name = f"pairs of {Path(record['options'].get('source', '?')).name}"
    return SplitOrigin(name, noted_recipe(folder), record.get("sha256", {}).get(split))


def known_masks(data: Path | str) -> KnownSet | None:
    """Return the published set without captions that a folder holds; None of any other data."""
    data = Path(data)
    return identify(data) if data.is_dir() and not captions_files(data) else None


def _masked_pair(sample: CaptionSample, size: int) -> AskedPair:
    store = PictureStore.open([sample], size)
    assert store.mask is not None  # only samples with a mask are asked about
    return AskedPair(sample.name, store.before[0], store.after[0], (ANY_WISH,), (store.mask[0],))


def _wished_pair(samples: tuple[ReasonSample, ...], size: int, name: str) -> AskedPair:
    first = samples[0]
    width, height = picture_size(first.before)
    if width != height:
        raise DatasetError(f"{first.before} is {width} x {height} pixels, not square")
    before, after = (
        np.ascontiguousarray(resize_picture(read_picture(p), size).transpose(2, 0, 1))
        for p in (first.before, first.after)
    )
    masks = tuple(resize_classes(read_reason_mask(s.mask), size) for s in samples)
    return AskedPair(name, before, after, tuple(s.question for s in samples), masks)


def by_pair(samples: Sequence[ReasonSample]) -> list[tuple[ReasonSample, ...]]:
    """Group samples by their pair, so that each pair is seen once."""
    found: dict[tuple[Path, Path], list[ReasonSample]] = {}
    for sample in samples:
        found.setdefault((sample.before, sample.after), []).append(sample)
    return [tuple(group) for group in found.values()]


def _pair_names(pairs: Sequence[tuple[ReasonSample, ...]], folder: Path) -> list[str]:
    """Name pairs by what tells all of them apart.

    This is the file name of the earlier picture, or its path relative to the samples' folder,
    or the paths of both pictures.
    """
    plain = [pair[0].before.name for pair in pairs]
    befores, afters = (
        [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
        for paths in zip(*((pair[0].before, pair[0].after) for pair in pairs), strict=True)
    )
    both = [f"{before}, {after}" for before, after in zip(befores, afters, strict=True)]
    return next((n for n in (plain, befores) if len(set(n)) == len(n)), both)
