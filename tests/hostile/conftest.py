"""Files that mean harm, or were harmed, written byte by byte; and a listener nobody may call."""

from __future__ import annotations

import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Listener:
    """A server on the loopback address that remembers who knocked."""

    port: int
    hits: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/picture.tif"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        found, stop = Listener(server.getsockname()[1]), threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(0.2)
                    try:
                        found.hits.append(connection.recv(200))
                    except OSError:
                        found.hits.append(b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield found
        stop.set()
        thread.join()


@pytest.fixture
def within() -> Callable[..., Any]:
    """Run a call in a thread and fail, instead of hanging, when it does not come back."""

    def run(call: Callable[[], Any], seconds: float = 20.0) -> Any:
        outcome: list[Any] = []

        def target() -> None:
            try:
                outcome.append((True, call()))
            except BaseException as error:
                outcome.append((False, error))

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        thread.join(seconds)
        assert outcome, f"no answer within {seconds} s"
        good, value = outcome[0]
        if not good:
            raise value
        return value

    return run


Tags = dict[int, tuple[int, list[Any]]]
SHORT, LONG, DOUBLE, ASCII = 3, 4, 12, 2
_PACK = {SHORT: "H", LONG: "I", DOUBLE: "d", ASCII: "B"}


def tiff(changes: Tags | None = None, data: bytes = b"\x07" * 3072, next_ifd: int = 0) -> bytes:
    """A 32 x 32 RGB TIFF of one strip, with tags replaced or added (an empty list removes)."""
    tags: Tags = {
        256: (LONG, [32]), 257: (LONG, [32]), 258: (SHORT, [8, 8, 8]), 259: (SHORT, [1]),
        262: (SHORT, [2]), 273: (LONG, [8]), 277: (SHORT, [3]), 278: (LONG, [32]),
        279: (LONG, [len(data)]), 284: (SHORT, [1]),
    }  # fmt: skip
    tags = {tag: value for tag, value in {**tags, **(changes or {})}.items() if value[1]}
    start = 8 + len(data) + len(data) % 2
    overflow = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        payload = struct.pack(f"<{len(values)}{_PACK[kind]}", *values)
        if len(payload) > 4:
            reference = struct.pack("<I", overflow + len(extra))
            extra += payload + b"\0" * (len(payload) % 2)
        else:
            reference = payload.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + reference
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_ifd)
    head = b"II*\0" + struct.pack("<I", start)
    return head + data.ljust(start - 8, b"\0") + ifd + extra


def text(value: str) -> tuple[int, list[Any]]:
    """A TIFF tag's text."""
    return ASCII, [*value.encode(), 0]


def one_block(side: int) -> Tags:
    """Tags of a picture stored as one compressed tile of ``side`` squared."""
    return {
        256: (LONG, [side]), 257: (LONG, [side]), 259: (SHORT, [8]), 273: (LONG, []),
        278: (LONG, []), 279: (LONG, []), 322: (LONG, [side]), 323: (LONG, [side]),
        324: (LONG, [8]), 325: (LONG, [16]), 258: (SHORT, [8]), 277: (SHORT, [1]),
        262: (SHORT, [1]),
    }  # fmt: skip


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG whose header claims any size, with whatever rows are given."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def vrt(source: str) -> str:
    """A VRT that reads its one band from another file or address."""
    return (
        '<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def jpeg_2000(small: bytes, width: int, height: int, tile: int) -> bytes:
    """A small JPEG 2000 file whose headers claim another size and tile."""
    data = bytearray(small)
    struct.pack_into(
        ">IIIIII", data, data.index(b"\xff\x4f\xff\x51") + 8, width, height, 0, 0, tile, tile
    )
    struct.pack_into(">II", data, data.index(b"ihdr") + 4, height, width)
    return bytes(data)


@dataclass(frozen=True)
class Workshop:
    """Where hostile files are made: a folder, the listener, and a secret outside the root."""

    root: Path
    secret: Path
    listener: Listener

    def put(self, name: str, content: bytes | str) -> Path:
        path = self.root / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def pipe(self, name: str) -> Path:
        path = self.root / name
        os.mkfifo(path)
        return path


@pytest.fixture
def workshop(tmp_path: Path, listener: Listener) -> Workshop:
    root = tmp_path / "root"
    root.mkdir()
    secret = tmp_path / "secret.tif"
    secret.write_bytes(tiff(data=b"\x63" * 3072))  # 99 in every band
    return Workshop(root, secret, listener)


@pytest.fixture(scope="session")
def forge() -> dict[str, Callable[..., Any]]:
    """The makers of this file, by name, for the tests beside it."""
    return {
        "tiff": tiff, "text": text, "one_block": one_block, "png": png, "vrt": vrt,
        "jpeg_2000": jpeg_2000,
    }  # fmt: skip
