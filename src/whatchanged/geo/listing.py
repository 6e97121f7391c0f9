"""Which files make pairs: a folder or a CSV list, turned into paths without opening them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from whatchanged.errors import InputError

PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp")
FOLDERS = (("before", "after"), ("A", "B"))
SUFFIXES = (("_before", "_after"), ("_A", "_B"), ("-before", "-after"))


@dataclass(frozen=True)
class PairPaths:
    """The files of one pair."""

    before: Path
    after: Path


def find_pairs(path: str | Path) -> list[PairPaths]:
    """List the pairs of a folder or a CSV file, in order of their names or rows.

    A folder holds `before/` and `after/` (or `A/` and `B/`) with files of the same names, or
    files `NAME_before.*` and `NAME_after.*`. A CSV file has the columns `before` and `after`;
    relative paths are relative to it.

    Raises:
        InputError: Neither, no pairs, or photographs whose other half is missing.
    """
    path = Path(path)
    if path.is_dir():
        pairs = _folder_pairs(path)
    elif path.suffix.lower() == ".csv" and path.is_file():
        pairs = _csv_pairs(path)
    else:
        raise InputError(
            f"{path} is neither a folder nor a CSV list of pairs",
            hint="for one pair name both photographs: whatchanged describe BEFORE AFTER",
        )
    if not pairs:
        raise InputError(f"{path} holds no pairs", hint="; ".join(_LAYOUTS))
    return pairs


_LAYOUTS = (
    "folders before/ and after/ (or A/ and B/) with files of the same names",
    "files NAME_before.* and NAME_after.*",
    "a CSV file with the columns before and after",
)


def _folder_pairs(root: Path) -> list[PairPaths]:
    for first, second in FOLDERS:
        if (root / first).is_dir() and (root / second).is_dir():
            return _matched(_pictures(root / first), _pictures(root / second), root)
    files = _pictures(root)
    for first, second in SUFFIXES:
        before = {k.removesuffix(first): p for k, p in files.items() if k.endswith(first)}
        after = {k.removesuffix(second): p for k, p in files.items() if k.endswith(second)}
        if before and after:
            return _matched(before, after, root)
    return []


def _matched(before: dict[str, Path], after: dict[str, Path], root: Path) -> list[PairPaths]:
    odd = sorted(set(before) ^ set(after))
    if odd:
        raise InputError(
            f"{root}: {len(odd)} photographs have no other half, such as '{odd[0]}'",
            hint="both photographs of a pair need the same name",
        )
    return [PairPaths(before[name], after[name]) for name in sorted(before)]


def _pictures(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURES}


def _csv_pairs(path: Path) -> list[PairPaths]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from error
    pairs = []
    for number, row in enumerate(rows, start=2):
        if not row.get("before") or not row.get("after"):
            raise InputError(
                f"{path}, line {number}: no 'before' or no 'after'",
                hint="the first line names the columns: before,after",
            )
        pairs.append(PairPaths(path.parent / row["before"], path.parent / row["after"]))
    return pairs
