"""The curves of a run as one picture: loss parts, learning rate and validation numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whatchanged.files import replacing
from whatchanged.train.record import read_log

_NOT_CURVES = {"event", "epoch", "step", "steps", "pairs_per_second", "lr"}
_SMOOTH = 20


def plot_curves(log: Path, out: Path) -> None:
    """Draw the log of a run to a PNG file, replacing an older one in one move."""
    from matplotlib.figure import Figure

    records = read_log(log)
    steps = [r for r in records if r["event"] == "step"]
    validations = [r for r in records if r["event"] == "validation"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key in _keys(steps):
        xs, ys = _series(steps, key)
        left.plot(xs, _running_mean(ys), label=key, linewidth=1.2)
    left.set(xlabel="optimiser step", title=f"training (mean of {_SMOOTH} steps)")
    for key in _keys(validations):
        xs, ys = _series(validations, key)
        right.plot(xs, ys, marker="o", markersize=3, label=key, linewidth=1.2)
    right.set(xlabel="optimiser step", title="validation")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7, ncols=2)
    with replacing(out) as part:
        figure.savefig(part, dpi=110)


def _keys(records: list[dict[str, Any]]) -> list[str]:
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(k for k, v in record.items() if isinstance(v, int | float)))
    return [name for name in names if name not in _NOT_CURVES]


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float)]
    return [float(x) for x, _ in points], [float(y) for _, y in points]


def _running_mean(values: list[float]) -> list[float]:
    total, means = 0.0, []
    for index, value in enumerate(values):
        total += value - (values[index - _SMOOTH] if index >= _SMOOTH else 0.0)
        means.append(total / min(index + 1, _SMOOTH))
    return means
