"""Tiles of LEVIR-CC found again in pictures that other sets were made of.

Change-detection sets were cut, mirrored and shrunk from the scenes of LEVIR-CD, and so were the
tiles of LEVIR-CC. Where it is known which window of a picture shows which tile, the tile's five
captions describe that window. The index is a JSON list of
``{"picture", "tile", "box": [left, top, right, bottom], "flip": "none|h|v|hv"}``: a window of a
picture, in its pixels, that shows a LEVIR-CC tile mirrored by `flip`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whatchanged.data.augment import mirror
from whatchanged.data.pictures import read_picture, resize_picture
from whatchanged.data.tokens import UNCHANGED_CAPTION, tokenise
from whatchanged.errors import DatasetError

FLIPS = {"none": (False, False), "h": (True, False), "v": (False, True), "hv": (True, True)}

Words = tuple[str, ...]


@dataclass(frozen=True)
class TilePair:
    """One window on both dates with the captions of the tile it shows.

    Args:
        name: Tile and picture.
        changed: The tile's change flag.
        captions: Training captions; an unchanged tile has the one fixed sentence.
        before: Picture, turned as the tile is, [3, S, S] uint8.
        after: Picture, [3, S, S] uint8.
    """

    name: str
    changed: bool
    captions: tuple[Words, ...]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


def load_tiles(index: Path, captions: Path, pictures: Path, size: int) -> list[TilePair]:
    """Cut every window of an index and give it the captions of its tile.

    Args:
        index: JSON list of windows.
        captions: LEVIR-CC's annotation file; only tiles of its training split may be used.
        pictures: Folder that holds `A/` and `B/` with the pictures.
        size: Side of the result, pixels.

    A window that reaches over the edge of its picture is moved inside.

    Raises:
        DatasetError: A broken index, a missing picture, or a tile of another split.
    """
    known = _captions_of_training(captions)
    tiles = []
    for number, row in enumerate(_rows(index)):
        where = f"{index}: [{number}]"
        try:
            picture, tile, flip = str(row["picture"]), str(row["tile"]), FLIPS[row["flip"]]
            box = tuple(int(edge) for edge in row["box"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where} is not a window: {error!r}") from error
        if Path(picture).name != picture or len(box) != 4:
            raise DatasetError(f"{where} names no picture or no box of four edges")
        if tile not in known:
            raise DatasetError(f"{where}: '{tile}' is not in the training split of {captions}")
        changed, sentences = known[tile]
        before, after = (
            mirror(_window(read_picture(pictures / date / picture), box, size, where), *flip)
            for date in ("A", "B")
        )
        tiles.append(TilePair(f"{tile}@{picture}", changed, sentences, before, after))
    return tiles


def _window(
    picture: NDArray[np.uint8], box: tuple[int, ...], size: int, where: str
) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    side = right - left
    height, width = picture.shape[:2]
    if side != bottom - top or not 0 < side <= min(height, width):
        raise DatasetError(f"{where}: box {list(box)} is no square inside {width} x {height}")
    left, top = min(max(left, 0), width - side), min(max(top, 0), height - side)
    cut = np.ascontiguousarray(picture[top : top + side, left : left + side])
    return np.ascontiguousarray(resize_picture(cut, size).transpose(2, 0, 1))


def _rows(index: Path) -> list[dict[str, Any]]:
    rows = _json(index)
    if not isinstance(rows, list):
        raise DatasetError(f"{index} is not a list of windows")
    return rows


def _captions_of_training(path: Path) -> dict[str, tuple[bool, tuple[Words, ...]]]:
    """Return change flag and captions of each training tile by its file name."""
    unchanged = tuple(tokenise(UNCHANGED_CAPTION))
    known = {}
    for image in _json(path)["images"]:
        if image["split"] != "train":
            continue
        sentences = tuple(tuple(tokenise(s["raw"])) for s in image["sentences"])
        changed = bool(image.get("changeflag", unchanged not in sentences))
        known[image["filename"]] = (changed, sentences if changed else (unchanged,))
    return known


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error
