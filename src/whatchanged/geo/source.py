"""The one place that opens rasters, and trusts none of them.

A raster file can name other files and addresses (VRT, overview tags, sidecars) and can claim
sizes that no memory holds. So a path must be a regular file, its driver follows from its first
bytes, everything beside the file is ignored, overviews are never looked at, and sizes are
checked before a pixel is read.

Sidecars are off without exception: ``.aux.xml``, ``.ovr``, ``.msk`` and world files (``.tfw``,
``.pgw``, ...). What a picture says about itself must be inside it; :func:`ignored_sidecars`
names those that lie beside it, so that people are told.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from whatchanged.errors import InputError
from whatchanged.geo.grid import Grid

MAX_VALUES = {"GTiff": 2**36, "JP2OpenJPEG": 2**31, "PNG": 2**29, "JPEG": 2**29, "WEBP": 2**29}
"""Most values (pixels times bands) of a file. PNG, JPEG and WebP may need decoding as a whole;
a JPEG 2000 tile may be the whole picture and costs about a tenth of a byte a value to enter."""
MAX_BANDS = 512
MAX_BLOCK_BYTES = 2**28
"""Most bytes of one decoded block, the least that a read of one pixel costs."""
MAX_READ_BYTES = 2**30
"""Most bytes of one read; larger scenes are read in windows."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

# First bytes of each format; a WebP file has its own length in the gap.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+", "GTiff"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JP2OpenJPEG"),
    (rb"RIFF[\x00-\xff]{4}WEBP", "WEBP"),
)
FORMATS = {
    "GTiff": "GeoTIFF",
    "PNG": "PNG",
    "JPEG": "JPEG",
    "JP2OpenJPEG": "JPEG 2000",
    "WEBP": "WebP",
}

_SAFE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no sibling files
    "GDAL_PAM_ENABLED": "NO",  # no .aux.xml
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # a cut JPEG is an error, not grey
    # GDAL 3.10 decodes a PNG read as a whole in one go, and on a cut file leaves what the
    # memory held before in place of the pixels, without an error.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_CACHEMAX": 256,  # MB of decoded blocks; by default a share of the machine's memory
}
_WARNINGS = threading.Lock()  # filters of warnings belong to the process, not to a thread
_SIDECARS = (".aux.xml", ".msk", ".ovr")
_WORLD_SUFFIXES = {
    "GTiff": (".tfw", ".tifw", ".wld"),
    "PNG": (".pgw", ".pngw", ".wld"),
    "JPEG": (".jgw", ".jpgw", ".wld"),
    "JP2OpenJPEG": (".j2w", ".jp2w", ".wld"),
    "WEBP": (".wbw", ".webpw", ".wld"),
}
_NAME_HINT = "give the path of a file on this machine"
_DAMAGE_HINT = "the file is damaged or incomplete; copy or download it again"


@dataclass(frozen=True, eq=False)
class Source:
    """An open raster that passed every check.

    Attributes:
        path: The resolved path.
        driver: GDAL driver, a key of ``FORMATS``.
        dataset: The open ``rasterio.DatasetReader``, without overviews.
        grid: Its grid, from inside the file alone.
    """

    path: Path
    driver: str
    dataset: Any
    grid: Grid


@contextmanager
def safe_env() -> Iterator[None]:
    """GDAL options under which every open and read of a raster happens, thread by thread."""
    with rasterio.Env(**_SAFE_OPTIONS):
        yield


def open_source(path: str | os.PathLike[str], *, allowed_root: Path | None = None) -> Source:
    """Open a raster without reading any other file, any address or more than its header.

    Args:
        path: A regular file: GeoTIFF, COG, PNG, JPEG, JPEG 2000 or WebP, whatever its suffix.
        allowed_root: Folder the resolved path must lie in; None for anywhere.

    Raises:
        InputError: Not such a file, damaged, or larger than the limits of this module.
    """
    resolved = check_path(path, allowed_root)
    driver = driver_of(resolved)
    try:
        with _WARNINGS, safe_env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            grid = _grid_of(resolved, driver)
            dataset = rasterio.open(
                resolved, driver=driver, sharing=False, OVERVIEW_LEVEL="NONE", **_internal(driver)
            )
    except (RasterioError, CPLE_BaseError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{resolved} cannot be opened as {FORMATS[driver]}: {_reason(error)}",
            hint=_DAMAGE_HINT,
        ) from error
    try:
        _check_limits(resolved, driver, dataset)
    except BaseException:
        dataset.close()
        raise
    return Source(resolved, driver, dataset, grid)


def check_path(path: str | os.PathLike[str], allowed_root: Path | None = None) -> Path:
    """Resolve ``path`` and insist on a regular file inside ``allowed_root``.

    Raises:
        InputError: A GDAL name (``/vsi...``, ``scheme://``, ``GTIFF_DIR:``), a missing file, a
            folder, pipe or device, or a file outside the root.
    """
    text = os.fspath(path)
    if "://" in text or re.match(r"[/\\]+vsi|\w{2,}:", text, re.IGNORECASE):
        raise InputError(f"{text!r} is not the name of a plain file", hint=_NAME_HINT)
    try:
        resolved = Path(text).resolve(strict=True)
        mode = resolved.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{text} does not exist", hint=_NAME_HINT) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{text!r} cannot be opened: {reason}", hint=_NAME_HINT) from error
    if allowed_root is not None and not resolved.is_relative_to(allowed_root.resolve()):
        raise InputError(
            f"{text} lies outside the allowed folder", hint="copy the photograph into it"
        )
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise InputError(f"{text} is {kind}, not a photograph", hint=_NAME_HINT)
    return resolved


def driver_of(path: Path) -> str:
    """GDAL driver that reads ``path``, chosen by its first bytes alone.

    Raises:
        InputError: An empty or unreadable file, or none of the formats that are read.
    """
    try:
        # Without waiting: the name may have become a pipe since it was checked.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty (0 bytes)", hint=_DAMAGE_HINT)
    for pattern, driver in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return driver
    raise InputError(
        f"{path} is none of the formats that are read: {', '.join(FORMATS.values())}",
        hint=f"convert it: gdal_translate -of GTiff {path.name} {path.stem}-converted.tif",
    )


def ignored_sidecars(path: Path, driver: str) -> tuple[str, ...]:
    """Names of files beside ``path`` that GDAL would by default take georeference or masks from."""
    names = [path.with_name(path.name + suffix) for suffix in _SIDECARS]
    names += [path.with_suffix(suffix) for suffix in _WORLD_SUFFIXES[driver]]
    return tuple(name.name for name in names if name.is_file())


@contextmanager
def reading(path: Path, where: str) -> Iterator[None]:
    """Turn any failure of a read inside the block into an InputError that names file and place."""
    try:
        with safe_env():
            yield
    except (RasterioError, CPLE_BaseError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{path} cannot be read at {where}: {_reason(error)}", hint=_DAMAGE_HINT
        ) from error


def _internal(driver: str) -> dict[str, str]:
    """Driver options that keep the georeference to what is inside the file.

    PAM, the ``.aux.xml`` of GDAL, is off by another option; without its name here GDAL 3.10
    leaves the transform of a JPEG 2000 file that has none as whatever the memory held.
    """
    return {"GEOREF_SOURCES": "INTERNAL,PAM"} if driver in {"GTiff", "JP2OpenJPEG"} else {}


def _grid_of(path: Path, driver: str) -> Grid:
    # A second handle, closed at once: behind OVERVIEW_LEVEL=NONE the same happens to the
    # transform in every format (see _internal).
    with rasterio.open(path, driver=driver, sharing=False, **_internal(driver)) as dataset:
        transform = Affine(*dataset.transform[:6])
        return Grid(dataset.width, dataset.height, transform, dataset.crs or None)


def _check_limits(path: Path, driver: str, dataset: Any) -> None:
    if not 1 <= dataset.count <= MAX_BANDS:
        raise InputError(
            f"{path} has {dataset.count} bands; 1 to {MAX_BANDS} are read",
            hint="extract the bands you need: gdal_translate -b 1 -b 2 -b 3",
        )
    values = dataset.width * dataset.height * dataset.count
    if values > MAX_VALUES[driver]:
        raise InputError(
            f"{path} is {dataset.width} x {dataset.height} px with {dataset.count} band(s), more "
            f"than the {MAX_VALUES[driver]:,} values that are read of a {FORMATS[driver]} file",
            hint="cut it into parts, or make a tiled GeoTIFF: gdal_translate -of COG",
        )
    for dtype in sorted({str(dtype) for dtype in dataset.dtypes}):
        if dtype not in DTYPES:
            raise InputError(
                f"{path} holds {dtype} values; a photograph holds one of {', '.join(DTYPES)}",
                hint="convert it: gdal_translate -ot Float32",
            )
    block = _block_bytes(dataset)
    if block > MAX_BLOCK_BYTES:
        raise InputError(
            f"{path} is stored in blocks of {block / 2**20:,.0f} MiB; "
            f"{MAX_BLOCK_BYTES // 2**20} MiB are the most that is read",
            hint="rewrite it in tiles: gdal_translate -of COG",
        )


def _block_bytes(dataset: Any) -> int:
    """Bytes of the largest decoded block; all bands together where they are interleaved."""
    together = int(dataset.count) if dataset.interleaving is Interleaving.pixel else 1
    largest: int = max(
        height * width * np.dtype(dtype).itemsize
        for (height, width), dtype in zip(dataset.block_shapes, dataset.dtypes, strict=True)
    )
    return together * largest


def _reason(error: BaseException) -> str:
    """First line of the deepest cause, which is GDAL's own word on what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
