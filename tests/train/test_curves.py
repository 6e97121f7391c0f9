from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from whatchanged.train import curves
from whatchanged.train.curves import plot_curves
from whatchanged.train.record import RunLog


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Log of 30 steps and two validations."""
    record = RunLog(tmp_path / "log.jsonl", 0, main=True)
    for step in range(1, 31):
        record.step(step=step, epoch=step // 15, steps=30, lr=1e-3, loss=3 / step, caption=2 / step)
        if step % 15 == 0:
            record.validation(step=step, epoch=step // 15, s_m=float(step), note="text")
    record.close()
    return tmp_path / "log.jsonl"


def test_the_curves_are_a_png(log: Path, tmp_path: Path) -> None:
    plot_curves(log, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height > 300
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # not an empty sheet
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


def test_a_new_picture_replaces_the_old_one(log: Path, tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"old")
    plot_curves(log, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_log_still_draws(tmp_path: Path) -> None:
    plot_curves(tmp_path / "absent.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_loss_parts_are_curves_and_bookkeeping_is_not() -> None:
    records = [
        {"event": "step", "step": 1, "epoch": 0, "steps": 9, "lr": 1e-4, "loss": 1.0},
        {"event": "step", "step": 2, "epoch": 0, "pairs_per_second": 3.0, "router": 0.5, "x": "a"},
    ]
    assert curves._keys(records) == ["loss", "router"]
    assert curves._series(records, "router") == ([2.0], [0.5])


def test_the_mean_runs_over_the_last_steps() -> None:
    n = curves._SMOOTH
    values = [0.0] * n + [1.0] * n
    means = curves._running_mean(values)
    assert means[:n] == [0.0] * n
    assert means[n] == pytest.approx(1 / n)
    assert means[-1] == pytest.approx(1.0)
    assert curves._running_mean([2.0, 4.0]) == [2.0, 3.0]
