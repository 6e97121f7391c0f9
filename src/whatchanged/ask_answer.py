"""The answer to wishes about a pair, put together from the windows it was seen in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatchanged.answers import Direction, format_absent, parse_answer
from whatchanged.ask_pair import AskModel, AskPair, SeenWindows
from whatchanged.ask_text import answer_text
from whatchanged.ask_windows import Blend
from whatchanged.errors import UsageError
from whatchanged.geo.grid import Grid
from whatchanged.geo.pair import PairPixels, PairReport
from whatchanged.geo.vector import ChangePolygon, vectorise
from whatchanged.models.reasoncd.outputs import WishAnswer

_ROWS = 32  # wishes times windows that are answered at once


@dataclass(frozen=True, eq=False)
class WishResult:
    """The answer to one wish about a pair.

    Attributes:
        before: File of the earlier photograph, as given.
        after: File of the later photograph, as given.
        wish: What was asked for, as given.
        found: Whether the model pointed at something and some place reaches the threshold. A
            mask that was forced does not count.
        answer: The model's words for people; see `said` for its own.
        target: Classes it understood the wish as, or `["any"]`; empty if it stated none.
        direction: Of the change; None if it stated none.
        changed_fraction: Share of the mask in the pixels that are valid in both dates.
        area_m2: Of the mask; None where the CRS does not allow it.
        polygons: The mask as polygons, the largest first.
        mask: [H, W] bool on the photographs' grid, without specks; where the probability is at
            least `threshold`.
        probability: [H, W] float32 in [0, 1]; NaN where a date is not valid.
        model: Name or folder of the model.
        model_sha256: Of the checkpoint's manifest.
        warnings: What a user should know of input and answer.
        threshold: Least probability of the mask.
        forced: Whether a mask was drawn although the model pointed at nothing.
        said: The answer as the model gave it, with `<CHG>` for every mask.
        n_specks: Patches that were too small for the mask.
        grid: Grid of the pair.
        pixels: Both dates as read.
        report: What was found of the pair's grids, stretch and shift.
        reading: Grid of the pair, and file, bands and type of both dates, as plain values.
        seen: How the model saw the pair, for people.
        mask_path: File of the mask; None if none was written.
    """

    before: str
    after: str
    wish: str
    found: bool
    answer: str
    target: list[str]
    direction: Direction | None
    changed_fraction: float
    area_m2: float | None
    polygons: tuple[ChangePolygon, ...]
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    model: str
    model_sha256: str
    warnings: tuple[str, ...]
    threshold: float
    forced: bool
    said: str
    n_specks: int
    grid: Grid
    pixels: PairPixels
    report: PairReport
    reading: dict[str, Any]
    seen: str
    mask_path: Path | None = None

    @property
    def n_polygons(self) -> int:
        """Number of polygons."""
        return len(self.polygons)

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask to write: the model pointed at something, or was made to."""
        return self.found or self.forced

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the command's `--json` contract."""
        return {
            "before": self.before,
            "after": self.after,
            "wish": self.wish,
            "found": self.found,
            "answer": self.answer,
            "target": list(self.target),
            "direction": self.direction,
            "changed_fraction": round(self.changed_fraction, 6),
            "area_m2": None if self.area_m2 is None else round(self.area_m2, 2),
            "n_polygons": self.n_polygons,
            "mask": None if self.mask_path is None else str(self.mask_path),
            "model": self.model,
            "warnings": list(self.warnings),
        }


def check_threshold(threshold: float) -> None:
    """Raise UsageError if a threshold is not a probability between 0 and 1."""
    if not 0 < threshold < 1:
        raise UsageError(
            f"threshold {threshold} is not between 0 and 1",
            hint="0.5 is the default; a higher one draws less, with more certainty",
        )


@dataclass
class _Gathered:
    """What the windows of a pair say to one wish."""

    blend: Blend
    threshold: float
    answers: list[tuple[WishAnswer, int]] = field(default_factory=list)

    def add(self, corner: tuple[int, int], answer: WishAnswer, valid: NDArray[np.bool_]) -> None:
        probability = answer.probability.float().numpy()
        self.blend.add(corner, probability)
        n_changed = int((probability[valid] >= self.threshold).sum())
        # Maps were taken up: of the answers only the words are kept.
        none = answer.mask.new_zeros(0)
        words = dataclasses.replace(answer, probability=none, mask=none, masks=none)
        self.answers.append((words, n_changed))

    def best(self) -> WishAnswer:
        """The answer of the window with the most change; without any, the most frequent one."""
        pointing = [pair for pair in self.answers if pair[0].found]
        if pointing:
            return max(pointing, key=lambda pair: pair[1])[0]
        ((text, _),) = Counter(answer.answer for answer, _ in self.answers).most_common(1)
        return next(answer for answer, _ in self.answers if answer.answer == text)


@torch.inference_mode()
def answer_wishes(
    model: AskModel,
    pair: AskPair,
    seen: Iterable[SeenWindows],
    wishes: Sequence[str],
    *,
    threshold: float = 0.5,
    force_target: bool = False,
    explain: bool = False,
) -> list[WishResult]:
    """Answer wishes about a pair that was read, window by window.

    Args:
        model: Model.
        pair: Of `read_pair`.
        seen: Of `see_windows`; a list of it serves any number of calls.
        wishes: At least one.
        threshold: See `ask`, and so the next two.
        force_target: See `ask`.
        explain: See `ask`.
    """
    check_threshold(threshold)
    asked = model.asked(wishes, explain=explain)
    gathered = [_Gathered(Blend(pair.plan), threshold) for _ in wishes]
    for windows in seen:
        for number, index, answer in _answers(model, windows, asked, force_target):
            corner = windows.corners[index]
            gathered[number].add(corner, answer, pair.plan.cut(pair.pixels.valid, corner))
    return [
        _result(model, pair, wish, said, explain)
        for wish, said in zip(wishes, gathered, strict=True)
    ]


def _answers(
    model: AskModel, windows: SeenWindows, wishes: Sequence[str], force_target: bool
) -> Iterator[tuple[int, int, WishAnswer]]:
    """Yield number of the wish, index of the window, and answer."""
    rows = [(n, i) for n in range(len(wishes)) for i in range(len(windows.corners))]
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        answers = model.reasoncd.ask(
            windows.encoded,
            [wishes[number] for number, _ in some],
            [index for _, index in some],
            force_target=force_target,
        )
        for (number, index), answer in zip(some, answers, strict=True):
            yield number, index, answer


def _result(
    model: AskModel, pair: AskPair, wish: str, gathered: _Gathered, explain: bool
) -> WishResult:
    best = gathered.best()
    valid = pair.pixels.valid
    probability = gathered.blend.result()
    probability[~valid] = np.nan
    stated = parse_answer(best.answer)
    target = stated.classes if stated else ()
    direction: Direction | None = stated.direction if stated else None
    changes = vectorise(
        probability >= gathered.threshold,  # never where it is not a number
        probability,
        pair.grid,
        wish=wish,
        target=target,
        direction=direction,
    )
    # A mask without a place is a refusal that the model has put into pixels.
    found = best.found and bool(changes.polygons)
    answer = answer_text(best.answer, explain=explain)
    if best.found and not found:
        answer = format_absent(stated)
    forced = best.forced and not best.found
    warnings = (*pair.warnings, *_notes(best, forced, changes.polygons, gathered.threshold))
    return WishResult(
        before=str(pair.paths.before),
        after=str(pair.paths.after),
        wish=wish,
        found=found,
        answer=answer,
        target=list(target),
        direction=direction,
        changed_fraction=float(changes.mask.sum() / valid.sum()),
        area_m2=_area(pair.grid, changes.polygons),
        polygons=changes.polygons,
        mask=changes.mask,
        probability=probability,
        model=model.name,
        model_sha256=model.sha256,
        warnings=warnings,
        threshold=gathered.threshold,
        forced=forced,
        said=best.answer,
        n_specks=changes.n_specks,
        grid=pair.grid,
        pixels=pair.pixels,
        report=pair.report,
        reading=pair.reading,
        seen=pair.plan.describe(),
    )


def _area(grid: Grid, polygons: Sequence[ChangePolygon]) -> float | None:
    if not grid.has_metres:
        return None
    areas = [polygon.area_m2 for polygon in polygons]
    return None if None in areas else float(sum(area or 0.0 for area in areas))


def _notes(
    best: WishAnswer, forced: bool, polygons: Sequence[ChangePolygon], threshold: float
) -> list[str]:
    notes = []
    if not best.complete:
        notes.append("the answer was cut off at its greatest length")
    if best.found and best.understood is None:
        notes.append("the answer does not state what the wish was understood as: check the mask")
    if best.found and not polygons:
        notes.append(f"no place reaches the probability {threshold:g}")
    if forced:
        notes.append("the mask was forced: the model itself points at nothing")
    return notes
