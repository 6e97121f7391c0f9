"""Folders that a preparation fills: whole or not there, with a record of what was done.

``prepared.json`` is written last; a folder that has it is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whatchanged import __version__
from whatchanged.errors import DatasetError
from whatchanged.files import replacing_folder, write_bytes

RECORD = "prepared.json"
SUFFIXES = (".jsonl", ".json")
"""Of files of samples: one a line, or a list."""

_SHOWN = 10
_RECIPE = "# recipe "


@dataclass(frozen=True)
class Prepared:
    """What a preparation made.

    Attributes:
        folder: Where it is.
        record: Content of its ``prepared.json``: ``kind``, ``options`` and ``counts``, and the
            ``sha256`` of every split where the preparation chose the splits.
        fresh: Whether this call made it; False if it was there.
    """

    folder: Path
    record: dict[str, Any]
    fresh: bool


@dataclass
class Faults:
    """What is wrong with a data set, collected so that all of it is told at once."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Note one fault: file and reason."""
        self.lines.append(line)

    def check(self, what: str, hint: str = "") -> None:
        """Fail if there were faults.

        Raises:
            DatasetError: It counts the faults and lists the first ten.
        """
        if not self.lines:
            return
        n = len(self.lines)
        shown = "".join(f"\n  {line}" for line in self.lines[:_SHOWN])
        more = f"\n  and {n - _SHOWN} more" if n > _SHOWN else ""
        faults = "1 fault" if n == 1 else f"{n} faults"
        raise DatasetError(f"{what} has {faults}:{shown}{more}", hint=hint)


def finished(folder: Path, kind: str, options: Mapping[str, Any]) -> Prepared | None:
    """Return what an earlier run left in a folder; None if there is nothing.

    Raises:
        DatasetError: The folder holds something else, or the same made with other options.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    record = read_record(folder)
    if record is None:
        raise DatasetError(
            f"{folder} exists and was not made by `whatchanged prepare`",
            hint="choose another folder",
        )
    made = record["kind"], record["options"]
    if made != (kind, dict(options)):
        raise DatasetError(
            f"{folder} was prepared as {made[0]} with {made[1]}",
            hint="choose another folder, or replace it with --force",
        )
    return Prepared(folder, record, fresh=False)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's ``prepared.json``; None if it has none of ours."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known = isinstance(record["kind"], str) and isinstance(record["options"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if known else None


def has_samples(folder: Path, split: str) -> bool:
    """Tell whether a folder holds five-field samples of a split."""
    return bool(_samples_files(folder, split))


def samples_file(folder: Path, split: str) -> Path:
    """Return the file of a split's five-field samples in a prepared folder.

    Raises:
        DatasetError: It is not there.
    """
    found = _samples_files(folder, split)
    if not found:
        raise DatasetError(
            f"{folder} holds no {split}.jsonl", hint="make it with `whatchanged prepare`"
        )
    return found[0]


def _samples_files(folder: Path, split: str) -> list[Path]:
    places = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return [place for place in places if place.is_file()]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill; it becomes ``target`` when the block ends without an error.

    The folder lies beside ``target``, so that relative paths to other places stay true. What is
    there is replaced if it is empty or was prepared.

    Raises:
        DatasetError: ``target`` holds something else.
    """
    is_ours = target.is_dir() and ((target / RECORD).is_file() or not any(target.iterdir()))
    if target.exists() and not is_ours:
        raise DatasetError(f"{target} holds other things", hint="choose another folder")
    with replacing_folder(target, shared=True) as part:
        yield part


def write_record(
    folder: Path, kind: str, options: Mapping[str, Any], **values: Any
) -> dict[str, Any]:
    """Write ``prepared.json`` and return its content."""
    record = {"kind": kind, "options": dict(options), "whatchanged": __version__, **values}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_file(folder / RECORD, text.encode())
    return record


def write_splits(folder: Path, recipe: str, splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write ``splits/<split>.txt``, one name a line, and ``splits/sha256.txt``.

    The latter is in the format of ``sha256sum`` below a comment that names the recipe.

    Returns:
        sha256 of each list by split.
    """
    sums = {}
    for split, names in splits.items():
        content = "".join(f"{name}\n" for name in names).encode()
        write_file(folder / "splits" / f"{split}.txt", content)
        sums[split] = hashlib.sha256(content).hexdigest()
    lines = [f"{_RECIPE}{recipe}", *(f"{digest}  {split}.txt" for split, digest in sums.items())]
    write_file(folder / "splits" / "sha256.txt", ("\n".join(lines) + "\n").encode())
    return sums


def noted_recipe(folder: Path) -> str | None:
    """Return the recipe that `write_splits` noted in a folder; None if there is none."""
    try:
        first, *_ = (folder / "splits" / "sha256.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return None
    return first.removeprefix(_RECIPE) if first.startswith(_RECIPE) else None


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and move it into place; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write [H, W] or [H, W, 3] as PNG; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG", compress_level=6)
