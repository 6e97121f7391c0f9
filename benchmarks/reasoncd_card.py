"""The tables of a ReasonCD's card, from the model and data at hand.

    python benchmarks/reasoncd_card.py --data ../shared/data/captioned [--model reasoncd-small]
        [--parts understanding masks]        # one of them alone
        [--baselines results.json ...]       # rows of benchmarks/baselines.py beside ours
        [--out results.json]                 # our rows of the mask table, to read again
    python benchmarks/reasoncd_card.py --data ... --sheet sheet.png   # the 24 pairs as pictures

Everything is asked in words. "Any change" and the classes are asked in one plain wording each;
understanding and refusals with wordings of the bank's test split, whose ideas and synonyms no
training wording has. The 24 asked pairs are taken evenly from best to worst.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mask_scores import (
    MaskRow,
    Picture,
    load_validation,
    mask_tables,
    read_rows,
    score_masks,
    write_rows,
)
from whatchanged.answers import CLASS_WORDS, Understood
from whatchanged.console import track
from whatchanged.data.pictures import UNKNOWN
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models import weights
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.train.config import DataConfig
from whatchanged.train.wish_data import DrawnWish, PairFacts, ValidationPairs, single_classes
from whatchanged.train.wish_scores import AskedWish, WishScores, ask_layers, score_wishes

PARTS = ("understanding", "masks")
SHOWN = 24
ANY_WISH = "any change"
_VERBS = {"appeared": "new {}", "disappeared": "{} that disappeared", "either": "{} that changed"}


def wording(wish: Understood) -> str:
    """One plain wording of a class and direction."""
    return _VERBS[wish.direction].format(CLASS_WORDS[wish.classes[0]])


def shown_wishes(data: ValidationPairs) -> list[list[DrawnWish]]:
    """Per validation pair the classes and directions whose answer is known, and that some pair
    shows."""
    known = []
    for index, sample in enumerate(data.validation):
        layers = data.validation_store.whole(index)
        facts = PairFacts(sample.name, sample.changed, sample.captions)
        known.append(list(data.met_or_not(layers, facts, single_classes())))
    shown = {wish.understood for pair in known for wish in pair if wish.met}
    return [[wish for wish in pair if wish.understood in shown] for pair in known]


def ask_plainly(
    model: ReasonCD, data: ValidationPairs
) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Ask every validation pair for any change and for classes and directions, in plain words.

    Returns:
        Probability of any change by the pair's name, [H, W]; and a Markdown table of classes and
        directions.
    """
    anything: dict[str, NDArray[np.float32]] = {}
    counts: dict[Understood, MaskCounts] = {}
    pairs: dict[Understood, list[int]] = {}
    known = shown_wishes(data)
    for index in track(range(len(known)), "asking"):
        layers = data.validation_store.whole(index)
        wishes = [ANY_WISH, *(wording(wish.understood) for wish in known[index])]
        first, *answers = ask_layers(model, layers.before, layers.after, wishes)
        anything[data.validation[index].name] = first.probability.float().numpy()
        for wish, answer in zip(known[index], answers, strict=True):
            key = wish.understood
            counts[key] = counts.get(key, MaskCounts()).add(
                answer.mask.numpy(), wish.mask == 1, wish.mask != UNKNOWN
            )
            tally = pairs.setdefault(key, [0, 0])
            tally[0 if wish.met else 1] += 1
    lines = [
        "| wish | pairs that meet it | that do not | F1 | precision | recall | IoU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for wish in single_classes():
        if wish not in pairs:
            continue
        scores = counts[wish].scores()
        cells = [f"{getattr(scores, name):.1f}" for name in ("f1", "precision", "recall", "iou")]
        met, unmet = pairs[wish]
        lines.append(f"| {wording(wish)} | {met} | {unmet} | " + " | ".join(cells) + " |")
    return anything, "\n".join(lines)


def ask_any(model: ReasonCD, before: Picture, after: Picture) -> NDArray[np.float32]:
    """Ask two pictures [S, S, 3] for any change; returns its probability, [S, S]."""
    dates = (np.ascontiguousarray(date.transpose(2, 0, 1)) for date in (before, after))
    (answer,) = ask_layers(model, *dates, [ANY_WISH])
    return answer.probability.float().numpy()


def understanding_table(scores: WishScores) -> str:
    """Markdown table of what was understood, refused and found on unseen wordings."""
    subjects = [a for a in scores.asked if a.wish.understood is not None]
    off = [a for a in scores.asked if a.wish.understood is None]
    absent = [a for a in subjects if a.met is False]
    rows = [
        (f"{kind} wishes understood (class and direction)",
         [a.right for a in subjects if a.wish.kind == kind])
        for kind in ("explicit", "implicit")
    ]  # fmt: skip
    rows += [
        ("absent wishes refused", [not a.found for a in absent]),
        ("of these by the answer alone", [not a.answer.found for a in absent]),
        ("wishes off the subject refused", [not a.found for a in off]),
        ("present wishes refused wrongly", [not a.found for a in subjects if a.met]),
    ]
    lines = ["| | share | of |", "|---|---:|---:|"]
    for name, values in rows:
        share = f"{100 * np.mean(values):.1f} %" if values else "-"
        lines.append(f"| {name} | {share} | {len(values)} |")
    return "\n".join(lines)


def chosen(scores: WishScores) -> list[AskedWish]:
    """24 asked wishes, evenly from best to worst: right and well drawn first."""

    def quality(asked: AskedWish) -> tuple[float, str]:
        overlap = 0.0
        if asked.counts is not None and asked.met:
            overlap = asked.counts.scores().iou / 100
        elif asked.met is False:
            overlap = float(not asked.found)
        return (-(overlap + asked.right), f"{asked.pair} {asked.wish.text}")

    order = sorted(scores.asked, key=quality)
    places = np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)
    return [order[place] for place in places]


def asked_table(asked: Sequence[AskedWish]) -> str:
    """Pairs, wishes and answers."""
    lines = ["| pair | wish | there | answer | IoU |", "|---|---|---|---|---:|"]
    for a in asked:
        overlap = "-"
        if a.counts is not None and a.met:
            overlap = f"{a.counts.scores().iou:.0f}"
        said = a.answer.answer if a.found else f"{a.answer.answer} (nothing marked)"
        there = {True: "yes", False: "no", None: "unclear"}[a.met]
        lines.append(f"| {a.pair} | {a.wish.text} | {there} | {said} | {overlap} |")
    return "\n".join(lines)


def draw_sheet(data: ValidationPairs, asked: Sequence[AskedWish], out: Path) -> None:
    """Draw before, after and the mask over after, two wishes a row."""
    from matplotlib.figure import Figure

    names = [sample.name for sample in data.validation]
    rows = -(-len(asked) // 2)
    figure = Figure(figsize=(18, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, a in enumerate(asked):
        layers = data.validation_store.whole(names.index(a.pair))
        place = grid[index // 2][3 * (index % 2) : 3 * (index % 2) + 3]
        after = layers.after.transpose(1, 2, 0)
        shown = after.copy()
        shown[a.answer.mask.numpy()] = (255, 60, 40)
        mixed = (0.5 * after + 0.5 * shown).astype(np.uint8)
        for axes, picture in zip(
            place, (layers.before.transpose(1, 2, 0), after, mixed), strict=True
        ):
            axes.imshow(picture)
        text = textwrap.fill(
            f"{a.wish.text} -> {a.answer.answer} [{'there' if a.met else 'absent'}]", 90
        )
        colour = "black" if a.right and a.met in (a.found, None) else "red"
        place[0].set_title(text, fontsize=8, loc="left", color=colour)
    figure.savefig(out, dpi=75)


def main() -> None:
    """Print the tables, or draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="reasoncd-small")
    parser.add_argument("--baselines", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--split", default="test", help="of the bank: validation or test")
    parser.add_argument("--pairs", type=int, default=204)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    model = load_reasoncd(weights.require(arguments.model))
    model.merge()
    data = ValidationPairs(DataConfig(captions=(str(arguments.data),)))
    if "understanding" in arguments.parts or arguments.sheet is not None:
        scores = score_wishes(model, data, arguments.split, n_pairs=arguments.pairs)
        asked = chosen(scores)
        if arguments.sheet is not None:
            draw_sheet(data, asked, arguments.sheet)
            return
        print(f"\n## Wishes in unseen wordings\n\n{understanding_table(scores)}")
        print(f"\n## {SHOWN} asked pairs, best to worst\n\n{asked_table(asked)}", flush=True)
    if "masks" in arguments.parts:
        beside: dict[str, MaskRow] = {}
        for path in arguments.baselines:
            beside |= read_rows(path)
        samples = load_validation(arguments.data)
        anything, classes = ask_plainly(model, data)
        print(f"\n## Classes and directions\n\n{classes}", flush=True)
        in_turn = (anything[sample.name] for sample in samples)
        rows = {arguments.model: score_masks(lambda before, after: next(in_turn), samples)}
        print(f"\n## Any change\n\n{mask_tables(beside | rows)}", flush=True)
        rows[f"{arguments.model}, dates exchanged"] = score_masks(
            lambda before, after: ask_any(model, after, before), samples
        )
        print(f"\n## Any change, the later date first as well\n\n{mask_tables(rows)}")
        if arguments.out is not None:
            write_rows(arguments.out, rows, {"model": arguments.model, "wish": ANY_WISH})


if __name__ == "__main__":
    main()
