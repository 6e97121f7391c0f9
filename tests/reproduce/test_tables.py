"""What a table says in Markdown, LaTeX and CSV, from runs whose numbers are known."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from whatchanged.reproduce import tables
from whatchanged.reproduce.plan import Plan, Request, make_plan
from whatchanged.reproduce.run import ScoredRun
from whatchanged.score import PARTS, SCORES

Ask = Callable[..., Request]


def scored(variant: str, seed: int, value: float, floor: float = 50.0) -> ScoredRun:
    def whole(number: float) -> dict[str, dict[str, float | None]]:
        part: dict[str, float | None] = {"router": 90.0, **dict.fromkeys(SCORES, number)}
        return {name: dict(part) for name in PARTS}

    routes = {"predicted": whole(value), "label": whole(value + 5)}
    routes["label"]["overall"]["router"] = 100.0
    return ScoredRun(variant, seed, Path(), Path(), routes, {"constant": whole(floor)}, 4)


@pytest.fixture
def plan(ask_for: Ask, tmp_path: Path) -> Plan:
    return make_plan(ask_for("hisem-table-4", tmp_path, (0, 1)))


@pytest.fixture
def table(plan: Plan) -> tables.Table:
    values = {"without-bdam": 10.0, "dfc-alone": 20.0, "bdci-alone": 30.0, "full": 40.0}
    runs = [scored(name, seed, v + 2 * seed) for name, v in values.items() for seed in (0, 1)]
    return tables.make_table(plan, runs)


def test_rows_lie_beside_the_published_ones(table: tables.Table) -> None:
    assert [(row.label, row.source) for row in table.rows] == [
        (("✗", "✗"), "ours"),
        (("✗", "✗"), "published"),
        (("✓", "✗"), "ours"),
        (("✓", "✗"), "published"),
        (("✗", "✓"), "ours"),
        (("✗", "✓"), "published"),
        (("✓", "✓"), "ours"),
        (("✓", "✓"), "published"),
        (("constant", ""), "floor"),
    ]
    assert table.rows[0].values == (11.0,) * 8
    assert table.rows[0].deviations == pytest.approx((2**0.5,) * 8)
    assert table.rows[1].values[-1] == 75.54


def test_the_caption_names_protocol_data_and_seeds(table: tables.Table, pairs: Path) -> None:
    for words in (
        "HiSem, Table IV, section IV-F2",
        f"hisem-small, 1 epoch on 8 pairs of {pairs.name}, seeds 0, 1 (mean ± standard deviation)",
        "scored on the 4 pairs of test with the checkpoint best on val",
        "protocol ids, vocabulary of all splits; METEOR 1.5 with exact matches",
        "Published rows are quoted, of the test split of LEVIR-CC.",
        "compare differences",
        "model.width=32",
    ):
        assert words in table.caption


def test_markdown(table: tables.Table) -> None:
    lines = tables.as_markdown(table).splitlines()
    assert lines[0].startswith("**hisem-table-4.** Sublayers of BDAM")
    assert lines[2] == (
        "| DFC | BDCI |  | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | METEOR | ROUGE-L | CIDEr-D | S*m |"
    )
    assert lines[3] == "|---|---|---|" + "---:|" * 8
    assert lines[4] == "| ✗ | ✗ | ours |" + " 11.00 ± 1.41 |" * 8
    assert lines[5] == (
        "| ✗ | ✗ | published | 83.31 | 75.43 | 68.40 | 62.70 | 38.02 | 72.33 | 129.09 | 75.54 |"
    )
    assert lines[12] == "| constant |  | floor |" + " 50.00 |" * 8
    assert len({line.count("|") for line in lines[2:13]}) == 1


def test_latex(table: tables.Table) -> None:
    text = tables.as_latex(table)
    lines = text.splitlines()
    assert "\\begin{tabular}{lllrrrrrrrr}" in lines
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert lines.count(rule) == 1
    assert "no & no & ours" + " & 11.00 $\\pm$ 1.41" * 8 + " \\\\" in lines
    assert "$S_m^*$" in text and "model.max\\_len" not in text
    body = text.split("\\midrule")[1].split("\\bottomrule")[0]
    assert {line.count(" & ") for line in body.strip().splitlines()} == {10}
    assert not set("✓✗±") & set(text)


def test_latex_escapes_what_it_would_read() -> None:
    assert tables._escape("a_b 5% {x} $1 \\y ~ ^") == (
        "a\\_b 5\\% \\{x\\} \\$1 \\textbackslash{}y \\textasciitilde{} \\textasciicircum{}"
    )


def test_csv(table: tables.Table) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(table))))
    assert len(rows) == 9
    assert rows[0]["source"] == "ours" and rows[0]["S*m"] == "11.0000"
    assert rows[0]["S*m deviation"] == "1.4142" and rows[1]["S*m deviation"] == ""


def test_notes_are_marked_once(ask_for: Ask, tmp_path: Path) -> None:
    plan = make_plan(ask_for("hisem-table-1", tmp_path))
    table = tables.make_table(plan, [scored("full", 0, 12.0)])
    text = tables.as_markdown(table)
    assert text.count("[a]") == 2 and "| Chareption | published [a] |" in text
    assert "- [a] S*m printed as 77.58" in text
    assert [row.label[0] for row in table.rows][-3:] == ["HiSem", "HiSem", "constant"]
    assert table.rows[-3].deviations == (None,) * 8  # one seed has no deviation
    assert "Laid over" in table.caption and "seed 0;" in table.caption
    assert "\\textsuperscript{a}" in tables.as_latex(table)


def test_routing_tables_read_gain_and_rho_and_have_floors_of_every_part(
    ask_for: Ask, tmp_path: Path
) -> None:
    plan = make_plan(ask_for("hisem-table-6", tmp_path))
    table = tables.make_table(plan, [scored("full", 0, 12.0)])
    ours = {row.label: row for row in table.rows if row.source == "ours"}
    assert table.scores[0] == "router"
    assert ours["all", "Improvement"].values[:2] == (10.0, 5.0)
    assert ours["all", "rho"].values[:2] == (None, 0.5)
    # Gains of 5 and 2 points over 10 and 30 points of the router: the ratio of the means.
    other = scored("full", 1, 12.0)
    other.routes["predicted"]["overall"]["router"] = 70.0  # type: ignore[index]
    other.routes["label"]["overall"]["bleu1"] = 14.0  # type: ignore[index]
    two = tables.make_table(plan, [scored("full", 0, 12.0), other])
    (rho,) = [r for r in two.rows if r.source == "ours" and r.label == ("all", "rho")]
    assert rho.values[1] == pytest.approx(3.5 / 20) and rho.deviations[1] is None
    floors = [row.label for row in table.rows if row.source == "floor"]
    assert floors == [("unchanged", "constant"), ("changed", "constant"), ("all", "constant")]


def test_a_score_that_one_seed_lacks_has_no_mean(ask_for: Ask, tmp_path: Path) -> None:
    plan = make_plan(ask_for("hisem-table-1", tmp_path, (0, 1)))
    second = scored("full", 1, 14.0)
    second.routes["predicted"]["overall"]["meteor"] = None  # type: ignore[index]
    table = tables.make_table(plan, [scored("full", 0, 12.0), second])
    (ours,) = [row for row in table.rows if row.source == "ours"]
    assert ours.values[SCORES.index("meteor")] is None
    assert ours.values[0] == 13.0
    assert "| ours | 13.00 ± 1.41 |" in tables.as_markdown(table)


def test_json(table: tables.Table) -> None:
    record = tables.to_json(table)
    assert record["table"] == "hisem-table-4"
    first = record["rows"][0]
    assert first["scores"]["S*m"] == 11.0 and first["label"] == ["✗", "✗"]
