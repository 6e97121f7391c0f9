"""`whatchanged describe` with a small random model, from files to lines and products."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from whatchanged import cli
from whatchanged.data.synthetic import draw_scene, encode_geotiff
from whatchanged.errors import EXIT_CODES, InputError, PairMismatchError, UsageError

CONTRACT = {
    "before",
    "after",
    "caption",
    "changed",
    "changed_probability",
    "captions",
    "model",
    "warnings",
}
# Of the dependencies, those that describing a pair has no use for.
NEEDLESS = {
    "accelerate",
    "huggingface_hub",
    "matplotlib",
    "pandas",
    "pycocoevalcap",
    "scipy",
    "sklearn",
    "tensorboard",
    "transformers",
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `before/` and `after/`: three sound pairs, one of them on a grid of its own."""
    root = tmp_path_factory.mktemp("pairs")
    for seed, size in enumerate((64, 64, 96)):
        scene = draw_scene(seed, size=size, gsd_m=2.0)
        for date in ("before", "after"):
            path = root / date / f"{seed}.tif"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_geotiff(getattr(scene, date), scene.grid))
    return root


@pytest.fixture
def two_broken(pairs: Path, tmp_path: Path) -> Path:
    """A list of five pairs: the second is cut off, the fourth lies on two grids."""
    cut = tmp_path / "cut.tif"
    content = (pairs / "after/0.tif").read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    rows = [
        (pairs / "before/0.tif", pairs / "after/0.tif"),
        (pairs / "before/0.tif", cut),
        (pairs / "before/1.tif", pairs / "after/1.tif"),
        (pairs / "before/0.tif", pairs / "after/1.tif"),
        (pairs / "before/2.tif", pairs / "after/2.tif"),
    ]
    listing = tmp_path / "pairs.csv"
    lines = ["before,after", *(f"{before},{after}" for before, after in rows)]
    listing.write_text("\n".join(lines), encoding="utf-8")
    return listing


def describe(model: Path, *arguments: str | Path) -> Result:
    words = ["describe", *map(str, arguments), "--model", str(model)]
    return CliRunner().invoke(cli.app, words)


def test_one_pair_is_one_line(tiny_model: Path, pairs: Path) -> None:
    result = describe(tiny_model, pairs / "before/0.tif", pairs / "after/0.tif")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    caption, probability = line.split("    changed ")
    assert caption
    assert 0 <= float(probability) <= 1


def test_the_size_seen_is_said_unless_quiet(tiny_model: Path, pairs: Path) -> None:
    pair = pairs / "before/2.tif", pairs / "after/2.tif"
    assert "96 x 96 pixels, seen at 96 x 96, 2.00 m a pixel" in describe(tiny_model, *pair).stderr
    assert "seen at" not in describe(tiny_model, *pair, "--quiet").stderr


@pytest.mark.parametrize("beam", [1, 3])
def test_json_has_exactly_the_keys_of_the_contract(
    tiny_model: Path, pairs: Path, beam: int
) -> None:
    result = describe(tiny_model, pairs, "--json", "--beam", str(beam))
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(record["before"]).name for record in records] == ["0.tif", "1.tif", "2.tif"]
    for record in records:
        assert set(record) == CONTRACT
        assert type(record["changed"]) is bool
        assert 0 <= record["changed_probability"] <= 1
        assert record["model"] == str(tiny_model)
        assert all(isinstance(warning, str) for warning in record["warnings"])
        assert len(record["captions"]) == beam
        assert all(set(caption) == {"text", "score"} for caption in record["captions"])
        assert record["captions"][0]["text"] == record["caption"]
        scores = [caption["score"] for caption in record["captions"]]
        assert scores == sorted(scores, reverse=True)


def test_the_contract_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "command.md").read_text(encoding="utf-8")
    section = page.partition("## JSON")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    assert {row.strip("`") for row in rows} == CONTRACT


def test_broken_pairs_do_not_lose_the_others(tiny_model: Path, two_broken: Path) -> None:
    result = describe(tiny_model, two_broken, "--json")
    assert result.exit_code == EXIT_CODES[InputError]  # of the first that failed
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(record["after"]).name for record in records] == ["0.tif", "1.tif", "2.tif"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "cut.tif" in errors[0]
    assert "do not" in errors[1]
    assert result.stderr.count("hint:") == 2
    assert result.stderr.splitlines()[-1] == "2 of 5 pairs could not be described"


def test_failures_are_in_the_record(tiny_model: Path, two_broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = describe(tiny_model, two_broken, "--out", out)
    assert result.exit_code == EXIT_CODES[InputError]
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert len(record["pairs"]) == 3
    assert [Path(failure["after"]).name for failure in record["failures"]] == ["cut.tif", "1.tif"]
    assert len((out / "captions.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_one_broken_pair_alone_is_an_error_without_products(
    tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    pair = pairs / "before/0.tif", pairs / "after/1.tif"
    result = describe(tiny_model, *pair, "--out", out, "--json")
    assert isinstance(result.exception, PairMismatchError)
    assert result.stdout == ""
    assert not out.exists()


def test_products_and_explanations(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pair = pairs / "before/0.tif", pairs / "after/0.tif"
    result = describe(tiny_model, *pair, "--out", out, "--explain")
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        "captions.jsonl",
        "change_map.png",
        "report.html",
        "run.json",
        "words.png",
    }


def test_hostile_names_reach_neither_terminal_nor_page(
    tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    name = "<script>alert(1)<\\script>\x1b[2J.tif"
    hostile = tmp_path / "before" / name, tmp_path / "after" / name
    for path, source in zip(hostile, ("before", "after"), strict=True):
        path.parent.mkdir()
        try:
            path.write_bytes((pairs / source / "0.tif").read_bytes())
        except OSError:
            pytest.skip("this file system has no such names")
    out = tmp_path / "run"
    result = describe(tiny_model, tmp_path, "--out", out)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "\x1b" not in page


def test_bands_that_a_file_lacks(tiny_model: Path, pairs: Path) -> None:
    result = describe(tiny_model, pairs, "--bands", "4,3,2")
    assert result.exit_code == EXIT_CODES[InputError]
    assert result.stdout == ""
    assert result.stderr.count("error:") == 3


def test_explain_without_a_place_reads_nothing(tiny_model: Path) -> None:
    result = describe(tiny_model, "nowhere_before.tif", "nowhere_after.tif", "--explain")
    assert isinstance(result.exception, UsageError)


def test_the_process_loads_nothing_needless(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from whatchanged.cli import main; "
        "atexit.register(lambda: print(*{name.split('.')[0] for name in sys.modules})); "
        "main()"
    )
    pair = [str(pairs / "before/0.tif"), str(pairs / "after/0.tif")]
    options = ["--model", str(tiny_model), "--json", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", code, "describe", *pair, *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    record, modules = done.stdout.splitlines()
    assert set(json.loads(record)) == CONTRACT
    loaded = set(modules.split())
    assert "torch" in loaded
    assert loaded & NEEDLESS == set()
