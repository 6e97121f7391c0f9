"""The command against a library that only records how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import whatchanged
from whatchanged import cli
from whatchanged.errors import (
    EXIT_CODES,
    InputError,
    PairMismatchError,
    UsageError,
    WhatchangedError,
)

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


class FakeDescription:
    def __init__(self, before: str, after: str, warnings: tuple[str, ...] = ()) -> None:
        self.record = {
            "before": before,
            "after": after,
            "caption": "a row of houses is built along the new road",
            "changed": True,
            "changed_probability": 0.984,
            "captions": [{"text": "a row of houses is built along the new road", "score": -0.4}],
            "model": "hisem-small",
            "warnings": list(warnings),
        }

    def to_json(self) -> dict[str, Any]:
        return self.record


class FakeDescribing:
    """Stands in for ``whatchanged.describing`` and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.options: dict[str, Any] = {}
        self.warnings: tuple[str, ...] = ()
        self.pairs = [pair("a/1.png", "b/1.png"), pair("a/2.png", "b/2.png")]
        self.broken: dict[str, WhatchangedError] = {}

    def describe(self, before: str, after: str, **options: Any) -> FakeDescription:
        self.asked.append((before, after))
        self.options = options
        return FakeDescription(before, after, self.warnings)

    def find_pairs(self, path: str) -> list[SimpleNamespace]:
        self.asked.append((path,))
        return self.pairs

    def describe_many(
        self, pairs: list[SimpleNamespace], *, failures: list[Any], **options: Any
    ) -> Iterator[FakeDescription]:
        self.options = options
        for paths in pairs:
            if paths.before in self.broken:
                failures.append((paths, self.broken[paths.before]))
            else:
                yield FakeDescription(paths.before, paths.after, self.warnings)


def pair(before: str, after: str) -> SimpleNamespace:
    return SimpleNamespace(before=before, after=after)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeDescribing:
    fake = FakeDescribing()
    monkeypatch.setattr(whatchanged, "describing", fake, raising=False)
    monkeypatch.setitem(sys.modules, "whatchanged.describing", fake)
    return fake


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def whatchanged_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whatchanged", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# --- describe --------------------------------------------------------------------------------


def test_one_pair_prints_one_line(library: FakeDescribing) -> None:
    result = call("describe", "before.tif", "after.tif")
    assert result.exit_code == 0
    assert result.stdout == "a row of houses is built along the new road    changed 0.98\n"
    assert library.asked == [("before.tif", "after.tif")]
    assert library.options["model"] == "hisem-small"
    assert library.options["bands"] is None
    assert library.options["align"] is False
    assert library.options["explain"] is False
    assert library.options["out"] is None


def test_options_reach_the_library(library: FakeDescribing) -> None:
    where = ["--model", "m", "--bands", "4,3,2", "--out", "run"]
    result = call("describe", "b", "a", *where, "--align", "--beam", "7", "--explain")
    assert result.exit_code == 0
    assert library.options == {
        "model": "m",
        "bands": (4, 3, 2),
        "align": True,
        "beam": 7,
        "out": Path("run"),
        "explain": True,
    }


def test_json_is_one_object_with_the_contracts_keys(library: FakeDescribing) -> None:
    result = call("describe", "before.tif", "after.tif", "--json")
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    assert set(record) >= CONTRACT
    assert record["changed"] is True
    assert record["captions"][0] == {
        "text": "a row of houses is built along the new road",
        "score": -0.4,
    }


def test_json_of_a_name_that_is_no_text_is_still_json(library: FakeDescribing) -> None:
    result = call("describe", "\udcff\x1b.tif", "北京.tif", "--json")
    assert result.exit_code == 0
    assert result.stdout.isascii()
    assert json.loads(result.stdout)["after"] == "北京.tif"


def test_a_folder_prints_a_line_a_pair_with_its_names(library: FakeDescribing) -> None:
    result = call("describe", "pairs/")
    assert library.asked == [("pairs/",)]
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["a/1.png", "b/1.png"], ["a/2.png", "b/2.png"]]
    assert all(line.endswith("changed 0.98") for line in lines)


def test_a_folder_as_json_is_one_line_a_pair(library: FakeDescribing) -> None:
    lines = call("describe", "pairs.csv", "--json", "--beam", "2").stdout.splitlines()
    assert [json.loads(line)["before"] for line in lines] == ["a/1.png", "a/2.png"]
    assert library.options["beam"] == 2


def test_a_broken_pair_does_not_stop_the_others(library: FakeDescribing) -> None:
    library.broken = {"a/1.png": PairMismatchError("sizes differ", hint="--align")}
    result = call("describe", "pairs/", "--json")
    assert [json.loads(line)["before"] for line in result.stdout.splitlines()] == ["a/2.png"]
    assert result.exit_code == EXIT_CODES[PairMismatchError]
    first, *_, last = result.stderr.splitlines()
    assert first == "error: a/1.png, b/1.png: sizes differ"
    assert last == "1 of 2 pairs could not be described"


def test_the_first_failure_gives_the_exit_code(library: FakeDescribing) -> None:
    library.broken = {"a/1.png": InputError("cut"), "a/2.png": PairMismatchError("sizes")}
    result = call("describe", "pairs/")
    assert result.stdout == ""
    assert result.exit_code == EXIT_CODES[InputError]


def test_warnings_go_to_stderr_and_stay_in_the_record(library: FakeDescribing) -> None:
    library.warnings = ("shifted by 0.8 pixels",)
    plain = call("describe", "before.tif", "after.tif")
    assert plain.stderr == "warning: shifted by 0.8 pixels\n"
    assert "shifted" not in plain.stdout
    many = call("describe", "pairs/", "--json", "--quiet")
    assert many.stderr.splitlines()[0] == "warning: a/1.png: shifted by 0.8 pixels"
    assert json.loads(many.stdout.splitlines()[0])["warnings"] == ["shifted by 0.8 pixels"]


def test_escape_codes_in_names_and_captions_are_shown_as_text(library: FakeDescribing) -> None:
    library.pairs = [pair("\x1b[2J.png", "b.png")]
    library.warnings = ("\x1b[31m",)
    result = call("describe", "pairs/")
    assert "\x1b" not in result.output
    assert "\\x1b[2J.png" in result.stdout


def test_explain_needs_a_place(library: FakeDescribing) -> None:
    result = call("describe", "before.tif", "after.tif", "--explain")
    assert isinstance(result.exception, UsageError)
    assert "--out" in result.exception.hint
    assert library.asked == []


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "0,1,2", "-1,2,3", "r,g,b", "1.0,2,3"])
def test_bands_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="band numbers"):
        cli.parse_bands(text)


@given(st.tuples(*[st.integers(1, 10_000)] * 3))
def test_bands_round_trip(bands: tuple[int, int, int]) -> None:
    assert cli.parse_bands(",".join(map(str, bands))) == bands


def test_no_bands() -> None:
    assert cli.parse_bands(None) is None


@pytest.mark.parametrize("arguments", [("--beam", "0"), ("--beam", "x"), ("--colour",)])
def test_wrong_options_are_usage_errors(
    library: FakeDescribing, arguments: tuple[str, ...]
) -> None:
    assert call("describe", "b", "a", *arguments).exit_code == 2
    assert library.asked == []


# --- train, synthesize, weights --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ((), []),
        (("--resume",), ["resume=true"]),
        (("--no-resume",), ["resume=false"]),
        (("--skip-broken",), ["data.skip_broken=true"]),
    ],
)
def test_train_lays_options_over_the_file(
    options: tuple[str, ...], added: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def train(config: Path, overrides: list[str]) -> Path:
        asked.append((config, overrides))
        return Path("runs/x/best")

    import whatchanged.train  # the namespace the fake lies in

    fake = SimpleNamespace(train=train)
    monkeypatch.setattr(whatchanged.train, "run", fake, raising=False)
    monkeypatch.setitem(sys.modules, "whatchanged.train.run", fake)
    result = call("train", "c.yaml", "epochs=5", "optimiser.lr=1e-3", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs/x/best\n"
    assert asked == [(Path("c.yaml"), ["epochs=5", "optimiser.lr=1e-3", *added])]


def test_synthesize_passes_its_numbers_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def write_scenes(out: Path, *, n: int, size: int, seed: int) -> list[Path]:
        asked.append((out, n, size, seed))
        return [out / "captions.json"]

    import whatchanged.data

    fake = SimpleNamespace(write_scenes=write_scenes)
    monkeypatch.setattr(whatchanged.data, "synthetic", fake, raising=False)
    monkeypatch.setitem(sys.modules, "whatchanged.data.synthetic", fake)
    result = call("synthesize", "scenes", "--n", "3", "--seed", "9", "--size", "128")
    assert result.stdout == f"{Path('scenes/captions.json')}\n"
    assert asked == [(Path("scenes"), 3, 128, 9)]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("WHATCHANGED_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return cache


def test_weights_list_names_all_of_them(empty_cache: Path) -> None:
    from whatchanged.models.weights import NAMED_WEIGHTS

    lines = call("weights", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMED_WEIGHTS)
    assert all(set(line.split()) & {"present", "missing", "damaged"} for line in lines)


def test_weights_list_as_json(empty_cache: Path) -> None:
    records = [json.loads(line) for line in call("weights", "list", "--json").stdout.splitlines()]
    by_name = {record["name"]: record for record in records}
    assert by_name["efficientnet-lite0"]["state"] == "missing"
    assert by_name["efficientnet-lite0"]["path"] is None


def test_weights_fetch_prints_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from whatchanged.models import weights

    seen: list[str] = []

    def fetch(name: str, *, progress: Any) -> Path:
        seen.append(name)
        progress(1, 2)
        progress(2, 2)
        return Path("cache/x.gguf")

    monkeypatch.setattr(weights, "fetch", fetch)
    result = call("weights", "fetch", "smollm2-135m-instruct")
    assert result.stdout == f"{Path('cache/x.gguf')}\n"
    assert seen == ["smollm2-135m-instruct"]


def test_weights_verify_says_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    from whatchanged.models import weights

    monkeypatch.setattr(weights, "verify", lambda name: None)
    assert call("weights", "verify", "hisem-small").stdout == "hisem-small: intact\n"


# --- the process -----------------------------------------------------------------------------


def test_help_and_doctor_load_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from typer.testing import CliRunner
from whatchanged.cli import app
for words in (["--help"], ["describe", "--help"], ["--version"], []):
    CliRunner().invoke(app, words)
light = {"torch", "transformers", "accelerate", "rasterio", "matplotlib", "scipy", "numpy"}
print("help", sorted(light & set(sys.modules)))
CliRunner().invoke(app, ["doctor"])
print("doctor", sorted({"torch", "transformers", "accelerate"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "WHATCHANGED_CACHE": str(tmp_path)},
    )
    assert done.stdout.splitlines() == ["help []", "doctor []"], done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, whatchanged; print(sorted({'torch', 'numpy', 'rasterio'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_version() -> None:
    done = whatchanged_process("--version")
    assert done.stdout == f"whatchanged {whatchanged.__version__}\n"
    assert done.returncode == 0


def test_an_error_leaves_the_process_with_its_code_and_hint() -> None:
    done = whatchanged_process("weights", "verify", "hisem-smal")
    assert done.returncode == 7
    assert done.stdout == ""
    assert "hint: did you mean 'hisem-small'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_adds_the_traceback() -> None:
    done = whatchanged_process("weights", "verify", "hisem-smal", "--debug")
    assert done.returncode == 7
    assert "Traceback" in done.stderr


def test_a_wrong_command_is_a_usage_error() -> None:
    done = whatchanged_process("descrbe", "a", "b")
    assert done.returncode == 2
    assert "descrbe" in done.stderr


# --- the lazy names --------------------------------------------------------------------------


def test_lazy_names_are_those_of_all() -> None:
    assert set(whatchanged._HOMES) == set(whatchanged.__all__)
    assert set(whatchanged.__all__) <= set(dir(whatchanged))


@pytest.mark.parametrize("name", whatchanged.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(whatchanged, name) is not None


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'descibe'"):
        whatchanged.descibe  # noqa: B018


def test_the_subpackage_does_not_hide_a_public_name() -> None:
    """A submodule that is imported is bound on the package: no public name may be its name."""
    folder = Path(whatchanged.__file__).parent
    submodules = {path.stem for path in folder.glob("*.py")} | {
        path.name for path in folder.iterdir() if path.is_dir()
    }
    assert submodules.isdisjoint(whatchanged.__all__)
