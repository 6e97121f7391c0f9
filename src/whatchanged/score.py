"""Captions made anywhere, scored under a named protocol beside the floors.

Nothing here loads torch: scoring a file of predictions starts at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from whatchanged.data.levir_cc import load_references
from whatchanged.data.samples import CaptionReferences
from whatchanged.data.set_types import SPLITS
from whatchanged.data.tokens import SPECIALS, UNCHANGED_CAPTION, tokenise
from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.captions import (
    CaptionBreakdown,
    CaptionScores,
    MeteorBackend,
    score_breakdown,
)
from whatchanged.metrics.protocol import (
    Protocol,
    VocabularySource,
    build_vocabulary,
    to_ids,
    to_words,
)

K = TypeVar("K", bound=Hashable)
Words = tuple[str, ...]

SCORES = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "s_m")
PARTS = ("overall", "changed", "unchanged")
CONSTANT, MODAL = "constant", "right label + modal caption"

_NAMED = 5  # file names that a message lists before it only counts


@dataclass(frozen=True)
class Ruler:
    """How captions are compared; without it a score says nothing.

    Attributes:
        protocol: `ids` as published, or `words`.
        vocabulary: Captions that the vocabulary of `ids` is built from; `words` needs none.
        meteor: Back-end of METEOR.
    """

    protocol: Protocol = "ids"
    vocabulary: VocabularySource = "all-splits"
    meteor: MeteorBackend = "exact"

    def __post_init__(self) -> None:
        """Refuse what no ruler has."""
        for name, kind in (
            ("protocol", Protocol),
            ("vocabulary", VocabularySource),
            ("meteor", MeteorBackend),
        ):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise UsageError(f"{name} '{value}' is unknown", hint=f"one of {', '.join(known)}")

    def measure(
        self,
        said: Mapping[K, Sequence[Sequence[str]]],
        pairs: Sequence[CaptionReferences],
        everything: Sequence[CaptionReferences],
    ) -> dict[K, CaptionBreakdown]:
        """Score what several predictors say of the same pairs.

        Args:
            said: For each predictor the words of one caption a pair.
            pairs: The pairs, in the same order.
            everything: All splits of the data set, for the vocabulary.

        Raises:
            DatasetError: Not one caption for each pair.
            UsageError: Vocabulary `train` of a data set without that split.
            MissingExtraError: METEOR `java` without pycocoevalcap or Java.
        """
        tokens = self._tokens(everything)
        references = [[tokens(caption) for caption in pair.captions] for pair in pairs]
        changed = [pair.changed for pair in pairs]
        return {
            name: score_breakdown(
                [tokens(caption) for caption in captions], references, changed, meteor=self.meteor
            )
            for name, captions in said.items()
        }

    def _tokens(
        self, everything: Sequence[CaptionReferences]
    ) -> Callable[[Sequence[str]], list[str]]:
        """Return the function from words to what is compared."""
        if self.protocol == "words":
            return to_words
        splits: dict[str, list[Words]] = {}
        for pair in everything:
            splits.setdefault(pair.split, []).extend(pair.captions)
        return partial(to_ids, vocabulary=build_vocabulary(splits, self.vocabulary))

    def describe(self) -> str:
        """Return one line for a person: protocol, vocabulary, METEOR's back-end."""
        said = "protocol words"
        if self.protocol == "ids":
            source = "the training split" if self.vocabulary == "train" else "all splits"
            said = f"protocol ids, vocabulary of {source}"
        backends = {
            "exact": "METEOR 1.5 with exact matches alone, without Java",
            "java": "METEOR 1.5 by its jar",
            "none": "without METEOR",
        }
        return f"{said}; {backends[self.meteor]}"

    def to_json(self) -> dict[str, Any]:
        """Return `protocol`, `vocabulary` (None where none is used) and `meteor_backend`."""
        vocabulary = self.vocabulary if self.protocol == "ids" else None
        return {
            "protocol": self.protocol,
            "vocabulary": vocabulary,
            "meteor_backend": self.meteor,
        }


@dataclass(frozen=True)
class ScoredCaptions:
    """Scores of captions beside the floors.

    Attributes:
        split: Split that was scored.
        ruler: How it was scored.
        scores: Overall, changed and unchanged pairs, and every pair.
        floors: Name of a predictor that sees no picture -> its scores.
    """

    split: str
    ruler: Ruler
    scores: CaptionBreakdown
    floors: dict[str, CaptionBreakdown]

    def to_json(self) -> dict[str, Any]:
        """Return the command's `--json`: scores in percent, None where undefined."""
        ruler = self.ruler.to_json()
        return {
            "split": self.split,
            **breakdown_json(self.scores, ruler),
            "floors": {name: breakdown_json(floor, ruler) for name, floor in self.floors.items()},
        }


def score_file(
    predictions: Path | str,
    references: Path | str,
    *,
    split: str = "test",
    ruler: Ruler | None = None,
) -> ScoredCaptions:
    """Score a file of captions against references in LEVIR-CC's JSON.

    Captions are split into words as LEVIR-CC's own are; START, END and NULL are taken away,
    UNK stays.

    Args:
        predictions: JSON object, file name of a pair -> its caption as text.
        references: Annotation file of the data set, all splits in one.
        split: `train`, `val` or `test`: the pairs that must have a caption.
        ruler: How to compare; None is the published protocol.

    Raises:
        DatasetError: A broken file; captions that are missing or belong to no pair.
        UsageError: An unknown split, or a vocabulary that the data set cannot give.
        MissingExtraError: METEOR `java` without pycocoevalcap or Java.
    """
    if split not in SPLITS:
        raise UsageError(f"split '{split}' is unknown", hint=f"one of {', '.join(SPLITS)}")
    everything = load_references(references)
    pairs = [pair for pair in everything if pair.split == split]
    if not pairs:
        known = sorted({pair.split for pair in everything})
        raise DatasetError(
            f"{references} has no pairs of split '{split}'", hint=f"it has {', '.join(known)}"
        )
    said = load_predictions(predictions)
    _check_names(said, pairs, everything, Path(predictions))
    ruler = ruler or Ruler()
    floors = floor_captions(everything, [pair.changed for pair in pairs])
    captions = {"": [said[pair.filename] for pair in pairs], **floors}
    measured = ruler.measure(captions, pairs, everything)
    return ScoredCaptions(split, ruler, measured.pop(""), measured)


def load_predictions(path: Path | str) -> dict[str, Words]:
    """Read a JSON object from file names to captions; an empty caption is allowed.

    Raises:
        DatasetError: Not such a file, or a file name that is there twice.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_bytes(), object_pairs_hook=_Object)
    except OSError as error:
        raise DatasetError(
            f"predictions {path} cannot be read: {error.strerror}", hint=_EXPECTED
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"predictions {path} are not valid JSON: {error}", hint=_EXPECTED
        ) from error
    if not isinstance(entries, _Object):
        raise DatasetError(f"predictions {path} are not a JSON object", hint=_EXPECTED)
    said: dict[str, Words] = {}
    for name, text in entries:
        if not isinstance(text, str):
            raise DatasetError(f"{path}: the caption of {name} is not a text", hint=_EXPECTED)
        if name in said:
            raise DatasetError(f"{path} has more than one caption of {name}")
        said[name] = _words(text)
    return said


def floor_captions(
    everything: Sequence[CaptionReferences], changed: Sequence[bool]
) -> dict[str, list[Words]]:
    """Return the captions of predictors that see no picture.

    `constant` says of every pair that nothing changed. `right label + modal caption` knows
    which pairs changed and says of all of them the most frequent caption of the training
    split's changed pairs, the first in the alphabet where several are; it is left out where
    no training pair changed.

    Args:
        everything: All splits of the data set; the training split gives the modal caption.
        changed: Label of every pair to be described.
    """
    constant = tuple(tokenise(UNCHANGED_CAPTION))
    floors = {CONSTANT: [constant] * len(changed)}
    counts = Counter(
        caption
        for pair in everything
        if pair.split == "train" and pair.changed
        for caption in pair.captions
    )
    if counts:
        modal = min(counts, key=lambda caption: (-counts[caption], caption))
        floors[MODAL] = [modal if label else constant for label in changed]
    return floors


def breakdown_json(scores: CaptionBreakdown, ruler: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores as plain values: overall, and in the same shape `changed`, `unchanged`.

    Each part names its protocol, so that it can be quoted alone.

    Args:
        scores: The scores.
        ruler: What :meth:`Ruler.to_json` gives.
    """
    parts = {part: {**ruler, **scores_json(getattr(scores, part))} for part in PARTS}
    return {**parts["overall"], "changed": parts["changed"], "unchanged": parts["unchanged"]}


def scores_json(scores: CaptionScores | None) -> dict[str, Any]:
    """Return `n` and the scores in percent; None for a score that is undefined."""
    if scores is None:
        return {"n": 0, **dict.fromkeys(SCORES)}
    return {"n": scores.n, **{name: getattr(scores, name) for name in SCORES}}


class _Object(list[tuple[str, Any]]):
    """A JSON object as its entries, so that a name given twice is seen."""


_EXPECTED = 'expected is one JSON object: {"test_000001.png": "a road is built", ...}'


def _words(text: str) -> Words:
    """Split a caption; the special tokens of a vocabulary stay what they are."""
    words: list[str] = []
    for piece in text.split():
        words += [piece] if piece in SPECIALS else tokenise(piece)
    return tuple(words)


def _check_names(
    said: Mapping[str, Words],
    pairs: Sequence[CaptionReferences],
    everything: Sequence[CaptionReferences],
    path: Path,
) -> None:
    """Refuse predictions that are not exactly one for each pair."""
    wanted = {pair.filename for pair in pairs}
    missing = sorted(wanted - said.keys())
    additional = sorted(said.keys() - wanted)
    if not missing and not additional:
        return
    split = pairs[0].split
    parts = []
    if missing:
        parts.append(
            f"lack {len(missing)} of the {len(pairs)} pairs of '{split}': {_list(missing)}"
        )
    if additional:
        parts.append(f"have {len(additional)} that are not among them: {_list(additional)}")
    others = {pair.filename: pair.split for pair in everything if pair.split != split}
    found = sorted({others[name] for name in additional if name in others})
    hint = "names must be the 'filename' of the references, with suffix and without folder"
    if found:
        hint = f"some belong to {', '.join(found)}: choose the split with --split (split=)"
    raise DatasetError(f"predictions {path} {' and '.join(parts)}", hint=hint)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
