"""What asking leaves in its folder, and what it never leaves."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from whatchanged import ask_products
from whatchanged.ask_products import AskWriter, slug
from whatchanged.asking import WishResult, ask, ask_many, open_session
from whatchanged.errors import UsageError

Script = Callable[[Callable[..., Any]], list[int]]
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> ../../etc\x1b[2J'
HOUSES = "It's buildings that appeared: <CHG>."
PRODUCTS = ["answer.txt", "changes.geojson", "changes.gpkg", "mask.tif", "probability.tif"]
WHOLE = sorted([*PRODUCTS, "report.html", "run.json"])
SHAPE = (40, 60)


def houses(wish: str, before: Any, after: Any) -> tuple[str, Any]:
    """Point at the left of every window; at nothing if trees are asked for."""
    if "tree" in wish:
        return "There are no trees that disappeared between these images.", None
    probability = np.zeros(before.shape[1:], np.float32)
    probability[5:25, 5:35] = 0.8
    return HOUSES, probability


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Georeferenced pair whose last ten columns are nodata."""
    found = []
    for seed, name in enumerate(("before.tif", "after.tif")):
        picture = np.random.default_rng(seed).integers(1, 256, (3, *SHAPE), np.uint8)
        picture[:, :, 50:] = 0
        with rasterio.open(
            tmp_path / name,
            "w",
            driver="GTiff",
            height=SHAPE[0],
            width=SHAPE[1],
            count=3,
            dtype="uint8",
            nodata=0,
            crs="EPSG:32650",
            transform=Affine(0.5, 0, 450_000, 0, -0.5, 4_300_000),
        ) as file:
            file.write(picture)
        found.append(tmp_path / name)
    return found[0], found[1]


@pytest.fixture
def asked(tiny_ask_model: Path, pair: tuple[Path, Path], scripted: Script, tmp_path: Path) -> Any:
    """Ask scripted wishes with products in `out`."""
    scripted(houses)

    def run(*wishes: str, **options: Any) -> list[WishResult]:
        out = tmp_path / "out"
        return ask_many(*pair, wishes, model=tiny_ask_model, out=out, **options)

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def record_of(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


# --- what is there ---------------------------------------------------------------------------


def test_one_wish_leaves_its_products_in_the_folder(asked: Any, tmp_path: Path) -> None:
    (result,) = asked("new houses")
    out = tmp_path / "out"
    assert names(out) == WHOLE
    assert (out / "answer.txt").read_text() == "It's buildings that appeared.\n"
    assert result.mask_path == out / "mask.tif"
    assert result.to_json()["mask"] == str(out / "mask.tif")


def test_all_products_tell_of_the_same_pixels(asked: Any, tmp_path: Path) -> None:
    (result,) = asked("new houses")
    out = tmp_path / "out"
    with rasterio.open(out / "mask.tif") as file:
        values, transform = file.read(1), file.transform
        assert file.crs.to_epsg() == 32650
        assert transform == Affine(0.5, 0, 450_000, 0, -0.5, 4_300_000)
    assert (values[:, 50:] == 255).all()
    assert (values[:, :50] == result.mask[:, :50]).all()
    with rasterio.open(out / "probability.tif") as file:
        probability = file.read(1)
    np.testing.assert_array_equal(probability, result.probability)
    _, _, geometries, columns = pyogrio.raw.read(out / "changes.gpkg")
    drawn = rasterio.features.rasterize(
        shapely.from_wkb(geometries), out_shape=SHAPE, transform=transform
    )
    assert (drawn == (values == 1)).all()
    assert sum(columns[4]) == pytest.approx(result.area_m2)
    collection = json.loads((out / "changes.geojson").read_text())
    assert len(collection["features"]) == result.n_polygons == len(geometries)


def test_many_wishes_get_folders_and_one_report(asked: Any, tmp_path: Path) -> None:
    results = asked("New houses!", "felled trees", "new houses")
    out = tmp_path / "out"
    assert names(out) == [
        "01-new-houses",
        "02-felled-trees",
        "03-new-houses",
        "report.html",
        "run.json",
    ]
    assert names(out / "01-new-houses") == PRODUCTS
    assert names(out / "02-felled-trees") == ["answer.txt"]  # no mask of what is not there
    assert [r.mask_path for r in results] == [
        out / "01-new-houses" / "mask.tif",
        None,
        out / "03-new-houses" / "mask.tif",
    ]
    page = (out / "report.html").read_text()
    assert page.count("<article") == 3


def test_the_record_says_where_everything_came_from(
    asked: Any, pair: tuple[Path, Path], tiny_ask_model: Path, tmp_path: Path
) -> None:
    results = asked("new houses", "felled trees", threshold=0.7)
    record = record_of(tmp_path / "out")
    assert record["model"] == {
        "name": str(tiny_ask_model),
        "sha256": results[0].model_sha256,
    }
    for name, path in zip(("before", "after"), pair, strict=True):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert record["inputs"][name] == {"path": str(path), "sha256": digest}
    assert record["reading"]["grid"]["crs"] == "EPSG:32650"
    assert record["report"]["stretch"]["kind"] == "identity"
    for wish, result in zip(record["wishes"], results, strict=True):
        assert wish.items() >= result.to_json().items()
        assert wish["threshold"] == 0.7
        assert wish["said"] == result.said
    assert record["wishes"][1]["files"] == ["02-felled-trees/answer.txt"]
    assert {*record} >= {"whatchanged", "torch", "python", "made", "seconds", "seen"}


def test_the_record_is_of_the_photographs_that_were_read(
    tiny_ask_model: Path, pair: tuple[Path, Path], scripted: Script, tmp_path: Path
) -> None:
    """Whatever becomes of the files while somebody asks."""
    scripted(houses)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pair]
    session = open_session(*pair, model=tiny_ask_model)
    with AskWriter(tmp_path / "out", None) as writer:
        writer.add(session.ask("new houses"))
        pair[0].unlink()
        pair[1].write_bytes(b"another")
        writer.add(session.ask("felled trees"))
    inputs = record_of(tmp_path / "out")["inputs"]
    assert [inputs[name]["sha256"] for name in ("before", "after")] == digests


def test_a_page_that_leaves_wishes_out_says_so(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked("new houses", "felled trees")
    assert "shown here" not in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setattr(ask_products, "SHOWN", 2)
    asked("new houses", "felled trees", "new roads")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<article") == 2
    assert "the first 2 wishes; run.json has all" in page


def test_a_forced_mask_is_written(asked: Any, tmp_path: Path) -> None:
    (result,) = asked("felled trees", force_target=True)
    assert names(tmp_path / "out") == WHOLE
    assert not result.found
    assert record_of(tmp_path / "out")["wishes"][0]["forced"] is True


def test_pictures_without_georeference_give_pictures(
    tiny_ask_model: Path, scripted: Script, tmp_path: Path
) -> None:
    scripted(houses)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((*SHAPE, 3), 9, np.uint8)).save(tmp_path / name)
    files = tmp_path / "a.png", tmp_path / "b.png"
    result = ask(*files, "new houses", model=tiny_ask_model, out=tmp_path / "out")
    expected = [name.replace(".tif", ".png") for name in WHOLE]
    assert names(tmp_path / "out") == sorted(expected)
    assert (np.asarray(Image.open(tmp_path / "out" / "mask.png")) == result.mask * 255).all()


# --- the report ------------------------------------------------------------------------------


def test_the_report_shows_pictures_answer_fields_and_places(asked: Any, tmp_path: Path) -> None:
    asked("new houses")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 3  # before, after, after with the mask
    text = html.unescape(re.sub(r"<[^>]+>", "|", page[page.index("<body>") :]))
    assert "made from" not in text
    for expected in (
        *("before.tif / after.tif", "“new houses”", "It's buildings that appeared."),
        *("understood as", "building", "appeared", "150 m²", "0.80", "mask.tif"),
    ):
        assert expected in text, expected


def test_what_was_there_before_is_in_every_product(
    asked: Any, scripted: Script, tmp_path: Path
) -> None:
    made = "It's buildings made from trees and water: <CHG>."
    scripted(lambda *window: (made, houses(*window)[1]))
    asked("woods turned into houses")
    out = tmp_path / "out"
    text = html.unescape(re.sub(r"<[^>]+>", "|", (out / "report.html").read_text()))
    assert "made from" in text and "tree, water" in text
    assert record_of(out)["wishes"][0]["former"] == ["tree", "water"]
    meta, _, _, columns = pyogrio.raw.read(out / "changes.gpkg")
    assert dict(zip(meta["fields"], columns, strict=True))["former"] == ["tree, water"]
    (feature,) = json.loads((out / "changes.geojson").read_text())["features"]
    assert feature["properties"]["former"] == ["tree", "water"]


def test_a_report_of_nothing_found_shows_both_dates(asked: Any, tmp_path: Path) -> None:
    asked("felled trees")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 2
    assert "There are no trees that disappeared" in page


def test_hostile_wishes_stay_text_and_names_stay_safe(asked: Any, tmp_path: Path) -> None:
    results = asked(HOSTILE, "../../../up", "con\x00trol", "/etc/passwd", "新しい家", "C:\\nul")
    out = tmp_path / "out"
    assert [name for name in names(out) if (out / name).is_dir()] == [
        "01-script-alert-x-script-img-src-x-onerror",
        "02-up",
        "03-con-trol",
        "04-etc-passwd",
        "05-wish",
        "06-c-nul",
    ]
    assert names(tmp_path) == ["after.tif", "before.tif", "out"]
    page = (out / "report.html").read_text()
    body = page[page.index("<body>") :]
    assert body.count("<script") == 1
    assert "<img src=x" not in page
    assert "\x1b" not in page and "\x00" not in page
    assert record_of(out)["wishes"][0]["wish"] == HOSTILE
    assert results[0].polygons[0].wish == HOSTILE


@given(st.text())
def test_a_slug_is_a_safe_name(wish: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(wish))
    assert len(slug(wish)) <= 40


def test_accents_are_kept_as_letters() -> None:
    assert slug("Où sont les forêts détruites ?") == "ou-sont-les-forets-detruites"


# --- what is not there -----------------------------------------------------------------------


def test_a_second_run_takes_the_first_away(asked: Any, tmp_path: Path) -> None:
    asked("new houses", "new roads")
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine")
    (out / "02-new-roads" / "style.qml").write_text("mine")
    asked("felled trees")
    assert names(out) == ["02-new-roads", "answer.txt", "notes.txt", "report.html", "run.json"]
    assert names(out / "02-new-roads") == ["style.qml"]
    asked("new houses")
    asked("felled trees")
    assert "mask.tif" not in names(out)  # it would be a lie


def test_a_failed_question_leaves_the_old_run(
    asked: Any, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    asked("new houses")
    pair[1].write_bytes(b"")
    with pytest.raises(Exception, match="empty"):
        asked("felled trees")
    assert names(tmp_path / "out") == WHOLE


def test_a_run_that_breaks_off_has_no_record(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked("new houses")

    def broken(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ask_products, "write_geopackage", broken)
    with pytest.raises(UsageError, match="No space left"):
        asked("new houses")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), KeyError("x"), KeyboardInterrupt()]
)
def test_a_wish_whose_products_fail_leaves_none_and_earlier_ones_whole(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write = ask_products.write_geopackage

    def broken(path: Path, *arguments: Any) -> None:
        if "02" in path.parent.name:
            raise error
        write(path, *arguments)

    monkeypatch.setattr(ask_products, "write_geopackage", broken)
    with pytest.raises((UsageError, KeyError, KeyboardInterrupt)):
        asked("new houses", "new roads")
    out = tmp_path / "out"
    assert names(out) == ["01-new-houses", "unfinished.json"]
    assert names(out / "01-new-houses") == PRODUCTS


def test_a_broken_off_run_can_be_replaced(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed: nothing had a chance to clean up behind it."""
    asked("new things")
    out = tmp_path / "out"
    write = ask_products.write_bytes

    def killed(path: Path, content: bytes) -> None:
        if path.name == "run.json":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(ask_products, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            asked("new houses", "new roads")
    assert names(out) == ["01-new-houses", "02-new-roads", "report.html", "unfinished.json"]
    (out / "02-new-roads" / "changes.part.gpkg").write_text("half")
    asked("felled trees")
    assert names(out) == ["answer.txt", "report.html", "run.json"]


def test_a_run_killed_while_it_clears_can_be_replaced(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked("new houses", "new roads")
    out = tmp_path / "out"

    def killed(out: Path, names: Any) -> None:
        (out / "run.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ask_products, "_clear", killed)
        with pytest.raises(KeyboardInterrupt):
            asked("felled trees")
    asked("felled trees")
    assert names(out) == ["answer.txt", "report.html", "run.json"]


@pytest.mark.parametrize("name", ["mask.tif", "mask.png", "report.html", "run.json", "answer.txt"])
def test_a_file_that_is_not_ours_is_never_replaced(asked: Any, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(UsageError, match=f"has a file {name}") as caught:
        asked("new houses")
    assert "another --out" in caught.value.hint
    assert names(out) == [name]
    assert (out / name).read_text() == "mine"


def test_a_file_in_the_folder_of_a_wish_is_not_replaced_either(asked: Any, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "02-new-roads" / "mask.tif"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"02-new-roads/mask\.tif"):
        asked("new houses", "new roads")
    assert names(tmp_path / "out") == ["02-new-roads"]
    (result,) = asked("new houses")
    with AskWriter(tmp_path / "chat", None) as writer:
        writer.add(result)
        mine = tmp_path / "chat" / "02-new-houses" / "mask.tif"
        mine.parent.mkdir()
        mine.write_text("mine")
        with pytest.raises(UsageError, match="02-new-houses"):
            writer.add(result)
    assert names(tmp_path / "chat") == ["01-new-houses", "02-new-houses", "report.html", "run.json"]
    assert mine.read_text() == "mine"


def test_folders_that_only_look_like_ours_stay(asked: Any, tmp_path: Path) -> None:
    asked("new houses", "new roads")
    mine = tmp_path / "out" / "2019-05-12" / "mask.tif"
    mine.parent.mkdir()
    mine.write_text("mine")
    asked("new houses")
    assert mine.read_text() == "mine"
    assert names(tmp_path / "out") == sorted([*WHOLE, "2019-05-12"])


@pytest.mark.parametrize(
    "listed",
    ["../mask.tif", "/mask.tif", "01-a/../../mask.tif", "notes.txt", "01-a/b/mask.tif", "", 7],
)
def test_a_record_cannot_point_at_other_files(tmp_path: Path, listed: Any) -> None:
    record = {"whatchanged": "1", "wishes": [{"files": ["mask.tif", listed]}]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    ours = ask_products._listed_files(tmp_path / "run.json")
    assert ours <= {"run.json", "report.html", "mask.tif"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"wishes": 3}', '{"pairs": []}', "[" * 99_999])
def test_a_record_that_is_not_ours_accounts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert ask_products._listed_files(tmp_path / "run.json") == frozenset()
    with pytest.raises(UsageError, match=r"run\.json"):
        AskWriter(tmp_path, None)


def test_a_folder_that_cannot_be_made_is_said_first(asked: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="--out"):
        asked("new houses")


def test_nothing_asked_leaves_nothing(tmp_path: Path) -> None:
    with AskWriter(tmp_path / "out", None):
        pass
    assert names(tmp_path) == []
