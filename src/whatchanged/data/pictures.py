"""All pictures of a data set in one place: decoded once, at one size, as uint8.

A training run visits every picture dozens of times; decoding WebP or PNG each time would
cost more than a small model's forward pass. With a cache folder the arrays are memory-mapped
files, so that a large set need not fit into memory and the next run starts at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from whatchanged.data.samples import CaptionSample, LabelColours
from whatchanged.errors import DatasetError

Array: TypeAlias = NDArray[np.uint8]

UNKNOWN = 255  # mask and class value where nothing is known
LAND_COVER = 7  # classes are 1 to 7, see `transitions`; 0 is unchanged
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
# What Pillow raises at broken files.
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_MASK_COLOURS = 16  # a coloured mask has fewer, a photograph thousands
_VERSION = 2  # of the cache's contents: raise it when decoding, checking or resizing changes
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits a band or fewer


@dataclass(frozen=True)
class PictureStore:
    """Pictures, masks and class maps of N samples, in the samples' order, S pixels a side.

    Args:
        before: Earlier photographs, [N, 3, S, S] uint8, RGB.
        after: Later photographs, [N, 3, S, S] uint8, RGB.
        mask: Change masks, [N, S, S] uint8: 0 unchanged, 1 changed, 255 unknown.
        classes_before: Land cover before, [N, S, S] uint8, 255 unknown.
        classes_after: Land cover after, [N, S, S] uint8, 255 unknown.

    The last three are None when no sample has such a file. All are read-only views of files
    if the store was opened with a cache.
    """

    before: Array
    after: Array
    mask: Array | None
    classes_before: Array | None
    classes_after: Array | None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.before)

    @property
    def size(self) -> int:
        """Side of every picture in pixels."""
        return int(self.before.shape[-1])

    @classmethod
    def open(
        cls,
        samples: Sequence[CaptionSample],
        size: int,
        *,
        cache: Path | str | None = None,
        progress: bool = False,
    ) -> PictureStore:
        """Read every picture of ``samples`` at ``size`` pixels a side.

        Args:
            samples: Samples; their order is the order of the arrays.
            size: Side in pixels. Pictures must be square, both dates of one size.
            cache: Folder for decoded arrays, keyed by the files' paths, sizes and times of
                change; None to keep the arrays in memory (about 1.3 GB for 2,200 samples with
                masks at 256 pixels).
            progress: Show a progress bar on standard error if that is a terminal.

        Raises:
            DatasetError: A file that is missing, damaged, not 8-bit, not square or, within
                one sample, of another size; or land cover that does not exist.
        """
        if cache is None:
            layers = _allocate(samples, size, None)
            _fill(layers, samples, size, progress)
            return cls(**_all_layers(layers))
        folder = Path(cache) / f"pictures-{size}-{_key(samples, size)}"
        if not (folder / "layers.json").is_file():
            _build_cache(folder, samples, size, progress)
        return cls(**_all_layers(_open_cache(folder, len(samples), size)))


def resize_picture(picture: Array, size: int) -> Array:
    """Resize an RGB picture [H, W, 3] to [size, size, 3]: Lanczos, antialiased when reducing."""
    if picture.shape[:2] == (size, size):
        return picture
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def resize_classes(classes: Array, size: int) -> Array:
    """Resize a map of values [H, W] to [size, size] by the majority of the area below a pixel.

    A tie goes to the smallest value above 0 (0 is "unchanged"; a thin change would vanish).
    """
    if classes.shape == (size, size):
        return classes
    values = sorted(np.unique(classes).tolist(), key=lambda value: (value == 0, value))
    shares = [
        np.asarray(
            Image.fromarray((classes == value).astype(np.float32)).resize(
                (size, size), Image.Resampling.BOX
            )
        )
        for value in values
    ]
    winner = np.argmax(np.round(np.stack(shares), 4), axis=0)  # rounding keeps ties ties
    majority: Array = np.asarray(values, dtype=np.uint8)[winner]
    return majority


def read_picture(path: Path) -> Array:
    """Read a photograph as RGB, [H, W, 3] uint8; alpha is dropped.

    Raises:
        DatasetError: The file is missing, damaged, of another format or not 8-bit.
    """
    return _read(path, "RGB")


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height of a picture of any format, of which only the head is read.

    Raises:
        DatasetError: The file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except _BROKEN as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def read_classes(path: Path, colours: LabelColours | None = None) -> Array:
    """Read a class map, [H, W] uint8.

    Args:
        path: File.
        colours: Colours of the classes; None to take the stored values as they are, black and
            white as 0 and 1. A grey picture of several equal bands has one value a pixel too.

    Raises:
        DatasetError: The file is missing or damaged, is coloured but no colours are given, or
            has a colour that is not among them.
    """
    if colours is None:
        return _read(path, None)
    pixels = read_picture(path)
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1])  # [H, W]
    classes = np.full(packed.shape, colours.others or 0, np.uint8)
    known = np.full(packed.shape, colours.others is not None)
    for (red, green, blue), value in colours.classes:
        here = packed == red * 65536 + green * 256 + blue
        classes[here] = value
        known |= here
    if not known.all():
        raise DatasetError(
            f"{path} has {int((~known).sum())} pixels of colours the set does not have, "
            f"such as {tuple(pixels[~known][0].tolist())}"
        )
    return classes


def read_land_cover(path: Path, colours: LabelColours | None = None) -> Array:
    """Read a map of land cover, [H, W] uint8: 1 to 7, 0 unchanged, 255 unknown.

    Raises:
        DatasetError: As :func:`read_classes`; or a value that is no land cover.
    """
    classes = read_classes(path, colours)
    odd = (classes > LAND_COVER) & (classes != UNKNOWN)
    if odd.any():
        raise DatasetError(
            f"{path} has the value {classes[odd][0]} at {int(odd.sum())} pixels",
            hint=f"land cover is 1 to {LAND_COVER}, 0 where unchanged and 255 where unknown",
        )
    return classes


def read_mask(path: Path, colours: LabelColours | None = None) -> Array:
    """Read a change mask, [H, W] uint8: 0 unchanged, 1 changed, 255 unknown.

    Args:
        path: File.
        colours: Classes of the colours, of which 0 is unchanged and 255 unknown; None where
            black is unchanged and anything else changed.

    Raises:
        DatasetError: As :func:`read_classes`; or more colours than a mask can have.
    """
    if colours is not None:
        classes = read_classes(path, colours)
        return np.where(classes == UNKNOWN, UNKNOWN, classes != 0).astype(np.uint8)
    pixels = read_picture(path)
    if (pixels != pixels[..., :1]).any():
        packed = pixels.astype(np.int32) @ np.array([65536, 256, 1])  # [H, W]
        if len(np.unique(packed)) > _MASK_COLOURS:
            raise DatasetError(f"{path} is a mask but has the colours of a photograph")
    return np.asarray(pixels.any(axis=2), dtype=np.uint8)


def _read(path: Path, mode: str | None) -> Array:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode not in _MODES:
                raise DatasetError(f"{path} has pixels of type '{image.mode}', not 8 bits a band")
            if mode is not None:
                return np.asarray(image.convert(mode))
            if image.mode in ("1", "L", "P"):
                return np.asarray(image, dtype=np.uint8)
            pixels = np.asarray(image.convert("RGB"))
            if (pixels != pixels[..., :1]).any():
                raise DatasetError(f"{path} is a class map but has several bands")
            return np.ascontiguousarray(pixels[..., 0])
    except _BROKEN as error:
        raise DatasetError(
            f"{path} cannot be read: {error}",
            hint=f"readable are {', '.join(FORMATS)} with 8 bits a band",
        ) from error


def _layer_paths(sample: CaptionSample) -> dict[str, Path | None]:
    return {
        "before": sample.before,
        "after": sample.after,
        "mask": sample.mask,
        "classes_before": sample.classes_before,
        "classes_after": sample.classes_after,
    }


def _all_layers(layers: dict[str, Array]) -> dict[str, Any]:
    return {
        name: layers.get(name)
        for name in ("before", "after", "mask", "classes_before", "classes_after")
    }


def _allocate(samples: Sequence[CaptionSample], size: int, folder: Path | None) -> dict[str, Array]:
    """Make the arrays that the samples need, in memory or as files in ``folder``."""
    present = {"before", "after"}
    for sample in samples:
        present |= {name for name, path in _layer_paths(sample).items() if path is not None}
    layers = {}
    for name in sorted(present):
        shape = _shape(name, len(samples), size)
        if folder is None:
            layers[name] = np.empty(shape, np.uint8)
        else:
            layers[name] = np.lib.format.open_memmap(
                folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape
            )
    return layers


def _shape(name: str, n: int, size: int) -> tuple[int, ...]:
    return (n, 3, size, size) if name in ("before", "after") else (n, size, size)


def _fill(
    layers: dict[str, Array], samples: Sequence[CaptionSample], size: int, progress: bool
) -> None:
    def fill_one(index: int) -> None:
        _fill_sample(layers, index, samples[index], size)

    console = Console(stderr=True)
    # Pillow decodes and resizes outside the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(fill_one, range(len(samples)))
        try:
            for _ in track(
                done,
                "reading pictures",
                total=len(samples),
                console=console,
                disable=not (progress and console.is_terminal),
            ):
                pass
        except DatasetError:
            pool.shutdown(cancel_futures=True)
            raise


def _fill_sample(layers: dict[str, Array], index: int, sample: CaptionSample, size: int) -> None:
    before, after = read_picture(sample.before), read_picture(sample.after)
    height, width = before.shape[:2]
    if height != width:
        raise DatasetError(f"{sample.before} is {width} x {height} pixels, not square")
    _check_size(sample.after, after, before.shape[:2])
    layers["before"][index] = resize_picture(before, size).transpose(2, 0, 1)  # [3, S, S]
    layers["after"][index] = resize_picture(after, size).transpose(2, 0, 1)
    for name in ("mask", "classes_before", "classes_after"):
        path = _layer_paths(sample)[name]
        if path is None:
            if name in layers:
                layers[name][index] = UNKNOWN
            continue
        values = (read_mask if name == "mask" else read_land_cover)(path, sample.label_colours)
        _check_size(path, values, before.shape[:2])
        layers[name][index] = resize_classes(values, size)


def _check_size(path: Path, picture: Array, expected: tuple[int, ...]) -> None:
    if picture.shape[:2] != expected:
        (height, width), (h, w) = picture.shape[:2], expected
        raise DatasetError(f"{path} is {width} x {height} pixels, its before picture {w} x {h}")


def _key(samples: Sequence[CaptionSample], size: int) -> str:
    """Return a digest of everything the arrays depend on, without reading a picture."""
    digest = hashlib.sha256(f"{_VERSION} {size} {len(samples)}\n".encode())
    for sample in samples:
        for name, path in _layer_paths(sample).items():
            if path is None:
                continue
            try:
                stat = path.stat()
            except OSError as error:
                raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
            line = f"{name} {path.resolve()} {stat.st_mtime_ns} {stat.st_size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(f"{sample.label_colours or ''}\n".encode())
    return digest.hexdigest()[:16]


def _build_cache(folder: Path, samples: Sequence[CaptionSample], size: int, progress: bool) -> None:
    """Fill a folder beside ``folder`` and rename it: a killed run leaves no half cache."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        layers = _allocate(samples, size, part)
        _fill(layers, samples, size, progress)
        for layer in layers.values():
            if isinstance(layer, np.memmap):
                layer.flush()
        (part / "layers.json").write_text(json.dumps(sorted(layers)), encoding="utf-8")
        if folder.exists() and not (folder / "layers.json").is_file():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except OSError as error:
        if not (folder / "layers.json").is_file():  # otherwise another run was faster
            raise DatasetError(f"picture cache {folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _open_cache(folder: Path, n: int, size: int) -> dict[str, Array]:
    hint = f"delete {folder}; it is rebuilt"
    try:
        names = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
        layers = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"picture cache {folder} is damaged: {error}", hint=hint) from error
    for name, layer in layers.items():
        if layer.shape != _shape(name, n, size) or layer.dtype != np.uint8:
            raise DatasetError(f"picture cache {folder} is damaged: {name}.npy", hint=hint)
    return layers
