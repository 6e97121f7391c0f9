"""The quoted numbers: against the papers' own arithmetic, their prose, and their text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from whatchanged.reproduce.experiments import EXPERIMENTS, experiment
from whatchanged.reproduce.published import PUBLISHED, PublishedRow

CAPTION_TABLES = [f"hisem-table-{n}" for n in (1, 2, 3, 4, 5, 8)]
MASK_TABLES = ["reasoncd-table-3", "reasoncd-table-4"]


def row(table: str, *label: str) -> PublishedRow:
    return next(r for r in PUBLISHED[table].rows if r.label == label)


def numbers(*values: float | None) -> list[float]:
    assert None not in values
    return [value for value in values if value is not None]


@pytest.mark.parametrize("table", CAPTION_TABLES)
def test_s_m_is_the_mean_of_four_or_the_row_says_so(table: str) -> None:
    for printed in PUBLISHED[table].rows:
        bleu4, meteor, rouge, cider, s_m = numbers(*printed.values[3:])
        right = abs((bleu4 + meteor + rouge + cider) / 4 - s_m) < 0.011
        assert right or "S*m" in printed.note, printed


@pytest.mark.parametrize("table", MASK_TABLES)
def test_f1_follows_from_precision_recall_and_iou_or_the_row_says_so(table: str) -> None:
    for printed in PUBLISHED[table].rows:
        f1, precision, recall = numbers(*printed.values[:3])
        iou = printed.values[4]
        right = abs(2 * precision * recall / (precision + recall) - f1) < 0.11
        right &= iou is None or abs(200 * iou / (100 + iou) - f1) < 0.11
        assert right or printed.note, printed


@pytest.mark.parametrize("table", ["hisem-table-6", "hisem-table-7"])
@pytest.mark.parametrize("part", ["unchanged", "changed", "all"])
def test_gain_and_rho_follow_from_both_ways_of_routing(table: str, part: str) -> None:
    ways = ("Routing (w. Pre)", "Routing (w. GT)", "Improvement", "rho")
    predicted, label, gain, rho = (row(table, part, way).values for way in ways)
    for before, after, gained in zip(predicted, label, gain, strict=True):
        if before is not None and after is not None:
            assert gained == pytest.approx(after - before, abs=0.011)
    for gained, share in zip(gain[1:], rho[1:], strict=True):
        if gained is not None:
            assert share == pytest.approx(gained / numbers(gain[0])[0], abs=0.011)


def test_the_prose_of_hisem() -> None:
    def gain(table: str, to: tuple[str, ...], of: tuple[str, ...], place: int) -> float:
        high, low = row(table, *to).values[place], row(table, *of).values[place]
        return round(numbers(high)[0] - numbers(low)[0], 2)

    no, dfc_or_bdam, other, both = ("✗", "✗"), ("✓", "✗"), ("✗", "✓"), ("✓", "✓")
    bleu4, cider, s_m = 3, 6, 7
    # IV-F1: +1.10 BLEU-4, +5.63 CIDEr-D, +2.34 S*m by BDAM; then +1.50, +7.02, +3.05.
    assert [gain("hisem-table-3", dfc_or_bdam, no, i) for i in (bleu4, cider, s_m)] == [
        *(1.10, 5.63, 2.34)
    ]
    assert [gain("hisem-table-3", both, no, i) for i in (bleu4, cider, s_m)] == [1.50, 7.02, 3.05]
    # IV-F2: +6.26 CIDEr-D by BDCI; +3.12 BLEU-4 and +9.77 CIDEr-D by both.
    assert gain("hisem-table-4", other, no, cider) == 6.26
    assert [gain("hisem-table-4", both, no, i) for i in (bleu4, cider)] == [3.12, 9.77]
    # IV-F3: +1.65 CIDEr-D by MoE without routing.
    assert gain("hisem-table-5", ("✗", "MoE", "MoE"), ("✗", "FFN", "FFN"), cider) == 1.65
    # Abstract and IV-D: +7.52 BLEU-4, +3.38 METEOR, +2.77 ROUGE-L, +8.95 CIDEr-D, +5.65 S*m.
    whu = [gain("hisem-table-2", ("HiSem",), ("CTMTNet",), place) for place in range(3, 8)]
    assert whu == [7.52, 3.38, 2.77, 8.95, 5.65]


def test_rows_that_stand_in_several_tables_are_the_same() -> None:
    full = row("hisem-table-1", "HiSem").values
    for table, label in (
        ("hisem-table-3", ("✓", "✓")),
        ("hisem-table-4", ("✓", "✓")),
        ("hisem-table-5", ("✓", "MoE", "FFN")),
        ("hisem-table-8", ("3", "1")),
    ):
        assert row(table, *label).values == full
    assert row("hisem-table-6", "all", "Routing (w. Pre)").values[1:] == full
    whu = row("hisem-table-2", "HiSem").values
    assert row("hisem-table-7", "all", "Routing (w. Pre)").values[1:] == whu
    assert row("hisem-table-4", "✗", "✗").values == row("hisem-table-3", "✗", "✓").values
    assert row("hisem-table-5", "✗", "-", "-").values == row("hisem-table-3", "✓", "✗").values


def test_contradictions_that_are_known_are_marked() -> None:
    marked = {(t, r.label) for t, table in PUBLISHED.items() for r in table.rows if r.note}
    assert marked == {
        ("hisem-table-1", ("Chareption",)),
        ("hisem-table-3", ("✗", "✓")),
        ("reasoncd-table-3", ("FC-EF",)),
        ("reasoncd-table-3", ("FC-Siam-Diff",)),
        ("reasoncd-table-3", ("FC-Siam-Conc",)),
        ("reasoncd-table-3", ("ReasonCD",)),
        ("reasoncd-table-4", ("r = 8",)),
        ("reasoncd-table-4", ("r = 12",)),
    }
    assert "15.3" in PUBLISHED["reasoncd-fig-10"].note


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_row_has_a_number_for_each_score(name: str) -> None:
    found = experiment(name)
    for printed in PUBLISHED[name].rows:
        assert len(printed.values) == len(found.scores)
        assert len(printed.label) == len(found.heads)
    labels = [printed.label for printed in PUBLISHED[name].rows]
    assert len(set(labels)) == len(labels)
    if labels:
        assert {own.label for own in found.rows} <= set(labels)


def test_every_table_of_the_papers_is_quoted() -> None:
    assert {name for name in EXPERIMENTS if "table" in name} <= PUBLISHED.keys()


@pytest.mark.parametrize("name", sorted(n for n in PUBLISHED if PUBLISHED[n].rows))
def test_every_row_stands_in_the_paper(name: str, shared_data: Path) -> None:
    paper = shared_data.parent / "papers" / f"{name.split('-')[0]}.md"
    if not paper.is_file():
        pytest.skip(f"the text of the paper is not here: {paper.name}")
    printed = [
        tuple(float(n) for n in re.findall(r"(?<![\w.'])\d+\.?\d*", line))
        for line in re.sub(r"\[[^\]]*\]|\*\*|r?=\d+|%", "", paper.read_text("utf-8")).splitlines()
    ]
    scale = 0.01 if name.startswith("reasoncd") else 1.0
    for quoted in PUBLISHED[name].rows:
        wanted = [round(v * scale, 4) for v in quoted.values if v is not None]
        assert any(list(line[-len(wanted) :]) == wanted for line in printed), quoted
