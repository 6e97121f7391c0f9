"""From a table's name to a folder of results: plan, train, score, write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from whatchanged.errors import UsageError
from whatchanged.reproduce import tables
from whatchanged.reproduce.plan import Plan, make_plan
from whatchanged.reproduce.run import score_runs, train_runs


@dataclass(frozen=True)
class Results:
    """What a table left behind.

    Attributes:
        folder: Holds `table.md`, `table.tex`, `table.csv`, `table.json`, pictures and
            `index.html`.
        table: The table; None for experiments that are pictures alone.
        pictures: Picture files.
    """

    folder: Path
    table: tables.Table | None
    pictures: tuple[Path, ...]


def carry_out(plan: Plan) -> Results:
    """Train what is left of a plan, score it, and write table and pictures.

    Raises:
        WhatchangedError: As training and evaluation.
    """
    from whatchanged.reproduce.page import write_page
    from whatchanged.reproduce.pictures import draw_pictures

    train_runs(plan)
    runs = score_runs(plan)
    experiment = plan.request.experiment
    folder = plan.request.out / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    table = tables.make_table(plan, runs) if experiment.kind != "pictures" else None
    if table is not None:
        record = json.dumps(tables.to_json(table), indent=1, allow_nan=False) + "\n"
        for name, text in (
            ("table.md", tables.as_markdown(table)),
            ("table.tex", tables.as_latex(table)),
            ("table.csv", tables.as_csv(table)),
            ("table.json", record),
        ):
            (folder / name).write_text(text, encoding="utf-8")
    pictures = draw_pictures(plan, runs, folder)
    write_page(make_plan(plan.request), table, pictures, folder / "index.html")
    return Results(folder, table, tuple(picture.path for picture in pictures))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds: `0`, `0,2,5`, or `0..4` for 0 to 4.

    Raises:
        UsageError: Something else, or a seed twice.
    """
    seeds: list[int] = []
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", piece)
        if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
            raise UsageError(f"--seeds {text} are no seeds", hint="such as --seeds 0..4 or 0,3")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"--seeds {text} names a seed twice")
    return tuple(seeds)
