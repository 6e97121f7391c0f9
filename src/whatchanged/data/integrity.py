"""Which published set a folder holds, and whether all of it is there and as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whatchanged.data.known_sets import (
    CAPTIONED,
    KNOWN_SETS,
    LEVIR_CC,
    LEVIR_MCI,
    SECOND_CC,
    WHU_CDC,
)
from whatchanged.data.levir_cc import captions_files, find_captions_file, list_annotated
from whatchanged.data.pictures import picture_size, read_picture
from whatchanged.data.samples import Colour
from whatchanged.data.set_files import (
    Present,
    SetListing,
    SetPair,
    list_set,
    listed_names,
    split_folder,
)
from whatchanged.data.set_types import KnownSet, LabelRule
from whatchanged.errors import DatasetError

SHOWN = 10
"""Missing files and problems that are named; all of them are counted."""
SAMPLED = 12
"""Pairs of a split that are opened unless all are asked for."""


@dataclass(frozen=True)
class SplitCount:
    """Pairs of one split.

    Attributes:
        split: `train`, `val` or `test`.
        found: Pairs all of whose files are there.
        listed: Pairs that the annotation file, a list or any folder names.
        published: Pairs that the set was published with; None where not known.
    """

    split: str
    found: int
    listed: int
    published: int | None

    @property
    def complete(self) -> bool:
        """Whether every pair that should be there is."""
        expected = self.listed if self.published is None else self.published
        return self.found == self.listed == expected > 0


@dataclass(frozen=True)
class CaptionCount:
    """Captions of all splits.

    Attributes:
        captions: Number of captions.
        words: Number of different words.
        per_pair: Captions of a pair -> number of such pairs.
        changed: Number of pairs that changed.
    """

    captions: int
    words: int
    per_pair: dict[int, int]
    changed: int


@dataclass(frozen=True)
class Problems:
    """What is wrong, in at most :data:`SHOWN` lines.

    Attributes:
        shown: The first lines.
        count: Files or entries that are wrong, all of them.
        left_out: Lines that are not shown.
    """

    shown: tuple[str, ...]
    count: int
    left_out: int


@dataclass(frozen=True)
class IntegrityReport:
    """What a folder holds of a known set.

    Attributes:
        known: The set.
        root: Its folder.
        splits: Pairs of each split.
        captions: Captions; None in a set without.
        missing: Files that do not exist, relative to `root`; a folder that is not there is one
            entry with the number of files it should hold.
        broken: Entries of the annotation file that name no pair, and pictures or labels that
            cannot be read or are not as they should be.
        opened: Pairs that were opened.
    """

    known: KnownSet
    root: Path
    splits: tuple[SplitCount, ...]
    captions: CaptionCount | None
    missing: Problems
    broken: Problems
    opened: int

    @property
    def intact(self) -> bool:
        """Whether every split is complete and nothing that was opened is wrong."""
        complete = all(split.complete for split in self.splits)
        if self.captions is not None and all(split.published for split in self.splits):
            complete &= self.captions.captions == (self.known.captions or self.captions.captions)
        return complete and not self.missing.count and not self.broken.count


def identify(root: Path | str) -> KnownSet | None:
    """Tell which known set a folder holds, by its layout, counts and picture size.

    A captioned set with other counts than any published one is LEVIR-CC's, LEVIR-MCI's or
    WHU-CDC's by the name of its annotation file, and otherwise a set of the user's own.

    Raises:
        DatasetError: Several annotation files, or one that is broken.
    """
    root = Path(root)
    if not root.is_dir():
        return None
    if captions_files(root):
        return _captioned(root, find_captions_file(root))
    fitting = [known for known in KNOWN_SETS if known.kind == "masks" and _fits(root, known)]
    return fitting[0] if len(fitting) == 1 else None


def check(root: Path | str, known: KnownSet, *, every: bool = False) -> IntegrityReport:
    """Compare a folder with what is known of a set.

    Every file is looked for; of each split some pairs, spread evenly, are opened and their
    sizes and label colours compared with what the set should have.

    Args:
        root: Folder of the data set.
        known: The set it should hold.
        every: Open all pairs.

    Raises:
        DatasetError: The folder is missing or holds nothing of this set.
    """
    root = Path(root)
    listing = list_set(root, known)
    present = Present()
    complete = [pair for pair in listing.pairs if all(path in present for path in pair.files)]
    listed = Counter(pair.split for pair in listing.pairs)
    found = Counter(pair.split for pair in complete)
    splits = known.splits
    if not any(known.counts.values()):  # then only what is there can be compared
        splits = tuple(split for split in splits if listed[split])
    opened = complete if every else [p for s in splits for p in _spread(complete, s)]
    wrong = [line for pair in opened for line in _wrong(pair, known)]
    return IntegrityReport(
        known=known,
        root=root,
        splits=tuple(SplitCount(s, found[s], listed[s], known.counts[s]) for s in splits),
        captions=_captions(listing) if known.kind == "captions" else None,
        missing=_missing(root, listing.pairs, present),
        broken=_problems([*listing.broken, *wrong], len(listing.broken) + len(wrong)),
        opened=len(opened),
    )


def _captioned(root: Path, annotation: Path) -> KnownSet:
    if any((root / split / "rgb").is_dir() for split in SECOND_CC.splits):
        return SECOND_CC
    pairs, _ = list_annotated(annotation)
    counts = Counter(pair.references.split for pair in pairs)
    by_counts = [known for known in (LEVIR_CC, WHU_CDC) if dict(known.counts) == dict(counts)]
    by_name = [k for k in (LEVIR_CC, WHU_CDC, SECOND_CC) if k.annotation == annotation.name]
    known = (by_counts or by_name or [CAPTIONED])[0]
    if known is LEVIR_CC and any(
        (root / "images" / split / folder).is_dir()
        for split in LEVIR_CC.splits
        for folder in ("label", "label_rgb")
    ):
        return LEVIR_MCI
    return known


def _fits(root: Path, known: KnownSet) -> bool:
    """Whether a folder has the layout of a set with masks, and pictures of its size.

    Where lists name the splits, the layout is common to many sets: one list must have the
    published length, or all of them together.
    """
    if known.lists:
        lengths = {split: len(listed_names(root, known, split)) for split in known.splits}
        alike = [lengths[split] == known.counts[split] for split in known.splits]
        if not any(alike) and sum(lengths.values()) != known.total:
            return False
    for split in known.splits:
        folder = split_folder(root, known, split)
        before, after = (
            root / template.format(split=split, folder=folder)
            for template in (known.before, known.after)
        )
        if not (before.is_dir() and after.is_dir()):
            continue
        if known.size is None:
            return True
        first = next((path for path in sorted(before.iterdir()) if _side(path)), None)
        return first is None or _side(first) == known.size
    return False


def _side(path: Path) -> int:
    """Return the width of a picture, 0 for what is none."""
    try:
        return picture_size(path)[0]
    except DatasetError:
        return 0


def _spread(pairs: Sequence[SetPair], split: str) -> list[SetPair]:
    """Return at most :data:`SAMPLED` pairs of a split, spread evenly."""
    of_split = [pair for pair in pairs if pair.split == split]
    count = min(SAMPLED, len(of_split))
    return [of_split[index * len(of_split) // count] for index in range(count)]


def _wrong(pair: SetPair, known: KnownSet) -> list[str]:
    """Return what is wrong with the pixels of a pair, a line each."""
    lines = []
    sizes: dict[Path, tuple[int, ...]] = {}
    for number, path in enumerate(pair.files):
        try:
            pixels = read_picture(path)
        except DatasetError as error:
            lines.append(error.message)
            continue
        sizes[path] = pixels.shape[1::-1]
        if number >= 2:
            rule = _rule(known, number - 2, path)
            lines += _wrong_colours(pixels, rule, path)
    expected = (known.size, known.size) if known.size else next(iter(sizes.values()), ())
    for path, size in sizes.items():
        if size != expected:
            lines.append(f"{path} is {_by(size)} pixels, not {_by(expected)}")
    return lines


def _rule(known: KnownSet, number: int, path: Path) -> LabelRule:
    label = known.labels[number]
    if label.other is not None and path.parent.name != Path(label.folder).name:
        return label.other[1]
    return label.rule


def _wrong_colours(pixels: np.ndarray, rule: LabelRule, path: Path) -> list[str]:
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1])  # [H, W]
    values = np.unique(packed).tolist()
    colours = {(value >> 16, value >> 8 & 255, value & 255) for value in values}
    odd = min((colours - palette for palette in rule.palettes), key=len, default=set())
    if not odd and len(colours) <= rule.most:
        return []
    what = ", ".join(_colour(colour) for colour in sorted(odd or colours)[:4])
    more = " and others" if len(odd or colours) > 4 else ""
    return [f"{path} holds {what}{more}; a label of this set holds {rule.text}"]


def _colour(colour: Colour) -> str:
    return str(colour[0]) if len(set(colour)) == 1 else f"({', '.join(map(str, colour))})"


def _captions(listing: SetListing) -> CaptionCount:
    said = [pair.references for pair in listing.pairs if pair.references is not None]
    per_pair = Counter(len(references.captions) for references in said)
    words = {word for r in said for caption in r.captions for word in caption}
    return CaptionCount(
        captions=sum(number * pairs for number, pairs in per_pair.items()),
        words=len(words),
        per_pair=dict(sorted(per_pair.items())),
        changed=sum(references.changed for references in said),
    )


def _missing(root: Path, pairs: Iterable[SetPair], present: Present) -> Problems:
    absent = Counter[Path]()
    lines = []
    count = 0
    for pair in pairs:
        for path in pair.files:
            if path in present:
                continue
            count += 1
            if path.parent.is_dir():
                lines.append(_below(path, root))
            else:
                absent[path.parent] += 1
    folders = [f"{_below(path, root)}/ with {n:,} files" for path, n in sorted(absent.items())]
    return _problems([*folders, *lines], count)


def _problems(lines: Sequence[str], count: int) -> Problems:
    return Problems(tuple(lines[:SHOWN]), count, max(0, len(lines) - SHOWN))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
