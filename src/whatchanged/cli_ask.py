"""``whatchanged ask`` and ``whatchanged chat``: wishes about a pair, in a row or in a loop."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whatchanged import console
from whatchanged.cli_options import (
    Align,
    Bands,
    Debug,
    Json,
    Model,
    Quiet,
    parse_bands,
    print_json,
)
from whatchanged.errors import WeightsUnavailableError, WhatchangedError

if TYPE_CHECKING:
    from whatchanged.ask_answer import WishResult

log = logging.getLogger(__name__)

Before = Annotated[str, typer.Argument(metavar="BEFORE", help="Earlier photograph.")]
After = Annotated[str, typer.Argument(metavar="AFTER", help="Later photograph of the same place.")]
Threshold = Annotated[float, typer.Option(help="Least probability of the mask.")]
Force = Annotated[
    bool,
    typer.Option("--force-target", help="Draw a mask even where the model finds nothing."),
]
Out = Annotated[Path | None, typer.Option(help="Folder for masks, polygons and the report.")]
Explain = Annotated[
    bool, typer.Option("--explain", help="Also give a reason usual for such a wish; no evidence.")
]

# "What changed?" and its like: no wish in particular, so a sentence answers it best.
_PAIR = r"(?:the |these )?(?:two |both )?(?:images|pictures|photos|photographs|dates)"
_PLACE = rf"(?: here| there| overall| in this (?:place|scene|area|picture)| between {_PAIR})?"
_DESCRIBE = re.compile(
    rf"(?:(?:so|and|now|then|please|can you|could you|tell me),? )*(?:"
    rf"what(?:'s|s| is| has| have| did| was)?(?: been)? "
    rf"(?:changed|change|different|the differences?|happened){_PLACE}"
    rf"|(?:describe|summari[sz]e|caption)(?: (?:it|this|them|everything|(?:all )?(?:the )?"
    rf"(?:changes?|scene|pair|differences?|pictures?|images?|photographs?)))?{_PLACE})",
    re.IGNORECASE,
)
_ENDS = {"", "quit", "exit"}


def ask(
    before: Before,
    after: After,
    wishes: Annotated[
        list[str], typer.Argument(metavar="WISH", help='What to look for, such as "new houses".')
    ],
    model: Model = "reasoncd-small",
    bands: Bands = None,
    align: Align = False,
    threshold: Threshold = 0.5,
    force_target: Force = False,
    explain: Explain = False,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the changes that a wish means: an answer, a mask and polygons for every wish."""
    console.configure(quiet=quiet, debug=debug)
    rgb = parse_bands(bands)
    from whatchanged import asking

    load_model(model)
    results = asking.ask_many(
        before,
        after,
        wishes,
        model=model,
        bands=rgb,
        align=align,
        threshold=threshold,
        force_target=force_target,
        explain=explain,
        out=out,
    )
    warned: set[str] = set()  # what concerns the pair is said once, not once a wish
    for result in results:
        _warn(result.warnings, warned)
        if as_json:
            print_json(result.to_json())
        else:
            _print(result, named=len(results) > 1)
    if out is not None:
        log.info("products in %s", out)


def chat(
    before: Before,
    after: After,
    model: Model = "reasoncd-small",
    bands: Bands = None,
    align: Align = False,
    threshold: Threshold = 0.5,
    force_target: Force = False,
    explain: Explain = False,
    out: Out = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ask about a pair in a loop; "what changed?" is answered by a caption."""
    console.configure(quiet=quiet, debug=debug)
    rgb = parse_bands(bands)
    from whatchanged import asking, describing
    from whatchanged.ask_answer import check_threshold
    from whatchanged.ask_products import AskWriter

    check_threshold(threshold)
    load_model(model)
    warned: set[str] = set()

    def answer(session: asking.AskSession, line: str, writer: AskWriter | None) -> None:
        if is_describing(line):
            description = describing.describe(before, after, bands=rgb, align=align)
            _warn(description.warnings, warned)
            typer.echo(console.printable(description.caption))
            return
        result = session.ask(line, threshold=threshold, force_target=force_target, explain=explain)
        if writer is not None:
            result = writer.add(result)
        _warn(result.warnings, warned)
        _print(result, named=False)

    with nullcontext() if out is None else AskWriter(out, None) as writer:
        session = asking.open_session(before, after, model=model, bands=rgb, align=align)
        log.info('ask for changes, such as "new houses", or "what changed?"; an empty line ends')
        for line in _lines():
            try:
                answer(session, line, writer)
            except WhatchangedError as error:  # of this line alone: the next may be better
                typer.echo(console.printable(f"error: {error}"), err=True)
            except KeyboardInterrupt:  # earlier answers are kept: their report is still written
                break
            sys.stdout.flush()
    if out is not None:
        log.info("products in %s", out)


def is_describing(line: str) -> bool:
    """Whether a line asks what changed at all, and for nothing in particular."""
    plain = " ".join(re.sub(r"[?!.]+", " ", line.replace("\u2019", "'")).split())
    return _DESCRIBE.fullmatch(plain) is not None


def load_model(model: str) -> None:
    """Load a model for wishes; where the base of its language model is missing, fetch it first.

    Raises:
        WeightsUnavailableError: The model is not on this machine, or the base cannot be fetched.
        CheckpointError: The model is damaged.
    """
    from whatchanged import asking
    from whatchanged.models import weights

    try:
        asking.load_ask_model(model)
    except WeightsUnavailableError:
        base = asking.language_base(model)
        if base is None:
            raise
        log.info("fetching %s, the language model of %s; this happens once", base, model)
        with console.progress(f"fetching {base}", total=1.0) as advance:
            weights.fetch(base, progress=console.as_share(advance))
        asking.load_ask_model(model)


def _lines() -> Iterator[str]:
    """Yield what is typed or piped in, up to an empty line, `quit` or the end."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # not every Python has it
            import readline  # noqa: F401  input() then edits lines and remembers them

        def read() -> str:
            return input("> ")
    else:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")

        def read() -> str:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line

    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):  # leaving at the prompt is no accident
            return
        if line.lower() in _ENDS:
            return
        yield line


def _warn(warnings: Sequence[str], warned: set[str]) -> None:
    for warning in warnings:
        if warning not in warned:
            typer.echo(console.printable(f"warning: {warning}"), err=True)
    warned.update(warnings)


def _print(result: WishResult, *, named: bool) -> None:
    """Print one line: the answer and, where there is a mask, how much it covers."""
    line = f"{result.wish}: {result.answer}" if named else result.answer
    if result.has_mask:
        line += f"    {result.changed_fraction:.1%} of the picture"
        if result.area_m2 is not None:
            line += f", {result.area_m2:,.0f} m2"
        line += f", {result.n_polygons} place{'s' * (result.n_polygons != 1)}"
    typer.echo(console.printable(line))
    sys.stdout.flush()
