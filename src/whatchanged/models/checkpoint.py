"""Checkpoint folders: plain JSON, safetensors and a manifest of sha256; never a pickle.

A checkpoint is a folder of

- `config.json`: model family and configuration;
- `model.safetensors`: the tensors;
- one JSON file per extra, such as `vocabulary.json` and `preprocessing.json`;
- `card.md`, if there is a model card;
- `manifest.json`: format version, size and sha256 of every file above, and its own sha256.

It is written beside its place, the manifest last, and then renamed into it. A process killed
at any moment leaves the old checkpoint or the new one, never a mixture that verifies. torch
is imported only where tensors are read or written, so verifying costs no torch import.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whatchanged.errors import CheckpointError
from whatchanged.files import replacing_folder, set_aside, sync_folder

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "whatchanged-checkpoint"
FORMAT_VERSION = 1
MANIFEST, CONFIG, TENSORS, CARD = "manifest.json", "config.json", "model.safetensors", "card.md"

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LIMIT = 1 << 20  # bytes; a manifest of ours has under a thousand
_DAMAGED = "copy or fetch the checkpoint again, or use an earlier one"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_PROGRAMS = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".cmd", ".ps1"}


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of one file: sha256 in lower-case hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The files of a checkpoint, and one sha256 over all of it that names the checkpoint."""

    files: dict[str, FileRecord]
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Attributes:
        family: Model family, such as `hisem`.
        config: Configuration as plain values (tuples come back as lists).
        tensors: Tensors by name, on the CPU, in the type they are stored in.
        extras: JSON values by name, such as `vocabulary` and `preprocessing`.
        manifest: Files and sha256; `manifest.sha256` identifies the checkpoint.
        card: Model card in Markdown; empty if there is none.
    """

    family: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    extras: dict[str, Any]
    manifest: Manifest
    card: str = ""


def save_checkpoint(
    folder: str | Path,
    *,
    family: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    extras: Mapping[str, Any],
    half: bool = False,
    card: str = "",
) -> None:
    """Write a checkpoint folder atomically; one already there stays until the new is complete.

    Args:
        folder: Where the checkpoint will be. One writer at a time.
        family: Model family, such as `hisem`.
        config: Configuration as plain values.
        tensors: Tensors by name; any device. Tensors that share memory are stored twice.
        extras: JSON values by name, each stored as `<name>.json`.
        half: Store floating-point tensors as float16; else every tensor is stored exactly.
        card: Model card in Markdown.

    Raises:
        CheckpointError: A value that JSON cannot hold, a tensor beyond the range of float16,
            a folder that holds something other than a checkpoint, a disk that is full.
    """
    target = Path(folder).resolve()
    texts = _encode_texts(target, family, config, extras, card)
    _check_replaceable(target)
    try:
        with replacing_folder(target) as part:
            for name, data in texts.items():
                (part / name).write_bytes(data)
            _write_tensors(part / TENSORS, tensors, half)
            files = {name: _record(part / name) for name in sorted([*texts, TENSORS])}
            for name in files:
                _sync(part / name)
            (part / MANIFEST).write_bytes(_manifest_bytes(files))
            _sync(part / MANIFEST)
            sync_folder(part)
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"checkpoint {folder} cannot be written: {reason}",
            hint="check free space and permissions; the checkpoint that was there is unchanged",
        ) from error


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Verify a checkpoint folder, then read it.

    Raises:
        CheckpointError: As `verify_checkpoint`; also a file whose content is not what its
            name says.
    """
    import safetensors
    import safetensors.torch

    place = _settled(Path(folder))
    manifest = _verify(place)
    head = _read_json(place / CONFIG)
    try:
        family, config = str(head["family"]), dict(head["config"])
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{place / CONFIG} lacks 'family' and 'config'", hint=_DAMAGED
        ) from error
    try:
        tensors = safetensors.torch.load_file(place / TENSORS)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{place / TENSORS} is not a safetensors file: {error}", hint=_DAMAGED
        ) from error
    names = [name for name in manifest.files if name.endswith(".json") and name != CONFIG]
    return Checkpoint(
        family=family,
        config=config,
        tensors=tensors,
        extras={name.removesuffix(".json"): _read_json(place / name) for name in names},
        manifest=manifest,
        card=(place / CARD).read_text(encoding="utf-8") if CARD in manifest.files else "",
    )


def verify_checkpoint(folder: str | Path) -> Manifest:
    """Check every file of a checkpoint folder against its manifest; needs no torch.

    Raises:
        CheckpointError: Names the file that is missing, damaged, a pickle or a program, a
            link out of the folder, or written by another format version.
    """
    return _verify(_settled(Path(folder)))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in lower-case hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(folder: Path) -> Manifest:
    try:
        return _verify_files(folder)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or folder} cannot be read: {error.strerror}",
            hint="check the permissions of the folder and the disk",
        ) from error


def _verify_files(folder: Path) -> Manifest:
    manifest = _read_manifest(folder)
    _refuse_foreign(folder)
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing", hint=_DAMAGED)
        size = path.stat().st_size
        if size != record.size:
            raise CheckpointError(
                f"{path} is damaged: {size} bytes instead of {record.size}", hint=_DAMAGED
            )
        if file_sha256(path) != record.sha256:
            raise CheckpointError(f"{path} is damaged: its sha256 does not match", hint=_DAMAGED)
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "is not a folder"
        raise CheckpointError(
            f"{folder} is no checkpoint: it {what}",
            hint="name a folder written by whatchanged; an unfinished one cannot be used",
        )
    with path.open("rb") as stream:
        raw = stream.read(_MANIFEST_LIMIT + 1)
    damaged = CheckpointError(f"{path} is damaged", hint=_DAMAGED)
    try:
        values = json.loads(raw) if len(raw) <= _MANIFEST_LIMIT else None
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(values, dict):
        raise damaged
    _check_format(path, values)
    try:
        files = {
            str(name): FileRecord(str(record["sha256"]), int(record["size"]))
            for name, record in values["files"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged from error
    for name, record in files.items():
        _check_name(path, name)
        if not _SHA256.fullmatch(record.sha256):
            raise damaged
    if raw != _manifest_bytes(files):  # any other spelling, also of white space, is damage
        raise damaged
    for name in (CONFIG, TENSORS):
        if name not in files:
            raise CheckpointError(f"{path} does not list {name}", hint=_DAMAGED)
    return Manifest(files, values["sha256"])


def _check_format(path: Path, values: dict[str, Any]) -> None:
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not the manifest of a checkpoint of whatchanged",
            hint="name a folder written by whatchanged",
        )
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}; this program reads {FORMAT_VERSION}",
            hint="upgrade whatchanged, or write the checkpoint with this version",
        )


def _check_name(path: Path, name: str) -> None:
    """Only plain names of files in the folder itself: no separator, no `..`, no drive."""
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise CheckpointError(
            f"{path} lists {name!r}, which is no plain file name",
            hint="do not use this checkpoint: it points outside its folder",
        )
    _check_suffix(path, name)


def _check_suffix(path: Path, name: str) -> None:
    if Path(name).suffix.lower() in _PICKLES | _PROGRAMS:
        raise CheckpointError(
            f"{name} in {path} is refused: pickles and programs have no place in a checkpoint",
            hint="remove the file if you trust the rest; tensors belong in model.safetensors",
        )


def _refuse_foreign(folder: Path) -> None:
    root = folder.resolve()
    for place, folders, files in os.walk(folder):  # does not follow links to folders
        for name in sorted(folders + files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise CheckpointError(
                    f"{path} is refused: a link that leaves the checkpoint",
                    hint="replace the link by the file it points to",
                )
            _check_suffix(Path(place), name)


def _encode_texts(
    target: Path, family: str, config: Mapping[str, Any], extras: Mapping[str, Any], card: str
) -> dict[str, bytes]:
    values: dict[str, Any] = {CONFIG: {"family": family, "config": dict(config)}}
    for name, extra in extras.items():
        file = f"{name}.json"
        if file in (CONFIG, MANIFEST):
            raise CheckpointError(f"{target}: '{name}' cannot be the name of an extra")
        _check_name(target / MANIFEST, file)
        values[file] = extra
    texts = {CARD: card.encode()} if card else {}
    for file, value in values.items():
        try:
            text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
            texts[file] = text.encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{target / file} cannot be written: {error}") from error
    return texts


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], half: bool) -> None:
    import safetensors.torch
    import torch

    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu()
        if half and plain.is_floating_point():
            full, plain = plain, plain.to(torch.float16)
            if not torch.equal(torch.isfinite(full), torch.isfinite(plain)):
                raise CheckpointError(
                    f"tensor '{name}' does not fit into float16", hint="save with half=False"
                )
        plain = plain.contiguous()
        memory = plain.untyped_storage().data_ptr()
        stored[name] = plain.clone() if memory in seen else plain  # the format knows no sharing
        seen.add(memory)
    # save_file would make a file that only its owner can read.
    path.write_bytes(safetensors.torch.save(stored))


def _record(path: Path) -> FileRecord:
    return FileRecord(file_sha256(path), path.stat().st_size)


def _manifest_bytes(files: dict[str, FileRecord]) -> bytes:
    """Return the one spelling of a manifest; its own sha256 covers everything before it."""
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "files": {name: asdict(record) for name, record in files.items()},
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=2).encode() + b"\n"


def _check_replaceable(target: Path) -> None:
    """Replacing a folder deletes it, so it must be empty or hold a checkpoint and no more."""
    if not target.exists():
        return
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else {target.name}
    other = sorted(n for n in names if not n.endswith(".json") and n not in (TENSORS, CARD))
    if other or not target.is_dir() or (names and TENSORS not in names):
        what = f"it holds {other[0]}" if other else "it is no checkpoint"
        raise CheckpointError(
            f"{target} cannot be replaced by a checkpoint: {what}",
            hint="choose another folder, or empty this one",
        )


def _settled(folder: Path) -> Path:
    """Return where to read: a run killed between two renames left the old folder set aside."""
    previous = set_aside(folder.resolve())
    return previous if not folder.exists() and previous.is_dir() else folder


def _sync(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint=_DAMAGED) from error
