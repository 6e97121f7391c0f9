"""Files are complete or not there, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whatchanged.files import (
    replace_folder,
    replacing,
    replacing_folder,
    set_aside,
    write_bytes,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    with replacing(target) as part:
        assert part.suffix == ".tif"  # drivers insist on it
        assert part.parent == tmp_path
        part.write_bytes(b"half")
        assert not target.exists()
    assert names(tmp_path) == ["mask.tif"]
    assert target.read_bytes() == b"half"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    write_bytes(target, b"old")
    with pytest.raises(ZeroDivisionError), replacing(target) as part:
        part.write_bytes(b"new, but only ha")
        raise ZeroDivisionError
    assert names(tmp_path) == ["run.json"]
    assert target.read_bytes() == b"old"


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, existing: bool) -> None:
    part, target = tmp_path / "part", tmp_path / "model"
    part.mkdir()
    (part / "new").touch()
    if existing:
        target.mkdir()
        (target / "old").touch()
    replace_folder(part, target)
    assert names(tmp_path) == ["model"] and names(target) == ["new"]


def test_a_folder_that_cannot_move_leaves_the_old_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, target = tmp_path / "part", tmp_path / "model"
    for folder in (part, target):
        folder.mkdir()
    (target / "old").touch()
    real = os.replace

    def failing(source: Path, goal: Path) -> None:
        if source == part:
            raise OSError("no space")
        real(source, goal)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no space"):
        replace_folder(part, target)
    assert names(tmp_path) == ["model", "part"] and names(target) == ["old"]


def test_what_a_killed_move_set_aside_gives_way_to_the_next(tmp_path: Path) -> None:
    part, target = tmp_path / "part", tmp_path / "model"
    for folder in (part, target, set_aside(target)):
        folder.mkdir()
    (set_aside(target) / "older").touch()
    replace_folder(part, target)
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_is_filled_beside_its_place(tmp_path: Path, shared: bool) -> None:
    target = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with replacing_folder(target, shared=shared) as part:
            assert part.parent == target.parent and names(part) == []
            (part / content).touch()
    assert names(target) == ["new"] and names(target.parent) == ["model"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path, shared: bool) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(OSError, match="full"), replacing_folder(target, shared=shared) as part:
        (part / "half").touch()
        raise OSError("full")
    assert names(tmp_path) == ["model"] and names(target) == ["old"]


def test_what_a_killed_filling_left_is_taken_away(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replacing_folder(target) as part:
        left = part
    left.mkdir()
    (left / "half").touch()
    with replacing_folder(target) as part:
        assert part == left and names(part) == []
