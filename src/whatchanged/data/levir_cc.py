"""Adapter for the LEVIR-CC layout, also used by LEVIR-MCI, WHU-CDC, SECOND-CC and others.

Folder::

    captions.json            or LevirCCcaptions.json, or the only *.json with "images"
    images/<split>/A/<file>  before        images/<split>/B/<file>  after
    label/<split>/<stem>.png change mask, optional; LEVIR-MCI and WHU-CDC have it in
                             images/<split>/label/<file> or images/<split>/label_rgb/<file>
    sem/<split>/{A,B}/<stem>.png           land cover before and after, optional

SECOND-CC has the same annotation file over ``<split>/{rgb,sem}/{A,B}/<file>``.

Annotation file: ``images[] {filename, split, filepath?, changeflag?, sentences[] {raw | tokens}}``
and, where known, ``source`` and ``gsd_m``. ``filepath`` names the folder below ``images``; in
most files it repeats the split.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from whatchanged.data.known_sets import SECOND_CC, missing
from whatchanged.data.samples import CaptionDataset, CaptionReferences, CaptionSample
from whatchanged.data.set_types import SPLITS, KnownSet
from whatchanged.data.tokens import UNCHANGED_CAPTION, tokenise
from whatchanged.errors import DatasetError, UsageError

KNOWN_FILES = (
    "captions.json",
    "LevirCCcaptions.json",
    "whuCCcaptions.json",
    "SECOND-CC-AUG.json",
)
_LAYOUT = (
    "expected is a folder with captions.json (or LevirCCcaptions.json) and "
    "images/{train,val,test}/{A,B}/"
)
_SKIP = "repair the entry, or leave broken entries out with --skip-broken (skip_broken=True)"


@dataclass(frozen=True)
class AnnotatedPair:
    """One entry of an annotation file.

    Args:
        references: Its captions.
        folder: Folder of its pictures below ``images``, in most files the split.
    """

    references: CaptionReferences
    folder: PurePosixPath


def load_levir_cc(
    root: Path | str,
    split: str | None = None,
    *,
    captions_file: Path | str | None = None,
    skip_broken: bool = False,
) -> CaptionDataset:
    """Read a data set in LEVIR-CC's layout and check that every picture is there.

    Args:
        root: Folder of the data set.
        split: ``train``, ``val`` or ``test``; None for all. Pictures of other splits need not
            be on disk.
        captions_file: Annotation file; None to find it in ``root``.
        skip_broken: Leave broken entries out and list them in ``broken`` instead of failing.

    Whether a pair changed is its ``changeflag``; where a file has none, a pair is unchanged
    if one of its captions is "the scene is the same as before". A ``gsd_m`` given as a range
    becomes its geometric mean, the value with the smallest worst-case ratio to the truth.

    Raises:
        DatasetError: No such data set, or the first broken entry, by index and file name.
        UsageError: A split that the layout does not have.
    """
    root = Path(root)
    if split is not None and split not in SPLITS:
        raise UsageError(f"split '{split}' is unknown", hint=f"one of {', '.join(SPLITS)}")
    if not root.is_dir():
        raise missing(root, "does not exist")
    path = Path(captions_file) if captions_file is not None else find_captions_file(root)
    images, collection = _read_annotations(path)

    samples: list[CaptionSample] = []
    broken: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for index, entry in enumerate(images):
        where = f"{path}: images[{index}]"
        try:
            name, entry_split = _identity(entry, where)
            if split is not None and entry_split != split:
                continue
            first = seen.setdefault((entry_split, Path(name).stem), index)
            if first != index:
                raise DatasetError(f"{where} ({name}) repeats the name of images[{first}]")
            samples.append(_sample(entry, f"{where} ({name})", root, collection))
        except DatasetError as error:
            if not skip_broken:
                raise DatasetError(error.message, hint=error.hint or _SKIP) from error
            broken.append(error.message)
    if not samples:
        what = f"split '{split}'" if split else "data set"
        raise DatasetError(f"{path}: {what} has no usable entry", hint="\n".join(broken[:5]))
    return CaptionDataset(tuple(samples), tuple(broken), root)


def load_references(
    path: Path | str, *, skip_broken: bool = False
) -> tuple[CaptionReferences, ...]:
    """Read the captions of all splits from an annotation file, without any photograph.

    Labels are read as by :func:`load_levir_cc`.

    Raises:
        DatasetError: The file is missing or no annotation file; or its first broken entry,
            unless they are to be skipped.
    """
    pairs, broken = list_annotated(path)
    if broken and not skip_broken:
        raise DatasetError(broken[0])
    return tuple(pair.references for pair in pairs)


def list_annotated(path: Path | str) -> tuple[tuple[AnnotatedPair, ...], tuple[str, ...]]:
    """Read the entries of an annotation file; return the good ones and why others are not.

    Raises:
        DatasetError: The file is missing or no annotation file.
    """
    path = Path(path)
    images, _ = _read_annotations(path)
    pairs: dict[tuple[str, str], AnnotatedPair] = {}
    broken = []
    for index, entry in enumerate(images):
        where = f"{path}: images[{index}]"
        try:
            name, split = _identity(entry, where)
            where = f"{where} ({name})"
            if (split, name) in pairs:
                raise DatasetError(f"{where} repeats a file name of split '{split}'")
            captions = _captions(entry, where)
            references = CaptionReferences(name, split, captions, _changed(entry, captions, where))
            folder = _folder(entry, split, where)
            pairs[split, name] = AnnotatedPair(references, folder)
        except DatasetError as error:
            broken.append(error.message)
    return tuple(pairs.values()), tuple(broken)


def captions_files(root: Path) -> tuple[Path, ...]:
    """Return the annotation files of a folder: those of known names, else any."""
    found = [root / name for name in KNOWN_FILES if (root / name).is_file()]
    return tuple(found or (path for path in sorted(root.glob("*.json")) if _has_images(path)))


def find_captions_file(root: Path, known: KnownSet | None = None) -> Path:
    """Find the annotation file of a data set folder.

    Args:
        root: Folder.
        known: The set that is expected, for the error to tell where it comes from.

    Raises:
        DatasetError: There is none, or more than one that could be meant.
    """
    found = captions_files(root)
    if not found:
        raise missing(root, "holds no annotation file", known)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DatasetError(
            f"several annotation files in {root}: {names}", hint="name one with captions_file"
        )
    return found[0]


def _has_images(path: Path) -> bool:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("images"), list)


def _read_annotations(path: Path) -> tuple[list[Any], str]:
    """Return the entries and the collection's name."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"annotation file {path} cannot be read: {error.strerror}", hint=_LAYOUT
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"annotation file {path} is not valid JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DatasetError(f"annotation file {path} has no list 'images'", hint=_LAYOUT)
    collection = data.get("dataset")
    return data["images"], collection if isinstance(collection, str) else path.parent.name


def _identity(entry: Any, where: str) -> tuple[str, str]:
    """Return file name and split of an entry, both safe to build paths from."""
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} is not an object")
    name = entry.get("filename")
    if not isinstance(name, str) or not name or name != PurePosixPath(name).name or "\\" in name:
        raise DatasetError(f"{where} has 'filename' {name!r}, which is not a plain file name")
    split = entry.get("split", entry.get("filepath"))
    if split not in SPLITS:
        raise DatasetError(f"{where} ({name}) has the unknown split {split!r}")
    return name, split


def _sample(entry: dict[str, Any], where: str, root: Path, collection: str) -> CaptionSample:
    name, split = _identity(entry, where)
    stem = Path(name).stem
    sem = root / "sem" / split
    folder = root / "images" / _folder(entry, split, where)
    labels = [
        root / "label" / split / f"{stem}.png",
        folder / "label" / name,
        folder / "label_rgb" / name,
    ]
    colours = None
    if (root / split / "rgb").is_dir():
        folder, sem, colours = root / split / "rgb", root / split / "sem", SECOND_CC.colours
        labels = [sem / "A" / name]  # which knows the changed pixels, as that of B does
    captions = _captions(entry, where)
    return CaptionSample(
        name=stem,
        split=split,
        before=_picture(folder / "A" / name, where),
        after=_picture(folder / "B" / name, where),
        captions=captions,
        changed=_changed(entry, captions, where),
        mask=_first_file(*labels),
        classes_before=_first_file(sem / "A" / f"{stem}.png"),
        classes_after=_first_file(sem / "B" / f"{stem}.png"),
        gsd_m=_gsd(entry.get("gsd_m"), where),
        source=str(entry.get("source") or collection),
        label_colours=colours,
    )


def _folder(entry: dict[str, Any], split: str, where: str) -> PurePosixPath:
    folder = entry.get("filepath") or split
    path = PurePosixPath(folder) if isinstance(folder, str) else None
    if path is None or path.is_absolute() or ".." in path.parts or "\\" in folder:
        raise DatasetError(f"{where} has 'filepath' {folder!r}, which is not a folder below images")
    return path


def _captions(entry: dict[str, Any], where: str) -> tuple[tuple[str, ...], ...]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise DatasetError(f"{where} has no captions")
    captions = []
    for number, sentence in enumerate(sentences):
        text = _sentence_text(sentence)
        words = tokenise(text) if text is not None else []
        if not words:
            raise DatasetError(f"{where} has no words in sentences[{number}]")
        captions.append(tuple(words))
    return tuple(captions)


def _sentence_text(sentence: Any) -> str | None:
    if not isinstance(sentence, dict):
        return None
    if isinstance(sentence.get("raw"), str):
        return str(sentence["raw"])
    tokens = sentence.get("tokens")
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    return None


def _changed(entry: dict[str, Any], captions: tuple[tuple[str, ...], ...], where: str) -> bool:
    if "changeflag" not in entry:
        return tuple(tokenise(UNCHANGED_CAPTION)) not in captions
    flag = entry["changeflag"]
    if flag not in (0, 1):
        raise DatasetError(f"{where} has 'changeflag' {flag!r}, which is neither 0 nor 1")
    return bool(flag)


def _picture(path: Path, where: str) -> Path:
    if not path.is_file():
        raise DatasetError(f"{where}: picture {path} does not exist")
    return path


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _gsd(value: Any, where: str) -> float | None:
    """Read metres per pixel: a number, text with a number, or a range such as "0.5-2"."""
    if value is None or value == "":
        return None
    try:
        ends = [float(part) for part in str(value).split("-")]
    except ValueError:
        ends = []
    if not 1 <= len(ends) <= 2 or not all(0 < end < math.inf for end in ends):
        raise DatasetError(f"{where} has 'gsd_m' {value!r}, which is not a length or a range")
    return math.prod(ends) ** (1 / len(ends))
