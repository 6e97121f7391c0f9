"""Files that must be refused: at once, with their name and a reason, and with nobody called."""

from __future__ import annotations

import gzip
import io
import os
import resource
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio.windows import Window

from whatchanged.errors import InputError
from whatchanged.geo import Scene

pytestmark = pytest.mark.loopback

Forge = dict[str, Callable[..., Any]]
Make = Callable[[Any, Forge], Any]
SHORT, LONG, DOUBLE = 3, 4, 12


def encoded(suffix: str, **options: Any) -> bytes:
    """A small picture in one of the formats, by another program."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    picture = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    picture.save(buffer, format={"jp2": "JPEG2000", "tif": "TIFF"}.get(suffix, suffix), **options)
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.tif", content)
    return buffer.getvalue()


def unix_socket(w: Any, _: Forge) -> Path:
    here = Path.cwd()
    os.chdir(w.root)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
    finally:
        os.chdir(here)
    return w.root / "s"


def link(w: Any, target: Path | str, name: str = "link.tif") -> Path:
    (w.root / name).symlink_to(target)
    return w.root / name


def folder(w: Any, _: Forge) -> Path:
    (w.root / "folder.tif").mkdir()
    return w.root / "folder.tif"


# What is not a plain file of the allowed folder.
NAMES: dict[str, Make] = {
    "missing": lambda w, f: w.root / "nowhere.tif",
    "folder": folder,
    "pipe": lambda w, f: w.pipe("pipe.tif"),
    "socket": unix_socket,
    "device": lambda w, f: link(w, "/dev/zero", "zero.tif"),
    "dangling link": lambda w, f: link(w, w.root / "nowhere"),
    "link to itself": lambda w, f: link(w, "link.tif"),
    "link out of the folder": lambda w, f: link(w, w.secret),
    "dots out of the folder": lambda w, f: w.root / ".." / "secret.tif",
    "absolute path elsewhere": lambda w, f: w.secret,
    "nul in the name": lambda w, f: f"{w.root}/a\0b.tif",
    "empty name": lambda w, f: "",
    "endless name": lambda w, f: w.root / ("a" * 5000),
    "address": lambda w, f: w.listener.url,
    "curl": lambda w, f: f"/vsicurl/{w.listener.url}",
    "curl, doubled slash": lambda w, f: f"//vsicurl/{w.listener.url}",
    "curl, streaming": lambda w, f: "/vsicurl_streaming/127.0.0.1",
    "zip name": lambda w, f: f"/vsizip/{w.put('a.zip', zipped(f['tiff']()))}/a.tif",
    "memory name": lambda w, f: "/vsimem/a.tif",
    "stdin": lambda w, f: "/vsistdin/",
    "directory of a tiff": lambda w, f: f"GTIFF_DIR:1:{w.put('a.tif', f['tiff']())}",
    "inside a jpeg": lambda w, f: f"JPEG_SUBFILE:0,10,{w.put('a.jpg', encoded('jpeg'))}",
    "netcdf name": lambda w, f: f"NETCDF:{w.put('a.nc', b'CDF')}:x",
    "vrt name": lambda w, f: f"vrt://{w.put('a.tif', f['tiff']())}?bands=1",
    "vrt as a name": lambda w, f: f["vrt"](w.listener.url),
    "wms name": lambda w, f: f"WMS:{w.listener.url}",
    "s3 name": lambda w, f: "s3://bucket/a.tif",
    "file address": lambda w, f: f"file://{w.put('a.tif', f['tiff']())}",
}

# Content that is none of the formats.
FOREIGN: dict[str, Make] = {
    "empty": lambda w, f: w.put("a.tif", b""),
    "one byte": lambda w, f: w.put("a.tif", b"I"),
    "noise": lambda w, f: w.put("a.tif", np.random.default_rng(0).bytes(5000)),
    "text": lambda w, f: w.put("a.tif", "no picture\n" * 100),
    "vrt, address": lambda w, f: w.put("a.vrt", f["vrt"](w.listener.url)),
    "vrt as tif, address": lambda w, f: w.put("a.tif", f["vrt"](f"/vsicurl/{w.listener.url}")),
    "vrt as png, secret": lambda w, f: w.put("a.png", f["vrt"](w.secret)),
    "wms as tif": lambda w, f: w.put(
        "a.tif",
        '<GDAL_WMS><Service name="WMS">'
        f"<ServerUrl>{w.listener.url}</ServerUrl></Service></GDAL_WMS>",
    ),
    "svg": lambda w, f: w.put("a.png", f'<svg><image href="{w.listener.url}"/></svg>'),
    "pdf": lambda w, f: w.put("a.tif", b"%PDF-1.7\n" + b"0" * 100),
    "gif": lambda w, f: w.put("a.png", encoded("gif")),
    "bmp": lambda w, f: w.put("a.png", encoded("bmp")),
    "hdf": lambda w, f: w.put("a.tif", b"\x89HDF\r\n\x1a\n" + b"\0" * 500),
    "zip": lambda w, f: w.put("a.tif", zipped(f["tiff"]())),
    "gzip": lambda w, f: w.put("a.tif", gzip.compress(f["tiff"]())),
    "pickle": lambda w, f: w.put("a.tif", b"\x80\x04cos\nsystem\n"),
}

# Headers that lie, or sizes that no memory holds.
LIARS: dict[str, Make] = {
    "tiff, header only": lambda w, f: w.put("a.tif", b"II*\0\x08\0\0\0"),
    "tiff, directory beyond the end": lambda w, f: w.put("a.tif", b"II*\0\xff\xff\xff\x7f"),
    "tiff, no width": lambda w, f: w.put("a.tif", f["tiff"]({256: (LONG, [0])})),
    "tiff, one tile of 60,000": lambda w, f: w.put(
        "a.tif", f["tiff"](f["one_block"](60_000), b"x\x9c" + b"\0" * 14)
    ),
    "tiff, one strip of 60,000": lambda w, f: w.put(
        "a.tif",
        f["tiff"]({256: (LONG, [60_000]), 257: (LONG, [60_000]), 278: (LONG, [60_000]),
                   259: (SHORT, [8])}),
    ),
    "tiff, 2 000 000 000 squared": lambda w, f: w.put(
        "a.tif", f["tiff"]({256: (LONG, [2_000_000_000]), 257: (LONG, [2_000_000_000])})
    ),
    "tiff, 600 bands": lambda w, f: w.put(
        "a.tif",
        f["tiff"]({277: (SHORT, [600]), 258: (SHORT, [8] * 600), 262: (SHORT, [1])}),
    ),
    "tiff, 65,535 bands": lambda w, f: w.put(
        "a.tif", f["tiff"]({277: (SHORT, [65_535]), 258: (SHORT, [8]), 262: (SHORT, [1])})
    ),
    "tiff, complex": lambda w, f: w.put(
        "a.tif",
        f["tiff"]({258: (SHORT, [64]), 277: (SHORT, [1]), 339: (SHORT, [6]), 262: (SHORT, [1])},
                  b"\0" * 8192),
    ),
    "tiff, complex integers": lambda w, f: w.put(
        "a.tif",
        f["tiff"]({258: (SHORT, [32]), 277: (SHORT, [1]), 339: (SHORT, [5]), 262: (SHORT, [1])},
                  b"\0" * 4096),
    ),
    "tiff, 64-bit integers": lambda w, f: w.put(
        "a.tif",
        f["tiff"]({258: (SHORT, [64]), 277: (SHORT, [1]), 339: (SHORT, [1]), 262: (SHORT, [1])},
                  b"\0" * 8192),
    ),
    "tiff, pixels without area": lambda w, f: w.put(
        "a.tif", f["tiff"]({34264: (DOUBLE, [0.0] * 16)})
    ),
    "tiff, place is not a number": lambda w, f: w.put(
        "a.tif",
        f["tiff"]({34264: (DOUBLE, [1.0, 0, 0, float("nan"), 0, -1.0, 0, 0, *[0.0] * 7, 1.0])}),
    ),
    "png, signature only": lambda w, f: w.put("a.png", b"\x89PNG\r\n\x1a\n"),
    "png, no pixels": lambda w, f: w.put("a.png", f["png"](0, 0)),
    "png, 60,000 squared": lambda w, f: w.put("a.png", f["png"](60_000, 60_000)),
    "png, 2^31 squared": lambda w, f: w.put("a.png", f["png"](2**31 - 1, 2**31 - 1)),
    "jpeg, signature only": lambda w, f: w.put("a.jpg", b"\xff\xd8\xff"),
    "jpeg, 65,500 squared": lambda w, f: w.put(
        "a.jpg", (lambda b, i: b[:i + 5] + b"\xff\xdc" * 2 + b[i + 9:])(
            encoded("jpeg"), encoded("jpeg").index(b"\xff\xc0"))
    ),
    "jp2, signature only": lambda w, f: w.put("a.jp2", encoded("jp2")[:12]),
    "jp2, one tile of 60,000": lambda w, f: w.put(
        "a.jp2", f["jpeg_2000"](encoded("jp2"), 60_000, 60_000, 60_000)
    ),
    "jp2, 2^31 squared": lambda w, f: w.put(
        "a.jp2", f["jpeg_2000"](encoded("jp2"), 2**31 - 1, 2**31 - 1, 1024)
    ),
    "webp, header only": lambda w, f: w.put("a.webp", b"RIFF\x24\0\0\0WEBPVP8 "),
    "webp, noise": lambda w, f: w.put(
        "a.webp", b"RIFF\x24\0\0\0WEBP" + np.random.default_rng(1).bytes(300)
    ),
}  # fmt: skip

# Damage that shows at the latest when the pixels are read.
DAMAGED: dict[str, Make] = {
    "tiff, noise for deflate": lambda w, f: w.put(
        "a.tif", f["tiff"]({259: (SHORT, [8])}, np.random.default_rng(2).bytes(3072))
    ),
    "tiff, pixels beyond the end": lambda w, f: w.put(
        "a.tif", f["tiff"]({273: (LONG, [9_000_000])})
    ),
    "tiff, unknown compression": lambda w, f: w.put("a.tif", f["tiff"]({259: (SHORT, [4711])})),
    "png, no rows": lambda w, f: w.put("a.png", f["png"](32, 32)),
    "png, rows that are no deflate": lambda w, f: w.put(
        "a.png", encoded("png")[:41] + b"\xff" * 20 + encoded("png")[61:]
    ),
}  # fmt: skip

ALL = {**NAMES, **FOREIGN, **LIARS, **DAMAGED}


def read_corner(path: Path | str, root: Path) -> None:
    with Scene.open(path, allowed_root=root) as scene:
        grid = scene.grid
        scene.read(Window(0, 0, min(16, grid.width), min(16, grid.height)))


@pytest.mark.parametrize("case", ALL)
def test_refused(workshop: Any, forge: Forge, within: Callable[..., Any], case: str) -> None:
    path = ALL[case](workshop, forge)
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        within(lambda: read_corner(path, workshop.root))
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert workshop.listener.hits == []
    assert seconds < 1.0
    assert grown < 200 * 1024, "KiB more than before"
    name = Path(str(path)).name
    assert name[:20].split("\0")[0] in caught.value.message
    assert caught.value.hint or "outside" in caught.value.message
    assert "Traceback" not in str(caught.value)


def test_forty_kinds_of_files() -> None:
    assert len(ALL) >= 40


@pytest.mark.parametrize("suffix", ["tif", "png", "jpeg", "jp2", "webp"])
def test_the_sound_file_behind_the_damaged_ones_opens(workshop: Any, suffix: str) -> None:
    """Without this, every refusal above could have the wrong reason."""
    path = workshop.put(f"sound.{suffix}", encoded(suffix))
    read_corner(path, workshop.root)


def test_the_forged_files_are_sound_without_the_forgery(workshop: Any, forge: Forge) -> None:
    rows = b"".join(b"\0" + b"\x09" * 96 for _ in range(32))
    small = encoded("jp2")
    for name, content, value in [
        ("a.tif", forge["tiff"](), 7),
        ("a.png", forge["png"](32, 32, rows=rows), 9),
        ("a.jp2", forge["jpeg_2000"](small, 64, 48, 64), None),
    ]:
        with Scene.open(workshop.put(name, content)) as scene:
            data, _ = scene.read()
        assert value is None or (data == value).all()


def test_links_inside_the_folder_are_followed(workshop: Any, forge: Forge) -> None:
    target = workshop.put("real.tif", forge["tiff"]())
    read_corner(link(workshop, target), workshop.root)


def test_the_secret_opens_where_it_is_allowed(workshop: Any) -> None:
    with Scene.open(workshop.secret) as scene:
        assert (scene.read()[0] == 99).all()


# --- cut files


CUTS = {
    "tiff": ("tif", {}),
    "tiff, deflate": ("tif", {"compression": "tiff_deflate"}),
    "png": ("png", {}),
    "jpeg": ("jpeg", {"quality": 90}),
    "jpeg, progressive": ("jpeg", {"progressive": True}),
    "jp2": ("jp2", {}),
    "jp2, tiles": ("jp2", {"tile_size": (32, 32)}),
    "webp": ("webp", {"quality": 90}),
    "webp, lossless": ("webp", {"lossless": True}),
}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("case", CUTS)
def test_a_cut_file_is_an_error_that_names_it(
    workshop: Any, within: Callable[..., Any], case: str, share: float
) -> None:
    suffix, options = CUTS[case]
    whole = encoded(suffix, **options)
    path = workshop.put(f"cut.{suffix}", whole[: int(len(whole) * share)])

    def read() -> None:
        with Scene.open(path) as scene:
            scene.read()

    with pytest.raises(InputError, match=rf"cut\.{suffix}"):
        within(read)


def test_the_lost_window_is_named_and_the_others_are_read(workshop: Any) -> None:
    import rasterio

    path = workshop.root / "tiles.tif"
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 255, (3, 64, 64), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8", tiled=True,
        blockxsize=32, blockysize=32, crs="EPSG:32633", transform=(1, 0, 9, 0, -1, 9),
    ) as file:  # fmt: skip
        file.write(stored)
    path.write_bytes(path.read_bytes()[:-1500])
    with Scene.open(path) as scene:
        np.testing.assert_array_equal(
            scene.read(Window(0, 0, 32, 64))[0][:, :32], stored[:, :32, :32]
        )
        with pytest.raises(InputError, match=r"tiles\.tif .*rows 32 to 63, columns 40 to 63"):
            scene.read(Window(40, 32, 24, 32))


# --- chance damage


@pytest.mark.parametrize("suffix", ["tif", "png", "jpeg", "jp2", "webp"])
def test_chance_damage_is_read_or_refused(
    workshop: Any, within: Callable[..., Any], suffix: str
) -> None:
    """Whatever bytes change, the outcome is pixels or an InputError, never another exception."""
    whole = encoded(suffix, **({"compression": "tiff_lzw"} if suffix == "tif" else {}))
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        # Headers matter most: half of the damage goes to the first and last 200 bytes.
        span = len(data) if rng.random() < 0.5 else 200
        for place in rng.integers(0, span, rng.integers(1, 8)):
            data[place if rng.random() < 0.5 else -1 - place] = rng.integers(0, 256)
        path = workshop.put(f"chance.{suffix}", bytes(data))
        try:
            within(lambda path=path: read_corner(path, workshop.root))
        except InputError:
            refused += 1
    assert 0 < refused < 60
    assert workshop.listener.hits == []
