"""Options that several commands share, and how their values are read and printed."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from whatchanged.errors import UsageError

Model = Annotated[str, typer.Option(help="Named weights or a model folder.")]
Bands = Annotated[
    str | None, typer.Option(help="Bands to read as red, green, blue, such as 4,3,2.")
]
Align = Annotated[
    bool, typer.Option("--align", help="Warp the later photograph onto the earlier one's grid.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text on stdout.")]


def parse_bands(text: str | None) -> tuple[int, int, int] | None:
    """Read ``--bands``: three band numbers from 1, for red, green and blue.

    Raises:
        UsageError: Not three whole numbers of at least 1.
    """
    if text is None:
        return None
    parts = text.split(",")
    try:
        red, green, blue = (int(part) for part in parts)
    except ValueError:
        red = green = blue = 0
    if min(red, green, blue) < 1:
        raise UsageError(
            f"--bands {text} is not three band numbers",
            hint="bands count from 1, such as --bands 4,3,2",
        )
    return red, green, blue


def print_json(record: Any) -> None:
    """Print one object a line, at once."""
    # Escaped to ASCII: file names need not be valid text, and no terminal code gets through.
    typer.echo(json.dumps(record, allow_nan=False))
    sys.stdout.flush()
