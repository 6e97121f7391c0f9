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
    files `NAME_before.*` and `NAME_after.*` (or `_A`, `_B`). A CSV file has the columns `before`
    and `after`; relative paths are relative to it. Hidden files are left out.

    Raises:
        InputError: Neither, no pairs, photographs whose other half is missing, or two of one
            name.
    """
    path = Path(path)
    if path.is_dir():
        pairs = _folder_pairs(path)
    elif path.suffix.lower() == ".csv" and path.is_file():
        pairs = _csv_pairs(path)
    else:
        what = "is neither a folder nor a CSV list of pairs" if path.exists() else "does not exist"
        raise InputError(
            f"{path} {what}",
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
        if before or after:
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
    """Return the photographs of a folder by their name without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in PICTURES or path.is_dir():
            continue
        first = found.setdefault(path.stem, path)
        if first != path:
            raise InputError(
                f"{folder}: {first.name} and {path.name} have one name",
                hint="keep one of them, or list the pairs in a CSV file",
            )
    return found


def _csv_pairs(path: Path) -> list[PairPaths]:
    pairs = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            for row in rows:
                before, after = row.get("before"), row.get("after")
                if not before or not after:
                    raise InputError(
                        f"{path}, line {rows.line_num}: no 'before' or no 'after'",
                        hint="the first line names the columns: before,after",
                    )
                pairs.append(PairPaths(path.parent / before, path.parent / after))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as CSV: {error}", hint="save it as CSV in UTF-8"
        ) from error
    return pairs
