"""BLEU, ROUGE-L and CIDEr-D equal the coco-caption code; METEOR equals its own program."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from whatchanged.metrics.captions import score_captions, score_pairs
from whatchanged.metrics.meteor import meteor_score, sum_meteor_counts
from whatchanged.metrics.meteor_java import java_meteor_counts


def _load_sets() -> ModuleType:
    """Import the sets from beside this file: tests are no package."""
    path = Path(__file__).with_name("caption_sets.py")
    spec = importlib.util.spec_from_file_location("parity_caption_sets", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


sets = _load_sets()
IDS = [str(number) for number in range(0, 999, 7)]
# Six digits stand in no table of METEOR and have no common hash in its matcher.
OPAQUE = [str(number) for number in range(400_000, 990_000, 14_983)]


@pytest.fixture(scope="module")
def coco() -> dict[str, Any]:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap, the oracle, is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    return {"bleu": Bleu(4), "rouge": Rouge(), "cider": Cider()}


@pytest.mark.parametrize(("seed", "tokens"), [(1, sets.WORDS), (2, sets.UNICODE), (3, IDS)])
def test_bleu_rouge_and_cider_equal_the_oracle(
    seed: int, tokens: list[str], coco: dict[str, Any]
) -> None:
    for number, captions in enumerate(sets.caption_sets(seed, tokens, n_sets=120)):
        truths, guesses = captions.for_oracle()
        ours = score_captions(captions.predictions, captions.references, meteor="none")
        pairs = score_pairs(captions.predictions, captions.references, meteor="none")
        bleu, bleu_pairs = coco["bleu"].compute_score(truths, guesses, verbose=0)
        rouge, rouge_pairs = coco["rouge"].compute_score(truths, guesses)
        cider, cider_pairs = coco["cider"].compute_score(truths, guesses)
        theirs = [*bleu, rouge, cider]
        mine = [ours.bleu1, ours.bleu2, ours.bleu3, ours.bleu4, ours.rouge_l, ours.cider_d]
        assert mine == pytest.approx([100 * s for s in theirs], abs=1e-9), f"set {number}"
        for index, pair in enumerate(pairs):
            theirs = [*(b[index] for b in bleu_pairs), rouge_pairs[index], cider_pairs[index]]
            mine = [pair.bleu1, pair.bleu2, pair.bleu3, pair.bleu4, pair.rouge_l, pair.cider_d]
            assert mine == pytest.approx([100 * s for s in theirs], abs=1e-9), f"set {number}"


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "tolerance"), [(OPAQUE, 1e-4), (IDS, 0.05)])
def test_exact_meteor_equals_its_own_program(
    tokens: list[str], tolerance: float, meteor_program: Any
) -> None:
    for number, captions in enumerate(sets.caption_sets(4, tokens, n_sets=300, longest=40)):
        theirs, their_pairs = meteor_program.compute_score(*captions.for_oracle())
        ours = score_captions(captions.predictions, captions.references)
        pairs = score_pairs(captions.predictions, captions.references)
        assert ours.meteor == pytest.approx(100 * theirs, abs=tolerance), f"set {number}"
        mine = [pair.meteor for pair in pairs]
        theirs = [100 * score for score in their_pairs]
        assert mine == pytest.approx(theirs, abs=tolerance), f"set {number}"


@pytest.mark.slow
def test_java_backend_equals_the_oracle_on_words(meteor_program: Any) -> None:
    chosen = sets.caption_sets(5, sets.WORDS, n_sets=60, longest=40)
    predictions = [("a", "house"), ()]
    references = [[("two", "houses")], [("a", "tree")]]
    predictions += [tuple(p) for captions in chosen for p in captions.predictions]
    references += [
        [tuple(r) for r in group] for captions in chosen for group in captions.references
    ]
    ours = java_meteor_counts(predictions, references)
    truths, guesses = sets.CaptionSet(predictions, references).for_oracle()
    theirs, their_pairs = meteor_program.compute_score(truths, guesses)
    assert meteor_score(sum_meteor_counts(ours)) == pytest.approx(theirs, abs=1e-12)
    assert their_pairs[0] > 0, "the stem matcher did not fire"
    assert [meteor_score(c) for c in ours] == pytest.approx(their_pairs, abs=1e-12)
