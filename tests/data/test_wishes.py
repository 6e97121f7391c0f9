from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from whatchanged.answers import CLASS_WORDS, Understood, format_answer, parse_answer
from whatchanged.data.wishes import (
    MAX_CHARACTERS,
    Wish,
    WishFamily,
    load_families,
    load_wishes,
    read_bank,
)
from whatchanged.errors import DatasetError, UsageError
from whatchanged.models.reasoncd.prompt import clean_wish

SPLITS = ("train", "validation", "test")
DIRECTIONS = ("appeared", "disappeared", "either")
THINGS = [name for name in CLASS_WORDS if name != "any"]
# Where many unforeseen wordings are to be expected.
MATTERS = {(name, d) for name in THINGS if name != "playground" for d in DIRECTIONS[:2]}
LONGEST_WISH = 300  # of the command

FAMILY = """\
- family: building-room
  classes: [building]
  direction: appeared
  kind: implicit
  split: train
  why: New homes give people more room to live.
  wishes:
    - more room to live
    - where can people move in?
"""


def write(folder: Path, text: str, name: str = "some.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def only(name: str, direction: str) -> list[WishFamily]:
    """Families that mean one class alone, whatever stood there before."""
    meaning = Understood((name,), direction)  # type: ignore[arg-type]
    return [family for family in load_families() if family.understood == meaning]


# --- the bank -------------------------------------------------------------------------------


def test_family_names_are_unique() -> None:
    names = Counter(family.name for family in load_families())
    assert [name for name, n in names.items() if n > 1] == []


def test_no_wording_occurs_twice_whatever_its_case_and_points() -> None:
    """A question mark does not make a wording new; nothing may leak from split to split."""
    places: dict[str, list[str]] = {}
    for wish in load_wishes():
        letters = " ".join("".join(c if c.isalnum() else " " for c in wish.text.lower()).split())
        places.setdefault(letters, []).append(wish.family)
    split = {family.name: family.split for family in load_families()}
    leaks = {w: f for w, f in places.items() if len({split[name] for name in f}) > 1}
    assert leaks == {}
    texts = [wish.text.lower() for wish in load_wishes()]
    assert len(texts) == len(set(texts))


def test_every_wish_passes_the_cleaning_of_the_prompt() -> None:
    """What is read in training is what the same wish becomes in the command."""
    for wish in load_wishes():
        clean = clean_wish(wish.text, LONGEST_WISH)
        assert clean_wish(clean, LONGEST_WISH) == clean
        assert 1 <= len(wish.text) <= MAX_CHARACTERS


def test_explanations_leave_the_meaning_of_the_answer_alone() -> None:
    for family in load_families():
        if family.understood:
            said = format_answer(family.understood, family.why)
            assert parse_answer(said) == family.understood, family.name


def test_one_meaning_is_stated_in_one_order_of_classes() -> None:
    order = list(CLASS_WORDS)
    for family in load_families():
        if family.understood:
            for names in (family.understood.classes, family.understood.former):
                assert list(names) == sorted(set(names), key=order.index), family.name


# --- what is there of each meaning ----------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", THINGS)
def test_each_class_has_wordings_of_both_kinds(name: str, direction: str) -> None:
    count = Counter[str]()
    for family in only(name, direction):
        count[family.kind] += len(family.wishes)
    assert count["implicit"] >= (40 if (name, direction) in MATTERS else 15)
    assert count["explicit"] >= 12


@pytest.mark.parametrize(
    ("direction", "at_least"), [("appeared", 40), ("disappeared", 40), ("either", 80)]
)
def test_any_change_has_wordings(direction: str, at_least: int) -> None:
    assert sum(len(family.wishes) for family in only("any", direction)) >= at_least


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", CLASS_WORDS)
def test_each_class_is_trained_on_most_and_examined_enough(name: str, direction: str) -> None:
    families = only(name, direction)
    count = Counter[str]()
    for family in families:
        count[family.split] += len(family.wishes)
    assert count["train"] >= 0.6 * count.total()
    assert count["validation"] >= 5 and count["test"] >= 5, count
    kinds = {(family.split, family.kind) for family in families}
    assert kinds == {(split, kind) for split in SPLITS for kind in ("explicit", "implicit")}


def test_every_compound_is_trained_on_and_examined() -> None:
    splits: dict[Understood, set[str]] = {}
    for family in load_families():
        if family.understood and (family.understood.former or len(family.understood.classes) > 1):
            splits.setdefault(family.understood, set()).add(family.split)
    assert len(splits) >= 30
    assert [meaning for meaning, found in splits.items() if found != set(SPLITS)] == []


# --- loading --------------------------------------------------------------------------------


def test_splits_divide_the_wishes() -> None:
    parts = [load_wishes(split) for split in SPLITS]
    assert sum(map(len, parts)) == len(load_wishes())
    assert {wish for part in parts for wish in part} == set(load_wishes())
    assert load_wishes("train") is load_wishes("train")


def test_unknown_split() -> None:
    with pytest.raises(UsageError, match="'val'"):
        load_wishes("val")


def test_wishes_carry_the_fields_of_their_family() -> None:
    family = load_families()[0]
    assert Wish(
        family.wishes[0], family.understood, family.kind, family.name, family.why
    ) in load_wishes(family.split)


def test_a_family_is_read(tmp_path: Path) -> None:
    (family,) = read_bank(write(tmp_path, FAMILY))
    assert family == WishFamily(
        name="building-room",
        understood=Understood(("building",), "appeared"),
        kind="implicit",
        split="train",
        why="New homes give people more room to live.",
        wishes=("more room to live", "where can people move in?"),
    )


def test_former_classes_and_order(tmp_path: Path) -> None:
    text = FAMILY.replace("[building]", "[road, building]\n  former: [tree, low vegetation]")
    (family,) = read_bank(write(tmp_path, text))
    meaning = Understood(("building", "road"), "appeared", ("low vegetation", "tree"))
    assert family.understood == meaning


def test_off_the_subject(tmp_path: Path) -> None:
    text = FAMILY.replace("[building]", "[]").replace("  direction: appeared\n", "")
    (family,) = read_bank(write(tmp_path, text))
    assert family.understood is None


def test_wishes_may_be_in_any_script(tmp_path: Path) -> None:
    persian = "ساختمان\u200cهای جدید"
    (family,) = read_bank(write(tmp_path, FAMILY + f"    - {persian}\n    - 新建的房屋\n"))
    assert family.wishes[2:] == (persian, "新建的房屋")


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        text = FAMILY.replace("building-room", name)
        text = text.replace("more room", f"{name} room").replace("where", f"{name} where")
        write(tmp_path, text, f"{name}.yaml")
    write(tmp_path, "no yaml: [", "notes.txt")
    assert [family.name for family in read_bank(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("building-room", "Building Room", "kebab"),
        ("building-room", "[1]", "kebab"),
        ("[building]", "[castle]", "castle"),
        ("[building]", "building", "classes is no list"),
        ("[building]", "[any, building]", "'any' stands alone"),
        ("[building]", "[]", "off the subject"),
        ("direction: appeared", "direction: came", "came"),
        ("  direction: appeared\n", "", "direction is 'None'"),
        ("direction: appeared", "direction: either\n  former: [tree]", "former class"),
        ("kind: implicit", "kind: vague", "vague"),
        ("split: train", "split: val", "val"),
        ("split: train", "splits: train", "split, splits"),
        ("  kind: implicit\n", "", "kind"),
        ("more room to live.", "<CHG>.", "target token"),
        ("more room to live.", "room " * 30, "above 25 words"),
        ("New homes give people more room to live.", "''", "why is no text"),
        ("New homes give", "There are roads that appeared for", "reads? as"),
        ("where can people move in?", "'  '", "no plain line"),
        ("where can people move in?", "x" * (MAX_CHARACTERS + 1), "no plain line"),
        ("where can people move in?", '"two\\nlines"', "no plain line"),
        ("where can people move in?", "'???'", "no plain line"),
        ("where can people move in?", "task: move in", "no list of texts"),
        ("where can people move in?", "no", "no list of texts"),
        ("where can people move in?", "More ROOM to live", "stands twice"),
    ],
)
def test_malformed_families_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert FAMILY.count(old) == 1
    with pytest.raises(DatasetError, match=says) as error:
        read_bank(write(tmp_path, FAMILY.replace(old, new)))
    assert "some.yaml" in error.value.message
    if "kebab" not in says:
        assert "building-room" in error.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no list"),
        ("family: x", "no list"),
        ("[1]", "no family"),
        ("- family: [", "some.yaml"),
        (FAMILY + FAMILY.replace("- family", "  family"), "stands twice"),
        ("- family: lonely-name\n", "lonely-name: missing or unknown: classes, kind"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        read_bank(write(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DatasetError, match=r"some\.yaml"):
        read_bank(tmp_path)


def test_a_folder_without_wishes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no wishes"):
        read_bank(tmp_path)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (FAMILY, "the family 'building-room'"),
        (FAMILY.replace("building-room", "other"), "the wish 'more room to live'"),
    ],
)
def test_repeats_between_files_name_both_places(tmp_path: Path, second: str, says: str) -> None:
    write(tmp_path, FAMILY, "a.yaml")
    write(tmp_path, second, "b.yaml")
    with pytest.raises(DatasetError, match=says) as error:
        read_bank(tmp_path)
    assert "b.yaml" in error.value.message
    assert "a.yaml: building-room" in error.value.message
