"""What can be said of a published data set: the types of :mod:`whatchanged.data.known_sets`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from whatchanged.data.samples import Colour, LabelColours

SPLITS = ("train", "val", "test")


def greys(*values: int) -> frozenset[Colour]:
    """Return grey values as colours."""
    return frozenset((value, value, value) for value in values)


@dataclass(frozen=True)
class LabelRule:
    """What the pixels of a label may be.

    Attributes:
        text: The rule in words.
        palettes: Sets of colours, of which a whole label must use one; a label of one band
            counts as grey. Empty when the colours were not published.
        most: Number of colours a label may have at most.
    """

    text: str
    palettes: tuple[frozenset[Colour], ...] = ()
    most: int = 256


@dataclass(frozen=True)
class LabelFolder:
    """A folder of labels beside the pictures.

    Attributes:
        folder: Below the data set's root; `{folder}` is that of the split.
        rule: What its pixels may be.
        other: Folder and rule that serve in its place where it does not exist.
    """

    folder: str
    rule: LabelRule
    other: tuple[str, LabelRule] | None = None


@dataclass(frozen=True)
class KnownSet:
    """One published data set.

    Attributes:
        name: What the command calls it.
        title: What papers call it.
        kind: Captions in one annotation file, or masks alone.
        tree: The folder that is expected, as text.
        before: Folder of the earlier pictures; `{folder}` is that of the split.
        after: Folder of the later pictures.
        labels: Folders of labels, each with one file a pair: a mask; or land cover before and
            after, where there are `colours`.
        colours: What the colours of the labels mean: land cover at changed pixels.
        counts: Published pairs of each split of the set; None where not known.
        total: Published pairs of all splits; None where not known.
        captions: Published captions of all splits.
        words: Published number of different words in all captions.
        size: Side of the square pictures in pixels; None where sets of this layout differ.
        windows: Side of the windows its pictures are scored in, pixels; None where they are
            scored whole.
        ground: Ground sampling distance, as published.
        gsd_m: The same as one number in metres; of a range the geometric mean.
        annotation: Usual name of the annotation file.
        loose: Whether the folder of a split may have a longer name that holds the split's.
        lists: File that lists the names of a split, where one folder holds all splits.
        licence: Terms of use as far as they are known; empty for the user's own.
        source: Where it comes from; empty for the user's own.
        citation: Whom to cite; empty for the user's own.
        use: What this project uses it for.
        notes: What one must know before trusting a count or a mask.
    """

    name: str
    title: str
    kind: Literal["captions", "masks"]
    tree: str
    before: str
    after: str
    licence: str
    source: str
    citation: str
    use: str
    labels: tuple[LabelFolder, ...] = ()
    colours: LabelColours | None = None
    counts: Mapping[str, int | None] = field(
        default_factory=lambda: dict.fromkeys(SPLITS, None), hash=False
    )
    total: int | None = None
    captions: int | None = None
    words: int | None = None
    size: int | None = None
    windows: int | None = None
    ground: str = ""
    gsd_m: float | None = None
    annotation: str = ""
    loose: bool = False
    lists: str = ""
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the set has."""
        return tuple(self.counts)
