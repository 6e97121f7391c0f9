"""One HTML page with everything an experiment made; it needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from whatchanged.files import write_bytes
from whatchanged.reproduce.pictures import DrawnPicture
from whatchanged.reproduce.plan import Plan, as_text
from whatchanged.reproduce.tables import Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left }
td.n, th.n { text-align: right }
tr.ours { background: #eef6ee; font-weight: 600 } tr.floor { color: #666 }
figure { margin: 2rem 0 } img { max-width: 100%; height: auto; border: 1px solid #ddd }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto } .scroll { overflow-x: auto }
"""


def write_page(
    plan: Plan, table: Table | None, pictures: Sequence[DrawnPicture], path: Path
) -> None:
    """Write table, pictures and plan as one page, in one move."""
    experiment = plan.request.experiment
    title = f"{experiment.name}: {experiment.title}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if table is not None:
        parts.append(_table(table))
    for picture in pictures:
        data = base64.b64encode(picture.path.read_bytes()).decode()
        words = escape(picture.title)
        parts.append(
            f'<figure><img alt="{words}" src="data:image/png;base64,{data}">'
            f"<figcaption>{words}</figcaption></figure>"
        )
    parts.append(f"<h2>Runs</h2><pre>{escape(as_text(plan))}</pre>")
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )
    write_bytes(path, page.encode(errors="backslashreplace"))


def _table(table: Table) -> str:
    heads = [f"<th>{escape(head)}</th>" for head in (*table.heads, "")]
    heads += [f'<th class="n">{escape(score)}</th>' for score in table.scores]
    rows = []
    for row in table.rows:
        mark = f" <sup>{table.mark(row)}</sup>" if row.note else ""
        cells = [f"<td>{escape(cell)}</td>" for cell in row.label]
        cells.append(f"<td>{row.source}{mark}</td>")
        cells += [f'<td class="n">{cell}</td>' for cell in table.cells(row)]
        rows.append(f'<tr class="{row.source}">{"".join(cells)}</tr>')
    notes = [
        f"<li><sup>{table.letter(i)}</sup> {escape(n)}</li>" for i, n in enumerate(table.notes)
    ]
    notes += [f"<li>{escape(remark)}</li>" for remark in table.remarks]
    return (
        f'<p>{escape(table.caption)}</p><div class="scroll"><table><thead><tr>{"".join(heads)}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div><ul>{''.join(notes)}</ul>"
    )
