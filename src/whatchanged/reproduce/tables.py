"""A reproduced table: our rows, the published ones beside them, and what a reader must know."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from whatchanged.evaluate_masks_report import HEADS as MASK_HEADS
from whatchanged.reproduce.experiments import Experiment, Row
from whatchanged.reproduce.plan import Plan
from whatchanged.reproduce.published import PUBLISHED, PublishedRow
from whatchanged.reproduce.run import RULER, ScoredRun, mean_run
from whatchanged.score_table import HEADS

OURS, PRINTED, FLOOR = "ours", "published", "floor"

_NAMES = {
    "router": "router",
    **dict(
        zip(
            ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "s_m"),
            HEADS,
            strict=True,
        )
    ),
    **MASK_HEADS,
}


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        label: First cells.
        source: Whose numbers they are: `ours`, `published` or `floor`.
        values: Scores, the mean over seeds where there are several; None where undefined.
        deviations: Standard deviation over seeds with n - 1; None for one seed.
        note: What is said of the row below the table.
    """

    label: tuple[str, ...]
    source: str
    values: tuple[float | None, ...]
    deviations: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        name: Of the experiment.
        caption: What is shown, protocol and data included.
        heads: Of the label cells.
        scores: Heads of the scores.
        rows: In their order.
        remarks: What holds of the published table as a whole.
    """

    name: str
    caption: str
    heads: tuple[str, ...]
    scores: tuple[str, ...]
    rows: tuple[TableRow, ...]
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the rows, each once, in their order."""
        return tuple(dict.fromkeys(row.note for row in self.rows if row.note))

    def mark(self, row: TableRow) -> str:
        """Letter that leads from a row to its note; empty where it has none."""
        return self.letter(self.notes.index(row.note)) if row.note else ""

    @staticmethod
    def letter(place: int) -> str:
        """Letter of the note at a place."""
        return chr(ord("a") + place)

    @staticmethod
    def cells(row: TableRow, plus_minus: str = "±") -> list[str]:
        """Scores as text: two digits, with the deviation where there is one, "-" for none."""
        return [
            "-" if v is None else f"{v:.2f}" + (f" {plus_minus} {d:.2f}" if d is not None else "")
            for v, d in zip(row.values, row.deviations, strict=True)
        ]


def make_table(plan: Plan, runs: Sequence[ScoredRun]) -> Table:
    """Lay our rows, the published ones and the floors side by side."""
    experiment = plan.request.experiment
    published = PUBLISHED.get(experiment.name)
    printed = list(published.rows) if published else []
    rows: list[TableRow] = []
    own = {row.label for row in experiment.rows}
    rows += [_printed(row, experiment) for row in printed if row.label not in own]
    for row in experiment.rows:
        rows.append(_ours(row, experiment, [run for run in runs if run.variant == row.variant]))
        rows += [_printed(other, experiment) for other in printed if other.label == row.label]
    rows += _floors(experiment, runs)
    remarks = (published.note,) if published and published.note else ()
    return Table(
        experiment.name,
        caption(plan, runs),
        experiment.heads,
        tuple(_NAMES[key] for key in experiment.scores),
        tuple(rows),
        remarks,
    )


def caption(plan: Plan, runs: Sequence[ScoredRun]) -> str:
    """Say what was trained on what, how it was scored, and what it compares with."""
    request, experiment, found = plan.request, plan.request.experiment, plan.found
    configs = [run.config for run in plan.runs if run.variant in experiment.variants]
    published = PUBLISHED.get(experiment.name)
    seeds = f"seed {request.seeds[0]}"
    if len(request.seeds) > 1:
        seeds = f"seeds {', '.join(map(str, request.seeds))} (mean ± standard deviation)"
    chosen = (
        "the checkpoint best on val"
        if plan.split == "test"
        else "the last checkpoint, as there is no test split"
    )
    trained = f"{configs[0].preset}, {_count(configs[0].epochs, 'epoch')}"
    if configs[0].max_steps:
        trained = f"{configs[0].preset}, {configs[0].max_steps:,} steps"
    scored = "masks" if experiment.kind == "masks" else "pairs"
    parts = [
        f"{experiment.title} ({published.source if published else experiment.paper}).",
        f"Ours: {trained} on {found.counts['train']:,} {found.unit} of {found.name}, {seeds}"
        f"; scored on the {runs[0].n_pairs:,} {scored} of {plan.split} with {chosen}.",
    ]
    if found.left_out:
        parts.append(f"{_count(found.left_out, 'broken entry', 'broken entries')} left out.")
    if request.overrides:
        parts.append(f"Laid over the recipe: {', '.join(request.overrides)}.")
    if experiment.kind == "captions":
        parts.append(f"Scores in percent, {RULER.describe()}; greedy decoding.")
    else:
        asked = (
            "each asked its own question"
            if configs[0].task == "samples"
            else "asked for any change"
        )
        parts.append(f"One confusion over all pixels, in percent; {asked}.")
    if published and published.rows:
        parts.append(f"Published rows are quoted, of the test split of {experiment.dataset}.")
        as_printed = (
            request.preset == "paper"
            and request.epochs is None
            and not request.overrides
            and found.whole
            and found.name == experiment.dataset
        )
        if not as_printed:
            parts.append(
                "They are of another model, training or data than ours: compare differences."
            )
    return " ".join(parts)


def as_markdown(table: Table) -> str:
    """Return the table as Markdown, caption above and notes below."""
    heads = (*table.heads, "", *table.scores)
    lines = [
        f"**{table.name}.** {table.caption}",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * (len(table.heads) + 1)}{'---:|' * len(table.scores)}",
    ]
    for row in table.rows:
        source = f"{row.source} [{table.mark(row)}]" if row.note else row.source
        lines.append(f"| {' | '.join((*row.label, source, *table.cells(row)))} |")
    notes = [f"- [{table.letter(i)}] {note}" for i, note in enumerate(table.notes)]
    notes += [f"- {remark}" for remark in table.remarks]
    return "\n".join([*lines, "", *notes] if notes else lines) + "\n"


def as_latex(table: Table) -> str:
    """Return the table as a LaTeX float for the package booktabs."""
    columns = "l" * (len(table.heads) + 1) + "r" * len(table.scores)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        f"\\caption{{{_escape(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(map(_escape, (*table.heads, "", *table.scores))) + " \\\\",
        "\\midrule",
    ]
    for row in table.rows:
        source = row.source + (f"\\textsuperscript{{{table.mark(row)}}}" if row.note else "")
        cells = [*map(_escape, row.label), source, *table.cells(row, "$\\pm$")]
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [
        f"\\\\ \\textsuperscript{{{table.letter(i)}}} {_escape(note)}."
        for i, note in enumerate(table.notes)
    ]
    lines += [f"\\\\ {_escape(remark)}." for remark in table.remarks]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def as_csv(table: Table) -> str:
    """Return the table as CSV: each score with its deviation, and the note of the row."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    spread = [f"{name} deviation" for name in table.scores]
    writer.writerow([*table.heads, "source", *table.scores, *spread, "note"])
    for row in table.rows:
        numbers = ["" if v is None else f"{v:.4f}" for v in (*row.values, *row.deviations)]
        writer.writerow([*row.label, row.source, *numbers, row.note])
    return stream.getvalue()


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain values."""
    keys = table.scores
    return {
        "table": table.name,
        "caption": table.caption,
        "rows": [
            {
                "label": list(row.label),
                "source": row.source,
                "scores": dict(zip(keys, row.values, strict=True)),
                "deviations": dict(zip(keys, row.deviations, strict=True)),
                "note": row.note,
            }
            for row in table.rows
        ],
        "remarks": list(table.remarks),
    }


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one}" if n == 1 else f"{n} {many or one + 's'}"


def _ours(row: Row, experiment: Experiment, runs: Sequence[ScoredRun]) -> TableRow:
    read = [run.read(row) for run in runs]
    if row.reading == "rho":  # a ratio: of the means over seeds, as `evaluate` tells it
        read = [mean_run(runs).read(row)]
    values, deviations = [], []
    for key in experiment.scores:
        known = [number for one in read if (number := one[key]) is not None]
        whole = bool(known) and len(known) == len(read)
        values.append(fmean(known) if whole else None)
        deviations.append(stdev(known) if whole and len(known) > 1 else None)
    return TableRow(row.label, OURS, tuple(values), tuple(deviations))


def _printed(row: PublishedRow, experiment: Experiment) -> TableRow:
    return TableRow(row.label, PRINTED, row.values, (None,) * len(experiment.scores), row.note)


def _floors(experiment: Experiment, runs: Sequence[ScoredRun]) -> list[TableRow]:
    """Floors of every part of the split that the rows have, labelled as the rows are."""
    first = len(experiment.heads) - 1
    labels = {row.part: row.label[:first] for row in experiment.rows}
    if len(labels) == 1:
        labels = dict.fromkeys(labels, ("",) * first)
    return [
        TableRow(
            (name, *before) if len(labels) == 1 else (*before, name),
            FLOOR,
            tuple(parts[part].get(key) for key in experiment.scores),
            (None,) * len(experiment.scores),
        )
        for part, before in labels.items()
        for name, parts in runs[0].floors.items()
    ]


_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "_%&#{}$"},
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "±": "$\\pm$",
        "✓": "yes",
        "✗": "no",
    }
)


def _escape(text: str) -> str:
    """Make text safe for LaTeX; signs that its fonts lack become words."""
    return text.translate(_LATEX).replace("S*m", "$S_m^*$")
