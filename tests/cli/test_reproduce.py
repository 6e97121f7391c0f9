"""`whatchanged reproduce`: what its options ask of the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from whatchanged import cli
from whatchanged.errors import UsageError
from whatchanged.reproduce import command
from whatchanged.reproduce.command import Results
from whatchanged.reproduce.plan import Plan
from whatchanged.reproduce.tables import Table, TableRow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["reproduce", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One small pair of each split."""
    entries = [
        {"filename": f"{s}.png", "split": s, "sentences": [{"raw": "a new road"}]}
        for s in ("train", "val", "test")
    ]
    folder = tmp_path / "set"
    for split in ("train", "val", "test"):
        for date in "AB":
            (folder / "images" / split / date).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "images" / split / date / f"{split}.png")
    (folder / "captions.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return folder


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Plan]:
    """Plans that are carried out, by a library that trains nothing."""
    plans: list[Plan] = []

    def fake(plan: Plan) -> Results:
        plans.append(plan)
        row = TableRow(("✓",), "ours", (1.0,), (None,))
        table = Table("hisem-table-8", "What it is.", ("depth",), ("S*m",), (row,))
        return Results(tmp_path / "out" / "hisem-table-8", table, ())

    monkeypatch.setattr(command, "carry_out", fake)
    return plans


def test_plan_stops_before_anything_is_trained(
    data: Path, tmp_path: Path, carried: list[Plan]
) -> None:
    out = tmp_path / "out"
    result = run("hisem-table-3", "--data", data, "--seeds", "0..1", "--plan", "--out", out)
    assert result.exit_code == 0, result.output
    assert "8: 0 finished, 0 started, 8 new" in result.stdout
    assert carried == [] and not out.exists()
    record = json.loads(run("hisem-table-3", "--data", data, "--plan", "--json").stdout)
    assert len(record["runs"]) == 4 and record["preset"] == "small"


def test_options_reach_the_library(data: Path, tmp_path: Path, carried: list[Plan]) -> None:
    options = ["--seeds", "2,5", "--epochs", "3", "--preset", "paper", "--out", tmp_path / "out"]
    result = run("hisem-table-8", "--data", data, *options, "batch_size=16")
    assert result.exit_code == 0, result.output
    (plan,) = carried
    assert plan.request.seeds == (2, 5)
    assert {r.config.epochs for r in plan.runs} == {3}
    assert {r.config.batch_size for r in plan.runs} == {16}
    assert {r.config.preset for r in plan.runs} == {"hisem-clip-b16"}
    assert plan.runs[0].folder.parent == tmp_path / "out" / "runs"
    # The plan comes first, then the table, then the folder.
    places = [result.stdout.index(w) for w in ("runs    10:", "| ✓ | ours | 1.00 |", "/out/")]
    assert places == sorted(places)


def test_json_is_one_object_and_the_plan_goes_to_stderr(data: Path, carried: list[Plan]) -> None:
    result = run("hisem-table-8", "--data", data, "--json")
    record: dict[str, Any] = json.loads(result.stdout)
    assert record["rows"][0]["scores"] == {"S*m": 1.0}
    assert record["pictures"] == [] and record["folder"].endswith("hisem-table-8")
    assert "runs    5:" in result.stderr


def test_refused_before_the_data_is_read(tmp_path: Path, carried: list[Plan]) -> None:
    missing = tmp_path / "nothing"
    for arguments, words in (
        (["hisem-table-9", "--data", missing], "unknown"),
        (["hisem-table-1"], "no data set"),
        (["hisem-table-1", "--data", missing, "--preset", "big"], "--preset big"),
        (["hisem-table-1", "--data", missing, "--seeds", "x"], "--seeds x"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, UsageError) and words in error.message
    assert run("hisem-table-1", "--data", missing, "--epochs", "0").exit_code == 2
    assert carried == []
