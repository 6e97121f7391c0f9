"""What a run leaves in its folder, and what it never leaves."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whatchanged import products
from whatchanged.errors import InputError, UsageError
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.pair import PairPixels
from whatchanged.predict import Caption, Description, Explanation
from whatchanged.prepare import choose_scale
from whatchanged.products import ProductWriter

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>&amp;'
SHA256 = "ab" * 32


def description_of(name: str = "1", caption: str = "a house is built", **more: Any) -> Description:
    rng = np.random.default_rng(len(name))
    before, after = rng.integers(0, 256, (2, 40, 60, 3), np.uint8)
    values: dict[str, Any] = {
        "before": f"before/{name}.png",
        "after": f"after/{name}.png",
        "caption": caption,
        "changed": True,
        "changed_probability": 0.875,
        "captions": (Caption(caption, -0.25), Caption("a house appears", -0.5)),
        "model": "tiny",
        "model_sha256": SHA256,
        "warnings": (),
        "report": None,
        "reading": {"grid": {"crs": "EPSG:32650"}, "before": {"bands": [1, 2, 3]}},
        "scale": choose_scale(40, 60, 0.5, 64),
        "pixels": PairPixels(before, after, np.ones((40, 60), bool)),
    }
    return Description(**{**values, **more})


def explanation_of(n_words: int = 4) -> Explanation:
    maps = np.random.default_rng(0).random((n_words, 3, 4)).astype(np.float32)
    return Explanation(maps[0], tuple("abcd"[:n_words]), maps)


def write(out: Path, *descriptions: Description, failures: Sequence[Any] = ()) -> dict[str, Any]:
    with ProductWriter(out, len(descriptions) + len(failures), "tiny", SHA256) as writer:
        for description in descriptions:
            writer.add(description)
        writer.close(failures)
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


# --- what is there ---------------------------------------------------------------------------


def test_a_run_leaves_captions_a_report_and_its_record(tmp_path: Path) -> None:
    described = [description_of("1"), description_of("22", "nothing changed", changed=False)]
    record = write(tmp_path / "new" / "run", *described)
    out = tmp_path / "new" / "run"
    assert files(out) == ["captions.jsonl", "report.html", "run.json"]
    lines = (out / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [d.to_json() for d in described]
    assert record["model"] == {"name": "tiny", "sha256": SHA256}
    assert record["failures"] == []
    assert record["seconds"] >= 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What changed in 2 pairs" in page
    assert "a house is built" in page
    assert "nothing changed" in page


def test_the_record_says_how_each_pair_was_read(tmp_path: Path) -> None:
    (pair,) = write(tmp_path, description_of())["pairs"]
    assert pair["before"] == "before/1.png"
    assert pair["captions"][1] == {"text": "a house appears", "score": -0.5}
    assert pair["reading"]["grid"]["crs"] == "EPSG:32650"
    assert pair["reading"]["before"]["bands"] == [1, 2, 3]
    assert pair["report"] is None
    assert pair["seen"] == {"height": 64, "width": 64, "gsd_m": pytest.approx(0.3828, abs=1e-4)}
    assert pair["pictures"] == []


def test_failures_are_recorded(tmp_path: Path) -> None:
    broken = PairPaths(Path("b/3.png"), Path("a/3.png")), InputError("3.png ends early", hint="h")
    record = write(tmp_path, description_of(), failures=[broken])
    assert record["failures"] == [
        {
            "before": str(Path("b/3.png")),
            "after": str(Path("a/3.png")),
            "error": "3.png ends early",
        }
    ]
    assert "<td>1, see run.json</td>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_in_which_everything_failed_is_still_recorded(tmp_path: Path) -> None:
    broken = PairPaths(Path("b.png"), Path("a.png")), InputError("gone")
    record = write(tmp_path, failures=[broken])
    assert record["pairs"] == []
    assert len(record["failures"]) == 1
    assert (tmp_path / "captions.jsonl").read_bytes() == b""


def test_explanations_are_drawn(tmp_path: Path) -> None:
    described = description_of(explanation=explanation_of())
    (pair,) = write(tmp_path, described)["pairs"]
    assert pair["pictures"] == ["change_map.png", "words.png"]
    with Image.open(tmp_path / "change_map.png") as picture:
        assert picture.size == (60, 40)
    with Image.open(tmp_path / "words.png") as picture:
        assert picture.mode == "RGB"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "where each word looked" in page


def test_pictures_of_many_pairs_have_the_numbers_of_their_lines(tmp_path: Path) -> None:
    described = [description_of("1"), description_of("2", explanation=explanation_of())]
    pairs = write(tmp_path, *described)["pairs"]
    assert [pair["pictures"] for pair in pairs] == [[], ["00001_change_map.png", "00001_words.png"]]
    assert {"00001_change_map.png", "00001_words.png"} <= set(files(tmp_path))


def test_a_long_run_shows_the_first_pairs_and_lists_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "SHOWN", 2)
    described = [description_of(str(i), f"caption {i}") for i in range(3)]
    write(tmp_path, *described)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "caption 1" in page
    assert "caption 2" not in page
    assert "the first 2 pairs; captions.jsonl has all" in page
    assert len((tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_large_pictures_become_smaller_in_the_report(tmp_path: Path) -> None:
    pixels = PairPixels(*np.zeros((2, 1500, 30, 3), np.uint8), np.ones((1500, 30), bool))
    write(tmp_path, description_of(pixels=pixels, explanation=explanation_of()))
    with Image.open(tmp_path / "change_map.png") as picture:
        assert picture.size == (20, 1024)


# --- text is data ----------------------------------------------------------------------------


def test_hostile_names_and_captions_are_text(tmp_path: Path) -> None:
    described = description_of(
        HOSTILE,
        HOSTILE,
        captions=(Caption(HOSTILE, -0.1), Caption(HOSTILE + "2", -0.2)),
        warnings=(HOSTILE,),
    )
    described = dataclasses.replace(described, before=f"b/{HOSTILE}", after=f"a/{HOSTILE}.png")
    write(tmp_path, described)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert len(re.findall("<script", page)) == 1  # the page's own
    assert page.count(html.escape(HOSTILE, quote=True)) >= 5
    assert json.loads((tmp_path / "captions.jsonl").read_text())["caption"] == HOSTILE


@pytest.mark.parametrize("name", ["\udcff.png", "北京.png", "a\nb.png", "\u202egnp.exe"])
def test_names_that_are_hardly_text(tmp_path: Path, name: str) -> None:
    record = write(tmp_path, dataclasses.replace(description_of(), before=name))
    assert record["pairs"][0]["before"] == name
    assert (tmp_path / "run.json").read_bytes().isascii()
    line = (tmp_path / "captions.jsonl").read_bytes()
    assert json.loads(line)["before"] == name
    assert line.count(b"\n") == 1


# --- nothing half-way ------------------------------------------------------------------------


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError), ProductWriter(out, 2, "tiny", SHA256) as writer:
        writer.add(description_of())
        raise InputError("the second pair is broken")
    assert not out.exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError), ProductWriter(tmp_path, 1, "tiny", SHA256):
        raise InputError("broken")
    assert files(tmp_path) == ["notes.txt"]


def test_a_failed_run_leaves_an_earlier_one_whole(tmp_path: Path) -> None:
    write(tmp_path, description_of("old"))
    earlier = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(InputError), ProductWriter(tmp_path, 1, "tiny", SHA256):
        raise InputError("broken")
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == earlier


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path, description_of("old", "old words"))
    record = write(tmp_path, description_of("new", "new words"))
    assert [pair["caption"] for pair in record["pairs"]] == ["new words"]
    for name in files(tmp_path):
        assert b"old words" not in (tmp_path / name).read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
@pytest.mark.parametrize("earlier", [False, True])
def test_a_killed_run_never_looks_whole(tmp_path: Path, earlier: bool) -> None:
    """Die before each step that changes a name: every file is whole, and the record comes last."""
    import whatchanged.explain  # once, not in every child

    assert whatchanged.explain.overlay
    explained = description_of("new", "new words", explanation=explanation_of(1))
    for death in range(20):
        out = tmp_path / str(death)
        if earlier:
            write(out, description_of("old", "old words"))
        survived = _die_in_child(out, explained, death)
        names = {name for name in files(out) if ".part" not in name}
        for name in names:
            _assert_whole(out / name)
        words = {
            caption
            for name in names & {"captions.jsonl", "report.html", "run.json"}
            for caption in ("old words", "new words")
            if caption in (out / name).read_text(encoding="utf-8")
        }
        if "run.json" in names:
            assert len(words) == 1  # a record never stands beside files of another run
            assert {"captions.jsonl", "report.html"} <= names
        if survived:
            assert words == {"new words"}
            assert death > 5
            return
    raise AssertionError("the run never came to its end")


def _die_in_child(out: Path, description: Description, death: int) -> bool:
    """Write products in a copy of this process that dies at its n-th rename or removal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        steps = 0

        def counted(step: Any) -> Any:
            def stepped(*arguments: Any, **options: Any) -> Any:
                nonlocal steps
                if steps == death:
                    os._exit(9)
                steps += 1
                return step(*arguments, **options)

            return stepped

        code = 1
        try:
            os.replace = counted(os.replace)
            Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
            write(out, description)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 0


def _assert_whole(path: Path) -> None:
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    else:
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(line)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file cannot be written") as caught:
        ProductWriter(tmp_path / "file", 1, "tiny", SHA256)
    assert "folder" in caught.value.hint
