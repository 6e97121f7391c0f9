"""The card's tables come out whole, of a random model on pairs that are drawn."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import reasoncd_card
from mask_scores import read_rows, write_rows
from whatchanged.models.reasoncd.store import save_reasoncd

HEADS = ["Wishes in unseen wordings", "24 asked pairs, best to worst", "Classes and directions",
         "Any change", "Any change, the later date first as well"]  # fmt: skip


@pytest.fixture(scope="module")
def model(reasoncd_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ReasonCD for which every letter of a wish is a token."""
    config = replace(
        reasoncd_kit.TINY,
        language=replace(reasoncd_kit.TINY.language, positions=1024),
        prompt=replace(
            reasoncd_kit.PROMPT, max_length=1024, max_wish_tokens=300, max_answer_tokens=3
        ),
    )
    folder = tmp_path_factory.mktemp("model") / "best"
    save_reasoncd(folder, reasoncd_kit.make(config), "reasoncd-small")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["reasoncd_card.py", *map(str, arguments)])
    reasoncd_card.main()


def test_all_tables_are_printed_and_rows_written(
    data: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    common = ("--data", data / "captioned", "--model", model)
    run(monkeypatch, *common, "--parts", "masks", "--out", tmp_path / "rows.json")
    first = capsys.readouterr().out
    rows = read_rows(tmp_path / "rows.json")
    assert list(rows) == [str(model), f"{model}, dates exchanged"]
    assert {row.overall.n_pairs for row in rows.values()} == {3}  # those with a mask
    assert json.loads((tmp_path / "rows.json").read_text())["wish"] == "any change"
    assert [line[3:] for line in first.splitlines() if line.startswith("## ")] == HEADS[2:]

    write_rows(tmp_path / "beside.json", {"baseline": rows[str(model)]}, {})
    run(monkeypatch, *common, "--pairs", "3", "--baselines", tmp_path / "beside.json")
    second = capsys.readouterr().out
    assert [line[3:] for line in second.splitlines() if line.startswith("## ")] == HEADS
    any_change = second.split("## Any change\n")[1].split("\n## ")[0]
    beside, ours = (
        [line for line in any_change.splitlines() if line.startswith(f"| {name} |")]
        for name in ("baseline", model)
    )
    assert len(beside) == 3  # all, and each of two sets
    assert [line.split("|")[2:] for line in beside] == [line.split("|")[2:] for line in ours]


def test_the_sheet_is_drawn_alone(
    data: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    sheet = tmp_path / "sheet.png"
    run(monkeypatch, "--data", data / "captioned", "--model", model, "--pairs", "2",
        "--sheet", sheet)  # fmt: skip
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""
