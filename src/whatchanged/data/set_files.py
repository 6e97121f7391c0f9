"""The files of a known data set, pair by pair, and the adapter of sets that have masks alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from whatchanged.data.known_sets import known_set, missing
from whatchanged.data.levir_cc import find_captions_file, list_annotated
from whatchanged.data.samples import CaptionReferences, CaptionSample
from whatchanged.data.set_types import KnownSet
from whatchanged.errors import DatasetError, UsageError

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class SetPair:
    """The files that one pair of a set should have; any of them may be missing.

    Attributes:
        split: `train`, `val` or `test`.
        name: File name without suffix.
        before: Earlier picture.
        after: Later picture.
        labels: One file for each of the set's folders of labels.
        references: Captions; None in a set without.
    """

    split: str
    name: str
    before: Path
    after: Path
    labels: tuple[Path, ...]
    references: CaptionReferences | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the pair."""
        return (self.before, self.after, *self.labels)


@dataclass(frozen=True)
class SetListing:
    """What a data set's folder should hold.

    Attributes:
        pairs: Pairs that an annotation file, a list or any one of the folders names.
        broken: Entries of the annotation file that name no pair, with the reason.
    """

    pairs: tuple[SetPair, ...]
    broken: tuple[str, ...] = ()


def list_set(root: Path, known: KnownSet) -> SetListing:
    """List the pairs of a data set and the files each should have.

    Raises:
        DatasetError: The folder does not exist or holds nothing of this set.
    """
    if not root.is_dir():
        raise missing(root, "does not exist", known)
    listing = _annotated(root, known) if known.kind == "captions" else _in_folders(root, known)
    if not listing.pairs and not listing.broken:
        raise missing(root, f"holds no pair of {known.title}", known)
    return listing


def load_change_set(root: Path | str, name: str, split: str) -> tuple[CaptionSample, ...]:
    """Read one split of a known set that has masks and no captions.

    Args:
        root: Folder of the data set.
        name: Which set it is, as `whatchanged data --list` names it.
        split: A split that the set has.

    Whether a pair changed is not decided here (`changed` is False): it is in the mask.

    Raises:
        UsageError: An unknown set, one with captions, or a split that the set does not have.
        DatasetError: The set or split is not there, or the first pair that is not complete.
    """
    root, known = Path(root), known_set(name)
    if known.kind != "masks":
        raise UsageError(f"{known.title} has captions", hint="read it with load_levir_cc")
    if split not in known.splits:
        raise UsageError(
            f"{known.title} has no split '{split}'", hint=f"one of {', '.join(known.splits)}"
        )
    pairs = [pair for pair in list_set(root, known).pairs if pair.split == split]
    if not pairs:
        raise missing(root, f"holds no pair of split '{split}' of {known.title}", known)
    present = Present()
    for pair in pairs:
        for path in pair.files:
            if path not in present:
                raise DatasetError(
                    f"{known.title}, split '{split}': {path} does not exist",
                    hint="`whatchanged data` lists everything that is missing",
                )
    return tuple(_sample(pair, known) for pair in pairs)


class Present:
    """Which files exist, with one look at each folder instead of one a file."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        if path.parent not in self._names:
            self._names[path.parent] = frozenset(_file_names(path.parent))
        return path.name in self._names[path.parent]


def label_folders(root: Path, known: KnownSet, split: str, folder: str) -> tuple[Path, ...]:
    """Return the folders of labels of a split, the ones that serve in their place included."""
    found = []
    for label in known.labels:
        path = root / label.folder.format(split=split, folder=folder)
        if label.other is not None and not path.is_dir():
            other = root / label.other[0].format(split=split, folder=folder)
            path = other if other.is_dir() else path
        found.append(path)
    return tuple(found)


def split_folder(root: Path, known: KnownSet, split: str) -> str:
    """Return the name of the folder that holds a split.

    It is the split's own or, where there is none, the only one with the split in its name.
    """
    if (root / split).is_dir():
        return split
    like = [name for name in sorted(_folder_names(root)) if split in name.lower()]
    return like[0] if len(like) == 1 and known.loose else split


def _sample(pair: SetPair, known: KnownSet) -> CaptionSample:
    return CaptionSample(
        name=pair.name,
        split=pair.split,
        before=pair.before,
        after=pair.after,
        captions=(),
        changed=False,
        mask=pair.labels[0],
        classes_before=pair.labels[0] if known.colours else None,
        classes_after=pair.labels[1] if known.colours else None,
        gsd_m=known.gsd_m,
        source=known.name,
        label_colours=known.colours,
    )


def _annotated(root: Path, known: KnownSet) -> SetListing:
    annotated, broken = list_annotated(find_captions_file(root, known))
    pairs = []
    for entry in annotated:
        references = entry.references
        split, folder = references.split, str(entry.folder)
        before, after = (
            root / template.format(split=split, folder=folder)
            for template in (known.before, known.after)
        )
        pairs.append(
            SetPair(
                split=split,
                name=Path(references.filename).stem,
                before=before / references.filename,
                after=after / references.filename,
                labels=tuple(
                    path / references.filename for path in label_folders(root, known, split, folder)
                ),
                references=references,
            )
        )
    return SetListing(tuple(pairs), broken)


def listed_names(root: Path, known: KnownSet, split: str) -> list[str]:
    """Return the names in the list of a split, suffixes dropped; none where there is no list."""
    path = root / known.lists.format(split=split)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DatasetError(f"list {path} cannot be read: {error}") from error
    return [Path(line.strip()).stem for line in lines if line.strip()]


def _in_folders(root: Path, known: KnownSet) -> SetListing:
    pairs: list[SetPair] = []
    for split in known.splits:
        folder = split_folder(root, known, split)
        before, after = (
            root / template.format(split=split, folder=folder)
            for template in (known.before, known.after)
        )
        if not (before.is_dir() or after.is_dir()):
            continue  # labels alone are no pairs: other sets have folders of that name too
        folders = (before, after, *label_folders(root, known, split, folder))
        held = [_by_stem(path) for path in folders]
        named = listed_names(root, known, split) if known.lists else set[str]().union(*held)
        for name in named if known.lists else sorted(named):
            suffix = next((found[name].suffix for found in held if name in found), ".png")
            files = [
                found.get(name, path / f"{name}{suffix}")
                for found, path in zip(held, folders, strict=True)
            ]
            pairs.append(SetPair(split, name, files[0], files[1], tuple(files[2:])))
    return SetListing(tuple(pairs))


def _by_stem(folder: Path) -> dict[str, Path]:
    names = sorted(_file_names(folder))
    return {Path(name).stem: folder / name for name in names if _is_picture(name)}


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURES and not name.startswith(".")


def _folder_names(root: Path) -> list[str]:
    return [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []


def _file_names(folder: Path) -> Iterable[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
