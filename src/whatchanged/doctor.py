"""``whatchanged doctor``: what is installed, what is missing, and the command to get it.

Versions come from the packages' metadata, so that torch is never loaded and the answer
also comes where an import would fail.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from whatchanged.errors import WhatchangedError
from whatchanged.models import weights

State = Literal["ok", "missing", "problem"]

REQUIRED_WEIGHTS = "hisem-small"  # the default model of `describe`; it ships in the package
OLDEST_JAVA = 11
MEMORY_GB = 1.5  # what describing one pair may take
_HIDDEN_EXTRAS = {"test", "docs"}  # for those who work on the package, not with it


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: `system`, `package`, `format`, `program`, `weights` or `extra`.
        name: What was looked at.
        value: Version, amount or place; why it matters where it is missing.
        state: `ok`, `missing`, or `problem` for present but not usable.
        required: Whether describing a pair needs it.
        fix: The command or step that mends it; empty when the state is `ok`.
    """

    topic: str
    name: str
    value: str
    state: State = "ok"
    required: bool = False
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """All findings; ``ready`` tells whether a pair can be described."""

    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Nothing required is missing or broken."""
        return not any(f.required and f.state != "ok" for f in self.findings)


def examine() -> Report:
    """Look at this machine; starts no network connection and loads no model."""
    return Report(
        (
            *_system(),
            *_packages(),
            *_formats(),
            _java(),
            *_weights(),
            *_extras(),
        )
    )


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as ``{"ready": bool, "findings": [{...}]}``."""
    return {"ready": report.ready, "findings": [asdict(f) for f in report.findings]}


def as_text(report: Report) -> str:
    """Return the report as lines for people, the remedies at the end."""
    width = max(len(f.name) for f in report.findings)
    lines = [f"{f.state:<8} {f.name:<{width}}  {f.value}" for f in report.findings]
    fixes = [f for f in report.findings if f.state != "ok"]
    if fixes:
        lines += ["", "To get what is missing:"]
        lines += [
            f"  {f.name:<{width}}  {f.fix}{'' if f.required else '   (optional)'}" for f in fixes
        ]
    verdict = "Ready to describe." if report.ready else "Not ready: something required is missing."
    return "\n".join([*lines, "", verdict])


def _system() -> Iterator[Finding]:
    version = importlib.metadata.version("whatchanged")
    yield Finding("system", "whatchanged", version, required=True)
    yield Finding("system", "python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("system", "cores", str(available_cores()))
    yield _memory()
    yield _cache(weights.cache_dir())


def available_cores() -> int:
    """Return the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = container_limit(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    value = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    if free / 1e9 >= MEMORY_GB:
        return Finding("system", "memory", value)
    fix = f"close other programs: describing takes up to {MEMORY_GB} GB"
    return Finding("system", "memory", value, "problem", fix=fix)


def container_limit(file: Path) -> int | None:
    """Return the bytes a container may use according to its control group, None for no limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cache(folder: Path) -> Finding:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        fix = "set WHATCHANGED_CACHE to a folder you can write to"
        return Finding("system", "cache", f"{folder} cannot be written", "problem", fix=fix)
    free = shutil.disk_usage(existing).free / 1e9
    return Finding("system", "cache", f"{folder}, {free:.0f} GB free")


def _packages() -> Iterator[Finding]:
    for requirement in _requirements(extra=""):
        yield _package(requirement)


def _requirements(extra: str) -> list[Requirement]:
    """Return what the package needs, or what one of its extras adds."""
    declared = importlib.metadata.requires("whatchanged") or []
    found = [Requirement(text) for text in declared]
    if not extra:
        return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [r for r in found if r.marker is not None and r.marker.evaluate({"extra": extra})]


def _package(requirement: Requirement) -> Finding:
    version = _installed(requirement.name)
    install = f"{sys.executable} -m pip install {shlex.quote(str(_bare(requirement)))}"
    if version is None:
        return Finding("package", requirement.name, "", "missing", True, install)
    if not requirement.specifier.contains(version, prereleases=True):
        value = f"{version}, but {requirement.specifier} is needed"
        return Finding("package", requirement.name, value, "problem", True, install)
    return Finding("package", requirement.name, version, required=True)


def _bare(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _formats() -> Iterator[Finding]:
    reinstall = f"{sys.executable} -m pip install --force-reinstall --no-deps rasterio"
    try:
        import rasterio
    except Exception as error:  # a broken binary fails in more ways than ImportError
        yield Finding("format", "GDAL", f"rasterio: {error}", "problem", True, reinstall)
        return
    with rasterio.Env() as environment:
        drivers = set(environment.drivers())
    yield Finding("format", "GDAL", rasterio.__gdal_version__, required=True)
    from whatchanged.geo.source import FORMATS  # behind the check above: needs rasterio

    for driver in FORMATS.keys() - drivers:
        value = f"this GDAL was built without {driver}"
        yield Finding("format", FORMATS[driver], value, "missing", fix=reinstall)


def _java() -> Finding:
    purpose = "only for METEOR by its jar, extra metrics-java"
    program = shutil.which("java")
    if program is None:
        return Finding("program", "java", purpose, "missing", fix=_java_command())
    try:
        answer = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("program", "java", f"{program}: {error}", "problem", fix=_java_command())
    version = java_version(answer.stderr + answer.stdout)
    if version is None or version < OLDEST_JAVA:
        value = f"version {version or 'unknown'}, {OLDEST_JAVA} or newer is needed: {purpose}"
        return Finding("program", "java", value, "problem", fix=_java_command())
    return Finding("program", "java", f"{version} at {program}")


def java_version(text: str) -> int | None:
    """Return the major version in the output of ``java -version``; 8 for the old 1.8 style."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if match is None:
        return None
    first, second = match.groups()
    return int(second) if first == "1" and second else int(first)


def _java_command() -> str:
    if sys.platform == "darwin":
        return "brew install openjdk"
    if sys.platform == "win32":
        return "winget install EclipseAdoptium.Temurin.21.JRE"
    return "apt-get install default-jre-headless"


def _weights() -> Iterator[Finding]:
    for status in weights.list_weights():
        required = status.name == REQUIRED_WEIGHTS
        if status.state == "present":
            value = f"{_size(status.size)}, {status.path}"
            yield Finding("weights", status.name, value, required=required)
            continue
        state: State = "missing" if status.state == "missing" else "problem"
        if status.source == "package":  # cannot be fetched: the library knows what helps
            value, fix = status.problem or "not in this installation", _hint_of(status.name)
        else:
            value = status.problem or f"{_size(status.size)} from {status.source}"
            fix = f"whatchanged weights fetch {status.name}"
        yield Finding("weights", status.name, value, state, required, fix)


def _hint_of(name: str) -> str:
    try:
        weights.verify(name)
    except WhatchangedError as error:
        return error.hint
    return ""


def _size(n_bytes: int | None) -> str:
    return "unknown size" if n_bytes is None else f"{n_bytes / 1e6:.1f} MB"


def _extras() -> Iterator[Finding]:
    metadata = importlib.metadata.metadata("whatchanged")
    extras: Iterable[str] = metadata.get_all("Provides-Extra") or []
    for extra in sorted(set(extras) - _HIDDEN_EXTRAS):
        missing = [r.name for r in _requirements(extra) if _installed(r.name) is None]
        if not missing:
            yield Finding("extra", extra, "installed")
            continue
        fix = f"{sys.executable} -m pip install 'whatchanged[{extra}]'"
        yield Finding("extra", extra, f"needs {', '.join(missing)}", "missing", fix=fix)
