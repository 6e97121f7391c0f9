"""Greedy and beam search against plain searches that keep nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import DecoderConfig
from whatchanged.models.hisem.decoder import CaptionDecoder
from whatchanged.models.hisem.generate import END, NULL, START, beam_search, greedy_search

WIDTH = 8


def make(vocabulary: int, max_len: int, seed: int, layers: int = 1) -> CaptionDecoder:
    torch.manual_seed(seed)
    config = DecoderConfig(layers=layers, heads=2, max_len=max_len)
    module = CaptionDecoder(WIDTH, vocabulary, config).double().eval()
    module.head.weight.data *= 4  # decided words, as after training
    return module


def memory(n_pairs: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return 2 * torch.randn(n_pairs, 5, WIDTH, dtype=torch.float64)


def word_scores(module: CaptionDecoder, words: list[int], seen: Tensor) -> list[float]:
    """Log probabilities of the next word, decoded from scratch."""
    logits = module(torch.tensor([[START, *words]]), seen.unsqueeze(0))[0, -1]
    scores: list[float] = logits.log_softmax(dim=0).tolist()
    return [-math.inf if i < END else s for i, s in enumerate(scores)]


def slow_greedy(module: CaptionDecoder, seen: Tensor, max_len: int) -> tuple[list[int], float]:
    words: list[int] = []
    total = 0.0
    for _ in range(max_len - 1):
        scores = word_scores(module, words, seen)
        best = max(range(len(scores)), key=scores.__getitem__)
        total += scores[best]
        if best == END:
            break
        words.append(best)
    return words, total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_cached_greedy_equals_decoding_from_scratch(seed: int, layers: int) -> None:
    module, seen = make(12, 10, seed, layers), memory(6, seed)
    found = greedy_search(module, seen, 10)
    for pair, hypothesis in enumerate(found):
        words, total = slow_greedy(module, seen[pair], 10)
        assert list(hypothesis.ids) == words
        assert hypothesis.log_probability == pytest.approx(total, abs=1e-9)


@torch.no_grad()
def test_captions_of_one_batch_end_at_their_own_time() -> None:
    module, seen = make(12, 10, 0), memory(30)
    with torch.no_grad():
        module.head.bias[END] += 3.0
    found = greedy_search(module, seen, 10)
    assert len({len(h.ids) for h in found}) > 2
    for pair, hypothesis in enumerate(found):
        assert list(hypothesis.ids) == slow_greedy(module, seen[pair], 10)[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("normalise", [True, False])
def test_a_beam_of_one_is_greedy(seed: int, normalise: bool) -> None:
    module, seen = make(12, 10, seed), memory(6, seed)
    beams = beam_search(module, seen, 1, 10, normalise_length=normalise)
    for greedy, (best,) in zip(greedy_search(module, seen, 10), beams, strict=True):
        assert best.ids == greedy.ids
        assert best.log_probability == pytest.approx(greedy.log_probability, abs=1e-9)


def every_caption(
    module: CaptionDecoder, seen: Tensor, max_len: int, vocabulary: int
) -> dict[tuple[int, ...], tuple[float, int]]:
    """All captions with their log probability and number of summed words."""
    found = {}
    for n_words in range(max_len):
        for words in itertools.product(range(4, vocabulary), repeat=n_words):
            total = sum(
                word_scores(module, list(words[:i]), seen)[word] for i, word in enumerate(words)
            )
            if n_words < max_len - 1:
                found[words] = (total + word_scores(module, list(words), seen)[END], n_words + 1)
            else:
                found[words] = (total, n_words)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("normalise", [True, False])
@torch.no_grad()
def test_a_beam_that_holds_everything_finds_the_best(seed: int, normalise: bool) -> None:
    vocabulary, max_len = 6, 5  # 2 words, at most 4 of them: 31 captions
    module, seen = make(vocabulary, max_len, seed), memory(2, seed)
    beams = beam_search(module, seen, 40, max_len, normalise_length=normalise)
    for pair, hypotheses in enumerate(beams):
        every = every_caption(module, seen[pair], max_len, vocabulary)
        assert {h.ids for h in hypotheses} == set(every)
        for h in hypotheses:
            total, count = every[h.ids]
            assert h.log_probability == pytest.approx(total, abs=1e-9)
            assert h.score == pytest.approx(total / count if normalise else total, abs=1e-9)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_a_batch_are_searched_alone(seed: int) -> None:
    module, seen = make(12, 10, seed, layers=2), memory(4, seed)
    together = beam_search(module, seen, 3, 10)
    for pair in range(4):
        (alone,) = beam_search(module, seen[pair : pair + 1], 3, 10)
        assert [h.ids for h in alone] == [h.ids for h in together[pair]]


@torch.no_grad()
def test_scores_of_a_beam_are_those_of_its_captions() -> None:
    module, seen = make(12, 10, 0), memory(3)
    for pair, hypotheses in enumerate(beam_search(module, seen, 4, 10)):
        assert len({h.ids for h in hypotheses}) == 4
        for h in hypotheses:
            ended = [*h.ids, END] if len(h.ids) < 9 else list(h.ids)
            total = sum(word_scores(module, ended[:i], seen[pair])[w] for i, w in enumerate(ended))
            assert h.log_probability == pytest.approx(total, abs=1e-9)
            assert h.score == pytest.approx(total / len(ended), abs=1e-9)


def test_length_normalisation_prefers_longer_captions() -> None:
    lengths = {}
    for normalise in (True, False):
        lengths[normalise] = sum(
            len(
                beam_search(make(12, 10, s), memory(6, s), 5, 10, normalise_length=normalise)[p][
                    0
                ].ids
            )
            for s in range(4)
            for p in range(6)
        )
    assert lengths[True] > lengths[False]


def test_special_words_are_never_said() -> None:
    module = make(8, 6, 0)
    with torch.no_grad():
        module.head.bias[: START + 1] = 100.0
    said = [h for beam in beam_search(module, memory(4), 3, 6) for h in beam]
    said += greedy_search(module, memory(4), 6)
    assert all(word > END for h in said for word in h.ids)


def test_an_immediate_end_is_an_empty_caption() -> None:
    module = make(8, 6, 0)
    with torch.no_grad():
        module.head.bias[END] = 1000.0
    assert [h.ids for h in greedy_search(module, memory(2), 6)] == [(), ()]


@pytest.mark.parametrize("max_len", [2, 3, 6])
def test_max_len_counts_start_and_end(max_len: int) -> None:
    module = make(8, 6, 0)
    with torch.no_grad():
        module.head.bias[END] = -1000.0
    assert {len(h.ids) for h in greedy_search(module, memory(2), max_len)} == {max_len - 1}
    beams = beam_search(module, memory(2), 2, max_len)
    assert {len(h.ids) for beam in beams for h in beam} == {max_len - 1}


def test_a_beam_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="beam of 0"):
        beam_search(make(8, 6, 0), memory(1), 0, 6)


def test_ids_are_the_contract() -> None:
    assert (NULL, START, END) == (0, 2, 3)
