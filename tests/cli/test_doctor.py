from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from whatchanged import cli, doctor
from whatchanged.doctor import Finding, Report
from whatchanged.errors import CheckpointError
from whatchanged.models import weights


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))


def by_name(report: Report) -> dict[str, Finding]:
    return {finding.name: finding for finding in report.findings}


def test_it_sees_what_the_issue_asks_for() -> None:
    found = by_name(doctor.examine())
    for name in ("python", "cores", "memory", "cache", "torch", "numpy", "rasterio", "GDAL"):
        assert found[name].value
    assert {"java", "transformers", "hisem-small", "metrics-java"} <= set(found)
    assert found["torch"].value == importlib.metadata.version("torch")
    assert found["python"].value.startswith(".".join(map(str, sys.version_info[:3])))


def test_everything_that_is_not_ok_has_a_remedy() -> None:
    for finding in doctor.examine().findings:
        assert (finding.fix == "") == (finding.state == "ok"), finding


def test_a_missing_package_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = doctor._package(Requirement("shapely>=2.0"))
    assert (finding.state, finding.required) == ("missing", True)
    assert finding.fix == f"{sys.executable} -m pip install 'shapely>=2.0'"
    assert not Report((finding,)).ready


@pytest.mark.parametrize(
    ("installed", "state"), [("1.9", "problem"), ("2.0", "ok"), ("2.13.0+cpu", "ok")]
)
def test_a_package_that_is_too_old(
    installed: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    finding = doctor._package(Requirement("torch>=2.0"))
    assert finding.state == state
    assert finding.value.startswith(installed)


def test_extras_ask_only_for_what_they_add(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_java_metrics(name: str) -> str | None:
        return None if name == "pycocoevalcap" else "1.0"

    monkeypatch.setattr(doctor, "_installed", no_java_metrics)
    extras = {finding.name: finding for finding in doctor._extras()}
    assert extras["metrics-java"].state == "missing"
    assert extras["metrics-java"].fix.endswith("pip install 'whatchanged[metrics-java]'")
    assert extras["metrics-java"].value == "needs pycocoevalcap"
    assert extras["tensorboard"].state == "ok"
    assert "test" not in extras


def test_required_packages_have_no_extras_among_them() -> None:
    names = {requirement.name for requirement in doctor._requirements("")}
    assert {"torch", "rasterio", "typer"} <= names
    assert names.isdisjoint({"pytest", "pycocoevalcap", "tensorboard"})


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.11" 2024-04-16', 17),
        ('java version "1.8.0_292"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ('openjdk version "11.0.2-ea"', 11),
        ("command not understood", None),
    ],
)
def test_java_version(text: str, major: int | None) -> None:
    assert doctor.java_version(text) == major


def test_java_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    finding = doctor._java()
    assert finding.state == "missing"
    assert finding.fix == "apt-get install default-jre-headless"
    assert not finding.required


@pytest.mark.parametrize(("version", "state"), [("1.8.0_292", "problem"), ("17.0.1", "ok")])
def test_java_that_is_old(version: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object, **options: object) -> SimpleNamespace:
        return SimpleNamespace(stdout="", stderr=f'openjdk version "{version}"')

    monkeypatch.setattr("shutil.which", lambda name: "/opt/java")
    monkeypatch.setattr(subprocess, "run", run)
    assert doctor._java().state == state


def test_java_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object, **options: object) -> SimpleNamespace:
        raise subprocess.TimeoutExpired("java", 20)

    monkeypatch.setattr("shutil.which", lambda name: "/opt/java")
    monkeypatch.setattr(subprocess, "run", run)
    assert doctor._java().state == "problem"


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("1073741824\n", 1 << 30)])
def test_container_limit(text: str, limit: int | None, tmp_path: Path) -> None:
    file = tmp_path / "memory.max"
    file.write_text(text, encoding="ascii")
    assert doctor.container_limit(file) == limit


def test_no_container(tmp_path: Path) -> None:
    assert doctor.container_limit(tmp_path / "memory.max") is None


def test_formats_this_gdal_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import rasterio

    drivers = {"GTiff": "r", "PNG": "r", "JPEG": "r", "WEBP": "r"}
    monkeypatch.setattr(rasterio.Env, "drivers", lambda self: drivers)
    gdal, missing = doctor._formats()
    assert gdal.value == rasterio.__gdal_version__
    assert (missing.name, missing.state) == ("JPEG 2000", "missing")
    assert "rasterio" in missing.fix


def test_a_rasterio_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    (finding,) = doctor._formats()
    assert (finding.state, finding.required) == ("problem", True)


def test_little_memory_is_a_problem_but_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    few = SimpleNamespace(total=2_000_000_000, available=900_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    monkeypatch.setattr(doctor, "container_limit", lambda file: None)
    finding = doctor._memory()
    assert finding.state == "problem"
    assert finding.value == "2.0 GB, 0.9 GB free"
    assert Report((finding,)).ready


def test_a_container_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    many = SimpleNamespace(total=64_000_000_000, available=60_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: many)
    monkeypatch.setattr(doctor, "container_limit", lambda file: 1_000_000_000)
    assert doctor._memory().value == "1.0 GB, 1.0 GB free"
    assert doctor._memory().state == "problem"


def test_a_cache_that_cannot_be_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="ascii")
    finding = doctor._cache(file / "cache")
    assert finding.state == "problem"
    assert "WHATCHANGED_CACHE" in finding.fix


def test_a_cache_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert doctor._cache(tmp_path / "deep" / "cache").state == "ok"
    assert not (tmp_path / "deep").exists()


def status(name: str, state: str, source: str = "package") -> weights.WeightsStatus:
    return weights.WeightsStatus(name, "words", "free", source, None, state, None, "")  # type: ignore[arg-type]


def test_missing_default_weights_make_it_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(name: str) -> None:
        raise CheckpointError("gone", hint="install whatchanged again")

    monkeypatch.setattr(weights, "list_weights", lambda: [status("hisem-small", "missing")])
    monkeypatch.setattr(weights, "verify", verify)
    (finding,) = doctor._weights()
    assert finding.fix == "install whatchanged again"
    assert not Report((finding,)).ready


def test_other_weights_are_optional_and_can_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [status("clip-vit-b16", "missing", "hub"), status("x", "damaged", "hub")]
    monkeypatch.setattr(weights, "list_weights", lambda: missing)
    first, second = doctor._weights()
    assert first.fix == "whatchanged weights fetch clip-vit-b16"
    assert (first.state, second.state) == ("missing", "problem")
    assert Report((first, second)).ready


def test_text_lists_remedies_and_a_verdict() -> None:
    report = Report(
        (
            Finding("package", "torch", "2.13.0", required=True),
            Finding("program", "java", "for METEOR", "missing", fix="apt-get install jre"),
        )
    )
    text = doctor.as_text(report)
    assert "ok       torch  2.13.0" in text
    assert "java   apt-get install jre   (optional)" in text
    assert text.endswith("Ready to describe.")
    broken = Report((Finding("package", "torch", "", "missing", True, "pip install torch"),))
    assert "pip install torch\n" in doctor.as_text(broken)
    assert doctor.as_text(broken).endswith("something required is missing.")


@pytest.mark.parametrize("ready", [True, False])
def test_the_command_prints_json_and_leaves_with_its_verdict(
    ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("package", "torch", "2.13", "ok" if ready else "missing", True, "pip")
    monkeypatch.setattr(doctor, "examine", lambda: Report((finding,)))
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert result.exit_code == (0 if ready else 1)
    record = json.loads(result.stdout)
    assert record["ready"] is ready
    assert record["findings"][0]["name"] == "torch"
