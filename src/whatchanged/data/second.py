"""SECOND (semantic change detection): palettes decoded, wishes per pair and class.

The folder holds ``im1``, ``im2``, ``label1`` and ``label2`` (or ``label1_rgb`` and
``label2_rgb``), with one picture of the same name in each, or such folders for training and test
(their names hold ``train`` and ``test``). Labels exist only where the pair changed; colours are
those of `PALETTE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from whatchanged import console
from whatchanged.answers import Direction, Understood
from whatchanged.data.mask_sets import list_pictures
from whatchanged.data.pictures import UNKNOWN, read_picture
from whatchanged.data.prepared import (
    Faults,
    Prepared,
    finished,
    new_folder,
    write_record,
    write_splits,
)
from whatchanged.data.reason_json import ReasonSample, write_reason_json
from whatchanged.data.splits import shuffled, split_randomly
from whatchanged.data.transitions import CLASS_NUMBERS, presence, wish_masks
from whatchanged.data.wish_samples import BANK_SPLIT, Bank, WishedPair, WishWriter
from whatchanged.data.wishes import load_wishes
from whatchanged.errors import DatasetError, UsageError

Rule = Literal["before", "after", "either"]
DIRECTIONS: dict[Rule, Direction] = {
    "before": "disappeared",
    "after": "appeared",
    "either": "either",
}
"""What a class of the before map, of the after map, or of one of them did."""

CLASSES = ("water", "bare ground", "low vegetation", "tree", "building", "playground")
PALETTE: dict[tuple[int, int, int], int] = {
    (255, 255, 255): 0,
    (0, 0, 255): CLASS_NUMBERS["water"],
    (128, 128, 128): CLASS_NUMBERS["bare ground"],
    (0, 128, 0): CLASS_NUMBERS["low vegetation"],
    (0, 255, 0): CLASS_NUMBERS["tree"],
    (128, 0, 0): CLASS_NUMBERS["building"],
    (255, 0, 0): CLASS_NUMBERS["playground"],
}
"""Colours of SECOND and the class of each; white is unchanged."""

Files = tuple[Path, Path, Path, Path]
"""Before, after and their labels."""

_PARTS = ("im1", "im2", "label1", "label2")
_HINT = f"expected are {', '.join(_PARTS)} with one picture of the same name in each"


def prepare_second(
    source: Path,
    out: Path,
    *,
    rule: Rule = "before",
    seed: int = 0,
    force: bool = False,
    bank: Bank = load_wishes,
) -> Prepared:
    """Make samples of SECOND: ``{train,val,test}.jsonl`` with masks beside (design, 16).

    Args:
        source: Folder of the set; its pictures stay where they are.
        out: Folder to make.
        rule: Which map a class is looked up in; before is the paper's.
        seed: Of the splits and the wordings. Where the set has a test part, a tenth of the rest
            is validation; otherwise it is divided 8:1:1.
        force: Make it anew where it is finished.
        bank: Wordings by split.

    Raises:
        DatasetError: Missing halves, sizes that differ, colours the palette does not have:
            counted, the first ten named. Or `out` holds something else.
        UsageError: An unknown rule.
    """
    if rule not in get_args(Rule):
        raise UsageError(f"the rule '{rule}' is unknown", hint=", ".join(get_args(Rule)))
    options = {"source": str(source.resolve()), "rule": rule, "seed": seed}
    if not force and (done := finished(out, "second", options)):
        return done
    splits = _divide(_find_parts(source), seed)
    faults = Faults()
    with new_folder(out) as part:
        counts = {}
        for split, pairs in splits.items():
            wishes = bank(BANK_SPLIT[split])
            writer = WishWriter(part, split, wishes, seed)
            samples: list[ReasonSample] = []
            for name, files in console.track(pairs.items(), f"asking {split}", total=len(pairs)):
                pair = _read_pair(name, files, DIRECTIONS[rule], faults)
                if pair is not None:
                    samples += writer.ask(pair)
            write_reason_json(part / f"{split}.jsonl", samples)
            counts[split] = {"pairs": len(pairs), "samples": len(samples)}
        faults.check(str(source), hint=_HINT)
        names = {split: list(pairs) for split, pairs in splits.items()}
        sums = write_splits(part, f"second-{seed}", names)
        record = write_record(part, "second", options, counts=counts, sha256=sums)
    return Prepared(out, record, fresh=True)


def is_second(source: Path) -> bool:
    """Whether a folder holds what only SECOND has: ``im1``, or parts with it."""
    return any((folder / "im1").is_dir() for folder in (source, *source.glob("*")))


def decode_palette(colours: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """Turn a label picture [H, W, 3] into classes [H, W].

    Returns:
        Classes of `PALETTE`, 255 at colours that it does not have, and how many pixels have such.
    """
    packed = colours.astype(np.int32) @ np.array([65536, 256, 1])  # [H, W]
    classes = np.full(packed.shape, UNKNOWN, np.uint8)
    for (red, green, blue), number in PALETTE.items():
        classes[packed == red * 65536 + green * 256 + blue] = number
    return classes, int((classes == UNKNOWN).sum())


def _find_parts(source: Path) -> dict[str, dict[str, Files]]:
    """List the pairs of each part by name; the part is ``all`` where there is only one."""
    if not source.is_dir():
        raise DatasetError(f"folder {source} does not exist", hint=_HINT)
    if (source / "im1").is_dir():
        return {"all": _list_pairs(source)}
    folders = [f for f in sorted(source.iterdir()) if (f / "im1").is_dir()]
    parts: dict[str, dict[str, Files]] = {}
    for part in ("train", "test"):
        found = [folder for folder in folders if part in folder.name.lower()]
        if len(found) > 1:
            raise DatasetError(f"{found[0]} and {found[1]} both look like the {part} part")
        if found:
            parts[part] = _list_pairs(found[0])
    if not parts:
        raise DatasetError(f"{source} has no folder im1", hint=_HINT)
    return parts


def _list_pairs(root: Path) -> dict[str, Files]:
    folders = []
    for part in _PARTS:
        rgb = root / f"{part}_rgb"  # kept beside labels that others have turned into indices
        folders.append(rgb if rgb.is_dir() else root / part)
    files = [list_pictures(folder) for folder in folders]
    faults = Faults()
    for name in sorted(set().union(*files)):
        missing = [f.name for f, found in zip(folders, files, strict=True) if name not in found]
        if missing:
            faults.add(f"'{name}' has no picture in {', '.join(missing)}")
    faults.check(str(root), hint=_HINT)
    return {
        name: (files[0][name], files[1][name], files[2][name], files[3][name])
        for name in sorted(files[0])
    }


def _divide(parts: Mapping[str, dict[str, Files]], seed: int) -> dict[str, dict[str, Files]]:
    if "all" in parts:
        lists = split_randomly(list(parts["all"]), seed)
        return {s: {n: parts["all"][n] for n in names} for s, names in lists.items()}
    train = parts.get("train", {})
    held = set(shuffled(list(train), seed)[: len(train) // 10])
    return {
        "train": {name: files for name, files in train.items() if name not in held},
        "val": {name: files for name, files in train.items() if name in held},
        "test": parts.get("test", {}),
    }


def _read_pair(name: str, files: Files, direction: Direction, faults: Faults) -> WishedPair | None:
    """Read a pair and find which classes it meets; None, and faults, if it is broken."""
    try:
        before, after, *labels = (read_picture(path) for path in files)
    except DatasetError as error:
        faults.add(error.message)
        return None
    shapes = [pixels.shape[:2] for pixels in (before, after, *labels)]
    if len(set(shapes)) > 1:
        told = ", ".join(f"{p} {w} x {h}" for p, (h, w) in zip(files, shapes, strict=True))
        faults.add(f"sizes differ: {told}")
        return None
    maps = []
    for path, label in zip(files[2:], labels, strict=True):
        classes, n_wrong = decode_palette(label)
        if n_wrong:
            where = tuple(np.argwhere(classes == UNKNOWN)[0])
            colour = tuple(int(value) for value in label[where])
            faults.add(f"{path} has {n_wrong} pixels of other colours, such as {colour}")
        maps.append(classes)
    return _wished(name, files, maps[0], maps[1], direction)


def _wished(
    name: str,
    files: Files,
    classes_before: NDArray[np.uint8],
    classes_after: NDArray[np.uint8],
    direction: Direction,
) -> WishedPair:
    changed = (classes_before != 0) | (classes_after != 0)
    meanings = [Understood((name,), direction) for name in CLASSES]
    masks = wish_masks(meanings, classes_before, classes_after, changed.astype(np.uint8))
    states = {m: presence(m, mask, changed=None, complete=True) for m, mask in masks.items()}
    return WishedPair(
        name,
        files[0],
        files[1],
        (changed.shape[0], changed.shape[1]),
        {m: masks[m] for m, state in states.items() if state == "present"},
        [m for m, state in states.items() if state == "absent"],
    )
