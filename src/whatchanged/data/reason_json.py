"""ReasonCD's samples: one JSON object each, with five fields (Table II).

``img1_path``, ``img2_path`` and ``mask_path`` name pictures, relative to the JSON file or
absolute; ``question`` is the wish, ``answer`` what the model should say. A file holds one
object, a list of them, or one a line; a folder holds such files. In a mask 0 says that the wish
is not met, 1 or 255 that it is, and 128 that nobody knows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whatchanged.data.pictures import FORMATS, UNKNOWN, read_classes
from whatchanged.data.prepared import Faults, write_file
from whatchanged.errors import DatasetError

FIELDS = ("img1_path", "img2_path", "mask_path", "question", "answer")
MASK_UNKNOWN = 128
"""Value in mask files where it is not known whether the wish is met."""

_HINT = f"a sample is a JSON object with {', '.join(FIELDS)}; paths are relative to its file"


@dataclass(frozen=True)
class ReasonSample:
    """A pair with one wish and its answer.

    Attributes:
        before: Earlier picture.
        after: Later picture, of the same size.
        mask: Where the wish is met, of the same size; see `read_reason_mask`.
        question: The wish.
        answer: What the model should say.
    """

    before: Path
    after: Path
    mask: Path
    question: str
    answer: str


def load_reason_json(path: Path | str) -> tuple[ReasonSample, ...]:
    """Read samples and check that their pictures are there and their masks fit.

    Args:
        path: A ``.json`` or ``.jsonl`` file, or a folder of them.

    Raises:
        DatasetError: Nothing to read, or entries that are wrong: the message counts the faults
            and lists the first ten by file, entry and field.
    """
    path = Path(path)
    faults = Faults()
    samples = []
    pictures = _Pictures(faults)
    n = 0
    for file in _files(path):
        for where, entry in _entries(file, faults):
            n += 1
            sample = _sample(entry, file.parent, where, faults)
            if sample is not None:
                pictures.check(sample, where)
                samples.append(sample)
    faults.check(f"{path}", hint=_HINT)
    if not n:
        raise DatasetError(f"{path} holds no samples", hint=_HINT)
    return tuple(samples)


def read_reason_mask(path: Path) -> NDArray[np.uint8]:
    """Read the mask of a sample: [H, W] uint8, 1 met, 0 not met, 255 unknown.

    Raises:
        DatasetError: A file that cannot be read, or a value that no mask has.
    """
    values = read_classes(path)
    odd = ~np.isin(values, (0, 1, MASK_UNKNOWN, 255))
    if odd.any():
        raise DatasetError(
            f"{path} has the value {int(values[odd][0])} at {int(odd.sum())} pixels",
            hint="masks hold 0, 1 or 255, and 128 where nothing is known",
        )
    mask: NDArray[np.uint8] = np.where(values == MASK_UNKNOWN, UNKNOWN, values != 0)
    return mask.astype(np.uint8)


def encode_reason_mask(wished: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn a mask of 0, 1 and 255 (unknown) into what files hold: 0, 255 and 128."""
    table = np.zeros(256, np.uint8)
    table[1], table[UNKNOWN] = 255, MASK_UNKNOWN
    return table[wished]


def write_reason_json(path: Path, samples: Sequence[ReasonSample]) -> None:
    """Write samples in one move: one a line if the suffix is ``.jsonl``, else as a list.

    Paths are written relative to the file's folder, so that it can move with its pictures.
    """
    base = path.parent.resolve()
    entries = [_entry(sample, base) for sample in samples]
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
    else:
        text = json.dumps(entries, indent=1) + "\n"
    write_file(path, text.encode())


def _entry(sample: ReasonSample, base: Path) -> dict[str, str]:
    paths = (sample.before, sample.after, sample.mask)
    relative = (Path(os.path.relpath(p.resolve(), base)).as_posix() for p in paths)
    return dict(zip(FIELDS, (*relative, sample.question, sample.answer), strict=True))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise DatasetError(f"{path} does not exist", hint=_HINT)
        return [path]
    # What a preparation says of itself is no sample.
    found = (f for f in path.iterdir() if f.suffix in (".json", ".jsonl"))
    return sorted(f for f in found if f.name != "prepared.json")


def _entries(file: Path, faults: Faults) -> Iterator[tuple[str, Any]]:
    """Yield place and value of every entry; what is no JSON is a fault."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        faults.add(f"{file}: {error}")
        return
    if file.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                where = f"{file}: line {number}"
                yield from ((where, entry) for entry in _parsed(line, where, faults))
        return
    for content in _parsed(text, str(file), faults):
        if isinstance(content, list):
            yield from ((f"{file}: entry {index}", e) for index, e in enumerate(content))
        else:
            yield str(file), content


def _parsed(text: str, where: str, faults: Faults) -> Iterator[Any]:
    try:
        yield json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        faults.add(f"{where}: is no JSON ({error})")


def _sample(entry: Any, folder: Path, where: str, faults: Faults) -> ReasonSample | None:
    if not isinstance(entry, dict):
        faults.add(f"{where}: is no JSON object")
        return None
    wrong = False
    for name in FIELDS:
        value = entry.get(name)
        if isinstance(value, str) and value.strip():
            continue
        wrong = True
        what = "is missing" if name not in entry else "is no text" if value != "" else "is empty"
        faults.add(f"{where}: {name} {what}")
    if wrong:
        return None
    before, after, mask = (folder / entry[name] for name in FIELDS[:3])
    return ReasonSample(before, after, mask, entry["question"].strip(), entry["answer"].strip())


class _Pictures:
    """Notes missing pictures, sizes that differ and wrong mask values; opens each file once."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._sizes: dict[Path, tuple[int, int] | str] = {}
        self._masks: dict[Path, str] = {}

    def check(self, sample: ReasonSample, where: str) -> None:
        found: dict[str, tuple[int, int]] = {}
        paths = (sample.before, sample.after, sample.mask)
        for name, path in zip(FIELDS[:3], paths, strict=True):
            if path not in self._sizes:
                self._sizes[path] = _size(path)
            size = self._sizes[path]
            if isinstance(size, str):
                self._faults.add(f"{where}: {name} {size}")
            else:
                found[name] = size
        if len(found) < len(paths):
            return
        if len(set(found.values())) > 1:
            told = ", ".join(f"{name} {w} x {h}" for name, (w, h) in found.items())
            self._faults.add(f"{where}: sizes differ: {told}")
            return
        if sample.mask not in self._masks:
            self._masks[sample.mask] = _mask_fault(sample.mask)
        if self._masks[sample.mask]:
            self._faults.add(f"{where}: mask_path {self._masks[sample.mask]}")


def _size(path: Path) -> tuple[int, int] | str:
    """Return width and height of a picture, or what is wrong with it."""
    if not path.is_file():
        return f"{path} does not exist"
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{path} cannot be read: {error}"


def _mask_fault(path: Path) -> str:
    try:
        read_reason_mask(path)
    except DatasetError as error:
        return error.message
    return ""
