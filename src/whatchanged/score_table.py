"""Scores of captions as a table for the terminal, floors and protocol always with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whatchanged.metrics.captions import CaptionBreakdown, CaptionScores
from whatchanged.score import MODAL, PARTS, SCORES, Ruler, ScoredCaptions

HEADS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "S*m")
PART_NAMES = {"overall": "all", "changed": "changed", "unchanged": "unchanged"}

PUBLISHED = (
    "published change captioning scores (LEVIR-CC: HiSem 80.21 S*m) are of protocol ids with the "
    "vocabulary of all splits;\nscores of another protocol or vocabulary do not compare with them"
)
_METEOR_NOTES = {
    ("exact", "words"): "METEOR by exact matches is another number than the jar's on words: the "
    "jar also matches stems, synonyms and paraphrases, and weighs function words less",
    ("exact", "ids"): "METEOR by exact matches is within 0.05 of the jar's on ids",
}


def score_table(scored: ScoredCaptions) -> str:
    """Return scores and floors of all, changed and unchanged pairs as aligned text."""
    blocks = [
        table(
            (f"{PART_NAMES[part]} pairs", "n", *HEADS),
            [
                _row("predictions", getattr(scored.scores, part)),
                *floor_rows(scored.floors, part),
            ],
        )
        for part in PARTS
    ]
    head = f"split {scored.split}; {scored.ruler.describe()}"
    return "\n\n".join([head, *blocks, notes(scored.ruler, scored.floors)])


def floor_rows(floors: Mapping[str, CaptionBreakdown], part: str) -> list[list[str]]:
    """Return one row a floor: name, number of pairs, scores of one part of the split."""
    return [_row(f"floor: {name}", getattr(floor, part)) for name, floor in floors.items()]


def notes(ruler: Ruler, floors: Mapping[str, CaptionBreakdown]) -> str:
    """Return what a reader must know before comparing the table with another."""
    lines = [PUBLISHED]
    if note := _METEOR_NOTES.get((ruler.meteor, ruler.protocol)):
        lines.append(note)
    if MODAL not in floors:
        lines.append(f"no changed training pairs, so no floor '{MODAL}'")
    return "\n".join(lines)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align the first column to the left and all others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    )


def _row(name: str, scores: CaptionScores | None) -> list[str]:
    if scores is None:
        return [name, "0", *["-"] * len(SCORES)]
    printed = scores.row()
    return [name, printed["n"], *(printed[score] for score in SCORES)]
