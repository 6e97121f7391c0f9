"""The answer to wishes about a pair, put together from the windows it was seen in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatchanged.answers import Direction, Understood, format_absent
from whatchanged.ask_pair import AskModel, AskPair, SeenWindows
from whatchanged.ask_text import answer_text, understood_text
from whatchanged.ask_windows import Blend, Corner, Map, WindowPlan
from whatchanged.errors import UsageError
from whatchanged.geo.grid import Grid
from whatchanged.geo.pair import PairPixels, PairReport
from whatchanged.geo.vector import SPECK_PIXELS, ChangeMap, ChangePolygon, storable, vectorise
from whatchanged.models.reasoncd.outputs import WishAnswer

_ROWS = 32  # wishes times windows that are answered at once
_DRAWN = 2**24  # pixels of the masks that are drawn at once
_GATHERED = 2**29  # pixels of the windows' maps that are kept at once: 2 GB
_EVEN = 0.5  # the model's own threshold
_LISTED = 3  # other understandings that a warning names


@dataclass(frozen=True, eq=False)
class WishResult:
    """The answer to one wish about a pair.

    Attributes:
        before: File of the earlier photograph, as given.
        after: File of the later photograph, as given.
        wish: What was asked for, as given; see `storable`.
        found: Whether the model pointed at something and some place reaches the threshold. A
            mask that was forced does not count.
        answer: The model's words for people; see `said` for its own.
        target: Classes it understood the wish as, or `["any"]`; empty if it stated none.
        direction: Of the change; None if it stated none.
        former: Classes it understood to have stood there before; empty if it stated none.
        changed_fraction: Share of the mask in the pixels that are valid in both dates.
        area_m2: Of the mask; None where the CRS does not allow it.
        polygons: The mask as polygons, the largest first.
        mask: [H, W] bool on the photographs' grid, without specks; where the probability is at
            least `threshold`.
        probability: [H, W] float32 in [0, 1]; NaN where a date is not valid, and where no window
            lies that understood the wish as the answer says.
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
        sha256: Of both files, as they were when they were read.
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
    former: list[str]
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
    sha256: tuple[str, str]
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
            "former": list(self.former),
        }


def check_threshold(threshold: float) -> None:
    """Raise UsageError if a threshold is not a probability between 0 and 1."""
    if not 0 < threshold < 1:
        raise UsageError(
            f"threshold {threshold} is not between 0 and 1",
            hint="0.5 is the default; a higher one draws less, with more certainty",
        )


@dataclass(frozen=True, eq=False)
class _Said:
    """What one window says to a wish.

    Attributes:
        corner: Of the window.
        words: The answer, its maps taken out.
        n_changed: Valid pixels that reach the threshold.
        probability: [h, w]; None where nothing was drawn.
    """

    corner: Corner
    words: WishAnswer
    n_changed: int
    probability: Map | None


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
    gathered: list[list[_Said]] = [[] for _ in wishes]
    for windows in seen:
        for number, index, answer in _answers(model, pair.plan, windows, asked, force_target):
            corner = windows.corners[index]
            valid = pair.plan.cut(pair.pixels.valid, corner)
            gathered[number].append(_said(corner, answer, valid, threshold))
    blend = Blend(pair.plan)
    # Taken out one by one: the maps of a wish are released before the next is put together.
    return [
        _result(model, pair, wish, gathered.pop(0), blend, threshold=threshold, explain=explain)
        for wish in wishes
    ]


def _answers(
    model: AskModel,
    plan: WindowPlan,
    windows: SeenWindows,
    wishes: Sequence[str],
    force_target: bool,
) -> Iterator[tuple[int, int, WishAnswer]]:
    """Yield number of the wish, index of the window, and answer."""
    rows = [(n, i) for n in range(len(wishes)) for i in range(len(windows.corners))]
    n_rows = _n_rows(plan)
    for start in range(0, len(rows), n_rows):
        some = rows[start : start + n_rows]
        answers = model.reasoncd.ask(
            windows.encoded,
            [wishes[number] for number, _ in some],
            [index for _, index in some],
            force_target=force_target,
        )
        for (number, index), answer in zip(some, answers, strict=True):
            yield number, index, answer


def n_at_once(plan: WindowPlan) -> int:
    """How many wishes are answered before their maps are put together and released.

    Further ones see the windows anew, which costs less than memory that is not there.
    """
    return max(1, _GATHERED // (len(plan.corners) * plan.height * plan.width))


def _n_rows(plan: WindowPlan) -> int:
    """How many masks are drawn at once: the fewer, the larger the windows are."""
    return max(1, min(_ROWS, _DRAWN // (plan.height * plan.width)))


def _said(corner: Corner, answer: WishAnswer, valid: NDArray[np.bool_], threshold: float) -> _Said:
    drawn = answer.found or answer.forced
    probability = answer.probability.float().numpy() if drawn else None
    n_changed = 0 if probability is None else int((probability[valid] >= threshold).sum())
    none = answer.mask.new_zeros(0)
    words = dataclasses.replace(answer, probability=none, mask=none, masks=none)
    return _Said(corner, words, n_changed, probability)


def _speaker(said: Sequence[_Said]) -> _Said:
    """The window that gives the answer's words.

    A wish means the same in all windows, so it means what most of them say, those that see
    nothing too; with as many, what is said where most changed. Of the windows that say so, the
    one with the most change speaks if it points at something, else one with the most frequent
    answer.
    """
    shared = Counter(one.words.understood for one in said)
    changed = Counter[Understood | None]()
    for one in said:
        changed[one.words.understood] += one.n_changed if one.words.found else 0
    meaning = max(shared, key=lambda stated: (shared[stated], changed[stated]))
    agreed = [one for one in said if one.words.understood == meaning]
    pointing = [one for one in agreed if one.words.found]
    if pointing:
        return max(pointing, key=lambda one: one.n_changed)
    ((text, _),) = Counter(one.words.answer for one in agreed).most_common(1)
    return next(one for one in agreed if one.words.answer == text)


def _maps(said: Sequence[_Said], best: WishAnswer) -> list[tuple[Corner, Map | None]]:
    """The maps that make the mask: of windows that understood the wish as the answer says.

    What was forced is drawn only where no window points at something by itself, and then of
    all windows.
    """
    if best.found:
        agreed = [one for one in said if one.words.understood == best.understood]
        return [(one.corner, one.probability if one.words.found else None) for one in agreed]
    return [(one.corner, one.probability if one.words.forced else None) for one in said]


def _result(
    model: AskModel,
    pair: AskPair,
    wish: str,
    said: Sequence[_Said],
    blend: Blend,
    *,
    threshold: float,
    explain: bool,
) -> WishResult:
    best = _speaker(said).words
    valid = pair.pixels.valid
    probability = blend.join(_maps(said, best))
    probability[~valid] = np.nan
    stated = best.understood
    target = stated.classes if stated else ()
    direction: Direction | None = stated.direction if stated else None
    former = stated.former if stated else ()
    changes = vectorise(
        probability >= threshold,  # never where it is not a number
        probability,
        pair.grid,
        wish=storable(wish),
        target=target,
        direction=direction,
        former=former,
    )
    # A mask without a place is a refusal that the model has put into pixels, unless what it
    # drew was left out for being too little or not probable enough for the user.
    found = best.found and bool(changes.polygons)
    if best.found and not found and threshold <= _EVEN and not changes.n_specks:
        answer = format_absent(stated)
    else:
        answer = answer_text(best.answer, explain=explain, marked=found or not best.found)
    forced = best.forced and not best.found
    notes = (*_notes(best, changes, threshold), *_otherwise(said, best))
    return WishResult(
        before=str(pair.paths.before),
        after=str(pair.paths.after),
        wish=storable(wish),
        found=found,
        answer=answer,
        target=list(target),
        direction=direction,
        former=list(former),
        changed_fraction=float(changes.mask.sum() / valid.sum()),
        area_m2=_area(pair.grid, changes.polygons),
        polygons=changes.polygons,
        mask=changes.mask,
        probability=probability,
        model=model.name,
        model_sha256=model.sha256,
        warnings=(*pair.warnings, *notes),
        threshold=threshold,
        forced=forced,
        said=best.answer,
        n_specks=changes.n_specks,
        grid=pair.grid,
        pixels=pair.pixels,
        report=pair.report,
        reading=pair.reading,
        sha256=pair.sha256,
        seen=pair.plan.describe(),
    )


def _area(grid: Grid, polygons: Sequence[ChangePolygon]) -> float | None:
    if not grid.has_metres:
        return None
    areas = [polygon.area_m2 for polygon in polygons]
    return None if None in areas else float(sum(area or 0.0 for area in areas))


def _notes(best: WishAnswer, changes: ChangeMap, threshold: float) -> Iterator[str]:
    if not best.complete:
        yield "the answer was cut off at its greatest length"
    if best.found and changes.polygons and best.understood is None:
        yield "the answer does not state what the wish was understood as: check the mask"
    if best.found and not changes.polygons and changes.n_specks:
        yield (
            f"nothing is marked: only patches of fewer than {SPECK_PIXELS} pixels reach the "
            f"probability {threshold:g}"
        )
    if best.found and not changes.polygons and not changes.n_specks:
        yield f"nothing is marked: no place reaches the probability {threshold:g}"
    if best.forced and not best.found:
        yield "the mask was forced: the model itself points at nothing"


def _otherwise(said: Sequence[_Said], best: WishAnswer) -> Iterator[str]:
    """Say in how many windows the wish was understood otherwise, and as what."""
    read = Counter(one.words.understood for one in said)
    del read[best.understood]
    if read:
        listed = ", ".join(f"as {understood_text(u)} in {n}" for u, n in read.most_common(_LISTED))
        more = ", and so on" if len(read) > _LISTED else ""
        left = "; these are left out" if any(one.words.found for one in said) else ""
        yield (
            f"in {read.total()} of {len(said)} windows the wish was understood otherwise: "
            f"{listed}{more}{left}"
        )
