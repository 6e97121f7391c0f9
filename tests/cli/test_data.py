"""`whatchanged data`: what it prints of whole, broken and missing sets, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from whatchanged import cli
from whatchanged.data.known_sets import KNOWN_SETS, LEVIR_CD
from whatchanged.errors import EXIT_CODES, DatasetError, UsageError

NOT_INTACT = EXIT_CODES[DatasetError]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A captioned set of three pairs."""
    images = []
    for number, split in enumerate(("train", "train", "val")):
        said = [{"raw": "a road is built"}, {"raw": "a new road"}]
        name = f"{number}.png"
        images.append({"filename": name, "split": split, "sentences": said, "changeflag": 1})
        for date in "AB":
            path = tmp_path / "set/images" / split / date / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16)).save(path)
    (tmp_path / "set/captions.json").write_text(json.dumps({"images": images}))
    return tmp_path / "set"


def test_a_whole_set(own: Path) -> None:
    result = run(own)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"a captioned set in the layout of LEVIR-CC in {own}"
    assert lines[2:] == [
        "train     found 2 of 2 listed train pairs",
        "val       found 1 of 1 listed val pairs",
        "captions  6; 2 a pair in 3 pairs; 5 words",
        "changed   3 of 3 pairs",
        "opened    3 pairs",
        "",
        "intact",
    ]


def test_a_set_with_gaps_is_counted_against_the_published(own: Path) -> None:
    (own / "images/val/B/2.png").unlink()
    result = run(own, "--as", "levir-cc")
    assert result.exit_code == NOT_INTACT
    assert "train     found 2 of 6,815 train pairs; 2 are listed" in result.stdout
    assert "val       found 0 of 1,333 val pairs; 1 are listed" in result.stdout
    assert "captions  6 of 50,385" in result.stdout
    assert "missing   1 files\n  images/val/B/2.png\n" in result.stdout
    assert "broken    4 entries or files" in result.stdout  # two pairs of 16 pixels
    assert "source    https://github.com/Chen-Yang-Liu/LEVIR-CC-Dataset" in result.stdout
    assert result.stdout.endswith("\nnot intact\n")


def test_counts_that_nobody_published_are_said_to_be_unknown(own: Path) -> None:
    result = run(own, "--as", "SECOND-CC")
    assert result.exit_code == NOT_INTACT
    assert "2 listed train pairs; published count not known" in result.stdout
    assert "note      SECOND-CC-AUG.json" in result.stdout


def test_json(own: Path) -> None:
    (own / "images/val/B/2.png").unlink()
    result = run(own, "--json", "--every")
    assert result.exit_code == NOT_INTACT
    record: dict[str, Any] = json.loads(result.stdout)
    assert (record["name"], record["intact"], record["opened"]) == ("captioned", False, 2)
    assert record["splits"]["val"] == {"split": "val", "found": 0, "listed": 1, "published": None}
    assert record["missing"] == {"shown": ["images/val/B/2.png"], "count": 1, "left_out": 0}
    assert record["captions"]["per_pair"] == {"2": 3}


def test_more_than_ten_missing_files(tmp_path: Path) -> None:
    for number in range(14):
        path = tmp_path / f"train/A/{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1024, 1024)).save(path)
    (tmp_path / "train/B").mkdir()
    (tmp_path / "train/label").mkdir()
    result = run(tmp_path)
    assert result.exit_code == NOT_INTACT
    assert f"{LEVIR_CD.title} in {tmp_path}" in result.stdout
    assert "missing   28 files" in result.stdout and "  and 18 more" in result.stdout


def test_a_missing_set_is_told_where_to_get_it(tmp_path: Path) -> None:
    result = run(tmp_path / "LEVIR-CD")
    assert isinstance(result.exception, DatasetError)
    assert LEVIR_CD.source in result.exception.hint
    result = run(tmp_path, "--as", "clcd")
    assert isinstance(result.exception, DatasetError)
    assert "https://github.com/liumency/CropLand-CD" in result.exception.hint
    result = run(tmp_path)
    assert isinstance(result.exception, DatasetError)
    assert "holds no data set that is known" in result.exception.message


def test_list() -> None:
    text = run("--list").stdout
    records = [json.loads(line) for line in run("--list", "--json").stdout.splitlines()]
    assert [record["name"] for record in records] == [known.name for known in KNOWN_SETS]
    for known in KNOWN_SETS:
        assert f"{known.name:<12}{known.title}" in text and known.source in text
    assert "LEVIR-CC: 6,815 train, 1,333 val, 1,929 test" in text
    assert "SECOND-CC: 6,041 pairs in all" in text
    assert records[0]["counts"] == {"train": 6815, "val": 1333, "test": 1929}


def test_wrong_arguments(own: Path) -> None:
    assert isinstance(run().exception, UsageError)
    assert isinstance(run(own, "--as", "levir").exception, UsageError)
