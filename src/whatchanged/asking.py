"""The public way from photographs and wishes to masks and products: `ask` and `ask_many`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whatchanged import console
from whatchanged.ask_answer import WishResult, answer_wishes, check_threshold, n_at_once
from whatchanged.ask_pair import (
    AskModel,
    AskPair,
    SeenWindows,
    language_base,
    load_ask_model,
    n_parts,
    read_pair,
    see_windows,
)
from whatchanged.ask_products import AskWriter
from whatchanged.errors import UsageError

log = logging.getLogger(__name__)

__all__ = [
    "AskModel",
    "AskSession",
    "WishResult",
    "ask",
    "ask_many",
    "language_base",
    "load_ask_model",
    "open_session",
]

_KEPT_WINDOWS = 64  # encoded windows of a session, some 8 MB each


def ask(
    before: str | Path,
    after: str | Path,
    wish: str,
    *,
    model: str | Path = "reasoncd-small",
    bands: Sequence[int] | None = None,
    align: bool = False,
    threshold: float = 0.5,
    force_target: bool = False,
    explain: bool = False,
    out: str | Path | None = None,
) -> WishResult:
    """Find the changes that a wish means, in two co-registered photographs of one place.

    Args:
        before: Earlier photograph: GeoTIFF, COG, PNG, JPEG, JPEG 2000 or WebP.
        after: Later photograph on the same grid.
        wish: What to look for, in plain words, such as "new houses" or "places that lost trees".
        model: Named weights or a checkpoint folder.
        bands: Bands to read as red, green and blue, from 1; None by colour interpretation.
        align: Warp the later photograph onto the earlier one's grid.
        threshold: Least probability of the mask, in (0, 1).
        force_target: Draw a mask even where the model says that there is nothing.
        explain: Ask the model for its reason too, first in `answer`.
        out: Folder for answer, mask, probability, polygons, `report.html` and `run.json`.

    Raises:
        UsageError: The wish is empty or too long, or the threshold or `out` cannot be used, such
            as a folder with a `mask.tif` that no earlier run left there.
        InputError: A photograph that cannot be read or is refused.
        PairMismatchError: The two do not lie on one grid.
        WeightsUnavailableError: The model cannot be had.
    """
    (result,) = ask_many(
        before,
        after,
        [wish],
        model=model,
        bands=bands,
        align=align,
        threshold=threshold,
        force_target=force_target,
        explain=explain,
        out=out,
    )
    return result


def ask_many(
    before: str | Path,
    after: str | Path,
    wishes: Sequence[str],
    *,
    model: str | Path = "reasoncd-small",
    bands: Sequence[int] | None = None,
    align: bool = False,
    threshold: float = 0.5,
    force_target: bool = False,
    explain: bool = False,
    out: str | Path | None = None,
) -> list[WishResult]:
    """Ask several wishes about one pair, which is read and encoded once; see `ask`.

    With several wishes `out` gets one folder a wish, `01-new-houses`, and one report.

    Raises:
        UsageError: As `ask`, or no wish at all.
    """
    if isinstance(wishes, str) or not wishes:
        raise UsageError("there is no list of wishes", hint='such as ["new houses", "lost trees"]')
    check_threshold(threshold)
    loaded = load_ask_model(model)
    loaded.asked(wishes, explain=explain)  # before anything is read

    options: dict[str, Any] = {
        "threshold": threshold,
        "force_target": force_target,
        "explain": explain,
    }

    def answers() -> Iterator[WishResult]:
        pair = _read(loaded, before, after, bands, align)
        n = n_at_once(pair.plan)
        for start in range(0, len(wishes), n):
            some = wishes[start : start + n]
            yield from answer_wishes(loaded, pair, _seeing(loaded, pair), some, **options)

    if out is None:
        return list(answers())
    with AskWriter(Path(out), wishes) as writer:
        return [writer.add(result) for result in answers()]


@dataclass(frozen=True, eq=False)
class AskSession:
    """One pair, read and encoded once, for wishes that come one after another.

    Attributes:
        model: Model.
        pair: The pair.
        seen: Its encoded windows; None where they are too many to keep and are seen anew.
    """

    model: AskModel
    pair: AskPair
    seen: tuple[SeenWindows, ...] | None

    def ask(
        self,
        wish: str,
        *,
        threshold: float = 0.5,
        force_target: bool = False,
        explain: bool = False,
    ) -> WishResult:
        """Answer one wish; arguments and errors as `ask`."""
        (result,) = answer_wishes(
            self.model,
            self.pair,
            _seeing(self.model, self.pair) if self.seen is None else self.seen,
            [wish],
            threshold=threshold,
            force_target=force_target,
            explain=explain,
        )
        return result


def open_session(
    before: str | Path,
    after: str | Path,
    *,
    model: str | Path = "reasoncd-small",
    bands: Sequence[int] | None = None,
    align: bool = False,
) -> AskSession:
    """Read and encode a pair for any number of wishes; arguments and errors as `ask`."""
    loaded = load_ask_model(model)
    pair = _read(loaded, before, after, bands, align)
    few = len(pair.plan.corners) <= _KEPT_WINDOWS
    return AskSession(loaded, pair, tuple(_seeing(loaded, pair)) if few else None)


def _read(
    model: AskModel,
    before: str | Path,
    after: str | Path,
    bands: Sequence[int] | None,
    align: bool,
) -> AskPair:
    pair = read_pair(before, after, model.reasoncd.config.sight, bands=bands, align=align)
    log.info("%s", pair.plan.describe())
    return pair


def _seeing(model: AskModel, pair: AskPair) -> Iterator[SeenWindows]:
    return console.track(see_windows(model, pair), "looking", total=n_parts(pair))
