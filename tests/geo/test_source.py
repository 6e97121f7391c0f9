"""The door: what is let in, and under which rules. Hostile files have tests of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio._env import get_gdal_config

from whatchanged.errors import InputError
from whatchanged.geo import source
from whatchanged.geo.source import check_path, driver_of, open_source, safe_env

Writer = Callable[..., Path]
Draw = Callable[..., NDArray[np.uint8]]


@pytest.mark.parametrize(
    ("head", "driver"),
    [
        (b"II*\0", "GTiff"),
        (b"MM\0*", "GTiff"),
        (b"II+\0", "GTiff"),
        (b"MM\0+", "GTiff"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
        (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
        (b"RIFF\n\r\0\xffWEBP", "WEBP"),
    ],
)
def test_the_first_bytes_choose_the_driver(tmp_path: Path, head: bytes, driver: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes(head + b"rest of the file")
    assert driver_of(path) == driver
    path.write_bytes(b"x" + head)
    with pytest.raises(InputError, match="none of the formats"):
        driver_of(path)


def test_paths_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.tif").write_bytes(b"x")
    (tmp_path / "link.tif").symlink_to("a.tif")
    monkeypatch.chdir(tmp_path)
    expected = (tmp_path / "a.tif").resolve()
    for name in ("a.tif", "./a.tif", "folder/../a.tif", "link.tif", tmp_path / "a.tif"):
        assert check_path(name) == expected
        assert check_path(name, Path(".")) == expected
    with pytest.raises(InputError, match="outside"):
        check_path("a.tif", tmp_path / "folder")


def test_a_colon_in_a_name_is_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("12:30 flight.tif").write_bytes(b"x")
    assert check_path(tmp_path / "12:30 flight.tif").name == "12:30 flight.tif"


def test_errors_of_gdal_become_ours_with_its_own_words(write: Writer, draw: Draw) -> None:
    path = write("a.tif", draw(8, 8))
    with pytest.raises(InputError, match=r"a\.tif cannot be opened as GeoTIFF: .+") as caught:
        path.write_bytes(path.read_bytes()[:20])
        open_source(path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_BANDS", 2, "3 bands"),
        ("MAX_BLOCK_BYTES", 3 * 16 * 16 - 1, "blocks"),
        ("MAX_VALUES", {"GTiff": 3 * 32 * 48 - 1}, "more than"),
        ("DTYPES", ("uint16",), "uint8"),
    ],
)
def test_each_limit_is_one_step_wide(
    write: Writer, draw: Draw, monkeypatch: pytest.MonkeyPatch, limit: str, value: Any, words: str
) -> None:
    path = write("a.tif", draw(32, 48), tiled=True, blockxsize=16, blockysize=16)
    open_source(path).dataset.close()
    monkeypatch.setattr(source, limit, value)
    with pytest.raises(InputError, match=words) as caught:
        open_source(path)
    assert caught.value.hint
    if isinstance(value, int):
        monkeypatch.setattr(source, limit, value + 1)
        open_source(path).dataset.close()


def test_separate_planes_count_one_band_a_block(
    write: Writer, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_BLOCK_BYTES", 16 * 16)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band"}
    open_source(write("a.tif", draw(32, 48), **options)).dataset.close()


def test_the_rules_hold_in_every_thread_and_end_with_the_block() -> None:
    found: list[str | None] = []
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with safe_env():
            inside.set()
            leave.wait(10)
            found.append(get_gdal_config("GDAL_PAM_ENABLED"))

    before = get_gdal_config("GDAL_PAM_ENABLED")
    thread = threading.Thread(target=other)
    with safe_env():
        thread.start()
        inside.wait(10)
    assert get_gdal_config("GDAL_PAM_ENABLED") == before  # ours has ended, the other's has not
    leave.set()
    thread.join()
    assert str(found[0]) == "NO"
