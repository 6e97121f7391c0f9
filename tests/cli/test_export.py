"""`whatchanged export`: what it asks of the library and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from whatchanged import cli, export
from whatchanged.export import ExportReport
from whatchanged.export_parity import Parity

SIZES = {"encoder.onnx": 12_340_000, "memory.onnx": 30_000_000, "decoder_step.onnx": 900_000}
DIFFERENCES = {"encoder.onnx": 4.2e-6, "memory.onnx": 1e-5, "decoder_step.onnx": 3e-7}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    calls: list[tuple[str, Path]] = []

    def fake(model: str, folder: Path) -> ExportReport:
        calls.append((model, folder))
        n_tied = 2 if model == "tied" else 0
        return ExportReport(folder, SIZES, Parity(DIFFERENCES, 5, 9, 3584, n_tied))

    monkeypatch.setattr(export, "export_onnx", fake)
    return calls


def test_what_is_printed(asked: list[tuple[str, Path]]) -> None:
    result = run("hisem-small", "--onnx", "out/small")
    assert asked == [("hisem-small", Path("out/small"))]
    assert result.stdout.splitlines() == [
        "encoder.onnx         12.3 MB  largest difference 4.2e-06",
        "memory.onnx          30.0 MB  largest difference 1.0e-05",
        "decoder_step.onnx     0.9 MB  largest difference 3.0e-07",
        "compared on 5 pairs of the unchanged path and 9 of the changed one",
        str(Path("out/small")),
    ]


def test_tokens_left_out_are_told(asked: list[tuple[str, Path]]) -> None:
    result = run("tied", "--onnx", "out")
    assert "2 of 3584 tokens stood between experts of equal score" in result.stdout


def test_a_folder_must_be_named(asked: list[tuple[str, Path]]) -> None:
    result = run("hisem-small")
    assert result.exit_code == 2 and "--onnx" in result.output
    assert asked == []
