"""Which files make pairs: folders, suffixes, lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import InputError
from whatchanged.geo.listing import PairPaths, find_pairs

HINTS = ("before/ and after/", "NAME_before", "CSV")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(pairs: list[PairPaths], root: Path) -> list[tuple[str, str]]:
    return [
        (p.before.relative_to(root).as_posix(), p.after.relative_to(root).as_posix()) for p in pairs
    ]


# --- folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("before", "after"), ("A", "B")])
def test_two_folders_with_the_same_names(tmp_path: Path, first: str, second: str) -> None:
    files = [f"{first}/2.tif", f"{second}/2.tif", f"{first}/1.png", f"{second}/1.jpg"]
    touch(tmp_path, *files)
    found = names(find_pairs(tmp_path), tmp_path)
    assert found == [(f"{first}/1.png", f"{second}/1.jpg"), (f"{first}/2.tif", f"{second}/2.tif")]


@pytest.mark.parametrize(
    ("first", "second"), [("_before", "_after"), ("_A", "_B"), ("-before", "-after")]
)
def test_names_with_suffixes(tmp_path: Path, first: str, second: str) -> None:
    touch(tmp_path, f"y{second}.tif", f"y{first}.tif", f"x{first}.webp", f"x{second}.JP2")
    found = names(find_pairs(str(tmp_path)), tmp_path)
    assert found == [
        (f"x{first}.webp", f"x{second}.JP2"),
        (f"y{first}.tif", f"y{second}.tif"),
    ]


def test_other_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "before/1.tif", "after/1.tif", "after/1.tif.aux.xml", "before/notes.txt")
    touch(tmp_path, "before/._1.tif", "after/.hidden.png", "before/folder.tif/x")
    assert names(find_pairs(tmp_path), tmp_path) == [("before/1.tif", "after/1.tif")]


@given(
    st.sets(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), max_size=6),
    st.sampled_from(["_before", "-before"]),
)
def test_every_name_with_both_halves_is_found(
    tmp_path_factory: pytest.TempPathFactory, stems: set[str], first: str
) -> None:
    root = tmp_path_factory.mktemp("pairs")
    second = first.replace("before", "after")
    for stem in stems:
        touch(root, f"{stem}{first}.png", f"{stem}{second}.png")
    written = {p.name for p in root.iterdir()}  # a file system may fold names into one
    if not stems:
        with pytest.raises(InputError, match="holds no pairs"):
            find_pairs(root)
        return
    pairs = find_pairs(root)
    assert {p.before.name for p in pairs} | {p.after.name for p in pairs} == written
    assert all(p.before.name.replace(first, second) == p.after.name for p in pairs)
    assert pairs == sorted(pairs, key=lambda p: p.before.stem.removesuffix(first))


@pytest.mark.parametrize(
    "files",
    [
        ("before/1.tif", "after/1.tif", "before/2.tif"),
        ("before/1.tif", "after/2.tif"),
        ("x_before.tif", "x_after.tif", "y_after.tif"),
        ("x_before.tif",),
    ],
)
def test_a_photograph_without_its_other_half(tmp_path: Path, files: tuple[str, ...]) -> None:
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=r"have no other half, such as '[12xy]'") as caught:
        find_pairs(tmp_path)
    assert "same name" in caught.value.hint


def test_two_photographs_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    touch(tmp_path, "before/1.tif", "before/1.png", "after/1.tif")
    with pytest.raises(InputError, match=r"1\.png and 1\.tif have one name"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("files", [(), ("1.tif", "2.tif"), ("before/1.txt", "after/1.txt")])
def test_a_folder_without_pairs_says_what_is_looked_for(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(InputError, match="holds no pairs") as caught:
        find_pairs(tmp_path)
    assert all(hint in caught.value.hint for hint in HINTS)


# --- lists -----------------------------------------------------------------------------------


def write_list(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_a_list_is_read_in_its_order_relative_to_itself(tmp_path: Path) -> None:
    text = 'id,before,after\n2,b/2.tif,a/2.tif\n\n1,"b, old/1.tif",/data/1.tif\n'
    found = find_pairs(write_list(tmp_path / "pairs.csv", text))
    assert found == [
        PairPaths(tmp_path / "b/2.tif", tmp_path / "a/2.tif"),
        PairPaths(tmp_path / "b, old/1.tif", Path("/data/1.tif")),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["pairs.csv", "PAIRS.CSV"])
def test_a_list_as_spreadsheets_write_it(tmp_path: Path, encoding: str, name: str) -> None:
    path = write_list(tmp_path / name, "before, after\r\nä.tif, ö.tif\r\n", encoding)
    assert find_pairs(path) == [PairPaths(tmp_path / "ä.tif", tmp_path / "ö.tif")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\nx,y\n", 2),
        ("before;after\nx;y\n", 2),
        ("before,after\nx,y\n\nx,\n", 4),
        ("before,after\nx,y\nx\n", 3),
        ("x.tif,y.tif\nv.tif,w.tif\n", 2),
    ],
)
def test_a_row_without_both_files_is_named(tmp_path: Path, text: str, line: int) -> None:
    path = write_list(tmp_path / "pairs.csv", text)
    with pytest.raises(InputError, match=f"pairs.csv, line {line}: no 'before' or no") as caught:
        find_pairs(path)
    assert "before,after" in caught.value.hint


def test_an_empty_list_holds_no_pairs(tmp_path: Path) -> None:
    for text in ("", "before,after\n"):
        with pytest.raises(InputError, match="holds no pairs"):
            find_pairs(write_list(tmp_path / "pairs.csv", text))


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"before,after\n\xff\xfe\x00,x\n")
    with pytest.raises(InputError, match="cannot be read as CSV") as caught:
        find_pairs(path)
    assert "UTF-8" in caught.value.hint


# --- neither ---------------------------------------------------------------------------------


def test_one_photograph_alone_gets_the_way_out(tmp_path: Path) -> None:
    touch(tmp_path, "before.tif")
    with pytest.raises(InputError, match="neither a folder nor a CSV") as caught:
        find_pairs(tmp_path / "before.tif")
    assert "describe BEFORE AFTER" in caught.value.hint


@pytest.mark.parametrize("name", ["nowhere", "nowhere.csv"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_pairs(tmp_path / name)
