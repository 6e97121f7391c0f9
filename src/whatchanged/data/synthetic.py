"""Generated georeferenced scenes with known changes, for tests, the demo and extra training.

``draw_scene`` draws one place on two dates: roads, plots, fields, woods and buildings as a
height field lit by a sun, then permanent changes of known kinds (or none), then everything
that differs between two photographs although nothing changed. Scores on generated scenes
are never results.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from whatchanged.data.synthetic_changes import KINDS
from whatchanged.data.synthetic_layout import Layout, lay_out, traffic
from whatchanged.data.synthetic_paint import BytePicture, Weave, draw_weave
from whatchanged.data.synthetic_photo import develop, draw_photo
from whatchanged.data.synthetic_render import Canvas, Raster, cover_map, photograph, rasterise
from whatchanged.data.synthetic_words import captions
from whatchanged.errors import DatasetError, UsageError
from whatchanged.geo.grid import Grid

_ATTEMPTS = 100
_SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class SyntheticScene:
    """One generated place on two dates.

    Attributes:
        before: Earlier photograph, [H, W, 3] uint8.
        after: Later photograph, [H, W, 3] uint8.
        mask: True where the land cover changed, [H, W] bool.
        classes_before: Land cover before at changed pixels, [H, W] uint8: 0 unchanged,
            1 water, 2 bare ground, 3 low vegetation, 4 tree, 5 building, 6 playground,
            7 road (all paved ground).
        classes_after: Land cover after at changed pixels, likewise.
        captions: Five true sentences.
        changed: Whether anything permanent changed.
        kinds: What changed, keys of ``CHANGE_KINDS``.
        grid: Size, transform and CRS of all of these arrays.
    """

    before: BytePicture
    after: BytePicture
    mask: NDArray[np.bool_]
    classes_before: NDArray[np.uint8]
    classes_after: NDArray[np.uint8]
    captions: tuple[str, ...]
    changed: bool
    kinds: tuple[str, ...]
    grid: Grid


CHANGE_KINDS: tuple[str, ...] = tuple(KINDS)


def draw_scene(
    seed: int,
    *,
    size: int = 256,
    gsd_m: float = 0.5,
    changed: bool | None = None,
    kinds: Sequence[str] | None = None,
) -> SyntheticScene:
    """Draw one place on two dates; the same arguments give the same scene.

    Args:
        seed: Number of the scene, 0 or more.
        size: Side of the pictures in pixels, 32 to 2048.
        gsd_m: Ground sampling distance in metres per pixel, 0.1 to 4. The scene must be 24 to
            2048 m wide; 100 m and more look best.
        changed: Whether something changes; None leaves it to the seed, half and half.
        kinds: Changes that must happen, out of ``CHANGE_KINDS``, each on a piece of land of
            its own; None leaves one or two to the seed.

    Returns:
        The scene with its mask, land cover, captions and grid.

    Raises:
        UsageError: An argument is out of range, a kind is unknown, or there is no room for
            all changes.
    """
    _check(seed, size, gsd_m, changed, kinds)
    canvas = Canvas(size, gsd_m)
    choice = np.random.default_rng([seed, 0])
    changes = bool(choice.random() < 0.5) if changed is None else changed
    changes = True if kinds else changes
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, 1, attempt])
        wanted = tuple(kinds) if kinds else _draw_kinds(rng) if changes else ()
        layout = lay_out(rng, size * gsd_m, wanted)
        scene = _finish(rng, seed, canvas, layout, wanted) if layout is not None else None
        if scene is not None:
            return scene
    raise UsageError(
        f"a scene {size * gsd_m:g} m wide has no room for the changes {', '.join(kinds or ())}",
        hint="ask for fewer changes or draw a larger scene (size, gsd_m)",
    )


def _check(
    seed: int, size: int, gsd_m: float, changed: bool | None, kinds: Sequence[str] | None
) -> None:
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", hint="use 0, 1, 2, ...")
    if not 32 <= size <= 2048 or not 0.1 <= gsd_m <= 4.0 or not 24.0 <= size * gsd_m <= 2048.0:
        raise UsageError(
            f"a scene of {size} pixels at {gsd_m:g} m cannot be drawn",
            hint="size 32 to 2048 pixels, gsd_m 0.1 to 4 m, together 24 to 2048 m wide",
        )
    unknown = sorted(set(kinds or ()) - set(CHANGE_KINDS))
    if unknown:
        raise UsageError(
            f"unknown kind of change: {', '.join(unknown)}",
            hint=f"use some of {', '.join(CHANGE_KINDS)}",
        )
    if kinds and changed is False:
        raise UsageError(
            "kinds of change are given for a scene without changes",
            hint="drop kinds or changed=False",
        )
    if changed and kinds is not None and not kinds:
        raise UsageError("changed=True with an empty list of kinds", hint="drop kinds")


def _draw_kinds(rng: np.random.Generator) -> tuple[str, ...]:
    n = 1 if rng.random() < 0.72 else 2
    return tuple(str(kind) for kind in rng.choice(list(CHANGE_KINDS), n, replace=False))


def _finish(
    rng: np.random.Generator,
    seed: int,
    canvas: Canvas,
    layout: Layout,
    kinds: tuple[str, ...],
) -> SyntheticScene | None:
    """Draw a layout on both dates; None if one of its changes can hardly be seen."""
    weave = draw_weave(rng, (canvas.side, canvas.side), canvas.pixel)
    extent = canvas.size * canvas.gsd
    plans = [traffic(rng, plan, extent) for plan in (layout.before, layout.after)]
    rasters = [rasterise(plan, canvas, weave) for plan in plans]
    covers_before, covers_after = (cover_map(raster) for raster in rasters)
    mask = covers_before != covers_after
    masks = [mask & _block_mask(canvas, site.outline) for site in layout.sites]
    enough = max(12.0, 0.003 * mask.size)
    if any(float(part.sum()) < enough for part in masks) or (mask.any() and not masks):
        return None
    facts = [site.facts for site in layout.sites]
    before, after = (_photo(rng, canvas, raster, weave) for raster in rasters)
    nothing = np.uint8(0)
    return SyntheticScene(
        before=before,
        after=after,
        mask=mask,
        classes_before=np.where(mask, covers_before, nothing),
        classes_after=np.where(mask, covers_after, nothing),
        captions=captions(rng, facts, masks),
        changed=bool(kinds),
        kinds=kinds,
        grid=_place(seed, canvas),
    )


def _photo(rng: np.random.Generator, canvas: Canvas, raster: Raster, weave: Weave) -> BytePicture:
    """Photograph a drawn plan on one day, [size, size, 3] uint8."""
    photo = draw_photo(rng)
    light = photograph(raster, canvas, weave, photo.light, photo.season, rng)
    return develop(light, photo, rng)


def _block_mask(canvas: Canvas, outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    image = Image.new("1", (canvas.size, canvas.size))
    corners = [(float(x), float(y)) for x, y in outline / canvas.gsd]
    ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.array(image, dtype=bool)


def _place(seed: int, canvas: Canvas) -> Grid:
    """Give the scene a place in UTM zone 50 north, its own square of 3 km."""
    east, north = 450_000 + 3_000 * (seed % 50), 4_300_000 - 3_000 * (seed // 50 % 500)
    transform = Affine(canvas.gsd, 0.0, float(east), 0.0, -canvas.gsd, float(north))
    return Grid(canvas.size, canvas.size, transform, CRS.from_epsg(32650))


def encode_geotiff(picture: BytePicture, grid: Grid) -> bytes:
    """Encode a picture [H, W, 3] uint8 as a compressed GeoTIFF on its grid."""
    profile = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": picture.shape[2],
        "dtype": "uint8",
        "crs": grid.crs,
        "transform": grid.transform,
        "compress": "deflate",
        "predictor": 2,
        "photometric": "rgb",
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(np.moveaxis(picture, 2, 0))
        return bytes(memory.read())


def write_scenes(
    out: Path,
    *,
    n: int,
    size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write scenes as a data set in the layout of LEVIR-CC.

    ``captions.json``, ``images/<split>/{A,B}/*.tif`` (GeoTIFF), ``label/<split>/*.png`` (mask)
    and ``sem/<split>/{A,B}/*.png`` (land cover at changed pixels). From ten scenes on, a tenth
    each is the validation and the test split; from three on, one scene each. Every file is
    written under a temporary name first and ``captions.json`` last, so a killed run leaves no
    data set that looks complete.

    Args:
        out: Folder to write into; created if missing.
        n: Number of scenes, at least 1.
        size: Side of the pictures in pixels.
        seed: Seed of the first scene; the others follow it.
        progress: Called after each scene with the number done and ``n``.

    Returns:
        All files written, ``captions.json`` last.

    Raises:
        UsageError: ``n`` is below 1.
        DatasetError: The folder already holds a data set.
    """
    if n < 1:
        raise UsageError(f"cannot write {n} scenes", hint="ask for at least one")
    listing = out / "captions.json"
    if listing.exists():
        raise DatasetError(f"{listing} exists already", hint="choose another folder")
    written: list[Path] = []
    images: list[dict[str, Any]] = []
    for number in range(n):
        scene = draw_scene(seed + number, size=size)
        split, name = _split(number, n), f"scene_{seed + number:06d}"
        written.extend(_write_scene(out, split, name, scene))
        images.append(_entry(number, split, name, scene))
        if progress is not None:
            progress(number + 1, n)
    content = {"images": images, "dataset": "whatchanged-synthetic"}
    written.append(_replace(listing, json.dumps(content, indent=1).encode()))
    return written


def _split(number: int, n: int) -> str:
    held = max(1, n // 10) if n >= 3 else 0
    return _SPLIT_NAMES[(number >= n - 2 * held) + (number >= n - held)]


def _entry(number: int, split: str, name: str, scene: SyntheticScene) -> dict[str, Any]:
    first = len(scene.captions) * number
    sentences = [
        {
            "tokens": caption.split(),
            "raw": f" {caption} .",
            "imgid": number,
            "sentid": first + k,
        }
        for k, caption in enumerate(scene.captions)
    ]
    return {
        "filepath": split,
        "filename": f"{name}.tif",
        "imgid": number,
        "sentences": sentences,
        "split": split,
        "changeflag": int(scene.changed),
        "sentids": [sentence["sentid"] for sentence in sentences],
        "source": "synthetic",
        "gsd_m": scene.grid.pixel_size[0],
        "kinds": list(scene.kinds),
    }


def _write_scene(out: Path, split: str, name: str, scene: SyntheticScene) -> list[Path]:
    label = (scene.mask * np.uint8(255)).astype(np.uint8)
    files = {
        f"images/{split}/A/{name}.tif": encode_geotiff(scene.before, scene.grid),
        f"images/{split}/B/{name}.tif": encode_geotiff(scene.after, scene.grid),
        f"label/{split}/{name}.png": _png(label),
        f"sem/{split}/A/{name}.png": _png(scene.classes_before),
        f"sem/{split}/B/{name}.png": _png(scene.classes_after),
    }
    return [_replace(out / path, content) for path, content in files.items()]


def _png(values: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    return path
