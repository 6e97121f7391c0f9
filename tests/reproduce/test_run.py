"""From plan to results on a drawn set: trained once, scored once, resumed, and read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whatchanged.errors import TrainingError
from whatchanged.reproduce import pictures, run
from whatchanged.reproduce.command import carry_out
from whatchanged.reproduce.experiments import Row
from whatchanged.reproduce.plan import FINISHED, Request, make_plan
from whatchanged.reproduce.run import ScoredRun, checkpoint, train_runs
from whatchanged.score import SCORES

Ask = Callable[..., Request]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folder that tests of one real run share."""
    return tmp_path_factory.mktemp("reproduced")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "DPI", 20)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained and evaluated from here on, by name of the folder."""
    calls: list[str] = []
    train, evaluate = run.train, run.evaluate_captions

    def training(config: Any, *rest: Any) -> Path:
        calls.append(f"train {Path(config.out).name}")
        return train(config, *rest)

    def evaluating(models: Any, *rest: Any, **options: Any) -> Any:
        calls.append(f"evaluate {', '.join(options['routes'])}")
        return evaluate(models, *rest, **options)

    monkeypatch.setattr(run, "train", training)
    monkeypatch.setattr(run, "evaluate_captions", evaluating)
    return calls


def test_a_table_and_then_another_of_the_same_run(
    ask_for: Ask, trained: Path, busy: list[str]
) -> None:
    results = carry_out(make_plan(ask_for("hisem-table-1", trained)))
    assert busy == ["train full-seed0", "evaluate predicted"]
    folder = trained / "hisem-table-1"
    assert results.folder == folder
    assert {p.name for p in folder.iterdir()} == {
        *("table.md", "table.tex", "table.csv", "table.json", "index.html"),
        *("captions.png", "curves-step.png", "curves-validation.png"),
    }
    own = trained / "runs" / "full-seed0"
    assert not (own / "state").exists() and (own / "best").is_dir()
    record = json.loads((own / FINISHED).read_text("utf-8"))
    assert (record["variant"], record["steps"], record["pairs"]) == ("full", 1, 8)
    page = (folder / "index.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 3 and "<td>published" in page

    # The same again trains and evaluates nothing; another table of it needs one more route.
    busy.clear()
    written = (own / "scores-test-predicted.json").stat().st_mtime_ns
    again = carry_out(make_plan(ask_for("hisem-table-1", trained)))
    assert busy == []
    assert again.table == results.table
    routed = carry_out(make_plan(ask_for("hisem-table-6", trained)))
    assert busy == ["evaluate label"]
    assert (own / "scores-test-predicted.json").stat().st_mtime_ns == written
    assert [p.name for p in routed.pictures] == ["router.png", "experts.png"]
    (heat,) = carry_out(make_plan(ask_for("hisem-fig-6", trained))).pictures
    assert heat.name == "bdam.png" and not (trained / "hisem-fig-6" / "table.md").exists()
    assert busy == ["evaluate label"]


def test_scores_are_those_of_evaluate(ask_for: Ask, trained: Path, pairs: Path) -> None:
    from whatchanged.evaluate import evaluate_captions
    from whatchanged.evaluate_report import numbers

    results = carry_out(make_plan(ask_for("hisem-table-1", trained)))
    report = evaluate_captions([trained / "runs" / "full-seed0"], pairs, "test")
    wanted = numbers(report.evaluations[0])["overall"]
    assert results.table is not None
    (ours,) = [row for row in results.table.rows if row.source == "ours"]
    assert ours.values == pytest.approx(tuple(wanted[key] for key in SCORES))
    floors = [row for row in results.table.rows if row.source == "floor"]
    for row, floor in zip(floors, report.floors.values(), strict=True):
        assert row.values[-1] == pytest.approx(floor.overall.s_m)


def test_a_run_that_stopped_goes_on(
    ask_for: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(ask_for("hisem-table-4", tmp_path))
    begun: list[str] = []

    def stopping(config: Any) -> Path:
        begun.append(Path(config.out).name)
        if len(begun) == 2:
            raise TrainingError("the loss is nan")
        Path(config.out).mkdir(parents=True)
        return Path(config.out) / "best"

    monkeypatch.setattr(run, "train", stopping)
    with pytest.raises(TrainingError):
        train_runs(plan)
    rest = make_plan(ask_for("hisem-table-4", tmp_path))
    assert [r.state for r in rest.runs] == ["finished", "new", "new", "new"]
    train_runs(rest)
    assert begun == [
        *("without-bdam-seed0", "dfc-alone-seed0"),
        *("dfc-alone-seed0", "bdci-alone-seed0", "full-seed0"),
    ]
    assert make_plan(ask_for("hisem-table-4", tmp_path)).left == ()


def test_the_speed_of_a_resumed_run_is_not_recorded(
    ask_for: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(ask_for("hisem-table-1", tmp_path))
    started = replace(plan, runs=(replace(plan.runs[0], state="started"),))
    monkeypatch.setattr(run, "train", lambda config: Path(config.out).mkdir(parents=True))
    train_runs(started)
    assert json.loads((plan.runs[0].folder / FINISHED).read_text("utf-8"))["seconds"] == 0


def test_which_checkpoint_is_scored(ask_for: Ask, tmp_path: Path) -> None:
    planned = make_plan(ask_for("hisem-table-1", tmp_path)).runs[0]
    assert checkpoint(planned, "test").name == "best"
    assert checkpoint(planned, "val").name == "last"


def test_gain_and_rho_of_a_run() -> None:
    def part(router: float, score: float) -> dict[str, float | None]:
        return {"router": router, **dict.fromkeys(SCORES, score)}

    routes = {
        way: {name: part(*values) for name in ("overall", "changed", "unchanged")}
        for way, values in (("predicted", (90.0, 60.0)), ("label", (100.0, 65.0)))
    }
    scored = ScoredRun("full", 0, Path(), Path(), routes, {}, 4)
    read = {
        reading: scored.read(Row((reading,), "full", "changed", reading))["bleu4"]
        for reading in ("predicted", "label", "gain", "rho")
    }
    assert read == {"predicted": 60.0, "label": 65.0, "gain": 5.0, "rho": 0.5}
    assert scored.read(Row(("",), "full", "overall", "gain"))["router"] == 10.0
    assert scored.read(Row(("",), "full", "overall", "rho"))["router"] is None
