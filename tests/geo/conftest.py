"""Pictures that the tests of ``geo`` write for themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

UTM = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
Writer = Callable[..., Path]


def texture(height: int, width: int, *, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth random picture [bands, H, W] in [1, 250]: texture at several scales, no zero."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((bands, height, width))
    for period in (4, 8, 16, 48):
        rows, columns = np.arange(height) / period, np.arange(width) / period
        nodes = rng.normal(size=(bands, int(rows[-1]) + 2, int(columns[-1]) + 2))
        r, c = rows.astype(int), columns.astype(int)
        fr, fc = (rows - r)[:, None], (columns - c)[None, :]
        top = nodes[:, r][:, :, c] * (1 - fc) + nodes[:, r][:, :, c + 1] * fc
        low = nodes[:, r + 1][:, :, c] * (1 - fc) + nodes[:, r + 1][:, :, c + 1] * fc
        picture += top * (1 - fr) + low * fr
    picture -= picture.min()
    return (1 + picture / picture.max() * 249).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write an array [bands, H, W] with rasterio; the driver follows from the suffix."""
    drivers = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".jp2": "JP2OpenJPEG"}

    def writer(
        name: str,
        data: NDArray[Any],
        *,
        mask: NDArray[np.bool_] | None = None,
        colours: tuple[Any, ...] | None = None,
        tags: dict[str, dict[str, str]] | None = None,
        **profile: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        driver = profile.pop("driver", None) or drivers.get(path.suffix, "WEBP")
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path,
                "w",
                driver=driver,
                count=data.shape[0],
                height=data.shape[1],
                width=data.shape[2],
                dtype=data.dtype,
                **profile,
            ) as file:
                if colours is not None:
                    file.colorinterp = colours
                file.write(data)
                if mask is not None:
                    file.write_mask(mask.astype(np.uint8) * 255)
                for namespace, values in (tags or {}).items():
                    file.update_tags(ns=namespace, **values)
        for sidecar in (".aux.xml", ".msk"):
            path.with_name(path.name + sidecar).unlink(missing_ok=True)
        return path

    return writer


@pytest.fixture
def utm() -> dict[str, Any]:
    """CRS and transform of a north-up half-metre grid."""
    return dict(UTM)


@pytest.fixture
def draw() -> Callable[..., NDArray[np.uint8]]:
    """The function that draws a textured picture."""
    return texture
