"""Files that open, and try to have another file or an address read along with them.

Where a file that GDAL would by default look for can be a pipe, it is one: opening it would
hang, and the watchdog would see it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from whatchanged.errors import InputError
from whatchanged.geo import Grid, Scene, open_pair

pytestmark = pytest.mark.loopback

Forge = dict[str, Callable[..., Any]]
OWN, SECRET = 7, 99
GDAL_METADATA, MODEL_TRANSFORM, GEO_KEYS = 42112, 34264, 34735
SHORT, DOUBLE = 3, 12
PLACED = {
    MODEL_TRANSFORM: (DOUBLE, [1.0, 0, 0, 5e5, 0, -1.0, 0, 5e6, 0, 0, 0, 0, 0, 0, 0, 1.0]),
    GEO_KEYS: (SHORT, [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633]),
}


def redirected(forge: Forge, target: str | Path) -> bytes:
    """A georeferenced TIFF whose own metadata says that its overviews are elsewhere."""
    metadata = (
        f'<GDALMetadata><Item name="OVERVIEW_FILE" domain="OVERVIEWS">{target}</Item>'
        "</GDALMetadata>"
    )
    return forge["tiff"]({**PLACED, GDAL_METADATA: forge["text"](metadata)})


def read_all_ways(path: Path) -> set[int]:
    """Values seen in a plain read, in a read laid on a coarser grid, and as both dates."""
    seen: set[int] = set()
    with Scene.open(path) as scene:
        data, valid = scene.read()
        seen |= set(np.unique(data))
        assert valid.all()
        grid = scene.grid
        if grid.is_georeferenced:
            a, _, c, _, e, f = grid.transform[:6]
            coarse = Grid(8, 8, Affine(4 * a, 0, c, 0, 4 * e, f), grid.crs)
            with Scene.open(path).aligned_to(coarse) as aligned:
                data, valid = aligned.read()
                seen |= set(np.unique(data[:, valid]))
    with open_pair(path, path) as pair:
        seen |= set(np.unique(pair.read().after))
    return {int(value) for value in seen}


@pytest.mark.parametrize("kind", ["address", "curl", "secret", "pipe", "vrt"])
def test_overview_tags_lead_nowhere(
    workshop: Any, forge: Forge, within: Callable[..., Any], kind: str
) -> None:
    url = workshop.listener.url
    target = {
        "address": lambda: url,
        "curl": lambda: f"/vsicurl/{url}",
        "secret": lambda: workshop.secret,
        "pipe": lambda: workshop.pipe("overview.tif"),
        "vrt": lambda: workshop.put("overview.vrt", forge["vrt"](url)),
    }[kind]()
    path = workshop.put("a.tif", redirected(forge, target))
    assert within(lambda: read_all_ways(path)) == {OWN}
    assert workshop.listener.hits == []


def test_the_overview_tag_would_have_worked(workshop: Any, forge: Forge) -> None:
    """GDAL by itself follows the tag: what is tested above is a defence, not a forged threat."""
    workshop.secret.write_bytes(
        forge["tiff"]({256: (4, [16]), 257: (4, [16]), 278: (4, [16])}, bytes([SECRET]) * 768)
    )
    path = workshop.put("a.tif", redirected(forge, workshop.secret))
    with rasterio.open(path) as dataset:
        assert (dataset.read(out_shape=(3, 16, 16)) == SECRET).all()


SIDECARS = [
    "a.tif.ovr", "a.tif.msk", "a.tif.aux.xml", "a.aux", "a.tfw", "a.tifw", "a.wld", "a.ovr",
    "a.IMD", "a.RPB", "a_RPC.TXT", "a_rpc.txt", "a.xml", "a.tif.xml", "a_metadata.xml", "a.tab",
    "METADATA.DIM", "a_MTL.txt", "metadata.txt",
]  # fmt: skip


def test_no_sidecar_is_opened(workshop: Any, forge: Forge, within: Callable[..., Any]) -> None:
    path = workshop.put("a.tif", forge["tiff"](PLACED))
    for name in SIDECARS:
        workshop.pipe(name)
    assert within(lambda: read_all_ways(path)) == {OWN}


@pytest.mark.parametrize("suffix", ["png", "jpg", "jp2", "webp"])
def test_no_sidecar_of_a_plain_picture_is_opened(
    workshop: Any, within: Callable[..., Any], suffix: str
) -> None:
    path = workshop.root / f"a.{suffix}"
    Image.new("RGB", (32, 32), (OWN, OWN, OWN)).save(path)
    for name in (f"a.{suffix}.aux.xml", f"a.{suffix}.msk", f"a.{suffix}.ovr", "a.wld", "a.aux"):
        workshop.pipe(name)
    for world in ("pgw", "jgw", "j2w", "wbw", f"{suffix}w"):
        workshop.pipe(f"a.{world}")
    seen = within(lambda: read_all_ways(path))
    assert max(abs(value - OWN) for value in seen) <= 2


def test_sidecars_with_content_change_nothing(workshop: Any, forge: Forge) -> None:
    path = workshop.put("a.tif", forge["tiff"](PLACED))
    workshop.put("a.tif.ovr", workshop.secret.read_bytes())
    workshop.put("a.tif.msk", forge["tiff"](data=b"\0" * 3072))
    workshop.put(
        "a.tif.aux.xml",
        "<PAMDataset><Metadata domain='OVERVIEWS'>"
        f"<MDI key='OVERVIEW_FILE'>{workshop.listener.url}</MDI></Metadata>"
        f"<PAMRasterBand band='1'><NoDataValue>{OWN}</NoDataValue></PAMRasterBand></PAMDataset>",
    )
    workshop.put("a.tfw", "9\n0\n0\n-9\n9\n9\n")
    assert read_all_ways(path) == {OWN}
    with Scene.open(path) as scene:
        assert scene.grid.transform == Affine(1, 0, 5e5, 0, -1, 5e6)
        assert "a.tif.aux.xml" in scene.warnings[0]
    assert workshop.listener.hits == []


def test_a_reference_system_is_not_fetched(workshop: Any, within: Callable[..., Any]) -> None:
    """GMLJP2 names its reference system by an address; any address."""
    path = workshop.root / "a.jp2"
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", width=32, height=32, count=3, dtype="uint8",
        crs="EPSG:32633", transform=Affine(1, 0, 5e5, 0, -1, 5e6), GeoJP2="NO",
    ) as file:  # fmt: skip
        file.write(np.full((3, 32, 32), OWN, dtype=np.uint8))
    data = path.read_bytes()
    for name in (b"http://www.opengis.net/def/crs/EPSG/0/32633", b"urn:ogc:def:crs:EPSG::32633"):
        forged = f"http://127.0.0.1:{workshop.listener.port}/".encode().ljust(len(name), b"x")
        data = data.replace(name, forged[: len(name)])
    assert b"127.0.0.1" in data
    path.write_bytes(data)
    assert within(lambda: read_all_ways(path))
    assert workshop.listener.hits == []


def test_metadata_that_explodes_is_harmless(
    workshop: Any, forge: Forge, within: Callable[..., Any]
) -> None:
    entities = "".join(
        f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "boom" * 10}">' for i in range(12)
    )
    bomb = f'<!DOCTYPE x [{entities}]><GDALMetadata><Item name="a">&e11;</Item></GDALMetadata>'
    path = workshop.put("a.tif", forge["tiff"]({**PLACED, GDAL_METADATA: forge["text"](bomb)}))
    assert within(lambda: read_all_ways(path)) == {OWN}


def test_a_circle_of_directories_ends(
    workshop: Any, forge: Forge, within: Callable[..., Any]
) -> None:
    path = workshop.put("a.tif", forge["tiff"](PLACED, next_ifd=8 + 3072))
    try:
        assert within(lambda: read_all_ways(path)) == {OWN}
    except InputError as error:
        assert "a.tif" in error.message


def test_the_environment_of_the_user_does_not_open_the_door(
    workshop: Any, forge: Forge, within: Callable[..., Any]
) -> None:
    path = workshop.put("a.tif", redirected(forge, workshop.listener.url))
    workshop.pipe("a.tif.aux.xml")
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE", GDAL_PAM_ENABLED="YES"):
        assert within(lambda: read_all_ways(path)) == {OWN}
    assert workshop.listener.hits == []
