"""Figures as matplotlib draws them, from plain values; legible in print at full text width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
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
_TEXT = 46  # characters a line under a pair
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
    rows = -(-len(pairs) // 2)
    figure = Figure(figsize=(WIDTH, 4.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    _bare(grid.flat)
    for index, pair in enumerate(pairs):
        first, second = grid[index // 2][2 * (index % 2) : 2 * (index % 2) + 2]
        first.imshow(pair.before)
        second.imshow(pair.after)
        first.set_title("before", fontsize=FONT, loc="left")
        second.set_title("after", fontsize=FONT, loc="left")
        text = "\n".join(textwrap.fill(f"{line}", 2 * _TEXT) for line in (pair.name, *pair.lines))
        first.text(
            *(0.0, -0.04, text),
            transform=first.transAxes,
            va="top",
            fontsize=FONT,
            color="black" if pair.right else "#a01010",
            parse_math=False,
        )
    return figure


def heat_sheet(
    pairs: Sequence[ShownPair], maps: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> Figure:
    """Draw how strongly the features of both dates differ, entering and leaving BDAM.

    Args:
        pairs: P pairs.
        maps: For each the two maps, [h, w], at least 0.
    """
    heads = ("before", "after", "difference before BDAM", "difference after BDAM")
    figure = Figure(figsize=(WIDTH, 2.9 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), len(heads), squeeze=False)
    _bare(grid.flat)
    for row, pair, (entering, leaving) in zip(grid, pairs, maps, strict=True):
        shown = (
            pair.before,
            pair.after,
            overlay(pair.after, entering),
            overlay(pair.after, leaving),
        )
        for axes, picture in zip(row, shown, strict=True):
            axes.imshow(picture)
        _write_below(row[0], pair)
    _head(grid[0], heads)
    return figure


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
    heads = ("before", "after", *columns)
    figure = Figure(figsize=(2.75 * len(heads), 3.0 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), len(heads), squeeze=False)
    _bare(grid.flat)
    for index, (row, pair, truth) in enumerate(zip(grid, pairs, truths, strict=True)):
        found = [judged(pair.after, masks[index], truth) for masks in columns.values()]
        for axes, picture in zip(row, (pair.before, pair.after, *found), strict=True):
            axes.imshow(picture)
        _write_below(row[0], pair)
    _head(grid[0], heads)
    figure.suptitle(LEGEND, fontsize=FONT)
    return figure


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


def _bare(grid: Iterable[Axes]) -> None:
    for axes in grid:
        axes.set_axis_off()


def _head(row: Sequence[Axes], heads: Sequence[str]) -> None:
    for axes, head in zip(row, heads, strict=True):
        axes.set_title(head, fontsize=FONT, parse_math=False)


def _write_below(axes: Axes, pair: ShownPair) -> None:
    lines = [textwrap.fill(line, 2 * _TEXT) for line in (pair.name, *pair.lines)]
    axes.text(
        *(0.0, -0.03, "\n".join(lines)),
        transform=axes.transAxes,
        va="top",
        fontsize=FONT - 1,
        color="black" if pair.right else "#a01010",
        parse_math=False,
    )
