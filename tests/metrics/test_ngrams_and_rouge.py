"""N-gram counts, and the bit-parallel longest common subsequence against the plain one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.metrics.ngrams import ngram_counts
from whatchanged.metrics.rouge import lcs_length, rouge_l

captions = st.lists(st.sampled_from("abcde"), max_size=40)


def plain_lcs(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        before = row[:]
        for index, other in enumerate(second, start=1):
            longer = before[index - 1] + 1
            row[index] = longer if word == other else max(before[index], row[index - 1])
    return row[-1]


@given(captions, captions)
def test_bit_parallel_lcs_equals_the_table(first: list[str], second: list[str]) -> None:
    assert lcs_length(first, second) == plain_lcs(first, second) == lcs_length(second, first)


@given(captions)
def test_ngrams_of_every_order_are_counted(caption: list[str]) -> None:
    counts = ngram_counts(caption)
    for order in range(1, 5):
        total = sum(count for ngram, count in counts.items() if len(ngram) == order)
        assert total == max(0, len(caption) - order + 1)


def test_repeated_ngrams_add_up() -> None:
    assert ngram_counts(["a", "b", "a", "b"])[("a", "b")] == 2


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ((), [("a",)], 0.0),
        ((), [("a",), ()], 1.0),
        (("a",), [()], 0.0),
        (("a",), [("b",)], 0.0),
        (("a", "b"), [("b", "a")], 0.5),
    ],
)
def test_rouge_of_small_captions(
    prediction: tuple[str, ...], references: list[tuple[str, ...]], expected: float
) -> None:
    assert rouge_l(prediction, references) == pytest.approx(expected)
