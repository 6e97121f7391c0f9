"""``whatchanged reproduce``: a table or figure of the papers by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whatchanged import console
from whatchanged.cli_options import Debug, Json, Quiet
from whatchanged.errors import UsageError

if TYPE_CHECKING:
    from whatchanged.reproduce.recipes import Preset


def reproduce(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="Such as hisem-table-3, see docs/reproduce.md."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values laid over the recipe.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data set.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0..4 or 0,3: one run each.")] = "0",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; else the recipe's.")
    ] = None,
    preset: Annotated[str, typer.Option(help="small (runs on a CPU) or paper.")] = "small",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of runs and results.")] = Path(
        "reproduced"
    ),
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    timed: Annotated[
        bool, typer.Option("--time", help="Train three steps of what was never run, to know hours.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train, score and write a table of the papers, published rows beside ours."""
    console.configure(quiet=quiet, debug=debug)
    if data is None:
        raise UsageError("no data set given", hint="--data DIR; `whatchanged data --list`")
    presets: dict[str, Preset] = {"small": "small", "paper": "paper"}
    if preset not in presets:
        raise UsageError(f"--preset {preset} is unknown", hint=f"one of {', '.join(presets)}")
    from whatchanged.reproduce import plan as planning
    from whatchanged.reproduce.command import carry_out, parse_seeds
    from whatchanged.reproduce.experiments import experiment

    request = planning.Request(
        *(experiment(table), data, out, parse_seeds(seeds), presets[preset], epochs),
        overrides=tuple(overrides or ()),
    )
    made = planning.make_plan(request, timed=timed)
    # With --json stdout holds one object: the plan, or the table.
    if plan and as_json:
        typer.echo(json.dumps(planning.to_json(made)))
        return
    typer.echo(console.printable(planning.as_text(made)), err=as_json)
    if plan:
        return
    from whatchanged.reproduce.tables import as_markdown, to_json

    results = carry_out(made)
    if as_json:
        told = {"table": table} if results.table is None else to_json(results.table)
        record = {
            **told,
            "folder": str(results.folder),
            "pictures": [str(p) for p in results.pictures],
        }
        typer.echo(json.dumps(record, allow_nan=False))
        return
    if results.table is not None:
        typer.echo("\n" + console.printable(as_markdown(results.table)))
    typer.echo(console.printable(str(results.folder)))
