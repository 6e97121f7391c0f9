"""BCDD (the building change set of WHU): one scene, or tiles of it, as samples for ReasonCD.

The scene, as it is distributed (below "1. The two-period image data" or not)::

    before/before.tif    after/after.tif    change label/change_label.tif

It is 32,507 x 15,354 pixels at 0.075 m; cut into 256-pixel tiles without overlap, remainders at
the right and at the bottom left out, it gives 126 x 59 = 7,434 (design, 15). Tiles that others
have cut are a folder ``{A,B,label}``, perhaps with ``list/{train,val,test}.txt``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from whatchanged import console
from whatchanged.answers import Understood, format_absent, format_answer
from whatchanged.data.mask_sets import load_mask_set
from whatchanged.data.pictures import read_classes, read_picture
from whatchanged.data.prepared import (
    Faults,
    Prepared,
    finished,
    new_folder,
    write_png,
    write_record,
    write_splits,
)
from whatchanged.data.reason_json import ReasonSample, write_reason_json
from whatchanged.data.splits import parse_recipe, split_by_blocks, split_randomly
from whatchanged.errors import DatasetError, UsageError
from whatchanged.geo.scene import Scene
from whatchanged.geo.source import Source, open_source, reading, safe_env

TILE = 256
QUESTION = "changed buildings"
"""The wish of every sample: BCDD knows one class, in either direction."""

_MEANING = Understood(("building",), "either")
_SCENE_FILES = {
    "before": ("before/before.tif",),
    "after": ("after/after.tif",),
    "label": ("change label/change_label.tif", "change_label/change_label.tif"),
}
_INNER = "1. The two-period image data"
_LISTS = "lists"
_PLACE = re.compile(r"r(\d+)_c(\d+)")
_HINT = (
    "expected is before/before.tif, after/after.tif and 'change label/change_label.tif', "
    "or tiles in A, B and label"
)
_logger = logging.getLogger(__name__)


def prepare_bcdd(
    source: Path, out: Path, *, recipe: str = "random-0", force: bool = False
) -> Prepared:
    """Make samples of BCDD: ``{train,val,test}.jsonl``, with tiles and split lists beside.

    Args:
        source: Folder of the scene or of tiles.
        out: Folder to make. Tiles of a scene are written there as PNG; tiles that exist already
            stay where they are.
        recipe: How tiles are divided: ``random-SEED``, ``blocks-SEED`` (see `splits`), or
            ``lists`` for the lists that came with tiles.
        force: Make it anew where it is finished.

    Raises:
        DatasetError: Files that are missing or do not fit, counted and named; or `out` holds
            something else.
        InputError: A raster that cannot be read.
        UsageError: An unknown recipe, or one that the tiles do not allow.
    """
    if recipe != _LISTS:
        parse_recipe(recipe)
    options = {"source": str(source.resolve()), "recipe": recipe}
    if not force and (done := finished(out, "bcdd", options)):
        return done
    scene = _find_scene(source)
    if scene is not None and recipe == _LISTS:
        raise UsageError("a scene has no lists", hint="take the recipe random-0 or blocks-0")
    with new_folder(out) as part:
        samples = _cut_scene(scene, part) if scene is not None else _find_tiles(source)
        splits = _divide(list(samples), recipe, source)
        for split, names in splits.items():
            write_reason_json(part / f"{split}.jsonl", [samples[name] for name in names])
        sums = write_splits(part, recipe, splits)
        counts = {split: len(names) for split, names in splits.items()}
        record = write_record(part, "bcdd", options, counts=counts, sha256=sums)
    return Prepared(out, record, fresh=True)


def _divide(names: Sequence[str], recipe: str, source: Path) -> dict[str, list[str]]:
    if recipe == _LISTS:
        return _read_lists(source / "list", set(names))
    rule, seed = parse_recipe(recipe)
    if rule == "random":
        return split_randomly(names, seed)
    places = {name: _PLACE.fullmatch(name) for name in names}
    if not all(places.values()):
        odd = next(name for name, place in places.items() if place is None)
        raise UsageError(
            f"blocks need to know where tiles lie, and the name '{odd}' does not say",
            hint="prepare the scene itself, or name tiles r<row>_c<column>",
        )
    return split_by_blocks({n: (int(p[1]), int(p[2])) for n, p in places.items() if p}, seed)


# --- the scene ------------------------------------------------------------------------------


def is_scene(source: Path) -> bool:
    """Whether a folder holds BCDD's scene, or some of its files."""
    return any(any(found.values()) for _, found in _scene_files(source))


def _scene_files(source: Path) -> Iterator[tuple[Path, dict[str, Path | None]]]:
    """Yield each folder where the scene may lie, and its files, None where one is missing."""
    for root in (source, source / _INNER):
        yield (
            root,
            {
                name: next((root / p for p in paths if (root / p).is_file()), None)
                for name, paths in _SCENE_FILES.items()
            },
        )


def _find_scene(source: Path) -> dict[str, Path] | None:
    """Return the three files of a scene; None if the folder holds tiles.

    Raises:
        DatasetError: Some of the files are missing, or nothing known is there.
    """
    for root, found in _scene_files(source):
        if all(found.values()):
            return {name: path for name, path in found.items() if path is not None}
        if any(found.values()):
            missing = [str(root / _SCENE_FILES[n][0]) for n, path in found.items() if path is None]
            raise DatasetError(f"missing: {', '.join(missing)}", hint=_HINT)
    if (source / "A").is_dir():
        return None
    raise DatasetError(f"{source} is neither BCDD's scene nor its tiles", hint=_HINT)


def _cut_scene(files: Mapping[str, Path], part: Path) -> dict[str, ReasonSample]:
    """Cut a scene into tiles, a row of tiles at a time: the file's own rows are that wide."""
    samples: dict[str, ReasonSample] = {}
    with ExitStack() as stack:
        before, after = (stack.enter_context(Scene.open(files[n])) for n in ("before", "after"))
        label = open_source(files["label"])
        stack.callback(label.dataset.close)
        shape = _one_shape(files, (before.grid.shape, after.grid.shape, label.grid.shape))
        for scene in (before, after):
            if scene.dtype != np.uint8:
                raise DatasetError(f"{scene.path} holds {scene.dtype} values, not 8 bits a band")
        n_rows, n_columns = shape[0] // TILE, shape[1] // TILE
        for row in console.track(range(n_rows), "cutting tiles"):
            window = Window(0, row * TILE, n_columns * TILE, TILE)
            strips = [scene.read(window)[0].transpose(1, 2, 0) for scene in (before, after)]
            mask = _read_label(label, window)
            for column in range(n_columns):
                cut = np.s_[:, column * TILE : (column + 1) * TILE]
                name = f"r{row:02d}_c{column:03d}"
                samples[name] = _write_tile(part, name, *(s[cut] for s in (*strips, mask)))
    return samples


def _one_shape(files: Mapping[str, Path], shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    if len(set(shapes)) > 1:
        told = ", ".join(f"{p} {w} x {h}" for p, (h, w) in zip(files.values(), shapes, strict=True))
        raise DatasetError(f"sizes differ: {told}")
    height, width = shapes[0]
    if min(height, width) < TILE:
        raise DatasetError(f"the scene is {width} x {height} pixels, smaller than one tile")
    return height, width


def _read_label(label: Source, window: Window) -> NDArray[np.uint8]:
    """Read a part of the change label as 0 and 255; it is stored as 0 and 1, or 0 and 255."""
    where = f"rows {window.row_off} to {window.row_off + window.height - 1}"
    with reading(label.path, where), safe_env():
        values: NDArray[Any] = label.dataset.read(1, window=window)
    odd = ~np.isin(values, (0, 1, 255))
    if odd.any():
        raise DatasetError(
            f"{label.path} has the value {values[odd][0]} at {int(odd.sum())} pixels in {where}",
            hint="a change label holds 0 and 1, or 0 and 255",
        )
    return np.where(values != 0, np.uint8(255), np.uint8(0))


def _write_tile(
    part: Path,
    name: str,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    mask: NDArray[np.uint8],
) -> ReasonSample:
    paths = [part / folder / f"{name}.png" for folder in ("A", "B", "label")]
    for path, pixels in zip(paths, (before, after, mask), strict=True):
        write_png(path, np.ascontiguousarray(pixels))
    return ReasonSample(paths[0], paths[1], paths[2], QUESTION, _answer(mask))


def _answer(mask: NDArray[np.uint8]) -> str:
    return format_answer(_MEANING) if mask.any() else format_absent(_MEANING)


# --- tiles ----------------------------------------------------------------------------------


def _find_tiles(source: Path) -> dict[str, ReasonSample]:
    """Check tiles that exist and refer to them from where they lie.

    Raises:
        DatasetError: Missing halves; or tiles that cannot be read, are not 256 x 256, or whose
            label has other values: counted, the first ten named.
    """
    faults = Faults()
    samples = {}
    for sample in console.track(load_mask_set(source), "checking tiles"):
        try:
            paths = [path.resolve() for path in (sample.before, sample.after, sample.mask) if path]
            before, after, mask = (
                read_picture(paths[0]),
                read_picture(paths[1]),
                read_classes(paths[2]),
            )
        except DatasetError as error:
            faults.add(error.message)
            continue
        for path, pixels in zip(paths, (before, after, mask), strict=True):
            height, width = pixels.shape[:2]
            if (height, width) != (TILE, TILE):
                faults.add(f"{path} is {width} x {height} pixels, not {TILE} x {TILE}")
        odd = np.setdiff1d(mask, (0, 1, 255))
        if len(odd):
            faults.add(f"{paths[2]} has the value {odd[0]}, not only 0 and 1 or 255")
        samples[sample.name] = ReasonSample(paths[0], paths[1], paths[2], QUESTION, _answer(mask))
    faults.check(str(source), hint=_HINT)
    return samples


def _read_lists(folder: Path, names: set[str]) -> dict[str, list[str]]:
    """Read ``{train,val,test}.txt``: a tile a line, with or without suffix.

    Raises:
        DatasetError: A list is missing, names a tile that is not there, or one twice.
    """
    faults = Faults()
    seen: dict[str, str] = {}
    splits: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.txt"
        if not path.is_file():
            raise DatasetError(f"{path} does not exist", hint="take the recipe random-0")
        splits[split] = []
        for line in path.read_text(encoding="utf-8").split():
            name = os.path.splitext(line)[0]
            if name not in names:
                faults.add(f"{path}: the tile '{line}' is not there")
            elif name in seen:
                faults.add(f"{path}: '{line}' stands also in {seen[name]}.txt")
            seen[name] = split
            splits[split].append(name)
    faults.check(str(folder))
    if len(seen) < len(names):
        _logger.warning("%d of %d tiles are in no list", len(names) - len(seen), len(names))
    return splits
