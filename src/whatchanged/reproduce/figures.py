"""Figures as matplotlib draws them, from plain values; legible in print at full text width."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from whatchanged.explain import overlay

Picture = NDArray[np.uint8]
"""RGB, [H, W, 3]."""
Points = Sequence[tuple[float, float]]

WIDTH = 11.0  # inches; half of it is the text width of a page, where 9 points become 4.5
FONT = 9
# Rightly found, wrongly found, missed: told apart by people who see no red or green, too.
COLOURS = {"tp": (255, 255, 255), "fp": (230, 120, 0), "fn": (0, 114, 230)}
LEGEND = "white: found; orange: found wrongly; blue: missed"

_SMOOTH = 20
_GAP, _LINE = 0.24, 0.17  # inches between pictures, and of a line of text
_LETTERS = 13  # an inch, at this size of text
_OPACITY = 0.6


@dataclass(frozen=True)
class ShownPair:
    """A pair with what is said of it.

    Attributes:
        name: Name of the pair.
        before: Photograph.
        after: Photograph.
        lines: Text under it, one paragraph each.
        right: Whether it was judged rightly; wrong ones are written in red.
    """

    name: str
    before: Picture
    after: Picture
    lines: tuple[str, ...]
    right: bool = True


def caption_sheet(pairs: Sequence[ShownPair]) -> Figure:
    """Draw pairs, two in a row, each with its text below."""
    shown = [(pair, (pair.before, pair.after)) for pair in pairs]
    return _sheet(shown, ("before", "after"), across=2)


def heat_sheet(
    pairs: Sequence[ShownPair], maps: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> Figure:
    """Draw how strongly the features of both dates differ, entering and leaving BDAM.

    Args:
        pairs: P pairs.
        maps: For each the two maps, [h, w], at least 0.
    """
    shown = [
        (p, (p.before, p.after, overlay(p.after, entering), overlay(p.after, leaving)))
        for p, (entering, leaving) in zip(pairs, maps, strict=True)
    ]
    return _sheet(shown, ("before", "after", "difference before BDAM", "difference after BDAM"))


def confusion(counts: NDArray[np.int64]) -> Figure:
    """Draw the router's confusion: rows are labels, columns paths, unchanged first, [2, 2]."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = ("unchanged", "changed")
    axes.set_xticks((0, 1), names, fontsize=FONT)
    axes.set_yticks((0, 1), names, fontsize=FONT)
    axes.set(xlabel="path taken", ylabel="label")
    for (row, column), part in np.ndenumerate(share):
        colour = "white" if part > 0.5 else "black"
        text = f"{counts[row, column]:,}\n{100 * part:.1f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=FONT + 1)
    return figure


def expert_use(shares: Mapping[str, NDArray[np.float64]], n_pairs: Mapping[str, int]) -> Figure:
    """Draw which experts the tokens of each class of change visit.

    Args:
        shares: Class -> share of the visits of each expert, [E], sum 1.
        n_pairs: Class -> pairs whose captions name it.
    """
    names = list(shares)
    table = np.stack([shares[name] for name in names])  # [classes, E]
    figure = Figure(figsize=(0.75 * table.shape[1] + 3.2, 0.42 * len(names) + 1.4))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    drawn = axes.imshow(100 * table, cmap="viridis", vmin=0, aspect="auto")
    axes.set_yticks(range(len(names)), [f"{n} ({n_pairs[n]})" for n in names], fontsize=FONT)
    axes.set_xticks(range(table.shape[1]), [str(i + 1) for i in range(table.shape[1])])
    axes.set(xlabel="expert", title="share of visits, %")
    middle = 50 * table.max()
    for (row, column), part in np.ndenumerate(table):
        colour = "white" if 100 * part < middle else "black"
        text = f"{100 * part:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=FONT, color=colour)
    figure.colorbar(drawn, ax=axes, shrink=0.8)
    return figure


def curve_sheet(curves: Mapping[str, Mapping[str, Sequence[Points]]], axis: str) -> Figure:
    """Draw one panel a number, one colour a variant, one line a seed.

    Args:
        curves: Number -> variant -> for each seed its points, step and value.
        axis: What stands along the horizontal axis.
    """
    columns = min(3, len(curves)) or 1
    rows = -(-len(curves) // columns) or 1
    figure = Figure(figsize=(WIDTH, 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(curves) :]:
        axes.set_axis_off()
    for axes, (name, variants) in zip(grid.flat, curves.items(), strict=False):
        for number, (variant, seeds) in enumerate(variants.items()):
            for index, points in enumerate(seeds):
                xs, ys = [x for x, _ in points], [y for _, y in points]
                label = variant if index == 0 else None
                marker = "o" if len(xs) == 1 else None  # a single point is no line
                axes.plot(xs, ys, color=f"C{number}", linewidth=1.2, label=label, marker=marker)
        axes.set_title(name, fontsize=FONT + 1, parse_math=False)
        axes.set_xlabel(axis, fontsize=FONT)
        axes.grid(alpha=0.3)
    if curves:
        grid.flat[0].legend(fontsize=FONT)
    return figure


def mask_sheet(
    pairs: Sequence[ShownPair],
    columns: Mapping[str, Sequence[NDArray[np.bool_]]],
    truths: Sequence[NDArray[np.bool_] | None],
) -> Figure:
    """Draw pairs and, over the later photograph, what each model found, rightly or not.

    Args:
        pairs: P pairs.
        columns: Model -> for each pair its mask, [H, W].
        truths: For each pair where it changed, [H, W]; None where nobody knows.
    """
    shown = [
        (
            pair,
            (
                pair.before,
                pair.after,
                *(judged(pair.after, masks[index], truth) for masks in columns.values()),
            ),
        )
        for index, (pair, truth) in enumerate(zip(pairs, truths, strict=True))
    ]
    return _sheet(shown, ("before", "after", *columns), footer=LEGEND)


def judged(picture: Picture, mask: NDArray[np.bool_], truth: NDArray[np.bool_] | None) -> Picture:
    """Colour over a darkened photograph what a mask found, found wrongly and missed.

    Args:
        picture: [H, W, 3].
        mask: [H, W].
        truth: [H, W]; None where nobody knows: then all that was found is white.
    """
    known = mask if truth is None else truth
    shown = picture.astype(np.float32) * 0.6
    for place, name in ((mask & known, "tp"), (mask & ~known, "fp"), (~mask & known, "fn")):
        shown[place] = (1 - _OPACITY) * shown[place] + _OPACITY * np.asarray(COLOURS[name])
    coloured: Picture = shown.round().astype(np.uint8)
    return coloured


def running_mean(points: Points) -> list[tuple[float, float]]:
    """Smooth points by the mean of the last 20 values."""
    values = np.asarray([y for _, y in points])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    starts = np.maximum(np.arange(1, len(values) + 1) - _SMOOTH, 0)
    means = [(sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, start=1)]
    return [(x, float(mean)) for (x, _), mean in zip(points, means, strict=True)]


def _sheet(
    shown: Sequence[tuple[ShownPair, Sequence[Picture]]],
    heads: Sequence[str],
    *,
    across: int = 1,
    footer: str = "",
) -> Figure:
    """Lay out pairs as rows of pictures of one size, the text of each below it.

    Args:
        shown: Pairs with their pictures, as many as `heads`.
        heads: Written above the pictures.
        across: Pairs side by side.
        footer: Written at the end.
    """
    block = (WIDTH - _GAP) / across
    side = (block - _GAP) / len(heads) - _GAP / 2
    texts = [
        "\n".join(textwrap.fill(line, int(block * _LETTERS)) for line in (pair.name, *pair.lines))
        for pair, _ in shown
    ]
    rows = [range(start, min(start + across, len(shown))) for start in range(0, len(shown), across)]
    heights = [side + _LINE * (3 + max(texts[i].count("\n") + 1 for i in row)) for row in rows]
    height = sum(heights) + 3 * _LINE
    figure = Figure(figsize=(WIDTH, height))
    top = height - _LINE
    for row, tall in zip(rows, heights, strict=True):
        for index in row:
            pair, pictures = shown[index]
            left = _GAP + (index - row[0]) * block
            for column, (head, picture) in enumerate(zip(heads, pictures, strict=True)):
                x, y = left + column * (side + _GAP / 2), top - _LINE - side
                axes = figure.add_axes((x / WIDTH, y / height, side / WIDTH, side / height))
                axes.imshow(picture)
                axes.set_axis_off()
                axes.set_title(head, fontsize=FONT, loc="left", parse_math=False, pad=3)
            figure.text(
                *(left / WIDTH, (top - 1.4 * _LINE - side) / height, texts[index]),
                va="top",
                fontsize=FONT,
                color="black" if pair.right else "#a01010",
                parse_math=False,
            )
        top -= tall
    figure.text(_GAP / WIDTH, _LINE / height, footer, fontsize=FONT)
    return figure
