"""Masks and probabilities lie over the photographs, and say where nothing is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from whatchanged.geo.grid import Grid
from whatchanged.geo.writer import write_mask, write_probability

UTM = CRS.from_epsg(32633)
HEIGHT, WIDTH = 300, 280
PROBABILITY = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
MASK = PROBABILITY > 0.5
VALID = np.ones((HEIGHT, WIDTH), bool)
VALID[:10] = False
TRANSFORMS = [
    Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000),  # south-up
    Affine(0.5, 0.2, 500_000, 0.2, -0.5, 5_000_000),
]


def grid_of(transform: Affine = TRANSFORMS[0], crs: CRS | None = UTM) -> Grid:
    return Grid(WIDTH, HEIGHT, transform, crs)


PLAIN = grid_of(Affine.identity(), None)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("crs", [UTM, None])
def test_a_mask_keeps_grid_and_validity(tmp_path: Path, transform: Affine, crs: CRS | None) -> None:
    path = write_mask(tmp_path, MASK & VALID, VALID, grid_of(transform, crs))
    assert path == tmp_path / "mask.tif"
    with rasterio.open(path) as file:
        assert file.transform == transform
        assert file.crs == crs
        assert file.dtypes == ("uint8",)
        assert file.nodata == 255
        assert file.profile["tiled"] and file.profile["compress"] == "deflate"
        assert file.descriptions == ("changed",)
        values = file.read(1)
    assert (values[~VALID] == 255).all()
    assert (values[VALID] == MASK[VALID]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["mask.tif"]  # no sidecars


def test_a_probability_is_what_was_computed(tmp_path: Path) -> None:
    path = write_probability(tmp_path, PROBABILITY, VALID, grid_of())
    with rasterio.open(path) as file:
        assert file.dtypes == ("float32",)
        assert math.isnan(file.nodata)
        values = file.read(1)
        assert (file.dataset_mask() > 0).tolist() == VALID.tolist()
    assert np.isnan(values[~VALID]).all()
    assert (values[VALID] == PROBABILITY[VALID]).all()


def test_without_georeference_there_are_pictures(tmp_path: Path) -> None:
    everywhere = np.ones_like(VALID)
    path = write_mask(tmp_path, MASK, everywhere, PLAIN)
    assert path.name == "mask.png"
    picture = Image.open(path)
    assert picture.mode == "L"
    assert (np.asarray(picture) == MASK * 255).all()
    path = write_probability(tmp_path, PROBABILITY, everywhere, PLAIN)
    assert path.name == "probability.png"
    shown = np.asarray(Image.open(path)) / 255
    assert np.abs(shown - PROBABILITY).max() <= 0.5 / 255 + 1e-6


def test_what_is_not_valid_is_transparent(tmp_path: Path) -> None:
    probability = np.where(VALID, PROBABILITY, np.nan).astype(np.float32)
    for path in (
        write_mask(tmp_path, MASK & VALID, VALID, PLAIN),
        write_probability(tmp_path, probability, VALID, PLAIN),
    ):
        picture = Image.open(path)
        assert picture.mode == "LA"
        shades, alpha = np.moveaxis(np.asarray(picture), 2, 0)
        assert (alpha == VALID * 255).all()
        assert (shades[~VALID] == 0).all()
