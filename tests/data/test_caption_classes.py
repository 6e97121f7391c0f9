from __future__ import annotations

from pathlib import Path

import pytest

from whatchanged.answers import CLASS_WORDS
from whatchanged.data.caption_classes import CLASSES_OF_WORD, names_class, names_removal
from whatchanged.data.levir_cc import load_references
from whatchanged.data.tokens import UNCHANGED_SENTENCES, tokenise


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("many houses with swimming pools are built", {"building", "water"}),
        ("a factory and two sheds appear along the highway", {"building", "road"}),
        ("the cropland becomes a construction site", {"low vegetation", "building", "bare ground"}),
        ("a parking lot replaces the woods", {"road", "tree"}),
        ("some bushes are planted", {"tree", "low vegetation"}),
        ("a running track appears", {"playground", "road"}),
        ("libraries", set()),
    ],
)
def test_words_name_their_classes(caption: str, classes: set[str]) -> None:
    captions = [tokenise(caption)]
    assert {name for name in CLASS_WORDS if names_class(name, captions)} == classes


def test_any_caption_of_several_counts() -> None:
    captions = [tokenise("a pond is dug"), tokenise("the land changed")]
    assert names_class("water", captions)
    assert not names_class("road", captions)
    assert not names_class("water", [])


@pytest.mark.parametrize(
    ("caption", "removal"),
    [
        ("the old houses are demolished", True),
        ("villas replace the sheds", True),
        ("some houses are built on bareland", False),
        ("a road appears beside the grass", False),
    ],
)
def test_words_of_removal(caption: str, removal: bool) -> None:
    assert names_removal([tokenise(caption)]) is removal


def test_unchanged_sentences_name_nothing() -> None:
    captions = [tokenise(sentence) for sentence in UNCHANGED_SENTENCES]
    assert not any(names_class(name, captions) for name in CLASS_WORDS)


def test_only_known_classes_are_named() -> None:
    named = set().union(*CLASSES_OF_WORD.values())
    assert named == set(CLASS_WORDS) - {"any"}


def test_nouns_of_the_field_are_known(shared_data: Path) -> None:
    """Nearly every changed caption of LEVIR-CC names some class; else absence proves nothing."""
    references = load_references(shared_data / "levir_cc_text" / "LevirCCcaptions.json")
    captions = [c for r in references if r.changed for c in r.captions][::40]
    silent = [c for c in captions if not any(names_class(name, [c]) for name in CLASS_WORDS)]
    assert len(silent) < 0.01 * len(captions), silent[:5]
