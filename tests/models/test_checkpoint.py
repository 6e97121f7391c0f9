"""Checkpoints: exact round trips, every damage named, every kill survived (promise 5)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whatchanged.errors import CheckpointError
from whatchanged.models import checkpoint
from whatchanged.models.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)

FILES = (
    "card.md",
    "config.json",
    "manifest.json",
    "model.safetensors",
    "preprocessing.json",
    "vocabulary.json",
)
EXTRAS = {
    "vocabulary": ["<pad>", "a", "house", "größer"],
    "preprocessing": {"mean": [0.1, 0.2, 0.3], "gsd": 0.5, "input_size": 256},
}


def save(folder: Path, value: float = 1.0, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "family": "hisem",
        "config": {"preset": "hisem-small", "width": 256, "rate": 1e-4},
        "tensors": {"weight": torch.full((3, 2), value), "steps": torch.tensor(7)},
        "extras": EXTRAS,
        "card": "# A model\n",
    }
    save_checkpoint(folder, **{**arguments, **changes})


def value_of(folder: Path) -> float:
    return float(load_checkpoint(folder).tensors["weight"][0, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(folder)
    return folder


def test_round_trip(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.family == "hisem"
    assert loaded.config == {"preset": "hisem-small", "width": 256, "rate": 1e-4}
    assert loaded.extras == EXTRAS
    assert loaded.card == "# A model\n"
    assert loaded.tensors.keys() == {"weight", "steps"}
    assert loaded.tensors["steps"].dtype == torch.int64
    assert sorted([*loaded.manifest.files, "manifest.json"]) == sorted(FILES)
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert verify_checkpoint(folder) == loaded.manifest


def test_manifest_records_what_lies_on_disk(folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    assert values["format"] == "whatchanged-checkpoint"
    assert values["format_version"] == 1
    for name, record in values["files"].items():
        data = (folder / name).read_bytes()
        assert record == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@settings(max_examples=20, deadline=None)
@given(
    array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
def test_float32_is_exact(array: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("exact") / "model"
    save(folder, tensors={"x": torch.from_numpy(array.copy())})
    loaded = load_checkpoint(folder).tensors["x"]
    assert loaded.dtype == torch.float32
    assert loaded.numpy().tobytes() == array.tobytes()  # also for NaN and -0.0
    assert loaded.shape == array.shape


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.bool]
)
def test_other_types_are_kept(folder: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.0, 1.0, 3.0]).to(dtype)
    save(folder, tensors={"x": tensor})
    loaded = load_checkpoint(folder).tensors["x"]
    assert loaded.dtype == dtype
    assert torch.equal(loaded, tensor)


def test_half_rounds_floats_and_nothing_else(folder: Path) -> None:
    exact = torch.randn(64, generator=torch.Generator().manual_seed(0))
    save(folder, tensors={"x": exact, "ids": torch.arange(70_000)}, half=True)
    loaded = load_checkpoint(folder).tensors
    assert torch.equal(loaded["x"], exact.half())
    assert torch.equal(loaded["ids"], torch.arange(70_000))


def test_half_refuses_what_float16_cannot_hold(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="'big' does not fit into float16"):
        save(folder, tensors={"big": torch.tensor([1e6])}, half=True)
    assert value_of(folder) == 1.0  # the one that was there


def test_shared_transposed_and_training_tensors(folder: Path) -> None:
    table = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    save(folder, tensors={"embed": table, "output": table, "turned": table.t()})
    loaded = load_checkpoint(folder).tensors
    assert torch.equal(loaded["embed"], table.data)
    assert torch.equal(loaded["output"], table.data)
    assert torch.equal(loaded["turned"], table.data.t())
    assert not loaded["embed"].requires_grad


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "one")
    save(tmp_path / "two")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# --- damage ---------------------------------------------------------------------------------


def copy_of(saved: Path, factory: pytest.TempPathFactory) -> Path:
    copy = factory.mktemp("copy") / "model"
    shutil.copytree(saved, copy)
    return copy


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed_and_named(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    copy = copy_of(saved, tmp_path_factory)
    content = bytearray((copy / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    (copy / name).write_bytes(content)
    for read in (verify_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            read(copy)
        assert name in caught.value.message
        assert caught.value.hint


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    path = folder / "manifest.json"
    good = path.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 32  # upper case to lower, blank to NUL: what a lenient reader lets pass
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            verify_checkpoint(folder)
    path.write_bytes(good)
    verify_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["empty", "half", "last byte", "one more", "gone", "folder"])
def test_truncated_longer_or_missing(folder: Path, name: str, change: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if change == "folder":
        path.mkdir()
    elif change != "gone":
        length = {"empty": 0, "half": len(content) // 2, "last byte": len(content) - 1}
        path.write_bytes((content + b"\n")[: length.get(change, len(content) + 1)])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert name in caught.value.message


def test_swapped_files_are_noticed(folder: Path) -> None:
    one, two = folder / "vocabulary.json", folder / "preprocessing.json"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"(vocabulary|preprocessing)\.json is damaged"):
        load_checkpoint(folder)


# --- foreign and hostile folders ------------------------------------------------------------


def forge(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the manifest as somebody would who knows the format, checksum included."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["sha256"]
    edit(values)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**values, "sha256": digest}, indent=2) + "\n")


def record_of(path: Path) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
    }


def test_forging_alone_changes_nothing(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    forge(folder, lambda values: None)
    assert (folder / "manifest.json").read_bytes() == before  # so the tests below test the check


@pytest.mark.parametrize("name", ["model.bin", "a.pt", "b.PTH", "c.pkl", "run.py", "lib.so"])
@pytest.mark.parametrize("listed", [False, True])
def test_pickles_and_programs_are_refused(folder: Path, name: str, listed: bool) -> None:
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    if listed:
        record = record_of(folder / name)
        forge(folder, lambda values: values["files"].update({name: record}))
    with pytest.raises(CheckpointError, match=f"{name} .*is refused"):
        load_checkpoint(folder)


def test_a_pickle_in_a_subfolder_is_refused(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt"):
        load_checkpoint(folder)


def test_a_harmless_file_beside_is_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("good one")
    assert value_of(folder) == 1.0


@pytest.mark.parametrize(
    "name",
    ["../secret.json", "/etc/secret.json", "..", ".hidden.json", "sub/x.json", "a\\b.json", "C:x"],
)
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret.json").write_text("{}")
    record = record_of(folder.parent / "secret.json")
    forge(folder, lambda values: values["files"].update({name: record}))
    with pytest.raises(CheckpointError, match="no plain file name"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "unlisted.txt"])
def test_links_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    outside = folder.parent / "outside.json"
    outside.write_bytes((folder / "config.json").read_bytes())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(CheckpointError, match=f"{name} is refused: a link"):
        load_checkpoint(folder)


def test_a_link_to_the_folder_is_fine(folder: Path) -> None:
    link = folder.parent / "best"
    link.symlink_to(folder, target_is_directory=True)
    assert value_of(link) == 1.0
    save(link, 2.0)
    assert value_of(folder) == 2.0
    assert link.is_symlink()


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "vocabulary.json").unlink()
    os.mkfifo(folder / "vocabulary.json")
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_format_versions_are_refused(folder: Path, version: object) -> None:
    forge(folder, lambda values: values.update(format_version=version))
    with pytest.raises(CheckpointError, match="format version") as caught:
        load_checkpoint(folder)
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": "a web app"}', "[" * 100_000, " " * (1 << 20) + "{}"]
)
def test_a_foreign_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_manifest_must_list_the_essentials(folder: Path, name: str) -> None:
    forge(folder, lambda values: values["files"].pop(name))
    with pytest.raises(CheckpointError, match=f"does not list {name}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{}"),
        ("config.json", b"[1]"),
        ("vocabulary.json", b"[1,"),
        ("model.safetensors", b"not tensors"),
        ("model.safetensors", b"\xff" * 64),
    ],
)
def test_well_signed_nonsense_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    record = record_of(folder / name)
    forge(folder, lambda values: values["files"].update({name: record}))
    verify_checkpoint(folder)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent is no checkpoint: it is not a folder"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        load_checkpoint(tmp_path)


# --- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"x": object()}},
        {"config": {"x": float("nan")}},
        {"extras": {"vocabulary": {1, 2}}},
        {"extras": {"../up": 1}},
        {"extras": {"config": 1}},
        {"extras": {"manifest": 1}},
    ],
)
def test_values_that_cannot_be_stored(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        save(folder, 2.0, **changes)
    assert value_of(folder) == 1.0
    assert os.listdir(folder.parent) == ["model"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"it holds thesis\.tex"):
        save(home)
    assert (home / "thesis.tex").read_text() == "years of work"
    (home / "thesis.tex").rename(home / "manifest.json")
    with pytest.raises(CheckpointError, match="it is no checkpoint"):
        save(home)


def test_a_file_is_not_replaced_and_an_empty_folder_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be replaced"):
        save(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty")
    assert value_of(tmp_path / "empty") == 1.0


def test_files_of_the_old_checkpoint_do_not_stay(folder: Path) -> None:
    save(folder, 2.0, extras={}, card="")
    assert sorted(os.listdir(folder)) == ["config.json", "manifest.json", "model.safetensors"]
    assert load_checkpoint(folder).card == ""


def test_leftovers_of_a_killed_run_are_cleared(folder: Path) -> None:
    for leftover in (".model.part", ".model.previous"):
        (folder.parent / leftover).mkdir()
        (folder.parent / leftover / "model.safetensors").write_text("half")
    save(folder, 2.0)
    assert value_of(folder) == 2.0
    assert os.listdir(folder.parent) == ["model"]


@pytest.mark.parametrize("step", [0, 1])
def test_a_failed_rename_leaves_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    calls = []
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == step + 1:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(folder, 2.0)
    assert len(calls) >= step + 1
    assert value_of(folder) == 1.0
    assert os.listdir(folder.parent) == ["model"]


def killed_at(step: int, folder: Path) -> bool:
    """Save in a child process that dies, as by SIGKILL, before its step-th change on disk."""
    child = os.fork()
    if child == 0:
        left = step

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return real(*args, **kwargs)

            return call

        for owner, name in (
            (os, "replace"),
            (os, "fsync"),
            (os, "unlink"),
            (os, "rmdir"),
            (os, "mkdir"),
            (Path, "write_bytes"),
            (checkpoint, "_write_tensors"),
        ):
            setattr(owner, name, counted(getattr(owner, name)))
        try:
            save(folder, 2.0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a process exactly there")
@pytest.mark.parametrize("existing", [True, False])
def test_killed_at_any_step_leaves_a_whole_checkpoint(tmp_path: Path, existing: bool) -> None:
    """At each step the old or the new one loads; without an old one, nothing or the new one."""
    seen, step = [], 0
    while True:
        folder = tmp_path / str(step) / "model"
        folder.parent.mkdir()
        if existing:
            save(folder, 1.0)
        killed = killed_at(step, folder)
        try:
            seen.append(value_of(folder))
        except CheckpointError as error:
            assert not existing
            assert "is not a folder" in error.message  # never a folder that is half there
            seen.append(0.0)
        save(folder, 3.0)  # and the next save goes through
        assert value_of(folder) == 3.0
        assert os.listdir(folder.parent) == ["model"]
        if not killed:
            break
        step += 1
    assert step > 10
    assert seen == sorted(seen)  # once the new one is there, it stays
    assert set(seen) == ({1.0, 2.0} if existing else {0.0, 2.0})


def test_a_part_folder_killed_before_its_manifest_does_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[CheckpointError] = []

    def look(path: Path) -> None:
        if path.name != "manifest.json":
            with pytest.raises(CheckpointError) as error:
                verify_checkpoint(path.parent)
            caught.append(error.value)

    monkeypatch.setattr(checkpoint, "_sync", look)
    save(tmp_path / "model")
    assert len(caught) == len(FILES) - 1


def test_verifying_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; from whatchanged.models.checkpoint import verify_checkpoint; "
        f"verify_checkpoint({str(saved)!r}); sys.exit('torch' in sys.modules)"
    )
    source = str(Path(checkpoint.__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source}
    )
