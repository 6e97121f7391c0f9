"""`whatchanged data`: the published sets, and whether a folder holds all of one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whatchanged import console
from whatchanged.cli_options import Debug, Json, print_json
from whatchanged.errors import DatasetError, UsageError, exit_code

if TYPE_CHECKING:
    from whatchanged.data.integrity import CaptionCount, IntegrityReport, Problems, SplitCount
    from whatchanged.data.set_types import KnownSet


def data(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of a data set.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Which set it should be.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Open every picture instead of some of each split.")
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the sets that are known and where they come from.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check that a folder holds a published data set, all of it; or list those known."""
    console.configure(debug=debug)
    from whatchanged.data.integrity import check, identify
    from whatchanged.data.known_sets import KNOWN_SETS, known_set, missing

    if listing:
        _print_sets(KNOWN_SETS, as_json=as_json)
        return
    if folder is None:
        raise UsageError(
            "no data set given", hint="whatchanged data DIR, or whatchanged data --list"
        )
    known = identify(folder) if name is None else known_set(name)
    if known is None:
        reason = "holds no data set that is known" if folder.is_dir() else "does not exist"
        raise missing(folder, reason)
    report = check(folder, known, every=every)
    if as_json:
        print_json(to_json(report))
    else:
        typer.echo(console.printable(as_text(report)))
    if not report.intact:
        raise typer.Exit(exit_code(DatasetError("")))


def to_json(report: IntegrityReport) -> dict[str, Any]:
    """Return a report as plain values."""
    known = report.known
    return {
        "name": known.name,
        "title": known.title,
        "root": str(report.root),
        "intact": report.intact,
        "splits": {split.split: asdict(split) for split in report.splits},
        "captions": None if report.captions is None else asdict(report.captions),
        "missing": asdict(report.missing),
        "broken": asdict(report.broken),
        "opened": report.opened,
        "licence": known.licence,
        "source": known.source,
        "citation": known.citation,
        "notes": list(known.notes),
    }


def as_text(report: IntegrityReport) -> str:
    """Return a report as lines to read, the verdict last."""
    known = report.known
    lines = [f"{known.title} in {report.root}", ""]
    lines += [_split_line(split, published=bool(known.source)) for split in report.splits]
    if report.captions is not None:
        lines += _caption_lines(report.captions, known)
    size = f" of {known.size} x {known.size} pixels" if known.size else ""
    lines.append(f"{'opened':<10}{report.opened:,} pairs{size}")
    lines += _problem_lines("missing", report.missing, "files")
    lines += _problem_lines("broken", report.broken, "entries or files")
    facts = {"licence": known.licence, "source": known.source, "cite": known.citation}
    rows = [f"{what:<10}{text}" for what, text in facts.items() if text]
    rows += [f"{'note':<10}{note}" for note in known.notes]
    lines += ["", *rows] if rows else []
    return "\n".join([*lines, "", "intact" if report.intact else "not intact"])


def _split_line(split: SplitCount, *, published: bool) -> str:
    if split.published is None:
        text = f"found {split.found:,} of {split.listed:,} listed {split.split} pairs"
        text += "; published count not known" if published else ""
    else:
        text = f"found {split.found:,} of {split.published:,} {split.split} pairs"
        text += f"; {split.listed:,} are listed" if split.listed != split.published else ""
    return f"{split.split:<10}{text}"


def _caption_lines(found: CaptionCount, known: KnownSet) -> list[str]:
    captions = f"{found.captions:,}" + (f" of {known.captions:,}" if known.captions else "")
    words = f"{found.words:,}" + (f" of {known.words:,}" if known.words else "")
    pairs = ", ".join(f"{number} a pair in {n:,}" for number, n in found.per_pair.items())
    return [
        f"{'captions':<10}{captions}; {pairs} pairs; {words} words",
        f"{'changed':<10}{found.changed:,} of {sum(found.per_pair.values()):,} pairs",
    ]


def _problem_lines(what: str, problems: Problems, unit: str) -> list[str]:
    if not problems.count:
        return []
    lines = [f"{what:<10}{problems.count:,} {unit}", *(f"  {line}" for line in problems.shown)]
    return [*lines, f"  and {problems.left_out:,} more"] if problems.left_out else lines


def _print_sets(sets: tuple[KnownSet, ...], *, as_json: bool) -> None:
    for known in sets:
        counts = {split: known.counts[split] for split in known.splits}
        if as_json:
            keys = ("name", "title", "kind", "licence", "source", "citation", "use", "tree")
            record = {key: getattr(known, key) for key in keys}
            print_json({**record, "counts": counts, "total": known.total})
            continue
        pairs = ", ".join(f"{n:,} {split}" for split, n in counts.items() if n is not None)
        pairs = pairs or (f"{known.total:,} pairs in all" if known.total else "")
        typer.echo(f"{known.name:<12}{known.title}{f': {pairs}' if pairs else ''}")
        facts = {"source": known.source, "licence": known.licence}
        for what, text in facts.items():
            if text:
                typer.echo(f"{'':<12}{what}: {text}")
