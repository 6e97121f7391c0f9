"""How wishes are understood that were written without sight of the bank of wishes.

    python benchmarks/fresh_wishes.py --data ../shared/data/captioned [--model reasoncd-small]
        [--pairs 3] [--missed]

The wordings of ``fresh_wishes.yaml`` are meant as ordinary users would put them; nothing is
trained or chosen by them. Each is asked about a few validation pairs, evenly over the split. It
is understood if classes, direction and former classes are one of the readings that the list
allows: a wish off the subject, if the answer states no meaning at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from whatchanged.answers import Understood
from whatchanged.console import track
from whatchanged.data.wishes import in_order, load_wishes, plain_wording
from whatchanged.models import weights
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.train.config import DataConfig
from whatchanged.train.wish_data import ValidationPairs
from whatchanged.train.wish_scores import ask_layers

LIST = Path(__file__).with_suffix(".yaml")
KINDS = ("explicit", "implicit", "compound", "off the subject")


@dataclass(frozen=True)
class FreshWish:
    """A wording and every meaning that it may fairly have; none off the subject."""

    text: str
    kind: str
    readings: tuple[Understood, ...]

    def is_met_by(self, stated: Understood | None) -> bool:
        """Whether an answer stated one of the readings, or rightly none."""
        return stated in self.readings if self.readings else stated is None


def read_list(path: Path = LIST) -> list[FreshWish]:
    """Read the wishes, grouped by kind in the file."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        FreshWish(entry["wish"], kind, tuple(meaning(text) for text in entry.get("means", ())))
        for kind in KINDS
        for entry in groups[kind]
    ]


def meaning(text: str) -> Understood:
    """Read `building appeared` or `road, building appeared from tree`."""
    what, _, former = text.partition(" from ")
    names, _, direction = what.rpartition(" ")

    def classes(listed: str) -> tuple[str, ...]:
        return in_order([name.strip() for name in listed.split(",") if name.strip()])

    return Understood(classes(names), direction, classes(former))  # type: ignore[arg-type]


def table(wishes: Sequence[FreshWish], right: Sequence[Sequence[bool]]) -> str:
    """Markdown: share understood of each kind, over wishes and pairs."""
    trained = {plain_wording(wish.text) for wish in load_wishes("train")}
    lines = [
        "| wishes | understood | wordings | not in the bank | of these |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in KINDS:
        rows = [(w, r) for w, r in zip(wishes, right, strict=True) if w.kind == kind]
        new = [(w, r) for w, r in rows if plain_wording(w.text) not in trained]
        share, of_new = (100 * np.mean([r for _, r in part]) for part in (rows, new))
        lines.append(f"| {kind} | {share:.1f} % | {len(rows)} | {len(new)} | {of_new:.1f} % |")
    return "\n".join(lines)


def main() -> None:
    """Ask every wish and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="reasoncd-small")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--missed", action="store_true", help="list what was not understood")
    arguments = parser.parse_args()
    wishes = read_list()
    model = load_reasoncd(weights.require(arguments.model))
    model.merge()
    data = ValidationPairs(DataConfig(captions=(str(arguments.data),)))
    places = np.linspace(0, len(data.validation) - 1, arguments.pairs + 2).round()[1:-1]
    stated = []
    for place in track([int(p) for p in places], "asking"):
        layers = data.validation_store.whole(place)
        answers = ask_layers(model, layers.before, layers.after, [w.text for w in wishes])
        stated.append([answer.understood for answer in answers])
    by_wish = list(zip(*stated, strict=True))
    right = [[w.is_met_by(s) for s in said] for w, said in zip(wishes, by_wish, strict=True)]
    print(table(wishes, right))
    if arguments.missed:
        for wish, said, good in zip(wishes, by_wish, right, strict=True):
            if not all(good):
                print(f"- {wish.text}: {said[good.index(False)]}")


if __name__ == "__main__":
    main()
