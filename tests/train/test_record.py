from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from whatchanged.train.record import RunLog, read_log, write_record


def write(path: Path, steps: range, keep_until: int = 0) -> None:
    log = RunLog(path, keep_until, main=True)
    for step in steps:
        log.step(step=step, loss=1 / step)
    log.close()


def test_records_are_lines_of_json_with_their_event(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run" / "log.jsonl", 0, main=True)
    log.step(step=1, epoch=0, loss=0.5)
    log.validation(step=1, s_m=40.0)
    log.close()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "step", "step": 1, "epoch": 0, "loss": 0.5},
        {"event": "validation", "step": 1, "s_m": 40.0},
    ]
    assert read_log(tmp_path / "run" / "log.jsonl") == [json.loads(line) for line in lines]


def test_a_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", 0, main=True)
    log.step(step=1)
    assert len(read_log(tmp_path / "log.jsonl")) == 1
    log.close()


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", 0, main=False)
    log.step(step=1)
    log.validation(step=1)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_drops_what_it_makes_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 6))
    write(path, range(4, 8), keep_until=3)
    assert [r["step"] for r in read_log(path)] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl"]


def test_validation_of_a_kept_step_is_kept(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", 0, main=True)
    for step in (1, 2):
        log.step(step=step)
        log.validation(step=step)
    log.close()
    RunLog(tmp_path / "log.jsonl", 1, main=True).close()
    assert [(r["event"], r["step"]) for r in read_log(tmp_path / "log.jsonl")] == [
        ("step", 1),
        ("validation", 1),
    ]


@given(st.integers(0, 60))
def test_a_half_written_last_line_is_left_out(tmp_path_factory: object, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"  # type: ignore[attr-defined]
    write(path, range(1, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    n_lines = whole[: len(whole) - cut].count(b"\n")
    assert [r["step"] for r in read_log(path)] == list(range(1, 4))[:n_lines]
    write(path, range(n_lines + 1, 5), keep_until=n_lines)
    assert [r["step"] for r in read_log(path)] == [1, 2, 3, 4]


def test_numbers_are_rounded_and_integers_stay(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl", 0, main=True)
    log.step(step=123456789, loss=1 / 3)
    log.close()
    assert read_log(tmp_path / "log.jsonl")[0] == {
        "event": "step",
        "step": 123456789,
        "loss": 0.3333333,
    }


def test_no_log_is_no_records(tmp_path: Path) -> None:
    assert read_log(tmp_path / "absent.jsonl") == []


def test_a_record_replaces_the_old_one_in_one_move(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", {"samples": 1})
    write_record(tmp_path / "run.json", {"samples": 2, "left_out": ["a"]})
    assert json.loads((tmp_path / "run.json").read_text()) == {"samples": 2, "left_out": ["a"]}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
