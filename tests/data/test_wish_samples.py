from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whatchanged.answers import (
    EXPLAIN,
    TARGET,
    Understood,
    format_absent,
    format_answer,
    parse_answer,
)
from whatchanged.data.reason_json import ReasonSample, read_reason_mask
from whatchanged.data.wish_samples import (
    N_ABSENT,
    WishedPair,
    WishWriter,
    ask_to_explain,
    pick,
    slug,
)
from whatchanged.data.wishes import Wish

NEW = Understood(("building",), "appeared")
POND = Understood(("water",), "disappeared")
ROAD = Understood(("road",), "either")
FIELD = Understood(("building", "road"), "appeared", ("low vegetation",))
WHY = "Homes are buildings."
BANK = (
    *(Wish(f"new houses {i}", NEW, "explicit", "new-houses", WHY) for i in range(5)),
    *(Wish(f"places to live {i}?", NEW, "implicit", "homes", WHY) for i in range(5)),
    Wish("lost ponds", POND, "explicit", "ponds", "A pond is water."),
    Wish("changed roads", ROAD, "explicit", "roads", "Roads are named."),
    Wish("is the pizza hot", None, "explicit", "off", "Food is not seen from above."),
)


def pair(name: str = "1", **more: object) -> WishedPair:
    mask = np.zeros((8, 6), np.uint8)
    mask[:3], mask[3] = 1, 255
    given = WishedPair(name, Path("A.png"), Path("B.png"), (8, 6), {NEW: mask}, (POND, ROAD))
    return replace(given, **more)


def ask(folder: Path, *pairs: WishedPair, seed: int = 0) -> list[ReasonSample]:
    writer = WishWriter(folder, "train", BANK, seed)
    return [sample for given in pairs for sample in writer.ask(given)]


def test_what_is_met_is_asked_in_three_ways(tmp_path: Path) -> None:
    samples = ask(tmp_path, pair(absent=()))
    named, implied, explained = (s for s in samples if TARGET in s.answer)
    assert named.question.startswith("new houses") and named.answer == format_answer(NEW)
    assert implied.question.startswith("places to live") and implied.answer == format_answer(NEW)
    assert explained.question.startswith("places to live")
    assert explained.question.endswith(f"? {EXPLAIN}")
    assert explained.answer == format_answer(NEW, WHY)
    assert parse_answer(explained.answer) == NEW
    paths = {sample.mask for sample in (named, implied, explained)}
    assert paths == {tmp_path / "masks" / "train" / "1" / "building-appeared.png"}
    mask = read_reason_mask(paths.pop())
    assert mask[:, 0].tolist() == [1, 1, 1, 255, 0, 0, 0, 0]


def test_what_is_absent_is_answered_without_a_target(tmp_path: Path) -> None:
    samples = [s for s in ask(tmp_path, pair(present={})) if s.question != "is the pizza hot"]
    assert {(s.question, s.answer) for s in samples} == {
        ("lost ponds", format_absent(POND)),
        ("changed roads", format_absent(ROAD)),
    }
    assert all(TARGET not in sample.answer for sample in samples)
    (mask,) = {sample.mask for sample in samples}
    assert mask.name == "none-6x8.png"
    assert not read_reason_mask(mask).any()


def test_at_most_two_absent_wishes_a_pair_and_all_get_their_turn(tmp_path: Path) -> None:
    pairs = [pair(str(i), present={}, absent=(NEW, POND, ROAD)) for i in range(60)]
    counts = Counter(parse_answer(sample.answer) for sample in ask(tmp_path, *pairs))
    off = counts.pop(None)
    assert sum(counts.values()) == 60 * N_ABSENT
    assert all(25 <= counts[meaning] <= 55 for meaning in (NEW, POND, ROAD))
    assert 5 <= off <= 28  # one pair in four, by chance


def test_one_absent_wish_names_no_former_class(tmp_path: Path) -> None:
    made = [Understood((name,), "appeared", ("water",)) for name in ("road", "tree", "playground")]
    wishes = [Wish(f"wish {i}", m, "explicit", "f", WHY) for i, m in enumerate([*made, POND])]
    writer = WishWriter(tmp_path, "train", wishes, 0)
    for index in range(9):
        samples = writer.ask(pair(str(index), present={}, absent=(*made, POND)))
        assert [parse_answer(s.answer) == POND for s in samples] == [True, False]


def test_meanings_without_wordings_are_not_asked(tmp_path: Path) -> None:
    mask = np.ones((8, 6), np.uint8)
    samples = ask(tmp_path, pair(present={FIELD: mask}, absent=(FIELD,)))
    assert [s for s in samples if s.question != "is the pizza hot"] == []
    assert not list(tmp_path.rglob("building+road*"))


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    pairs = [pair(str(i)) for i in range(8)]
    once = ask(tmp_path, *pairs)
    assert ask(tmp_path, *pairs) == once
    assert ask(tmp_path, *pairs, seed=1) != once
    # Another pair more or less changes nothing of the others.
    assert (
        ask(tmp_path, *pairs[3:])
        == [s for s in once if s.mask.parent.name not in "012"][-len(ask(tmp_path, *pairs[3:])) :]
    )


def test_meanings_of_the_bank_in_order(tmp_path: Path) -> None:
    assert WishWriter(tmp_path, "train", BANK, 0).meanings == (NEW, POND, ROAD)


@pytest.mark.parametrize(
    ("meaning", "name"),
    [
        (NEW, "building-appeared"),
        (FIELD, "building+road-appeared-from-low_vegetation"),
        (Understood(("any",), "either"), "any-either"),
    ],
)
def test_file_names_of_meanings(meaning: Understood, name: str) -> None:
    assert slug(meaning) == name


def test_asking_for_an_explanation() -> None:
    assert ask_to_explain("new homes") == f"new homes {EXPLAIN}"
    assert ask_to_explain("Who builds?") == f"Who builds? {EXPLAIN}"


def test_every_item_is_picked_equally_often() -> None:
    counts = Counter(pick("abcd", f"key {i}") for i in range(800))
    assert set(counts) == set("abcd")
    assert all(150 < count < 250 for count in counts.values())
