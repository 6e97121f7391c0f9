from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from whatchanged.answers import Understood, format_absent, format_answer, parse_answer
from whatchanged.data.wishes import Wish, load_wishes
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.outputs import EncodedPairs, WishAnswer
from whatchanged.train import wish_scores
from whatchanged.train.config import TrainConfig
from whatchanged.train.wish_data import ANY, ValidationPairs
from whatchanged.train.wish_scores import AskedWish, WishScores, ask_layers, score_wishes

BUILT = Understood(("building",), "appeared")
WATER = Understood(("water",), "appeared")
MEANING = {wish.text: wish.understood for wish in load_wishes()}
Script = Callable[[str], tuple[str, bool]]


def answer(text: str, wish: str = "", mask: bool | None = None, side: int = 4) -> WishAnswer:
    """An answer in words, its mask full, empty, or by default as its target token says."""
    found = "<CHG>" in text
    full = torch.full((side, side), found if mask is None else mask)
    return WishAnswer(
        wish, text, found, parse_answer(text), full.float(), full, full.float()[None], 1.0, False,
        True,
    )  # fmt: skip


def asked(
    understood: Understood | None,
    said: WishAnswer,
    *,
    met: bool | None = True,
    kind: Any = "explicit",
    counts: MaskCounts | None = None,
) -> AskedWish:
    return AskedWish("pair", Wish("w", understood, kind, "family", "why"), met, said, counts)


# Shares


def test_understanding_is_told_by_kind_and_needs_every_field() -> None:
    former = Understood(("building",), "appeared", ("tree",))
    scores = WishScores(
        (
            asked(BUILT, answer(format_answer(BUILT))),
            asked(BUILT, answer(format_answer(Understood(("building",), "either")))),
            asked(former, answer(format_answer(BUILT))),
            asked(WATER, answer(format_absent(WATER)), met=False),
            asked(WATER, answer(format_answer(WATER)), kind="implicit"),
            asked(WATER, answer("Sorry."), kind="implicit", met=False),
            asked(None, answer("Sorry."), met=False),  # off the subject: nothing to understand
        )
    )
    assert scores.understood("explicit") == pytest.approx(2 / 4)
    assert scores.understood("implicit") == pytest.approx(1 / 2)
    assert WishScores(()).understood("explicit") == 0.0


def test_a_target_token_with_an_empty_mask_is_a_refusal() -> None:
    pointed = asked(BUILT, answer(format_answer(BUILT)))
    empty = asked(BUILT, answer(format_answer(BUILT), mask=False))
    specks = asked(BUILT, answer(format_answer(BUILT), side=2))  # 4 pixels: the command drops them
    assert pointed.found and not empty.found and not specks.found
    assert pointed.right and empty.right
    scores = WishScores((pointed, empty))
    assert scores.refused(met=True) == 0.5


def test_refusals_are_told_apart_by_what_the_pair_meets() -> None:
    yes, no = answer(format_answer(BUILT)), answer(format_absent(BUILT))
    scores = WishScores(
        (
            asked(BUILT, yes), asked(BUILT, yes), asked(BUILT, yes), asked(BUILT, no),
            asked(WATER, no, met=False), asked(None, no, met=False), asked(None, yes, met=False),
            asked(ANY, no, met=None), asked(ANY, yes, met=None),  # label and mask differ
        )
    )  # fmt: skip
    assert scores.refused(met=True) == pytest.approx(1 / 4)
    assert scores.refused(met=False) == pytest.approx(2 / 3)


def test_pixels_are_counted_by_meaning() -> None:
    said = answer(format_answer(ANY))
    scores = WishScores(
        (
            asked(ANY, said, counts=MaskCounts(3, 1, 0, 12)),
            asked(ANY, said, counts=MaskCounts(1, 0, 4, 11), met=None),
            asked(BUILT, said, counts=MaskCounts(9, 0, 0, 7)),
            asked(ANY, said),
        )
    )
    assert scores.masks(ANY) == MaskCounts(4, 1, 4, 23)
    assert scores.masks(BUILT) == MaskCounts(9, 0, 0, 7)
    assert scores.masks(WATER) == MaskCounts()
    assert scores.numbers()["f1_any"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 4))


def test_the_score_is_the_mean_of_shares() -> None:
    yes, no = answer(format_answer(ANY)), answer(format_absent(WATER))
    scores = WishScores(
        (
            asked(ANY, yes, counts=MaskCounts(1, 1, 1, 1)),
            asked(ANY, no, kind="implicit"),
            asked(WATER, no, met=False, kind="implicit"),
        )
    )
    numbers = scores.numbers()
    assert numbers == pytest.approx(
        {
            "understood_explicit": 1.0,
            "understood_implicit": 0.5,
            "refused": 1.0,
            "refused_wrongly": 0.5,
            "f1_any": 0.5,
            "score": (1.0 + 0.5 + 1.0 + 0.5 + 0.5) / 5,
        }
    )


# Asking


@pytest.fixture(scope="module")
def data(tiny_wishes: Callable[..., TrainConfig]) -> ValidationPairs:
    return ValidationPairs(tiny_wishes("wishes", "unused").data)


@pytest.fixture(scope="module")
def model(reasoncd_kit: ModuleType) -> ReasonCD:
    made: ReasonCD = reasoncd_kit.make()
    return made


@pytest.fixture
def script(model: ReasonCD, monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], list[str]]:
    """Function that lets the model answer from a script and returns what it will be asked."""

    def follow(say: Script) -> list[str]:
        heard: list[str] = []

        def ask(pairs: EncodedPairs, wishes: Sequence[str]) -> list[WishAnswer]:
            heard.extend(wishes)
            return [answer(say(w)[0], w, mask=say(w)[1], side=64) for w in wishes]

        monkeypatch.setattr(model, "ask", ask)
        return heard

    return follow


def stated(wish: str) -> str:
    """The right words, with a target token."""
    return format_answer(MEANING[wish]) if MEANING[wish] else format_absent(None)


def test_wishes_are_worded_from_one_split_and_tell_what_the_pairs_meet(
    data: ValidationPairs, model: ReasonCD, script: Callable[[Script], list[str]]
) -> None:
    heard = script(lambda wish: (stated(wish), True))
    scores = score_wishes(model, data, "test", seed=3)
    assert heard == [a.wish.text for a in scores.asked]
    assert set(heard) <= {wish.text for wish in load_wishes("test")}
    numbers = scores.numbers()
    assert numbers["understood_explicit"] == numbers["understood_implicit"] == 1.0
    assert (numbers["refused_wrongly"], numbers["refused"] < 0.5) == (0.0, True)
    by_pair = {name: [a for a in scores.asked if a.pair == name] for name in
               ("val_built", "val_corner", "val_same", "val_coarse")}  # fmt: skip
    assert sum(map(len, by_pair.values())) == len(scores.asked)
    for name, found in by_pair.items():
        of_any = [a for a in found if a.wish.understood == ANY]
        expected = {"val_same": False, "val_coarse": None}.get(name, True)
        assert [a.met for a in of_any] == [expected], name
        others = [a for a in found if a.wish.understood not in (ANY, None)]
        assert len(others) <= 4 and all(a.counts is not None for a in others)
        assert sum(bool(a.met) for a in others) <= 2
        assert any(a.met for a in others) == (name in ("val_built", "val_corner"))


def test_pixels_are_compared_with_what_is_known(
    data: ValidationPairs, model: ReasonCD, script: Callable[[Script], list[str]]
) -> None:
    script(lambda wish: (stated(wish), True))
    full = score_wishes(model, data, "validation").masks(ANY)
    changed = 64 * 32 + 4 * 8
    assert full == MaskCounts(tp=changed, fp=4 * 64 * 64 - changed)
    script(lambda wish: (stated(wish), False))
    scores = score_wishes(model, data, "validation")
    assert scores.masks(ANY) == MaskCounts(fn=changed, tn=4 * 64 * 64 - changed)
    assert scores.refused(met=True) == scores.refused(met=False) == 1.0
    assert scores.numbers()["understood_explicit"] == 1.0  # the words were right


def test_the_seed_decides_what_is_asked(
    data: ValidationPairs, model: ReasonCD, script: Callable[[Script], list[str]]
) -> None:
    heard = script(lambda wish: (stated(wish), True))
    runs = []
    for seed in (1, 1, 2):
        heard.clear()
        score_wishes(model, data, "validation", seed=seed)
        runs.append(list(heard))
    assert runs[0] == runs[1] != runs[2]


def test_fewer_pairs_are_spread_over_the_split(
    data: ValidationPairs,
    model: ReasonCD,
    script: Callable[[Script], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(lambda wish: (stated(wish), True))
    monkeypatch.setattr(wish_scores, "_OFF_SUBJECT", 1.0)
    scores = score_wishes(model, data, "validation", n_pairs=2)
    assert list(dict.fromkeys(a.pair for a in scores.asked)) == ["val_built", "val_coarse"]
    off = [a for a in scores.asked if a.wish.understood is None]
    assert len(off) == 2 and all(a.met is False and a.counts is None for a in off)


# The model itself


def test_wishes_about_one_pair_are_asked_in_batches(
    model: ReasonCD, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64), dtype=np.uint8)
    wishes = ["new houses", "lost trees", "any water?"]
    together = ask_layers(model, before, after, wishes)
    sizes, ask = [], model.ask
    monkeypatch.setattr(wish_scores, "_BATCH", 2)
    monkeypatch.setattr(model, "ask", lambda pairs, w: sizes.append(len(w)) or ask(pairs, w))
    apart = ask_layers(model, before, after, wishes)
    assert sizes == [2, 1] and [a.wish for a in apart] == wishes
    for one, other in zip(together, apart, strict=True):
        assert one.answer == other.answer and one.mask.shape == (64, 64)
        torch.testing.assert_close(one.probability, other.probability)
    assert ask_layers(model, before, after, []) == []
