"""The tables of a captioning model's card, from the model and data at hand.

    python benchmarks/hisem_card.py --data ../shared/data/captioned [--model hisem-small]
    python benchmarks/hisem_card.py --data ... --sheet sheet.png     # the 24 pairs as pictures

Scores are those of the METEOR jar and this project's BLEU, ROUGE-L and CIDEr-D (equal to
coco-caption's), on words. The 24 pairs are taken evenly from best to worst ROUGE-L, so they
show good and bad alike; nobody chose them.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np

from whatchanged.data.pictures import read_picture
from whatchanged.evaluate import CaptionEvaluation, CaptionReport, Prediction, evaluate_captions
from whatchanged.metrics.captions import CaptionScores
from whatchanged.score import Ruler

SHOWN = 24
COLUMNS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "s_m")
HEADS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "S*m")


def row(name: str, scores: CaptionScores | None) -> str:
    """One Markdown table row."""
    cells = ["-"] * len(COLUMNS) if scores is None else [scores.row()[c] for c in COLUMNS]
    return f"| {name} | " + " | ".join(cells) + " |"


def score_table(greedy: CaptionReport, beam: CaptionEvaluation, part: str) -> str:
    """All predictors on one part of the split: `overall`, `changed` or `unchanged`."""
    lines = [
        "| " + " | ".join(("", *HEADS)) + " |",
        "|---|" + "---:|" * len(HEADS),
    ]
    for name, floor in greedy.floors.items():
        lines.append(row(f"floor: {name}", getattr(floor, part)))
    lines.append(row("hisem-small, greedy", getattr(greedy.evaluations[0].scores, part)))
    lines.append(row("hisem-small, beam 3", getattr(beam.scores, part)))
    return "\n".join(lines)


def chosen(evaluation: CaptionEvaluation) -> list[Prediction]:
    """24 predictions, evenly from best to worst ROUGE-L."""
    order = sorted(
        range(len(evaluation.predictions)),
        key=lambda i: (-evaluation.scores.pairs[i].rouge_l, evaluation.predictions[i].sample.name),
    )
    places = np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)
    return [evaluation.predictions[order[place]] for place in places]


def pair_table(predictions: list[Prediction]) -> str:
    """Ids, references and captions."""
    lines = ["| pair | changed | p | ours | references |", "|---|---|---:|---|---|"]
    for p in predictions:
        references = " / ".join(" ".join(caption) for caption in p.sample.captions)
        label = "yes" if p.sample.changed else "no"
        ours = " ".join(p.caption)
        lines.append(f"| {p.sample.name} | {label} | {p.probability:.2f} | {ours} | {references} |")
    return "\n".join(lines)


def draw_sheet(predictions: list[Prediction], out: Path) -> None:
    """Draw pairs with our caption and the first reference, four pairs a row."""
    from matplotlib.figure import Figure

    rows = -(-len(predictions) // 4)
    figure = Figure(figsize=(20, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, 8, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, p in enumerate(predictions):
        place = grid[index // 4][2 * (index % 4) : 2 * (index % 4) + 2]
        for axes, path in zip(place, (p.sample.before, p.sample.after), strict=True):
            axes.imshow(read_picture(path))
        ours = textwrap.fill(f"{p.probability:.2f} {' '.join(p.caption)}", 58)
        truth = textwrap.fill(f"ref: {' '.join(p.sample.captions[0])}", 58)
        colour = "black" if p.changed == p.sample.changed else "red"
        place[0].set_title(f"{ours}\n{truth}", fontsize=8, loc="left", color=colour)
    figure.savefig(out, dpi=80)


def main() -> None:
    """Print the tables, or draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="hisem-small")
    parser.add_argument("--split", default="val")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    ruler = Ruler("words", meteor="java")
    asked = ([arguments.model], arguments.data, arguments.split)
    (beam,) = evaluate_captions(*asked, ruler=ruler, beam=3).evaluations
    if arguments.sheet is not None:
        draw_sheet(chosen(beam), arguments.sheet)
        return
    greedy = evaluate_captions(*asked, ruler=ruler)
    for part in ("overall", "changed", "unchanged"):
        scores = getattr(beam.scores, part)
        print(f"\n### {part} ({scores.n} pairs)\n\n{score_table(greedy, beam, part)}")
    print("\n### Image router\n\n| pairs | routed rightly |\n|---|---:|")
    for name, share in beam.router.items():
        print(f"| {name} | {'-' if share is None else f'{share:.1f} %'} |")
    print(f"\n### {SHOWN} pairs, best to worst\n\n{pair_table(chosen(beam))}")


if __name__ == "__main__":
    main()
