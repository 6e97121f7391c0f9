"""`whatchanged describe` on real files, with a tiny model of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from whatchanged import cli
from whatchanged.data.tokens import Vocabulary
from whatchanged.errors import CheckpointError, InputError, PairMismatchError
from whatchanged.models.backbones import EncoderConfig
from whatchanged.models.hisem.config import BDAMConfig, DecoderConfig, HASDConfig, HiSemConfig
from whatchanged.models.hisem.model import HiSem
from whatchanged.train.hisem_task import save_hisem

WORDS = ("a", "the", "house", "road", "tree", "is", "are", "built", "removed", "on", "before")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = HiSemConfig(
        encoder=EncoderConfig(kind="compact", input_size=64, channels=16),
        width=16,
        grid=4,
        bdam=BDAMConfig(layers=1, heads=2),
        hasd=HASDConfig(norm="group", hidden=16, expert_hidden=16),
        decoder=DecoderConfig(heads=2, max_len=8),
    )
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([WORDS], min_count=0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_hisem(folder, HiSem(config, len(vocabulary)), "tiny", vocabulary, {})
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs in the layout before/, after/."""
    rng = np.random.default_rng(0)
    for date in ("before", "after"):
        (tmp_path / "pairs" / date).mkdir(parents=True)
        for name in ("1", "2", "3"):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pairs" / date / f"{name}.png")
    return tmp_path / "pairs"


def describe(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["describe", *map(str, arguments)])


def test_one_pair(model: Path, pairs: Path) -> None:
    result = describe(pairs / "before/1.png", pairs / "after/1.png", "--model", model)
    assert result.exit_code == 0, result.output
    caption, changed, probability = result.stdout.rpartition("    changed ")
    assert changed
    assert set(caption.split()) <= {*WORDS, "<UNK>"}
    assert 0 <= float(probability) <= 1


def test_json(model: Path, pairs: Path) -> None:
    before, after = pairs / "before/1.png", pairs / "after/1.png"
    result = describe(before, after, "--model", model, "--json", "--beam", 2)
    record = json.loads(result.stdout)
    assert (record["before"], record["after"]) == (str(before), str(after))
    assert record["model"] == str(model)
    assert len(record["captions"]) == 2
    assert record["captions"][0]["text"] == record["caption"]
    assert record["captions"][0]["score"] >= record["captions"][1]["score"]
    assert record["changed"] is (record["changed_probability"] >= 0.5)


def test_a_folder_is_the_same_as_its_pairs_one_by_one(model: Path, pairs: Path) -> None:
    lines = describe(pairs, "--model", model, "--json").stdout.splitlines()
    assert [Path(json.loads(line)["before"]).name for line in lines] == ["1.png", "2.png", "3.png"]
    for line in lines:
        record = json.loads(line)
        alone = describe(record["before"], record["after"], "--model", model, "--json")
        assert json.loads(alone.stdout)["caption"] == record["caption"]
        assert json.loads(alone.stdout)["changed_probability"] == pytest.approx(
            record["changed_probability"], abs=1e-3
        )


def test_a_csv_list(model: Path, pairs: Path) -> None:
    table = pairs / "list.csv"
    table.write_text("before,after\nbefore/2.png,after/2.png\n", encoding="utf-8")
    (line,) = describe(table, "--model", model).stdout.splitlines()
    assert line.split()[0] == str(pairs / "before/2.png")


def test_products(model: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    before, after = pairs / "before/1.png", pairs / "after/1.png"
    result = describe(before, after, "--model", model, "--out", out, "--explain")
    assert result.exit_code == 0, result.output
    assert {"report.html", "run.json"} <= {path.name for path in out.iterdir()}
    assert list(out.rglob("*.png"))
    assert not list(out.rglob("*.part"))


def test_a_cut_photograph_is_left_out_and_the_others_are_described(
    model: Path, pairs: Path
) -> None:
    cut = pairs / "after/2.png"
    cut.write_bytes(cut.read_bytes()[:3000])
    result = describe(pairs, "--model", model, "--json")
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 2
    assert "2.png" in result.stderr
    assert "1 of 3 pairs" in result.stderr


def test_errors_before_a_model_is_asked(model: Path, pairs: Path, tmp_path: Path) -> None:
    missing = describe(pairs / "before/1.png", pairs / "none.png", "--model", model)
    assert isinstance(missing.exception, InputError)
    other = tmp_path / "other.png"
    Image.new("RGB", (32, 48)).save(other)
    sizes = describe(pairs / "before/1.png", other, "--model", model)
    assert isinstance(sizes.exception, PairMismatchError)
    alone = describe(pairs / "before/1.png", "--model", model)
    assert isinstance(alone.exception, InputError)


def test_a_damaged_model_is_named(model: Path, pairs: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(model, tmp_path / "damaged"))
    tensors = damaged / "model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[len(data) // 2] ^= 1
    tensors.write_bytes(data)
    result = describe(pairs, "--model", damaged)
    assert isinstance(result.exception, CheckpointError)
    assert "model.safetensors" in result.exception.message
    assert result.stdout == ""
