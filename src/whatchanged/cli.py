"""The command ``whatchanged``: thin functions over the library.

Every import of the library stands inside the command that needs it, so that
``whatchanged --help`` loads neither torch nor GDAL. Results go to stdout, everything
else to stderr; exit codes are those of :data:`whatchanged.errors.EXIT_CODES`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whatchanged import (
    __version__,
    cli_ask,
    cli_data,
    cli_export,
    cli_prepare,
    cli_reproduce,
    console,
)
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
from whatchanged.errors import UsageError, exit_code

if TYPE_CHECKING:
    from whatchanged.errors import WhatchangedError
    from whatchanged.evaluate import Route
    from whatchanged.predict import Description, PairPaths
    from whatchanged.score import Ruler

app = typer.Typer(
    name="whatchanged",
    help="Say in words what changed between two aerial or satellite photographs of one place.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="List, fetch and verify model weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
app.command()(cli_data.data)
app.add_typer(cli_prepare.app, name="prepare")

Name = Annotated[str, typer.Argument(metavar="NAME", help="As in `whatchanged weights list`.")]
ProtocolOption = Annotated[str, typer.Option("--protocol", help="ids (as published) or words.")]
VocabularyOption = Annotated[
    str, typer.Option("--vocabulary", help="Source of ids: all-splits (as published) or train.")
]
MeteorOption = Annotated[
    str, typer.Option("--meteor", help="exact (no Java), java (the jar), or none.")
]


def main() -> None:
    """Entry point of the command: run it and leave with its exit code."""
    raise SystemExit(console.run(app))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"whatchanged {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def describe(
    before: Annotated[
        str,
        typer.Argument(metavar="BEFORE", help="Earlier photograph; or a folder or CSV of pairs."),
    ],
    after: Annotated[
        str | None, typer.Argument(metavar="AFTER", help="Later photograph of the same place.")
    ] = None,
    model: Model = "hisem-small",
    bands: Bands = None,
    align: Align = False,
    beam: Annotated[int, typer.Option(min=1, help="Captions kept while decoding.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder for the products of the run.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also draw what the words look at; needs --out.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what changed between two photographs, or between the pairs of a folder or CSV list."""
    console.configure(quiet=quiet, debug=debug)
    if explain and out is None:
        raise UsageError("--explain draws pictures", hint="say where to: --out DIR")
    rgb = parse_bands(bands)

    from whatchanged import describing

    if after is not None:
        description = describing.describe(
            before, after, model=model, bands=rgb, align=align, beam=beam, explain=explain, out=out
        )
        _print_descriptions([description], as_json=as_json, named=False)
        return
    pairs = describing.find_pairs(before)
    failures = _Failures()
    descriptions = describing.describe_many(
        pairs,
        model=model,
        bands=rgb,
        align=align,
        beam=beam,
        explain=explain,
        out=out,
        failures=failures,
    )
    tracked = console.track(descriptions, "describing", total=len(pairs))
    _print_descriptions(tracked, as_json=as_json, named=True)
    _finish_pairs(failures, len(pairs))


class _Failures(list["tuple[PairPaths, WhatchangedError]"]):
    """Pairs that could not be described, each told on stderr as soon as it is known."""

    def append(self, failure: tuple[PairPaths, WhatchangedError]) -> None:
        paths, error = failure
        text = f"error: {paths.before}, {paths.after}: {error}"
        typer.echo(console.printable(text), err=True)
        super().append(failure)


def _finish_pairs(failures: _Failures, n_pairs: int) -> None:
    """Say how many pairs were left out, and leave with the code of the first failure."""
    if failures:
        typer.echo(f"{len(failures)} of {n_pairs} pairs could not be described", err=True)
        raise typer.Exit(exit_code(failures[0][1]))


def _print_descriptions(descriptions: Iterable[Description], *, as_json: bool, named: bool) -> None:
    """Print one line a pair as soon as it is known; warnings go to stderr."""
    for description in descriptions:
        record = description.to_json()
        for warning in record["warnings"]:
            where = f"{record['before']}: " if named else ""
            typer.echo(console.printable(f"warning: {where}{warning}"), err=True)
        if as_json:
            print_json(record)
            continue
        line = f"{record['caption']}    changed {record['changed_probability']:.2f}"
        if named:
            line = f"{record['before']}  {record['after']}  {line}"
        typer.echo(console.printable(line))
        sys.stdout.flush()


app.command()(cli_ask.ask)
app.command()(cli_ask.chat)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values laid over the file.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option("--resume/--no-resume", help="Go on where the run's folder stopped, or not."),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="List broken entries of the data and go on.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model as a YAML file says and print the folder of its best checkpoint."""
    console.configure(quiet=quiet, debug=debug)
    values = list(overrides or [])
    if resume is not None:
        values.append(f"resume={str(resume).lower()}")
    if skip_broken:
        values.append("data.skip_broken=true")
    from whatchanged.train import run

    typer.echo(console.printable(str(run.train(config, values))))


@app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="JSON object: file name to caption.")
    ],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="Captions in LEVIR-CC's JSON, all splits.")
    ],
    protocol: ProtocolOption = "ids",
    vocabulary: VocabularyOption = "all-splits",
    split: Annotated[str, typer.Option(help="Split that is scored: train, val or test.")] = "test",
    meteor: MeteorOption = "exact",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score captions made elsewhere under a named protocol, beside the floors."""
    console.configure(debug=debug)
    from whatchanged.score import score_file
    from whatchanged.score_table import score_table

    ruler = _ruler(protocol, vocabulary, meteor)
    scored = score_file(predictions, references, split=split, ruler=ruler)
    if as_json:
        print_json(scored.to_json())
    else:
        typer.echo(score_table(scored))


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Weights or folder; several are seeds of one."),
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of a data set, or file of samples.")
    ],
    split: Annotated[str, typer.Option(help="Split asked about: train, val or test.")] = "test",
    protocol: ProtocolOption = "ids",
    vocabulary: VocabularyOption = "all-splits",
    meteor: MeteorOption = "exact",
    route: Annotated[
        str, typer.Option(help="What chooses the path: predicted, label or both.")
    ] = "predicted",
    beam: Annotated[int, typer.Option(min=1, help="Captions kept while decoding.")] = 1,
    size: Annotated[
        int, typer.Option(min=32, help="Side at which masks are compared, pixels.")
    ] = 256,
    windows: Annotated[
        bool | None,
        typer.Option(
            "--windows/--reduce",
            help="Cut larger pictures into windows, or reduce them; as is usual for the set.",
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken entries out and say which.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.json, table.txt and pairs.csv.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a model's captions or masks on a split of a data set, beside the floors."""
    console.configure(quiet=quiet, debug=debug)
    routes: dict[str, tuple[Route, ...]] = {
        "predicted": ("predicted",),
        "label": ("label",),
        "both": ("predicted", "label"),
    }
    if route not in routes:
        raise UsageError(f"--route {route} is unknown", hint=f"one of {', '.join(routes)}")
    ruler = _ruler(protocol, vocabulary, meteor)
    from whatchanged import evaluate_masks_report, evaluate_report
    from whatchanged.evaluate import evaluate_captions
    from whatchanged.evaluate_masks import MASK_FAMILIES, evaluate_masks, family_of

    if family_of(models[0]) in MASK_FAMILIES:
        if route != "predicted":
            raise UsageError(f"--route {route} is for captions; masks have no image router")
        masks = evaluate_masks(
            models, data, split, size=size, windows=windows, skip_broken=skip_broken
        )
        _tell_evaluation(evaluate_masks_report, masks, out, as_json)
        return
    captions = evaluate_captions(
        models,
        data,
        split,
        routes=routes[route],
        ruler=ruler,
        beam=beam,
        skip_broken=skip_broken,
    )
    _tell_evaluation(evaluate_report, captions, out, as_json)


def _tell_evaluation(module: Any, report: Any, out: Path | None, as_json: bool) -> None:
    if out is not None:
        module.write_report(report, out)
    if as_json:
        print_json(module.to_json(report))
    else:
        typer.echo(console.printable(module.as_text(report)))


def _ruler(protocol: str, vocabulary: str, meteor: str) -> Ruler:
    from whatchanged.score import Ruler

    choices: Any = {"protocol": protocol, "vocabulary": vocabulary, "meteor": meteor}
    return Ruler(**choices)  # which refuses what it does not know


app.command()(cli_export.export)
app.command()(cli_reproduce.reproduce)


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    n: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 8,
    seed: Annotated[int, typer.Option(help="Same seed, same scenes.")] = 0,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = 256,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw georeferenced scenes with known changes as a data set; print its captions file."""
    console.configure(quiet=quiet, debug=debug)
    from whatchanged.data.synthetic import write_scenes

    write_scenes(folder, n=n, size=size, seed=seed)
    typer.echo(console.printable(str(folder / "captions.json")))


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Show versions, programs, memory and weights, and how to get what is missing."""
    console.configure(debug=debug)
    from whatchanged import doctor as checks

    report = checks.examine()
    if as_json:
        print_json(checks.to_json(report))
    else:
        typer.echo(checks.as_text(report))
    if not report.ready:
        raise typer.Exit(1)


@weights_app.command("list")
def weights_list(as_json: Json = False, debug: Debug = False) -> None:
    """Show every named weights: size, state on this machine, source and licence."""
    console.configure(debug=debug)
    from whatchanged.models import weights

    for status in weights.list_weights():
        if as_json:
            path = str(status.path) if status.path else None
            print_json({**asdict(status), "path": path})
            continue
        size = "" if status.size is None else f"{status.size / 1e6:.1f} MB"
        line = f"{status.name:<24}{status.state:<9}{size:>9}  {status.source}; {status.licence}"
        typer.echo(console.printable(line))


@weights_app.command("fetch")
def weights_fetch(name: Name, quiet: Quiet = False, debug: Debug = False) -> None:
    """Bring named weights to this machine and print where they are."""
    console.configure(quiet=quiet, debug=debug)
    from whatchanged.models import weights

    with console.progress(f"fetching {name}", total=1.0) as advance:
        path = weights.fetch(name, progress=console.as_share(advance))
    typer.echo(console.printable(str(path)))


@weights_app.command("verify")
def weights_verify(name: Name, debug: Debug = False) -> None:
    """Compare weights on this machine with their recorded sha256."""
    console.configure(debug=debug)
    from whatchanged.models import weights

    weights.verify(name)
    typer.echo(f"{console.printable(name)}: intact")
