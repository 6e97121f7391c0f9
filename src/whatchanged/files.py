"""Files and folders that are complete or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and move it into place at the end.

    The name keeps the suffix, which some drivers insist on. What an error left half-written is
    taken away; `path` is then what it was.
    """
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, see `replacing`."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing_folder(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill, and move it into place at the end.

    What an error left half-written is taken away; `target` is then what it was.

    Args:
        target: Folder, which may exist; see `replace_folder`.
        shared: Other processes may fill the same one at the same time. Otherwise what a killed
            process left is taken away at the start.
    """
    own = f".{os.getpid()}" if shared else ""
    part = target.with_name(f".{target.name}{own}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        replace_folder(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(part: Path, target: Path) -> None:
    """Move a finished folder to `target`; what was there is set aside first and then removed.

    If the move fails, `target` is what it was. A process killed between the two renames leaves
    the old folder as `set_aside(target)`.
    """
    previous = set_aside(target)
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(target, previous)
        try:
            os.replace(part, target)
        except BaseException:
            os.replace(previous, target)
            raise
    else:
        os.replace(part, target)
    sync_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def set_aside(target: Path) -> Path:
    """Return where `replace_folder` keeps the old folder while it moves the new one."""
    return target.with_name(f".{target.name}.previous")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    if os.name == "posix":  # elsewhere folders cannot be opened, nor need be
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
