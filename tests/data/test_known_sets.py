"""What is said of the published sets agrees with itself and with the annotations at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from whatchanged.data.known_sets import (
    CAPTIONED,
    KNOWN_SETS,
    LEVIR_CC,
    LEVIR_MCI,
    SECOND_COLOURS,
    WHU_CDC,
    known_set,
    meant_by,
    missing,
    where_from,
)
from whatchanged.data.levir_cc import load_references
from whatchanged.data.set_types import SPLITS, KnownSet
from whatchanged.data.tokens import SPECIALS, Vocabulary
from whatchanged.errors import UsageError


@pytest.mark.parametrize("known", KNOWN_SETS, ids=lambda known: known.name)
def test_facts_agree_with_each_other(known: KnownSet) -> None:
    assert set(known.counts) <= set(SPLITS)
    counts = [count for count in known.counts.values() if count is not None]
    assert len(counts) in (0, len(known.counts))  # all or nothing: no invented rest
    if counts and known.total is not None:
        assert sum(counts) == known.total
    if known.kind == "captions":
        assert known.annotation and known.captions == (known.total and 5 * known.total)
    else:
        assert known.labels and known.captions is None
    published = known is not CAPTIONED
    assert all(bool(text) is published for text in (known.licence, known.source, known.citation))
    for template in (known.before, known.after):
        folders = template.replace("{folder}", "train").replace("{split}", "train").split("/")
        assert all(any(f"{f}/" in line for line in known.tree.splitlines()) for f in folders)


def test_names_are_unlike_each_other() -> None:
    assert max(Counter(known.name for known in KNOWN_SETS).values()) == 1


@pytest.mark.parametrize(
    ("name", "known"),
    [("levir-cc", LEVIR_CC), ("LEVIR-CC", LEVIR_CC), ("WHU_CDC", WHU_CDC), ("levirmci", LEVIR_MCI)],
)
def test_a_set_is_found_by_name_or_title(name: str, known: KnownSet) -> None:
    assert known_set(name) is known


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        known_set("levir-ccd")
    assert "did you mean levir-c" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        known_set("?")
    assert all(known.name in caught.value.hint for known in KNOWN_SETS)


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        ("LEVIR_CC_dataset", LEVIR_CC),
        ("Levir-MCI-dataset", LEVIR_MCI),
        ("whu_CDC_dataset", WHU_CDC),
        ("pictures", None),
        ("captioned", None),
    ],
)
def test_a_folder_may_say_what_was_meant(folder: str, known: KnownSet | None) -> None:
    assert meant_by(Path("data") / folder) is known


def test_a_missing_set_is_told_with_source_licence_and_folder() -> None:
    error = missing(Path("data/LEVIR-CD"), "does not exist")
    assert error.message == "data set folder data/LEVIR-CD does not exist"
    for text in ("https://justchenhao.github.io/LEVIR/", "licence: academic use", "A/  B/  label/"):
        assert text in error.hint
    assert "whatchanged data --list" in missing(Path("data/x"), "does not exist").hint
    assert "WHU-CDC" in missing(Path("data/x"), "does not exist", WHU_CDC).hint
    assert where_from(CAPTIONED).startswith("expected is a folder with\n    captions.json")


@pytest.mark.parametrize("known", KNOWN_SETS[:-1], ids=lambda known: known.name)
def test_the_document_says_the_same(known: KnownSet, repository: Path) -> None:
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if f"| `{known.name}` |" in line)
    assert f"[{known.title}]({known.source})" in row
    counts = [known.counts.get(split) for split in SPLITS]
    if any(counts):
        assert f"| {', '.join(f'{count:,}' if count else '-' for count in counts)} |" in row
    else:
        assert f"{known.total:,} in all" in row
    assert f"{known.size:,} px" in row and known.ground in row
    if known.colours is SECOND_COLOURS:
        table = [f"| {', '.join(map(str, c))} | {number} |" for c, number in SECOND_COLOURS.classes]
        assert all(line in text for line in table)


def test_real_captions_of_levir_cc(shared_data: Path) -> None:
    path = shared_data / "levir_cc_text" / "LevirCCcaptions.json"
    if not path.is_file():
        pytest.skip("the captions of LEVIR-CC are not here")
    everything = load_references(path)
    assert Counter(r.split for r in everything) == LEVIR_CC.counts
    unchanged = Counter(r.split for r in everything if not r.changed)
    assert unchanged == {"train": 3408, "val": 666, "test": 965}
    captions = [caption for r in everything for caption in r.captions]
    assert len(captions) == LEVIR_CC.captions
    assert len({word for caption in captions for word in caption}) == LEVIR_CC.words
    assert len(Vocabulary.build(captions, min_count=0)) == 995 + len(SPECIALS)
