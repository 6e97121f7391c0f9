from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from whatchanged.data.mask_sets import (
    DUBAI_COLOURS,
    load_dubai,
    load_loveda,
    load_mask_set,
)
from whatchanged.errors import DatasetError

UNKNOWN = 255


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    return np.full((height, width), 90, np.uint8)


def rgb(height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


@pytest.fixture
def mask_set(tmp_path: Path) -> Path:
    """Two pairs, before and after in other formats than the masks."""
    root = tmp_path / "gz_cd"
    for name in ("b_2", "a_1"):
        save(root / "A" / f"{name}.webp", rgb())
        save(root / "B" / f"{name}.jpg", rgb())
        save(root / "label" / f"{name}.png", grey())
    (root / "A" / "notes.txt").write_text("not a picture")
    return root


def test_pairs_are_listed_by_name_with_what_is_known_of_them(mask_set: Path) -> None:
    one, two = load_mask_set(mask_set, gsd_m=0.5)
    assert (one.name, two.name) == ("a_1", "b_2")
    assert one.before == mask_set / "A" / "a_1.webp"
    assert one.after == mask_set / "B" / "a_1.jpg"
    assert one.mask == mask_set / "label" / "a_1.png"
    assert (one.split, one.source, one.gsd_m) == ("train", "gz_cd", 0.5)
    # A mask says nothing of captions, land cover, or change it does not mark.
    assert (one.captions, one.changed, one.classes_before, one.classes_after) == ((), False) + (
        None,
    ) * 2
    assert load_mask_set(mask_set)[0].gsd_m is None


@pytest.mark.parametrize(("part", "file"), [("B", "a_1.jpg"), ("label", "a_1.png")])
def test_a_name_that_is_not_in_all_three_is_told(mask_set: Path, part: str, file: str) -> None:
    (mask_set / part / file).unlink()
    with pytest.raises(DatasetError, match=f"1 names are not in both A and {part}, such as 'a_1'"):
        load_mask_set(mask_set)


def test_a_picture_too_many_is_told(mask_set: Path) -> None:
    save(mask_set / "label" / "c_3.png", grey())
    with pytest.raises(DatasetError, match="such as 'c_3'"):
        load_mask_set(mask_set)


@pytest.mark.parametrize("part", ["A", "B", "label"])
def test_a_missing_or_empty_folder_is_told(mask_set: Path, part: str) -> None:
    (mask_set / part).rename(mask_set / "elsewhere")
    with pytest.raises(DatasetError, match=rf"{part} does not exist"):
        load_mask_set(mask_set)
    (mask_set / part).mkdir()
    with pytest.raises(DatasetError, match=rf"{part} holds no picture"):
        load_mask_set(mask_set)


def test_two_files_of_one_name_are_told(mask_set: Path) -> None:
    save(mask_set / "A" / "a_1.png", rgb())
    with pytest.raises(DatasetError, match=r"a_1\.png and a_1\.webp have the same name"):
        load_mask_set(mask_set)


# Dubai

COLOURS = [colour for colour, _ in DUBAI_COLOURS.classes]


def dubai(root: Path, mask: NDArray[np.uint8], *, palette: bool = False) -> Path:
    save(root / "images" / "tile1.jpg", rgb(*mask.shape[:2]))
    if palette:  # an order of colours of its own, as some files of the set have
        colours, places = np.unique(mask.reshape(-1, 3), axis=0, return_inverse=True)
        image = Image.fromarray(places.reshape(mask.shape[:2]).astype(np.uint8), "P")
        image.putpalette(colours.astype(np.uint8).tobytes())
        (root / "masks").mkdir(parents=True)
        image.save(root / "masks" / "tile1.png")
    else:
        save(root / "masks" / "tile1.png", mask)
    return root


@pytest.mark.parametrize("palette", [False, True])
def test_dubai_colours_become_land_cover(tmp_path: Path, palette: bool) -> None:
    mask = np.array([COLOURS], np.uint8).repeat(4, axis=0)  # [4, 7, 3]
    (picture,) = load_dubai(dubai(tmp_path, mask, palette=palette))
    assert picture.name == "tile1" and picture.pixels.shape == (4, 7, 3)
    assert picture.classes.dtype == np.uint8
    expected = {
        (132, 41, 246): 2,  # land: bare ground
        (226, 169, 41): 1,  # water
        (60, 16, 152): 5,  # building
        (254, 221, 58): UNKNOWN,  # vegetation, grass or trees
        (110, 193, 228): 7,  # road
        (155, 155, 155): UNKNOWN,
        (0, 0, 0): UNKNOWN,
    }
    assert picture.classes[0].tolist() == [expected[colour] for colour in COLOURS]
    assert (picture.classes == picture.classes[0]).all()


def test_a_colour_dubai_does_not_have_is_told_with_its_count(tmp_path: Path) -> None:
    mask = np.zeros((4, 4, 3), np.uint8)
    mask[1, :3] = (60, 16, 153)
    with pytest.raises(DatasetError, match=r"tile1\.png has 3 pixels .* \(60, 16, 153\)"):
        load_dubai(dubai(tmp_path, mask))


# LoveDA


def loveda(root: Path, mask: Any) -> Path:
    save(root / "images" / "7.png", rgb(*mask.shape))
    save(root / "masks" / "7.png", mask)
    return root


def test_loveda_values_become_land_cover(tmp_path: Path) -> None:
    (picture,) = load_loveda(loveda(tmp_path, np.arange(8, dtype=np.uint8)[None].repeat(2, 0)))
    # no data, background, building, road, water, barren, forest, agriculture
    assert picture.classes.tolist() == [[UNKNOWN, UNKNOWN, 5, 7, 1, 2, 4, 3]] * 2


def test_a_value_loveda_does_not_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"7\.png has the value 9"):
        load_loveda(loveda(tmp_path, np.full((4, 4), 9, np.uint8)))


@pytest.mark.parametrize("load", [load_dubai, load_loveda])
def test_pictures_and_masks_belong_together(tmp_path: Path, load: Any) -> None:
    root = loveda(tmp_path, np.zeros((4, 4), np.uint8))
    save(root / "images" / "8.png", rgb(4, 4))
    with pytest.raises(DatasetError, match=r"8\.png has no mask"):
        load(root)
    save(root / "masks" / "8.png", grey(4, 5) * 0)
    with pytest.raises(DatasetError, match=r"8\.png is 5 x 4 pixels, its picture 4 x 4"):
        load(root)


def test_a_mask_without_picture_is_not_missed(tmp_path: Path) -> None:
    root = loveda(tmp_path, np.zeros((4, 4), np.uint8))
    save(root / "masks" / "other.png", grey(4, 4))
    assert [picture.name for picture in load_loveda(root)] == ["7"]


def test_the_real_sets_are_read(shared_data: Path) -> None:
    for name, n in (("levir_train_plain", 328), ("gz_cd", 721), ("cdd_train", 506)):
        assert len(load_mask_set(shared_data / "masks" / name)) == n
    pictures = load_loveda(shared_data / "landcover" / "loveda")
    assert len(pictures) == 3
    assert {int(v) for p in pictures for v in np.unique(p.classes)} <= {1, 2, 3, 4, 5, 7, UNKNOWN}
