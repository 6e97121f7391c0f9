"""Adapters for pairs with masks alone and for single pictures with land cover.

A mask set is a folder ``{A,B,label}`` with one picture of the same name in each (LEVIR-CD,
CDD and many others come so). A land-cover set is a folder ``{images,masks}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whatchanged.data.pictures import UNKNOWN, read_classes, read_picture
from whatchanged.data.samples import CaptionSample, LabelColours
from whatchanged.errors import DatasetError

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff")

# Land cover as this project numbers it: 1 water, 2 bare ground, 3 low vegetation, 4 tree,
# 5 building, 6 playground, 7 road. Colours of the Dubai set; its vegetation is grass or trees.
DUBAI_COLOURS = LabelColours(
    (
        ((132, 41, 246), 2),
        ((226, 169, 41), 1),
        ((60, 16, 152), 5),
        ((254, 221, 58), UNKNOWN),
        ((110, 193, 228), 7),
        ((155, 155, 155), UNKNOWN),
        ((0, 0, 0), UNKNOWN),
    )
)
# LoveDA's values 0 to 7: no data, background, building, road, water, barren, forest, agriculture.
LOVEDA_VALUES = (UNKNOWN, UNKNOWN, 5, 7, 1, 2, 4, 3)


@dataclass(frozen=True)
class CoverPicture:
    """One picture with land cover.

    Args:
        name: File name without suffix.
        pixels: RGB, [H, W, 3] uint8.
        classes: Land cover 1-7, 255 unknown, [H, W] uint8.
    """

    name: str
    pixels: NDArray[np.uint8]
    classes: NDArray[np.uint8]


def load_mask_set(root: Path, *, gsd_m: float | None = None) -> tuple[CaptionSample, ...]:
    """List the pairs of a mask set, without captions.

    Args:
        root: Folder that holds ``A`` (before), ``B`` (after) and ``label``.
        gsd_m: Ground sampling distance, metres per pixel.

    Whether a pair changed is not decided here (``changed`` is False): a mask that knows only
    buildings says nothing of a new road.

    Raises:
        DatasetError: A folder is missing or empty, or names that do not stand in all three.
    """
    files = {part: list_pictures(root / part) for part in ("A", "B", "label")}
    for part in ("B", "label"):
        odd = sorted(set(files["A"]) ^ set(files[part]))
        if odd:
            raise DatasetError(
                f"{root}: {len(odd)} names are not in both A and {part}, such as '{odd[0]}'",
                hint="a mask set has one picture of the same name in A, B and label",
            )
    return tuple(
        CaptionSample(
            name=name,
            split="train",
            before=files["A"][name],
            after=files["B"][name],
            captions=(),
            changed=False,
            mask=files["label"][name],
            classes_before=None,
            classes_after=None,
            gsd_m=gsd_m,
            source=root.name,
        )
        for name in sorted(files["A"])
    )


def load_dubai(root: Path) -> list[CoverPicture]:
    """Read the Dubai land-cover set: RGB masks, some of them palette files.

    Raises:
        DatasetError: A mask colour that the set does not have, a picture without mask, or one
            of another size.
    """
    pictures = []
    for name, path, mask in _with_masks(root):
        classes = read_classes(mask, DUBAI_COLOURS)
        pictures.append(_cover(name, path, classes, mask))
    return pictures


def load_loveda(root: Path) -> list[CoverPicture]:
    """Read a LoveDA folder: masks hold the values 0 to 7.

    Raises:
        DatasetError: A value above 7, a picture without mask, or one of another size.
    """
    table = np.asarray(LOVEDA_VALUES, np.uint8)
    pictures = []
    for name, path, mask in _with_masks(root):
        values = read_classes(mask)
        if values.max() >= len(table):
            raise DatasetError(f"{mask} has the value {values.max()}; LoveDA ends at 7")
        pictures.append(_cover(name, path, table[values], mask))
    return pictures


def _with_masks(root: Path) -> list[tuple[str, Path, Path]]:
    """List the pictures of a land-cover set: name, picture, mask."""
    masks = list_pictures(root / "masks")
    rows = []
    for name, path in sorted(list_pictures(root / "images").items()):
        if name not in masks:
            raise DatasetError(f"{path} has no mask in {root / 'masks'}")
        rows.append((name, path, masks[name]))
    return rows


def _cover(name: str, path: Path, classes: NDArray[np.uint8], mask: Path) -> CoverPicture:
    pixels = read_picture(path)
    if pixels.shape[:2] != classes.shape:
        (height, width), (h, w) = pixels.shape[:2], classes.shape
        raise DatasetError(f"{mask} is {w} x {h} pixels, its picture {width} x {height}")
    return CoverPicture(name, pixels, classes)


def list_pictures(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder by name without suffix.

    Raises:
        DatasetError: No such folder, no picture in it, or two of one name.
    """
    if not folder.is_dir():
        raise DatasetError(f"folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        if path.stem in found:
            raise DatasetError(f"{found[path.stem]} and {path.name} have the same name")
        found[path.stem] = path
    if not found:
        raise DatasetError(
            f"folder {folder} holds no picture", hint=f"any of {', '.join(PICTURES)}"
        )
    return found
