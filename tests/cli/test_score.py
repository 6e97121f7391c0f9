"""`whatchanged score`, on the real captions of LEVIR-CC where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from whatchanged import cli
from whatchanged.errors import DatasetError, UsageError

SAME = "the scene is the same as before"
MODAL = "some roads and houses are built on bareland"


def score(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["score", *map(str, arguments)])


@pytest.fixture(scope="module")
def levir(shared_data: Path) -> Path:
    path = shared_data / "levir_cc_text" / "LevirCCcaptions.json"
    if not path.is_file():
        pytest.skip("the captions of LEVIR-CC are not here: levir_cc_text/LevirCCcaptions.json")
    return path


def write(path: Path, levir: Path, changed: str) -> Path:
    """Say `changed` of every changed test pair."""
    images = json.loads(levir.read_text("utf-8"))["images"]
    test = [image for image in images if image["split"] == "test"]
    said = {image["filename"]: changed if image["changeflag"] else SAME for image in test}
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def modal(levir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `--json` says of the right label with one caption."""
    predictions = write(tmp_path_factory.mktemp("score") / "modal.json", levir, MODAL)
    result = score(predictions, levir, "--json")
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    return record


def test_right_label_with_one_caption(modal: dict[str, Any]) -> None:
    assert (modal["protocol"], modal["vocabulary"]) == ("ids", "all-splits")
    assert (modal["n"], modal["changed"]["n"], modal["unchanged"]["n"]) == (1929, 964, 965)
    assert modal["bleu4"] == pytest.approx(59.83, abs=0.01)
    assert modal["meteor"] == pytest.approx(36.77, abs=0.05)
    assert modal["rouge_l"] == pytest.approx(70.41, abs=0.01)
    assert modal["cider_d"] == pytest.approx(126.71, abs=0.01)
    assert modal["s_m"] == pytest.approx(73.43, abs=0.02)
    assert modal["unchanged"]["bleu4"] == pytest.approx(100)
    assert modal["unchanged"]["cider_d"] is None


def test_the_floors_find_the_same_captions(modal: dict[str, Any]) -> None:
    constant, found = modal["floors"].values()
    assert found["s_m"] == modal["s_m"]
    assert constant["bleu1"] == pytest.approx(64.56, abs=0.01)
    assert constant["meteor"] == pytest.approx(29.33, abs=0.05)
    assert constant["s_m"] == pytest.approx(60.84, abs=0.02)


def test_the_constant_caption_as_text(levir: Path, tmp_path: Path) -> None:
    predictions = write(tmp_path / "constant.json", levir, SAME)
    result = score(predictions, levir, "--meteor", "none")
    assert result.exit_code == 0, result.output
    row = next(line.split() for line in result.stdout.splitlines() if "predictions" in line)
    bleu = ["64.56", "56.62", "53.16", "51.49"]
    assert row == ["predictions", "1929", *bleu, "-", "60.60", "101.93", "-"]
    assert "protocol ids, vocabulary of all splits; without METEOR" in result.stdout


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of one pair of the split val."""
    pair = {"filename": "a.png", "split": "val", "sentences": [{"raw": "a road is built"}]}
    references = tmp_path / "references.json"
    references.write_text(json.dumps({"images": [pair]}), encoding="utf-8")
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"a.png": "a house is built"}), encoding="utf-8")
    return predictions, references


def test_options_reach_the_scores(small: tuple[Path, Path]) -> None:
    ids = json.loads(score(*small, "--split", "val", "--json").stdout)
    words = json.loads(score(*small, "--split", "val", "--json", "--protocol", "words").stdout)
    assert ids["bleu1"] == pytest.approx(100)  # four unknown words
    assert words["bleu1"] == pytest.approx(75)
    assert (words["protocol"], words["vocabulary"], words["split"]) == ("words", None, "val")
    absent = score(*small, "--split", "val", "--vocabulary", "train")
    assert isinstance(absent.exception, UsageError)


def test_failures_print_nothing_on_stdout(small: tuple[Path, Path]) -> None:
    wrong_split = score(*small)
    assert isinstance(wrong_split.exception, DatasetError)
    wrong_protocol = score(*small, "--protocol", "letters")
    assert isinstance(wrong_protocol.exception, UsageError)
    assert wrong_split.stdout == wrong_protocol.stdout == ""
