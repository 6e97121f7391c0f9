"""A pair as the asking model sees it: read whole, cut into windows, encoded once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whatchanged.answers import ask_to_explain
from whatchanged.ask_windows import Corner, WindowPlan, plan_windows
from whatchanged.errors import InputError
from whatchanged.geo.grid import Grid
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.pair import PairPixels, PairReport, open_pair
from whatchanged.models import weights
from whatchanged.models.checkpoint import MANIFEST, file_sha256, load_checkpoint, verify_checkpoint
from whatchanged.models.reasoncd.config import SightConfig
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.outputs import EncodedPairs
from whatchanged.models.reasoncd.vision import CompactVision, fit_square
from whatchanged.prepare import reading_of

MAX_PIXELS = 2**26
"""Most pixels of a pair that is asked about in one piece: 8192 x 8192."""
_TOGETHER = 4  # windows that are encoded at once
_LARGE = 2**20  # pixels of windows that are reduced one by one before they are put together
_LITTLE_VALID = 0.5


@dataclass(frozen=True)
class AskModel:
    """A loaded model for wishes, for many pairs.

    Attributes:
        reasoncd: The network, in evaluation mode.
        name: What it was loaded as.
        sha256: Of the checkpoint's manifest.
    """

    reasoncd: ReasonCD
    name: str
    sha256: str

    def asked(self, wishes: Sequence[str], *, explain: bool) -> list[str]:
        """Return wishes as they are put to the model, with the request for a reason or without.

        Raises:
            UsageError: A wish is empty, too long, or only control characters.
        """
        put = [ask_to_explain(wish) if explain else wish for wish in wishes]
        for text in (*wishes, *put):  # by themselves too: the request must not fill an empty one
            self.reasoncd.writer.wish(text)
        return put


def load_ask_model(model: str | Path = "reasoncd-small") -> AskModel:
    """Load a model for wishes by name or from its checkpoint folder.

    The last one stays in memory; a checkpoint that was replaced is read again.

    Raises:
        WeightsUnavailableError: No source has the named weights, or the base of their language
            model is not on this machine; the hint says how to get it.
        CheckpointError: Damaged, or of another family.
    """
    folder = weights.require(model).resolve()
    manifest = folder / MANIFEST
    return _load(str(model), folder, manifest.stat().st_mtime_ns if manifest.is_file() else 0)


def language_base(model: str | Path) -> str | None:
    """Return the named weights that a model's language model starts from and that are missing.

    None where nothing is missing, or where it is nothing that can be fetched by name.

    Raises:
        WeightsUnavailableError: The model itself is not on this machine.
        CheckpointError: It is damaged.
    """
    start = load_checkpoint(weights.require(model)).config.get("language", {}).get("start")
    missing = start in weights.NAMED_WEIGHTS and weights.locate(start) is None
    return str(start) if missing else None


@lru_cache(maxsize=1)
def _load(name: str, folder: Path, changed_ns: int) -> AskModel:
    """Load a checkpoint; `changed_ns` tells one that was replaced from the one remembered."""
    from whatchanged.models.reasoncd.store import load_reasoncd

    sha256 = verify_checkpoint(folder).sha256
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one library to the other
        # Its adapters are not merged: in bfloat16 that would round some of them away, and it
        # saves no time that can be measured.
        return AskModel(load_reasoncd(folder), name, sha256)


@dataclass(frozen=True, eq=False)
class AskPair:
    """A pair that was read.

    Attributes:
        paths: Its files.
        pixels: Both dates at full resolution.
        grid: Their grid.
        report: What was found at opening.
        reading: Grid, and file, bands and type of both dates.
        sha256: Of both files, as they were when they were read.
        plan: The windows in which the model sees it.
        warnings: What a user should know of it.
    """

    paths: PairPaths
    pixels: PairPixels
    grid: Grid
    report: PairReport
    reading: dict[str, Any]
    sha256: tuple[str, str]
    plan: WindowPlan
    warnings: tuple[str, ...]


def read_pair(
    before: str | Path,
    after: str | Path,
    sight: SightConfig,
    *,
    bands: Sequence[int] | None = None,
    align: bool = False,
) -> AskPair:
    """Read a pair whole and plan its windows for a model trained at the scale of `sight`.

    Raises:
        InputError: As `open_pair`, more than `MAX_PIXELS`, or nothing valid in both dates.
        PairMismatchError: As `open_pair`.
    """
    paths = PairPaths(Path(before), Path(after))
    with open_pair(before, after, bands=bands, align=align) as pair:
        grid = pair.grid
        if grid.width * grid.height > MAX_PIXELS:
            raise InputError(
                f"{before} and {after} share a grid of {grid.width} x {grid.height} pixels; "
                f"at most {MAX_PIXELS:,} are asked about in one piece",
                hint="cut out the part you mean: gdal_translate -srcwin COLUMN ROW WIDTH HEIGHT",
            )
        pixels, report, reading = pair.read(), pair.report, reading_of(pair)
        sha256 = (file_sha256(paths.before), file_sha256(paths.after))
    share = float(pixels.valid.mean())
    if share == 0:
        raise InputError(
            f"{before} and {after} have no pixel that is valid in both",
            hint="check nodata values and that both cover the same place",
        )
    plan = plan_windows(*grid.shape, grid.gsd_m, sight)
    little = "" if share >= _LITTLE_VALID else f"only {share:.0%} of the pixels are valid in both"
    warnings = tuple(text for text in (*report.warnings, plan.note, little) if text)
    return AskPair(paths, pixels, grid, report, reading, sha256, plan, warnings)


@dataclass(frozen=True, eq=False)
class SeenWindows:
    """Some windows of a pair, encoded: all that does not depend on a wish."""

    corners: tuple[Corner, ...]
    encoded: EncodedPairs


def n_parts(pair: AskPair) -> int:
    """How many times `see_windows` yields."""
    return -(-len(_corners(pair)) // _n_together(pair.plan))


def _corners(pair: AskPair) -> list[Corner]:
    """Windows with a valid pixel."""
    plan, valid = pair.plan, pair.pixels.valid
    return [corner for corner in plan.corners if plan.cut(valid, corner).any()]


@torch.inference_mode()
def see_windows(model: AskModel, pair: AskPair) -> Iterator[SeenWindows]:
    """Encode a pair's windows a few at a time; those without a valid pixel are left out."""
    plan, corners, n = pair.plan, _corners(pair), _n_together(pair.plan)
    side = _side_of(model, plan)
    for start in range(0, len(corners), n):
        some = tuple(corners[start : start + n])
        before = _stack(pair.pixels.before, pair, some, side)
        after = _stack(pair.pixels.after, pair, some, side)
        features = model.reasoncd.see(before, after)
        if side is not None:  # masks come at the windows' size all the same
            features = replace(features, size=(plan.height, plan.width))
        yield SeenWindows(some, model.reasoncd.encode(features))


def _n_together(plan: WindowPlan) -> int:
    """How many windows are encoded at once: the fewer, the larger they are."""
    return max(1, min(_TOGETHER, _TOGETHER * _LARGE // (plan.height * plan.width)))


def _side_of(model: AskModel, plan: WindowPlan) -> int | None:
    """Side of the square that windows are reduced to ahead; None where they stay as they are.

    Only eyes that see nothing but that square see the same in it: CLIP looks at the whole window.
    """
    vision = model.reasoncd.vision
    large = plan.height * plan.width > _LARGE
    return vision.square if large and isinstance(vision, CompactVision) else None


def _stack(
    picture: NDArray[np.uint8], pair: AskPair, corners: Sequence[Corner], side: int | None
) -> Tensor:
    """Cut windows out of a picture, [n, 3, h, w]; what is not valid in both dates is mid grey."""
    plan, valid = pair.plan, pair.pixels.valid
    windows = []
    for corner in corners:
        cut = plan.cut(picture, corner)
        window = np.where(plan.cut(valid, corner)[..., None], cut, np.uint8(127))
        layers = torch.from_numpy(window).permute(2, 0, 1).contiguous()  # [3, h, w]
        windows.append(layers if side is None else _reduced(layers, side))
    return torch.stack(windows)


def _reduced(window: Tensor, side: int) -> Tensor:
    """Reduce a window [3, H, W] as the model would, one band after the other."""
    bands = []
    for band in window:
        square, (height, width) = fit_square(band[None, None].float(), side)
        bands.append(square[0, 0, :height, :width])  # its padding is put on later
    return torch.stack(bands)
