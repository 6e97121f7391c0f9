"""`whatchanged evaluate`: what its options ask of the library, and a run with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from whatchanged import cli, evaluate, evaluate_masks, evaluate_masks_report, evaluate_report
from whatchanged.errors import DatasetError, UsageError
from whatchanged.score import Ruler


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of a library that evaluates nothing."""
    calls: dict[str, Any] = {}

    def fake(models: list[str], root: Path, split: str, **options: Any) -> str:
        calls.update(options, models=models, root=root, split=split)
        return "report"

    monkeypatch.setattr(evaluate_masks, "family_of", lambda model: "hisem")
    monkeypatch.setattr(evaluate, "evaluate_captions", fake)
    monkeypatch.setattr(evaluate_report, "as_text", lambda report: f"table of {report}")
    monkeypatch.setattr(evaluate_report, "to_json", lambda report: {"made_of": report})
    return calls


def test_defaults_are_the_published_ones(asked: dict[str, Any]) -> None:
    result = run("hisem-small", "data")
    assert result.stdout == "table of report\n"
    assert asked == {
        "models": ["hisem-small"],
        "root": Path("data"),
        "split": "test",
        "routes": ("predicted",),
        "ruler": Ruler("ids", "all-splits", "exact"),
        "beam": 1,
        "skip_broken": False,
    }


def test_options_reach_the_library(asked: dict[str, Any]) -> None:
    choices = ["--protocol", "words", "--vocabulary", "train", "--meteor", "java"]
    where = ["--split", "val", "--route", "both", "--beam", "3", "--json", "--skip-broken"]
    result = run("one", "two", "three", "data", *choices, *where)
    assert json.loads(result.stdout) == {"made_of": "report"}
    assert asked["models"] == ["one", "two", "three"]
    assert asked["ruler"] == Ruler("words", "train", "java")
    assert (asked["split"], asked["beam"], asked["skip_broken"]) == ("val", 3, True)
    assert asked["routes"] == ("predicted", "label")


def test_refused_before_the_library_is_asked(asked: dict[str, Any]) -> None:
    assert isinstance(run("m", "data", "--route", "none").exception, UsageError)
    assert isinstance(run("m", "data", "--protocol", "id").exception, UsageError)
    assert run("m", "data", "--beam", "0").exit_code == 2
    assert run("data").exit_code == 2
    assert asked == {}


def test_a_run(tiny_model: Path, tmp_path: Path) -> None:
    pair = {"filename": "a.png", "split": "val", "sentences": [{"raw": "a new road"}]}
    (tmp_path / "captions.json").write_text(json.dumps({"images": [pair]}), encoding="utf-8")
    for date, light in (("A", 40), ("B", 200)):
        place = tmp_path / "images" / "val" / date
        place.mkdir(parents=True)
        Image.fromarray(np.full((64, 64, 3), light, np.uint8)).save(place / "a.png")
    out = tmp_path / "out"
    result = run(tiny_model, tmp_path, "--split", "val", "--route", "label", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == (out / "table.txt").read_text("utf-8")
    assert "routed by label" in result.stdout and "protocol ids" in result.stdout
    assert json.loads((out / "scores.json").read_text("utf-8"))["route"] == "label"
    missing = run(tiny_model, tmp_path)
    assert isinstance(missing.exception, DatasetError)
    assert missing.stdout == ""


@pytest.mark.parametrize("family", evaluate_masks.MASK_FAMILIES)
def test_models_of_masks_are_evaluated_on_masks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: str
) -> None:
    asked: dict[str, Any] = {}

    def fake(models: list[str], data: Path, split: str, **options: Any) -> str:
        asked.update(options, models=models, data=data, split=split)
        return "masks"

    written: list[Any] = []
    monkeypatch.setattr(evaluate_masks, "family_of", lambda model: family)
    monkeypatch.setattr(evaluate_masks, "evaluate_masks", fake)
    monkeypatch.setattr(evaluate_masks_report, "as_text", lambda report: f"table of {report}")
    monkeypatch.setattr(
        evaluate_masks_report, "write_report", lambda report, out: written.append((report, out))
    )
    result = run("one", "two", "data", "--split", "val", "--size", "128", "--out", tmp_path)
    assert result.stdout == "table of masks\n"
    assert written == [("masks", tmp_path)]
    assert asked == {
        "models": ["one", "two"],
        "data": Path("data"),
        "split": "val",
        "size": 128,
        "windows": None,
        "skip_broken": False,
    }
    refused = run("one", "data", "--route", "label")
    assert isinstance(refused.exception, UsageError)
    assert "no image router" in str(refused.exception)
