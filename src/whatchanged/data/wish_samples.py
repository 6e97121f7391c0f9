"""Samples for ReasonCD from one pair and what it is known to meet or not to meet.

Every choice comes from sha256 of the seed, the pair and the meaning, so that the same seed
gives the same samples, whatever else the data set holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from whatchanged.answers import Understood, ask_to_explain, format_absent, format_answer
from whatchanged.data.prepared import write_png
from whatchanged.data.reason_json import ReasonSample, encode_reason_mask
from whatchanged.data.splits import shuffled
from whatchanged.data.transitions import Mask
from whatchanged.data.wishes import Kind, Wish

T = TypeVar("T")
Bank = Callable[[str], Sequence[Wish]]
"""Returns the wishes of ``train``, ``validation`` or ``test``, as `wishes.load_wishes` does."""

BANK_SPLIT = {"train": "train", "val": "validation", "test": "test"}
"""Which wordings the pairs of each split are asked with."""

N_ABSENT = 2  # wishes a pair that it does not meet
_OFF_SUBJECT = 4  # one pair in this many is also asked for something no picture shows


@dataclass(frozen=True)
class WishedPair:
    """A pair and what is known of it.

    Attributes:
        name: Unique within its split.
        before: Earlier picture.
        after: Later picture.
        shape: Height and width of both.
        present: Masks of the meanings that the pair meets, 0, 1 and 255 as by `wish_mask`.
        absent: Meanings that it certainly does not meet.
    """

    name: str
    before: Path
    after: Path
    shape: tuple[int, int]
    present: Mapping[Understood, Mask]
    absent: Sequence[Understood]


class WishWriter:
    """Asks pairs of one split with the wordings of that split.

    Args:
        folder: Where ``masks/<split>/`` is made.
        split: ``train``, ``val`` or ``test``.
        wishes: Wordings of the split.
        seed: Which wordings each pair gets.
    """

    def __init__(self, folder: Path, split: str, wishes: Iterable[Wish], seed: int) -> None:
        self._masks = folder / "masks" / split
        self._seed = seed
        self._wishes: dict[tuple[Understood | None, Kind], list[Wish]] = {}
        for wish in wishes:
            self._wishes.setdefault((wish.understood, wish.kind), []).append(wish)

    @property
    def meanings(self) -> tuple[Understood, ...]:
        """What wordings of the split mean, in the order of the bank."""
        found = (meaning for meaning, _ in self._wishes if meaning is not None)
        return tuple(dict.fromkeys(found))

    def ask(self, pair: WishedPair) -> list[ReasonSample]:
        """Return the samples of a pair and write their masks.

        Every meaning that is met is asked explicitly, implicitly, and implicitly with an
        explanation, as far as the split has wordings; of those that are not, two are asked.
        """
        samples = []
        for meaning, mask in pair.present.items():
            path = self._masks / pair.name / f"{slug(meaning)}.png"
            asked = self._present(pair, meaning, path)
            if asked:
                write_png(path, encode_reason_mask(mask))
                samples += asked
        return samples + self._absent(pair)

    def _present(self, pair: WishedPair, meaning: Understood, mask: Path) -> list[ReasonSample]:
        key = f"{self._seed}:{pair.name}:{slug(meaning)}"
        plain = format_answer(meaning)
        asked = []
        if named := self._wishes.get((meaning, "explicit")):
            asked.append((pick(named, f"{key}:explicit").text, plain))
        if implied := self._wishes.get((meaning, "implicit")):
            asked.append((pick(implied, f"{key}:implicit").text, plain))
            wish = pick(implied, f"{key}:explained")
            asked.append((ask_to_explain(wish.text), format_answer(meaning, wish.why)))
        return [ReasonSample(pair.before, pair.after, mask, *texts) for texts in asked]

    def _absent(self, pair: WishedPair) -> list[ReasonSample]:
        key = f"{self._seed}:{pair.name}"
        by_slug = {slug(m): m for m in pair.absent if self._wordings(m)}
        order = [by_slug[name] for name in shuffled(sorted(by_slug), key)]
        # Most meanings of the bank name a former class; one plain wish comes first.
        first = next((m for m in order if not m.former), None)
        order.sort(key=lambda m: m is not first)
        meanings: list[Understood | None] = [*order[:N_ABSENT]]
        if self._wordings(None) and _number(f"{key}:off") % _OFF_SUBJECT == 0:
            meanings.append(None)
        if not meanings:
            return []
        height, width = pair.shape
        mask = self._masks / f"none-{width}x{height}.png"
        if not mask.exists():
            write_png(mask, np.zeros(pair.shape, np.uint8))
        texts = (
            (pick(self._wordings(m), f"{key}:absent:{i}").text, format_absent(m))
            for i, m in enumerate(meanings)
        )
        return [ReasonSample(pair.before, pair.after, mask, *text) for text in texts]

    def _wordings(self, meaning: Understood | None) -> list[Wish]:
        kinds: tuple[Kind, ...] = ("explicit", "implicit")
        return [wish for kind in kinds for wish in self._wishes.get((meaning, kind), ())]


def pick(items: Sequence[T], key: str) -> T:
    """Return the item that a key falls on; each is equally likely."""
    return items[_number(key) % len(items)]


def slug(meaning: Understood) -> str:
    """Return a meaning as a file name: ``building-appeared-from-low_vegetation``."""
    names = "+".join(meaning.classes)
    former = f"-from-{'+'.join(meaning.former)}" if meaning.former else ""
    return f"{names}-{meaning.direction}{former}".replace(" ", "_")


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
