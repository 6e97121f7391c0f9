from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from whatchanged.cli import app
from whatchanged.console import run
from whatchanged.data.reason_json import load_reason_json


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["prepare", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    for part, mode in (("A", "RGB"), ("B", "RGB"), ("label", "L")):
        folder = tmp_path / "tiles" / part
        folder.mkdir(parents=True)
        for index in range(10):
            Image.new(mode, (256, 256)).save(folder / f"{index}.png")
    return tmp_path / "tiles"


def test_help_names_the_three_sets() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert all(re.search(rf"\b{name}\b", out) for name in ("bcdd", "second", "pairs"))


def test_bcdd_prints_its_folder_and_tells_when_it_was_there(tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = invoke("bcdd", str(tiles), str(out))
    assert (code, stdout) == (0, f"{out}\n")
    assert "train: 8" in stderr and "finished" not in stderr
    assert len(load_reason_json(out / "train.jsonl")) == 8
    code, stdout, stderr = invoke("bcdd", str(tiles), str(out))
    assert (code, stdout) == (0, f"{out}\n")
    assert "is finished; --force makes it anew" in stderr
    code, stdout, stderr = invoke(
        "bcdd", str(tiles), str(out), "--recipe", "random-4", "--force", "-q"
    )
    assert (code, stdout, stderr) == (0, f"{out}\n", "")
    assert json.loads((out / "prepared.json").read_text())["options"]["recipe"] == "random-4"


def test_second_and_pairs_run_on_the_bank(tmp_path: Path) -> None:
    root = tmp_path / "SECOND"
    label = np.full((32, 32, 3), 255, np.uint8)
    label[:8] = (128, 0, 0)
    other = label.copy()
    other[:8] = (128, 128, 128)
    for part, pixels in (("im1", label), ("im2", label), ("label1", label), ("label2", other)):
        (root / part).mkdir(parents=True)
        for index in range(10):
            Image.fromarray(pixels).save(root / part / f"{index}.png")
    code, stdout, stderr = invoke("second", str(root), str(tmp_path / "s"), "--rule", "before")
    assert (code, stdout) == (0, f"{tmp_path / 's'}\n")
    assert "train: 8 pairs" in stderr
    questions = [s.question for s in load_reason_json(tmp_path / "s" / "train.jsonl")]
    assert len(set(questions)) > 8  # of the bank, and not one for all

    scenes = tmp_path / "scenes"
    assert (
        CliRunner().invoke(app, ["synthesize", str(scenes), "--n", "3", "--size", "64"]).exit_code
        == 0
    )
    code, stdout, stderr = invoke("pairs", str(scenes), str(tmp_path / "p"), "--limit", "1")
    assert (code, stdout) == (0, f"{tmp_path / 'p'}\n")
    assert "train: 1 pairs" in stderr


def test_errors_have_their_codes(
    tmp_path: Path, tiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def code_of(*arguments: str) -> int:
        return run(lambda: app(["prepare", *arguments], standalone_mode=False))

    assert code_of("bcdd", str(tmp_path / "none"), str(tmp_path / "out")) == 5
    assert "neither BCDD's scene nor its tiles" in capsys.readouterr().err
    assert code_of("bcdd", str(tiles), str(tmp_path / "out"), "--recipe", "paper") == 2
    assert code_of("second", str(tiles), str(tmp_path / "out"), "--rule", "both") == 2
    assert code_of("pairs", str(tiles), str(tmp_path / "out")) == 5
