"""METEOR without Java: alignment, aggregation, and the two ways to its own program."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import MissingExtraError, WhatchangedError
from whatchanged.metrics import meteor_java
from whatchanged.metrics.captions import score_captions
from whatchanged.metrics.meteor import (
    MeteorCounts,
    align,
    meteor_counts,
    meteor_score,
    sum_meteor_counts,
)
from whatchanged.metrics.meteor_java import java_meteor_counts, meteor_jar

short = st.lists(st.sampled_from("abc"), max_size=6).map(tuple)


def best_alignment(prediction: tuple[str, ...], reference: tuple[str, ...]) -> tuple[int, int]:
    """Try every one-to-one alignment: most matches, then fewest chunks."""
    found = [(0, 0)]
    choices = [
        [None, *(p for p, word in enumerate(prediction) if word == target)] for target in reference
    ]
    for places in itertools.product(*choices):
        used = [p for p in places if p is not None]
        if len(set(used)) != len(used):
            continue
        runs, end = 0, None
        for place in places:
            runs += place is not None and place != end
            end = None if place is None else place + 1
        found.append((-len(used), runs))
    matches, chunks = min(found)
    return -matches, chunks


@given(short, short)
def test_alignment_is_the_best_one(prediction: tuple[str, ...], reference: tuple[str, ...]) -> None:
    """Within the beam the search finds what exhaustion finds."""
    matches, chunks = align(prediction, reference)
    expected = best_alignment(prediction, reference)
    assert matches == expected[0]
    assert chunks >= expected[1]
    if len(reference) <= 4:
        assert chunks == expected[1]


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.lists(st.sampled_from("abcdefgh")))
def test_every_common_word_is_matched(prediction: list[str], reference: list[str]) -> None:
    matches, chunks = align(prediction, reference)
    assert matches == (Counter(prediction) & Counter(reference)).total()
    assert (chunks > 0) == (matches > 0) and chunks <= matches


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("", "", (0, 0)),
        ("a", "b", (0, 0)),
        ("a b c", "a b c", (3, 1)),
        ("c b a", "a b c", (3, 3)),
        ("a b x c", "a b c", (3, 2)),
        ("a a b", "a b", (2, 1)),
        ("the house the road", "the road", (2, 1)),
        ("a b c d", "c d a b", (4, 2)),
    ],
)
def test_alignments_by_hand(prediction: str, reference: str, expected: tuple[int, int]) -> None:
    assert align(prediction.split(), reference.split()) == expected


def test_score_by_hand() -> None:
    """Two of three words, one chunk each: P = 2/3, R = 2/4, fragmentation 2/2."""
    (counts,) = meteor_counts([("a", "x", "b")], [[("a", "b", "y", "z")]])
    f_mean = 1 / (0.15 / (2 / 3) + 0.85 / (2 / 4))
    assert meteor_score(counts) == pytest.approx(f_mean * (1 - 0.6))


def test_a_perfect_caption_has_no_penalty() -> None:
    (perfect, single) = meteor_counts([("a", "b"), ("a",)], [[("a", "b")], [("a",)]])
    assert perfect.chunks == single.chunks == 0
    assert meteor_score(perfect) == meteor_score(single) == pytest.approx(1)


def test_a_corpus_is_aggregated_and_not_averaged() -> None:
    counts = meteor_counts([("a",), ("x",) * 9], [[("a",)], [("b",) * 9]])
    assert [meteor_score(c) for c in counts] == pytest.approx([1, 0])
    together = meteor_score(sum_meteor_counts(counts))
    assert together == pytest.approx(0.1)
    assert together != pytest.approx(0.5)


def test_the_best_reference_is_chosen_and_the_first_of_equals() -> None:
    (counts,) = meteor_counts([("a", "b")], [[("a", "x"), ("a", "b"), ("a", "b", "c")]])
    assert counts.reference_weight == pytest.approx(0.75 * 2)
    (tie,) = meteor_counts([("a",)], [[("x",), ("y", "z")]])
    assert tie.reference_weight == pytest.approx(0.75)


def test_empty_captions_score_zero() -> None:
    assert meteor_score(MeteorCounts()) == 0
    for prediction, reference in [((), ("a",)), (("a",), ()), ((), ())]:
        (counts,) = meteor_counts([prediction], [[reference]])
        assert meteor_score(counts) == 0


def test_long_repetitive_captions_end() -> None:
    matches, _ = align(("a", "b") * 100, ("b", "a", "a") * 60)
    assert matches == 100 + 60


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor_java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install") as caught:
        score_captions([["a"]], [[["a"]]], meteor="java")
    assert "metrics-java" in caught.value.hint


@pytest.fixture
def jar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meteor_java, "meteor_jar", lambda: tmp_path / "meteor.jar")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")


def answer(monkeypatch: pytest.MonkeyPatch, out: str, err: str = "", code: int = 0) -> list[Any]:
    """Let the program answer ``out``; returns the calls made."""
    calls: list[Any] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        calls.append((command, options))
        return subprocess.CompletedProcess(command, code, out.encode(), err.encode())

    monkeypatch.setattr(subprocess, "run", run)
    return calls


STATISTICS = "2.0 3.0 1.0 1.0 " + "1.0 1.0 0.0 0.0 0.0 0.0 1.0 1.0 " + "0.0 " * 8 + "2.0 2.0 2.0"


@pytest.mark.usefixtures("jar")
def test_statistics_are_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One content word exact, one function word by stem, of two and of three words."""
    calls = answer(monkeypatch, STATISTICS + "\n")
    (counts,) = java_meteor_counts([("a", "b")], [[("c", "|||", "道")]])
    assert counts.prediction_weight == pytest.approx(0.75 + 0.25)
    assert counts.reference_weight == pytest.approx(2 * 0.75 + 0.25)
    assert counts.prediction_matched == pytest.approx(0.75 + 0.6 * 0.25)
    assert (counts.matched_words, counts.chunks) == (2, 2)
    ((command, options),) = calls
    assert {"-Duser.language=en", "-Duser.country=US", "-norm"} <= set(command)
    assert options["input"].decode() == "SCORE ||| c  道 ||| a b\n"
    assert options["timeout"] > 0


@pytest.mark.usefixtures("jar")
@pytest.mark.parametrize(
    ("out", "err", "code", "message"),
    [
        ("", "Exception in thread main", 1, "code 1: Exception"),
        (STATISTICS, "Error: specify hypothesis", 0, "specify hypothesis"),
        ("", "", 0, "0 of 1"),
        ("1.0 2.0", "", 0, "answered '1.0 2.0'"),
        (STATISTICS.replace(".0", ",0"), "", 0, "answered"),
    ],
)
def test_failures_of_the_program_are_reported(
    monkeypatch: pytest.MonkeyPatch, out: str, err: str, code: int, message: str
) -> None:
    answer(monkeypatch, out, err, code)
    with pytest.raises(WhatchangedError, match=message):
        java_meteor_counts([("a",)], [[("a",)]])


@pytest.mark.usefixtures("jar")
def test_what_a_virtual_machine_notes_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = (
        "Picked up JAVA_TOOL_OPTIONS: -XX:MaxRAMPercentage=75\n\n"
        "WARNING: A terminally deprecated method has been called\n"
    )
    answer(monkeypatch, STATISTICS, notes)
    assert len(java_meteor_counts([("a",)], [[("a",)]])) == 1
    answer(monkeypatch, STATISTICS, notes + "Error: specify hypothesis\n")
    with pytest.raises(WhatchangedError, match="specify hypothesis"):
        java_meteor_counts([("a",)], [[("a",)]])
    answer(monkeypatch, "", notes, 1)
    with pytest.raises(WhatchangedError, match="code 1: Picked up"):
        java_meteor_counts([("a",)], [[("a",)]])


@pytest.mark.usefixtures("jar")
def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(WhatchangedError, match="within 3 s"):
        java_meteor_counts([("a",)], [[("a",)]], time_limit=3)


def test_without_java_the_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meteor_java, "meteor_jar", lambda: tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match="no java command"):
        java_meteor_counts([("a",)], [[("a",)]])


def test_the_jar_is_found_where_installed() -> None:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    assert meteor_jar().is_file()
