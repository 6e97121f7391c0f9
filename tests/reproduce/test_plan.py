"""The plan: what is run in which order, what it costs, and what is refused before it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from whatchanged.config import to_mapping
from whatchanged.data.reason_json import ReasonSample, write_reason_json
from whatchanged.errors import DatasetError, UsageError
from whatchanged.reproduce import pictures
from whatchanged.reproduce import plan as planning
from whatchanged.reproduce.command import carry_out, parse_seeds
from whatchanged.reproduce.experiments import experiment
from whatchanged.reproduce.plan import Request, as_text, make_plan, same_run, to_json
from whatchanged.train import sample_task
from whatchanged.train.config import TrainConfig, reasoncd_config

Ask = Callable[..., Request]


def test_a_new_table(ask_for: Ask, tmp_path: Path, pairs: Path) -> None:
    plan = make_plan(ask_for("hisem-table-4", tmp_path, (0, 3)))
    assert [(run.variant, run.seed, run.state) for run in plan.runs] == [
        (variant, seed, "new")
        for seed in (0, 3)
        for variant in ("without-bdam", "dfc-alone", "bdci-alone", "full")
    ]
    assert plan.runs[0].folder == tmp_path / "runs" / "without-bdam-seed0"
    assert (plan.split, plan.found.counts["train"], plan.found.name) == ("test", 8, pairs.name)
    assert (plan.hours, plan.left) == (None, plan.runs)
    assert plan.runs[4].config.seed == 3 and plan.runs[4].config.epochs == 1
    assert plan.runs[0].config.data.captions == (str(pairs.resolve()),)


def test_a_run_that_others_start_from_comes_first(ask_for: Ask, tmp_path: Path) -> None:
    plan = make_plan(ask_for("reasoncd-table-4", tmp_path, (1,)))
    assert [run.variant for run in plan.runs] == ["msff", "rank-4", "rank-8", "rank-12"]
    assert plan.runs[2].config.start == str(tmp_path / "runs" / "msff-seed1" / "best")
    given = make_plan(ask_for("reasoncd-table-4", tmp_path, (1,), "start=elsewhere"))
    assert [run.variant for run in given.runs] == ["rank-4", "rank-8", "rank-12"]
    assert {run.config.start for run in given.runs} == {"elsewhere"}


def test_runs_that_are_there(ask_for: Ask, tmp_path: Path, finish: Callable[..., None]) -> None:
    request = ask_for("hisem-table-4", tmp_path)
    first = make_plan(request)
    finish(first.runs[0], seconds=4.0, pairs=8)
    (first.runs[1].folder).mkdir(parents=True)
    record = {"config": to_mapping(first.runs[1].config)}
    (first.runs[1].folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    plan = make_plan(request)
    assert [run.state for run in plan.runs] == ["finished", "started", "new", "new"]
    assert [run.variant for run in plan.left] == ["dfc-alone", "bdci-alone", "full"]
    # 2 pairs a second, 8 pairs a run, three runs.
    assert plan.hours == pytest.approx(3 * 8 / 2 / 3600)
    assert "1 finished, 1 started, 2 new" in as_text(plan)


def test_hours_count_what_a_started_run_has_done(ask_for: Ask, tmp_path: Path) -> None:
    request = replace(ask_for("hisem-table-1", tmp_path), epochs=3)
    (run,) = make_plan(request).runs
    run.folder.mkdir(parents=True)
    record = {"config": to_mapping(run.config)}
    (run.folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    step = json.dumps({"event": "step", "step": 1}) + "\n"
    (run.folder / "log.jsonl").write_text(step * 2, encoding="utf-8")
    hours = planning._hours(make_plan(request), {"full": 4.0})["hours"]
    assert hours == pytest.approx((3 * 8 - 2 * 8) / 4 / 3600)


def test_timed_steps_tell_hours(
    ask_for: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "time_steps", lambda config: 2.0)
    plan = make_plan(ask_for("hisem-table-1", tmp_path), timed=True)
    assert plan.hours == pytest.approx(8 / 2 / 3600)
    few = make_plan(ask_for("hisem-table-1", tmp_path, (0,), "max_steps=1", "batch_size=4"))
    assert planning._hours(few, {"full": 2.0})["hours"] == pytest.approx(4 / 2 / 3600)


def test_what_starts_from_a_run_to_come_is_not_timed(
    ask_for: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def time_steps(config: TrainConfig) -> float:
        timed.append(Path(config.out).name)
        return 2.0

    monkeypatch.setattr(planning, "time_steps", time_steps)
    plan = make_plan(ask_for("reasoncd-table-4", tmp_path), timed=True)
    assert timed == ["msff-seed0"]
    assert plan.hours is None and "still to be trained" in plan.timed_by


def test_another_configuration_in_the_folder_is_refused(
    ask_for: Ask, tmp_path: Path, finish: Callable[..., None]
) -> None:
    request = ask_for("hisem-table-1", tmp_path)
    finish(make_plan(request).runs[0], seconds=1.0, pairs=8)
    with pytest.raises(UsageError, match="another configuration"):
        make_plan(replace(request, epochs=2))
    assert make_plan(request).runs[0].state == "finished"


def test_where_a_run_lies_makes_it_no_other_run(ask_for: Ask, tmp_path: Path) -> None:
    (run,) = make_plan(ask_for("hisem-table-1", tmp_path)).runs
    here = to_mapping(run.config)
    assert same_run(here, {**here, "out": "elsewhere", "save_minutes": 1})
    assert not same_run(here, {**here, "seed": 1})
    first = {**here, "out": "runs/rank-4", "start": "runs/msff/best"}
    moved = {**here, "out": "/moved/rank-4", "start": "/moved/msff/best"}
    assert same_run(first, moved)
    assert not same_run(first, {**moved, "start": "/other/msff/best"})


def test_disk_of_models_and_of_states(ask_for: Ask, tmp_path: Path) -> None:
    plan = make_plan(ask_for("hisem-table-3", tmp_path))
    assert plan.disk_gb is not None
    most, stays = plan.disk_gb
    assert 0 < stays < most < 1
    assert make_plan(ask_for("reasoncd-table-4", tmp_path)).disk_gb is None  # the language model's


def test_a_plan_as_json(ask_for: Ask, tmp_path: Path) -> None:
    record = json.loads(json.dumps(to_json(make_plan(ask_for("hisem-table-1", tmp_path)))))
    assert record["table"] == "hisem-table-1"
    assert record["runs"][0] == {
        "variant": "full",
        "seed": 0,
        "folder": str(tmp_path / "runs" / "full-seed0"),
        "epochs": 1,
        "state": "new",
    }
    assert set(record["disk_gb"]) == {"most", "stays"}


def test_without_a_test_split_val_is_scored(
    ask_for: Ask, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    data = write_set(tmp_path / "two", {"train": 2, "val": 2})
    request = replace(ask_for("hisem-table-1", tmp_path), data=data)
    assert make_plan(request).split == "val"
    lone = write_set(tmp_path / "one", {"train": 2})
    with pytest.raises(DatasetError, match="val or test"):
        make_plan(replace(request, data=lone))


def test_what_cannot_be_trained_is_named(ask_for: Ask, tmp_path: Path) -> None:
    for table in ("reasoncd-table-3", "reasoncd-fig-10", "reasoncd-fig-16"):
        request = replace(ask_for(table, tmp_path), preset="paper", overrides=())
        with pytest.raises(UsageError, match="five-field samples") as error:
            make_plan(request)
        assert "whatchanged prepare" in error.value.hint and "--preset small" in error.value.hint
    empty = tmp_path / "bcdd"
    (empty / "A").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"reasoncd-table-3: .*annotation file") as found:
        make_plan(replace(ask_for("reasoncd-table-3", tmp_path), data=empty))
    assert "whatchanged prepare" in found.value.hint
    with pytest.raises(DatasetError, match="annotation file"):
        make_plan(replace(ask_for("hisem-table-1", tmp_path), data=empty))
    with pytest.raises(DatasetError, match="does not exist") as nowhere:
        make_plan(replace(ask_for("hisem-table-2", tmp_path), data=tmp_path / "no"))
    assert "WHU-CDC comes from" in nowhere.value.hint


def test_masks_are_looked_for_before_anything_is_trained(
    ask_for: Ask, tmp_path: Path, pairs: Path
) -> None:
    for missing in ("train", "test"):
        data = tmp_path / missing
        shutil.copytree(pairs, data)
        shutil.rmtree(data / "label" / missing)
        with pytest.raises(DatasetError, match=f"split '{missing}' has a change mask"):
            make_plan(replace(ask_for("reasoncd-table-4", tmp_path), data=data))
        assert make_plan(replace(ask_for("hisem-table-1", tmp_path), data=data)).runs


def test_the_paper_preset_of_hisem_is_planned(pairs: Path, tmp_path: Path) -> None:
    plan = make_plan(Request(experiment("hisem-table-8"), pairs, tmp_path, (0,), "paper"))
    assert {run.config.epochs for run in plan.runs} == {50}
    assert plan.disk_gb is not None and plan.disk_gb[1] > 5 * 2 * 0.4


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", (0,)), ("0..4", (0, 1, 2, 3, 4)), ("0,3", (0, 3)), ("7, 1..2", (7, 1, 2))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4..1", "-1", "0,,1", "0..1,1", "1.5"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def write_samples(folder: Path, pairs: Path, counts: dict[str, int], recipe: str) -> Path:
    """Write samples about the first pairs of each split, and what a preparation records."""
    for split, n in counts.items():
        samples = [
            ReasonSample(
                *(pairs / "images" / split / date / f"{split}_{i:03d}.png" for date in "AB"),
                pairs / "label" / split / f"{split}_{i:03d}.png",
                "new houses",
                "It's <CHG>." if i % 2 == 0 else "There is none.",
            )
            for i in range(n)
        ]
        write_reason_json(folder / f"{split}.jsonl", samples)
    record = {"kind": "bcdd", "options": {"recipe": recipe}}
    (folder / "prepared.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_prepared_samples_are_trained_on_as_in_the_paper(pairs: Path, tmp_path: Path) -> None:
    data = write_samples(tmp_path, pairs, {"train": 8, "val": 4, "test": 4}, "random-0")
    request = Request(experiment("reasoncd-table-4"), data, tmp_path / "out", (0,), "paper")
    plan = make_plan(request)
    # No rank starts from a mask part: everything is learned at once.
    assert [run.variant for run in plan.runs] == ["rank-4", "rank-8", "rank-12"]
    for run, rank in zip(plan.runs, (4, 8, 12), strict=True):
        assert (run.config.task, run.config.start) == ("samples", None)
        assert run.config.data.samples == str(data.resolve()) and not run.config.data.captions
        assert reasoncd_config(run.config).language.lora_rank == rank
        assert run.config.preset == "reasoncd-llama2-7b"
    assert (str(plan.found), plan.split) == ("BCDD (random-0), 8 training samples", "test")
    assert plan.disk_gb is None
    small = make_plan(replace(request, preset="small"))
    assert {run.config.preset for run in small.runs} == {"reasoncd-small"}
    for number in range(11, 18):  # pictures alone, of curves and of wishes
        other = make_plan(replace(request, experiment=experiment(f"reasoncd-fig-{number}")))
        assert {run.config.task for run in other.runs} == {"samples"}


def test_samples_without_validation_choose_no_checkpoint(pairs: Path, tmp_path: Path) -> None:
    data = write_samples(tmp_path, pairs, {"train": 2, "test": 2}, "random-0")
    request = Request(experiment("reasoncd-table-3"), data, tmp_path / "out")
    with pytest.raises(DatasetError, match="needs samples of val"):
        make_plan(request)


def test_a_table_on_prepared_samples(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    path = repository / "tests" / "models" / "reasoncd" / "conftest.py"
    spec = importlib.util.spec_from_file_location("reasoncd_kit_of_plan", path)
    assert spec is not None and spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    monkeypatch.setattr(sample_task, "start_reasoncd", lambda config: kit.make(config).train())
    monkeypatch.setattr(pictures, "DPI", 20)
    data = write_samples(tmp_path, pairs, {"train": 4, "val": 2, "test": 4}, "blocks-0")
    tiny = [f"model={json.dumps(to_mapping(kit.TINY))}", "data.size=64", "precision=float32"]
    request = Request(
        experiment("reasoncd-fig-10"), data, tmp_path / "out", (0,), "small", 1, tuple(tiny)
    )
    results = carry_out(make_plan(request))
    assert results.table is not None
    assert "each asked its own question" in results.table.caption
    assert "4 samples of BCDD (blocks-0)" in results.table.caption
    floors = {row.label[0] for row in results.table.rows if row.source == "floor"}
    assert floors == {"nothing changed", "everything changed"}
    assert {p.name for p in results.pictures} >= {"masks.png"}
    assert {r.name for r in (tmp_path / "out" / "runs").iterdir()} == {"msff-seed0", "concat-seed0"}
    page = (results.folder / "index.html").read_text(encoding="utf-8")
    assert "2 finished, 0 started, 0 new" in page
