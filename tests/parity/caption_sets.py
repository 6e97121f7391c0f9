"""Random and hostile caption sets, the same in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass

WORDS = ["a", "the", "road", "house", "houses", "villa", "tree", "trees", "built", "appears"]
UNICODE = ["été", "naïve", "道路", "дом", "🏠", "İ", "ß", "a\u0301", "x.y", "-", "'s", "%d", "NULL"]


@dataclass(frozen=True)
class CaptionSet:
    """A few pairs: one prediction each, one to five references each."""

    predictions: list[list[str]]
    references: list[list[list[str]]]

    def for_oracle(self) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
        """Return references and predictions as the coco-caption code takes them."""
        truths = {i: [" ".join(r) for r in group] for i, group in enumerate(self.references)}
        guesses = {i: [" ".join(p)] for i, p in enumerate(self.predictions)}
        return truths, guesses


def caption_sets(
    seed: int, tokens: list[str], *, n_sets: int, longest: int = 120
) -> list[CaptionSet]:
    """Draw sets over ``tokens``: ordinary ones and every kind of hostile caption."""
    rng = random.Random(seed)
    return [_caption_set(rng, tokens, longest) for _ in range(n_sets)]


def _caption_set(rng: random.Random, tokens: list[str], longest: int) -> CaptionSet:
    few = rng.sample(tokens, min(len(tokens), rng.choice([1, 2, 5, 13])))
    predictions, references = [], []
    for _ in range(rng.randint(1, 8)):
        group = [_ordinary(rng, few) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.1:
            group[rng.randrange(len(group))] = _ordinary(rng, tokens)
        predictions.append(_prediction(rng, few, tokens, group, longest))
        references.append(group)
    return CaptionSet(predictions, references)


def _ordinary(rng: random.Random, tokens: list[str]) -> list[str]:
    return rng.choices(tokens, k=rng.randint(1, 14))


def _prediction(
    rng: random.Random,
    few: list[str],
    tokens: list[str],
    references: list[list[str]],
    longest: int,
) -> list[str]:
    kind = rng.randrange(9)
    reference = rng.choice(references)
    if kind == 0:
        return []
    if kind == 1:
        return [rng.choice(few)]
    if kind == 2:
        return [rng.choice(few)] * rng.randint(2, 12)
    if kind == 3:
        return rng.choices(few, k=rng.randint(longest // 2, longest))
    if kind == 4:
        return list(reference)
    if kind == 5:
        return rng.sample(reference, len(reference))
    if kind == 6:
        return reference[: len(reference) // 2] + _ordinary(rng, few)
    return _ordinary(rng, few if kind == 7 else tokens)
