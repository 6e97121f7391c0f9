from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from whatchanged import __version__
from whatchanged.data.prepared import (
    Faults,
    finished,
    new_folder,
    write_file,
    write_record,
    write_splits,
)
from whatchanged.errors import DatasetError


def make(target: Path, text: str = "1") -> None:
    with new_folder(target) as part:
        write_file(part / "sub" / "a.txt", text.encode())
        write_record(part, "bcdd", {"seed": 0}, counts={"train": 1})


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with new_folder(target) as part:
        write_file(part / "a.txt", b"1")
        assert part.parent == target.parent  # so that relative paths stay true
        assert not target.exists()
    assert names(tmp_path) == ["deep", "deep/out", "deep/out/a.txt"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as part:
        write_file(part / "a.txt", b"new")
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "sub" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_prepared_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()  # empty: may be filled
    make(target, "old")
    make(target, "new")
    assert (target / "sub" / "a.txt").read_text() == "new"
    (target / "prepared.json").unlink()
    with pytest.raises(DatasetError, match="holds other things"):
        make(target)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DatasetError, match="holds other things"):
        make(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_a_finished_folder_is_known_by_kind_and_options(tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert finished(target, "bcdd", {"seed": 0}) is None
    target.mkdir()
    assert finished(target, "bcdd", {"seed": 0}) is None
    make(target)
    done = finished(target, "bcdd", {"seed": 0})
    assert done is not None and not done.fresh
    assert done.record == {
        "kind": "bcdd",
        "options": {"seed": 0},
        "whatchanged": __version__,
        "counts": {"train": 1},
    }
    for kind, options in (("second", {"seed": 0}), ("bcdd", {"seed": 1})):
        with pytest.raises(DatasetError, match="was prepared as bcdd with") as caught:
            finished(target, kind, options)
        assert "--force" in caught.value.hint


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"kind": "bcdd"}'])
def test_a_folder_of_something_else_is_told(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "notes.txt").touch()
    if content is not None:
        (tmp_path / "prepared.json").write_text(content)
    with pytest.raises(DatasetError, match="was not made by `whatchanged prepare`"):
        finished(tmp_path, "bcdd", {})


def test_faults_are_counted_and_ten_are_listed() -> None:
    faults = Faults()
    faults.check("the set")  # none: nothing happens
    faults.add("a.png is missing")
    with pytest.raises(DatasetError, match=r"^the set has 1 fault:\n  a\.png is missing") as caught:
        faults.check("the set", hint="look at it")
    assert caught.value.hint == "look at it"
    for index in range(11):
        faults.add(f"fault {index}")
    with pytest.raises(DatasetError, match="12 faults") as caught:
        faults.check("the set")
    assert "fault 8\n  and 2 more" in caught.value.message
    assert "fault 9" not in caught.value.message


def test_split_lists_are_checked_by_sha256sum(tmp_path: Path) -> None:
    sums = write_splits(tmp_path, "random-3", {"train": ["b", "a"], "val": []})
    assert (tmp_path / "splits" / "train.txt").read_text() == "b\na\n"
    assert sums == {
        "train": hashlib.sha256(b"b\na\n").hexdigest(),
        "val": hashlib.sha256(b"").hexdigest(),
    }
    lines = (tmp_path / "splits" / "sha256.txt").read_text().splitlines()
    assert lines == ["# recipe random-3", *(f"{sums[s]}  {s}.txt" for s in ("train", "val"))]


def test_the_record_is_readable_json(tmp_path: Path) -> None:
    record = write_record(tmp_path, "pairs", {"source": "Wälder"}, counts={})
    assert json.loads((tmp_path / "prepared.json").read_text(encoding="utf-8")) == record
