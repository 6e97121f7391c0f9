"""``whatchanged export``: a trained model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whatchanged import console

if TYPE_CHECKING:
    from whatchanged.export import ExportReport


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Named weights or a model folder.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="DIR", help="Folder for the ONNX files.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write a HiSem as three ONNX files, compare them with the model, print how far they are."""
    console.configure(quiet=quiet, debug=debug)
    from whatchanged.export import export_onnx

    typer.echo(console.printable(as_text(export_onnx(model, onnx))))


def as_text(report: ExportReport) -> str:
    """Return one line a file, what was compared, and the folder."""
    parity = report.parity
    lines = [
        f"{name:<19}{report.sizes[name] / 1e6:6.1f} MB  largest difference {difference:.1e}"
        for name, difference in parity.differences.items()
    ]
    lines.append(
        f"compared on {parity.n_unchanged} pairs of the unchanged path and {parity.n_changed} of "
        "the changed one"
    )
    if parity.n_tied:
        lines.append(
            f"{parity.n_tied} of {parity.n_tokens} tokens stood between experts of equal score and "
            "were left out"
        )
    return "\n".join([*lines, str(report.folder)])
