"""Files are complete or not there, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from whatchanged.geo.files import replacing, write_bytes


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
