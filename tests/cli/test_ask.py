"""`whatchanged ask` and `whatchanged chat` with a small model, from files to lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from whatchanged import asking, cli, cli_ask, describing
from whatchanged.data.synthetic import draw_scene, encode_geotiff
from whatchanged.errors import InputError, UsageError, WeightsUnavailableError
from whatchanged.models import weights

Script = Callable[[Callable[..., Any]], list[int]]
CONTRACT = [
    *("before", "after", "wish", "found", "answer", "target", "direction"),
    *("changed_fraction", "area_m2", "n_polygons", "mask", "model", "warnings"),
    "former",
]
WHY = "Roofs stand on former fields."


def houses(wish: str, before: Any, after: Any) -> tuple[str, Any]:
    """Point at one box of 200 pixels; at nothing if trees or goals are asked for."""
    if "tree" in wish:
        return "There are no trees that disappeared between these images.", None
    if "goal" in wish:
        return "This is not a change that can be seen from above.", None
    probability = np.zeros(before.shape[1:], np.float32)
    probability[10:20, 10:30] = 0.8
    return f"{WHY} It's buildings that appeared: <CHG>.", probability


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Georeferenced pair of 64 x 64 pixels of 1 m."""
    folder = tmp_path_factory.mktemp("pair")
    scene = draw_scene(0, size=64, gsd_m=1.0)
    for date in ("before", "after"):
        (folder / f"{date}.tif").write_bytes(encode_geotiff(getattr(scene, date), scene.grid))
    return str(folder / "before.tif"), str(folder / "after.tif")


@pytest.fixture(autouse=True)
def _script(scripted: Script) -> None:
    scripted(houses)


@pytest.fixture
def run(tiny_ask_model: Path, pair: tuple[str, str]) -> Callable[..., Result]:
    """Run a command on the pair with the small model."""

    def invoke(command: str, *arguments: str | Path, typed: str | bytes | None = None) -> Result:
        words = [command, *pair, *map(str, arguments), "--model", str(tiny_ask_model)]
        return CliRunner().invoke(cli.app, words, input=typed)

    return invoke


# --- ask -------------------------------------------------------------------------------------


def test_one_wish_is_one_line(run: Callable[..., Result]) -> None:
    result = run("ask", "new houses")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "It's buildings that appeared.    4.9% of the picture, 200 m2, 1 place\n"
    )
    assert "64 x 64 pixels, seen whole" in result.stderr


def test_many_wishes_are_a_line_each_with_their_names(run: Callable[..., Result]) -> None:
    result = run("ask", "new houses", "felled trees", "--quiet")
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "new houses",
        "felled trees",
    ]
    assert result.stderr == ""


def test_the_explanation_comes_on_request(run: Callable[..., Result]) -> None:
    assert WHY not in run("ask", "new houses").stdout
    assert run("ask", "new houses", "--explain").stdout.startswith(WHY)


def test_json_has_exactly_the_keys_of_the_contract(
    run: Callable[..., Result], pair: tuple[str, str], tiny_ask_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("ask", "new houses", "who scored the goal?", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    found, absent = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(found) == list(absent) == CONTRACT
    assert found == {
        "before": pair[0],
        "after": pair[1],
        "wish": "new houses",
        "found": True,
        "answer": "It's buildings that appeared.",
        "target": ["building"],
        "direction": "appeared",
        "changed_fraction": pytest.approx(200 / 4096, abs=1e-6),
        "area_m2": 200.0,
        "n_polygons": 1,
        "mask": str(out / "01-new-houses" / "mask.tif"),
        "model": str(tiny_ask_model),
        "warnings": [],
        "former": [],
    }
    assert absent["found"] is False
    assert absent["mask"] is None
    assert (absent["target"], absent["direction"]) == ([], None)
    assert absent["answer"] == "This is not a change that can be seen from above."
    assert (out / "run.json").is_file()


def test_json_without_a_crs_has_no_area(tiny_ask_model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(tmp_path / name)
    words = ["ask", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "new houses", "--json"]
    result = CliRunner().invoke(cli.app, [*words, "--model", str(tiny_ask_model)])
    record = json.loads(result.stdout)
    assert record["area_m2"] is None
    assert record["n_polygons"] == 1
    assert any("georeferenced" in warning for warning in record["warnings"])
    assert "georeferenced" in result.stderr


def test_the_contract_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "command.md").read_text(encoding="utf-8")
    section = page.partition("`whatchanged ask --json`")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    assert [row.strip("`") for row in rows][: len(CONTRACT)] == CONTRACT


@pytest.mark.parametrize("wish", ["", "\x01\x02", "word " * 100])
def test_wishes_that_cannot_be_asked_are_usage_errors(
    run: Callable[..., Result], wish: str
) -> None:
    result = run("ask", "new houses", wish)
    assert isinstance(result.exception, UsageError)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words", [["--threshold", "1.5"], ["--threshold", "0"], ["--bands", "4,3"]]
)
def test_options_that_cannot_be_used_are_usage_errors(
    run: Callable[..., Result], words: list[str]
) -> None:
    assert isinstance(run("ask", "new houses", *words).exception, UsageError)


def test_a_threshold_and_a_forced_mask(run: Callable[..., Result]) -> None:
    result = run("ask", "new houses", "--threshold", "0.9", "--json")
    assert json.loads(result.stdout)["n_polygons"] == 0
    assert "0.9" in result.stderr
    result = run("ask", "felled trees", "--force-target", "--json")
    record = json.loads(result.stdout)
    assert record["found"] is False
    assert record["changed_fraction"] == 1.0


def test_a_warning_of_the_pair_is_said_once(run: Callable[..., Result]) -> None:
    result = run("ask", "felled trees", "lost trees", "--force-target")
    assert result.stderr.count("warning: the mask was forced") == 1


def test_answers_and_wishes_cannot_steer_the_terminal(
    run: Callable[..., Result], scripted: Script
) -> None:
    scripted(lambda *window: ("\x1b[2Jcleared \u202e", None))
    result = run("ask", "new \x1b[31m houses", "\u202ewish")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout and "\u202e" not in result.stdout


def test_a_wish_that_is_no_text_is_answered_and_written(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("ask", "new \udcff houses", "new\0 roads", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["wish"] for record in records] == ["new ? houses", "new\ufffd roads"]
    assert (out / "run.json").is_file()


# --- the language model ----------------------------------------------------------------------


def test_a_missing_language_model_is_fetched_once(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, fetched = asking.load_ask_model, list[str]()

    def lacking(model: Any = "") -> Any:
        if not fetched:
            raise WeightsUnavailableError("its base is not on this machine")
        return load(model)

    def fetch(name: str, progress: Any = None) -> None:
        progress(1, 2)
        fetched.append(name)

    monkeypatch.setattr(asking, "load_ask_model", lacking)
    monkeypatch.setattr(asking, "language_base", lambda model: "smollm2-135m-instruct")
    monkeypatch.setattr(weights, "fetch", fetch)
    result = run("ask", "new houses")
    assert result.exit_code == 0, result.output
    assert fetched == ["smollm2-135m-instruct"]
    assert "fetching smollm2-135m-instruct" in result.stderr


def test_a_missing_model_is_an_error(pair: tuple[str, str]) -> None:
    words = ["ask", *pair, "new houses", "--model", "reasoncd-huge"]
    result = CliRunner().invoke(cli.app, words)
    assert isinstance(result.exception, WeightsUnavailableError)


# --- chat ------------------------------------------------------------------------------------


@pytest.fixture
def caption(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace describing by one caption; holds the pairs that it was asked for."""
    asked: list[tuple[str, str]] = []

    class Described:
        caption = "a row of houses is built"
        warnings = ("the photographs are shifted",)

    def describe(before: str, after: str, **options: Any) -> Described:
        asked.append((before, after))
        return Described()

    monkeypatch.setattr(describing, "describe", describe)
    return asked


def test_chat_answers_line_by_line_and_ends_at_an_empty_one(
    run: Callable[..., Result], pair: tuple[str, str], caption: list[tuple[str, str]]
) -> None:
    result = run("chat", typed="What changed?\nnew houses\nfelled trees\n\nnever asked\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "a row of houses is built",
        "It's buildings that appeared.    4.9% of the picture, 200 m2, 1 place",
        "There are no trees that disappeared between these images.",
    ]
    assert caption == [pair]
    assert result.stderr.count("warning: the photographs are shifted") == 1


def test_chat_that_is_interrupted_keeps_what_was_answered(
    run: Callable[..., Result], scripted: Script, tmp_path: Path
) -> None:
    def slow(wish: str, before: Any, after: Any) -> tuple[str, Any]:
        if "pond" in wish:
            raise KeyboardInterrupt
        return houses(wish, before, after)

    scripted(slow)
    out = tmp_path / "out"
    result = run("chat", "--out", out, typed="new houses\nnew ponds\nnever asked\n")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "01-new-houses",
        "report.html",
        "run.json",
    ]


def test_chat_says_before_looking_that_a_folder_is_not_its_own(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    monkeypatch.setattr(asking, "open_session", lambda *a, **k: pytest.fail("looked"))
    result = run("chat", "--out", tmp_path, typed="new houses\n")
    assert isinstance(result.exception, UsageError)
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("typed", ["", "quit\n", "QUIT", "exit\nnew houses\n", "\n", "new houses"])
def test_chat_ends_without_an_error(run: Callable[..., Result], typed: str) -> None:
    result = run("chat", typed=typed)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == (typed == "new houses")


def test_chat_goes_on_after_a_wish_that_cannot_be_asked(run: Callable[..., Result]) -> None:
    result = run("chat", typed="\x01\x02 ?\n" + "x" * 500 + "\nnew houses\n")
    assert result.exit_code == 0
    assert result.stderr.count("error: the wish") == 2
    assert len(result.stdout.splitlines()) == 1


def test_chat_takes_bytes_that_are_no_text(run: Callable[..., Result]) -> None:
    result = run("chat", typed=b"new \xff\xfe houses\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("It's buildings")


def test_chat_leaves_products_of_every_wish(run: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("chat", "--out", out, typed="new houses\nfelled trees\n")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "01-new-houses",
        "02-felled-trees",
        "report.html",
        "run.json",
    ]


def test_chat_sees_the_pair_once(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    see = asking.see_windows
    monkeypatch.setattr(asking, "see_windows", lambda *a: (seen.append(1), see(*a))[1])
    run("chat", typed="new houses\nnew roads\nnew ponds\n")
    assert seen == [1]


def test_chat_of_a_broken_pair_is_an_error(run: Callable[..., Result], tmp_path: Path) -> None:
    words = ["chat", str(tmp_path / "no.tif"), str(tmp_path / "no.tif")]
    result = CliRunner().invoke(cli.app, words)
    assert isinstance(result.exception, InputError | WeightsUnavailableError)


@pytest.mark.parametrize(
    ("line", "describes"),
    [
        ("what changed?", True),
        ("What has changed here?", True),
        ("what\u2019s different", True),
        ("what is the difference between these images?", True),
        ("what changed between the two dates?", True),
        ("what changed between both photos", True),
        ("what changed between the houses and the river?", False),
        ("describe the changes between the road and the images of the lake", False),
        ("So, what happened?", True),
        ("describe", True),
        ("please describe the changes", True),
        ("describe it.", True),
        ("can you summarise the differences", True),
        ("what changed because of the flood?", False),
        ("what was built?", False),
        ("changes caused by heavy rain", False),
        ("describe new buildings", False),
        ("any change", False),
        ("new houses", False),
    ],
)
def test_questions_for_no_change_in_particular_are_told_from_wishes(
    line: str, describes: bool
) -> None:
    assert cli_ask.is_describing(line) is describes


def test_chat_works_without_a_line_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python on Windows has no readline."""
    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    typed = iter(["new houses", "quit", "never"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert list(cli_ask._lines()) == ["new houses"]
