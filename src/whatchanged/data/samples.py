"""What a captioned data set is made of, whatever its layout on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from whatchanged.data.tokens import UNCHANGED_CAPTION, tokenise

Colour: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class LabelColours:
    """What the colours of a label mean.

    Args:
        classes: Colours, red, green and blue, each with the number of its class; 0 is
            unchanged, 255 unknown.
        others: Number of every other colour; None where the set has no other.
    """

    classes: tuple[tuple[Colour, int], ...]
    others: int | None = None

    @property
    def colours(self) -> frozenset[Colour]:
        """The colours that have a class."""
        return frozenset(colour for colour, _ in self.classes)


@dataclass(frozen=True)
class CaptionSample:
    """Two photographs of one place with captions of what changed between them.

    Args:
        name: File name without suffix, unique within its split.
        split: ``train``, ``val`` or ``test``.
        before: Earlier photograph.
        after: Later photograph.
        captions: Tokenised captions, none empty; none at all in a set with masks alone.
        changed: Whether anything changed; False where only the mask knows.
        mask: Change mask, 0 unchanged and anything else changed; None when unknown.
        classes_before: Land cover before at changed pixels; None when unknown.
        classes_after: Land cover after at changed pixels; None when unknown.
        gsd_m: Ground sampling distance of the files in metres per pixel; None when unknown.
        source: Collection the pair comes from.
        label_colours: What the colours of the mask and of the classes mean; None where they
            hold numbers.
    """

    name: str
    split: str
    before: Path
    after: Path
    captions: tuple[tuple[str, ...], ...]
    changed: bool
    mask: Path | None
    classes_before: Path | None
    classes_after: Path | None
    gsd_m: float | None
    source: str
    label_colours: LabelColours | None = None

    @property
    def targets(self) -> tuple[tuple[str, ...], ...]:
        """Captions to train on: an unchanged pair always gets the one fixed sentence."""
        return self.captions if self.changed else (tuple(tokenise(UNCHANGED_CAPTION)),)


@dataclass(frozen=True)
class CaptionReferences:
    """What people said of one pair; its photographs need not be at hand.

    Args:
        filename: File name of the pair, unique within its split.
        split: ``train``, ``val`` or ``test``.
        captions: Tokenised captions, at least one, none empty.
        changed: Whether anything changed.
    """

    filename: str
    split: str
    captions: tuple[tuple[str, ...], ...]
    changed: bool


@dataclass(frozen=True)
class CaptionDataset:
    """The samples of a data set and what had to be left out.

    Args:
        samples: Usable samples in the order of the annotation file.
        broken: One line per entry left out, naming file, entry and reason.
        root: Folder of the data set.
    """

    samples: tuple[CaptionSample, ...]
    broken: tuple[str, ...]
    root: Path

    def __len__(self) -> int:
        """Return the number of usable samples."""
        return len(self.samples)

    def of_split(self, split: str) -> tuple[CaptionSample, ...]:
        """Return the samples of one split, in order."""
        return tuple(sample for sample in self.samples if sample.split == split)
