"""The commands ``whatchanged prepare ...``: data sets on disk turned into ReasonCD's samples."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whatchanged import console

if TYPE_CHECKING:
    from whatchanged.data.prepared import Prepared

app = typer.Typer(help="Turn data sets into samples with wishes.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of the data set.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same samples.")]
Force = Annotated[bool, typer.Option("--force", help="Make it anew where it is finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

_logger = logging.getLogger(__name__)


@app.command()
def bcdd(
    source: Source,
    out: Out,
    recipe: Annotated[
        str,
        typer.Option(help="How tiles are divided: random-SEED, blocks-SEED, or lists (of tiles)."),
    ] = "random-0",
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Cut BCDD's scene into tiles of 256 pixels, or take tiles as they are."""
    console.configure(quiet=quiet, debug=debug)
    from whatchanged.data.bcdd import prepare_bcdd

    _tell(prepare_bcdd(source, out, recipe=recipe, force=force))


@app.command()
def second(
    source: Source,
    out: Out,
    rule: Annotated[
        str, typer.Option(help="Map a class is looked up in: before, after or either.")
    ] = "before",
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Decode SECOND's palettes and ask every pair with wishes for its classes."""
    console.configure(quiet=quiet, debug=debug)
    from whatchanged.data.second import prepare_second

    known_or_refused: Any = rule
    _tell(prepare_second(source, out, rule=known_or_refused, seed=seed, force=force))


@app.command()
def pairs(
    source: Source,
    out: Out,
    seed: Seed = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Pairs of each split, the first ones.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ask pairs in LEVIR-CC's layout with wishes that their land cover meets, and others."""
    console.configure(quiet=quiet, debug=debug)
    from whatchanged.data.pairs import prepare_pairs

    _tell(prepare_pairs(source, out, seed=seed, limit=limit, force=force))


def _tell(prepared: Prepared) -> None:
    """Print the folder; counts and whether it was there already are notes."""
    if not prepared.fresh:
        _logger.info("%s is finished; --force makes it anew", prepared.folder)
    for split, count in prepared.record.get("counts", {}).items():
        told = count if isinstance(count, int) else ", ".join(f"{n} {k}" for k, n in count.items())
        _logger.info("%s: %s", split, told)
    typer.echo(console.printable(str(prepared.folder)))
