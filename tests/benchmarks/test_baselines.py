from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import baselines
from baselines import WARMUP, Batch, batches, predictor, rate_share, train, training_samples
from mask_scores import load_validation, read_rows, score_masks
from whatchanged.errors import TrainingError, WeightsUnavailableError
from whatchanged.train.pair_layers import LayerStore


class Comparison(nn.Module):
    """One convolution over the difference of the dates: enough for squares that appear."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        logits: Tensor = self.convolution((after - before).abs())
        return logits.squeeze(1)


def ticking(steps: int) -> Callable[[], float]:
    """Clock by which a minute is over after so many steps; a step reads it once."""
    times = itertools.count()
    return lambda: next(times) * 60 / steps


def quiet(line: str) -> None: ...


@pytest.fixture(scope="module")
def store(data: Path) -> LayerStore:
    return LayerStore(training_samples(data), 64)


def trained(store: LayerStore, seed: int, steps: int = 12) -> tuple[Comparison, baselines.Training]:
    torch.manual_seed(seed)
    network = Comparison()
    took = train(network, batches(store, seed), 1, 0.1, clock=ticking(steps), tell=quiet)
    return network, took


def test_training_pairs_have_masks_and_no_pair_is_of_validation(data: Path) -> None:
    samples = training_samples(data)
    names = [(s.source, s.name) for s in samples]
    assert names[:5] == [("levir-cc", f"t{i}") for i in range(5)]  # t5 has no mask
    assert [source for source, _ in names[5:]] == [s for s in baselines.MASK_SETS for _ in "01"]
    assert all(s.mask is not None and s.split == "train" for s in samples)


def test_batches_show_every_pair_once_a_pass(store: LayerStore, data: Path) -> None:
    first = next(batches(store, 0))
    assert first.before.shape == first.after.shape == (len(store), 3, 64, 64)
    assert first.mask.shape == (len(store), 64, 64)
    changed = [int((store.whole(i).mask == 1).sum()) for i in range(len(store))]
    shown = (first.mask == 1).sum((1, 2)).tolist()
    assert sorted(shown) == sorted(changed)
    brighter = (first.after - first.before).abs().mean(1)
    for index in range(len(store)):  # masks turn with their pictures
        mask = first.mask[index] == 1
        if mask.any():
            assert brighter[index][mask].mean() > 1.5 * brighter[index][~mask].mean()


def test_the_seed_decides_what_is_shown(store: LayerStore) -> None:
    def shown(seed: int) -> list[Batch]:
        return list(itertools.islice(batches(store, seed), 2))

    for one, same in zip(shown(1), shown(1), strict=True):
        assert torch.equal(one.before, same.before) and torch.equal(one.mask, same.mask)
    assert not torch.equal(shown(1)[0].before, shown(2)[0].before)


def test_training_ends_with_the_time_and_learns(store: LayerStore, data: Path) -> None:
    network, took = trained(store, 0, steps=40)
    assert took.steps == 39  # the clock ticks once at the start, then before every step
    assert took.seconds >= 60
    assert took.parameters == 28
    assert took.last_loss < 0.8 * took.first_loss
    row = score_masks(predictor(network), load_validation(data / "captioned"))
    assert row.overall.scores.f1 > 80


def test_equal_seeds_and_steps_give_equal_networks(store: LayerStore) -> None:
    one, same, other = (trained(store, seed)[0].convolution.weight for seed in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    shares = [rate_share(passed) for passed in np.linspace(0, 1, 201)]
    peak = int(np.argmax(shares))
    assert peak / 200 == pytest.approx(WARMUP, abs=0.01)
    assert shares[peak] == pytest.approx(1, abs=1e-3)
    assert 0 < shares[0] < 0.1
    assert shares[-1] == pytest.approx(0, abs=1e-9)
    assert all(a > b for a, b in itertools.pairwise(shares[peak:]))


def test_progress_is_told_every_50_steps(store: LayerStore) -> None:
    one = next(batches(store, 0))
    few = Batch(one.before[:1, :, :8, :8], one.after[:1, :, :8, :8], one.mask[:1, :8, :8])
    told: list[str] = []
    train(Comparison(), itertools.repeat(few), 1, 0.1, clock=ticking(110), tell=told.append)
    assert [line.split(",")[0] for line in told] == ["step 50", "step 100"]


def test_a_loss_that_is_no_number_stops_the_run(store: LayerStore) -> None:
    def broken() -> Iterator[Batch]:
        for batch in batches(store, 0):
            yield Batch(batch.before * float("nan"), batch.after, batch.mask)

    with pytest.raises(TrainingError, match="step 1"):
        train(Comparison(), broken(), 1, 0.1, clock=ticking(9), tell=quiet)


def test_predictions_are_probabilities_of_the_picture_size() -> None:
    torch.manual_seed(0)
    predict = predictor(Comparison())
    before, after = np.zeros((2, 32, 48, 3), np.uint8)
    probability = predict(before, after + np.uint8(200))
    assert probability.shape == (32, 48)
    assert ((probability > 0) & (probability < 1)).all()


def untouched(before: np.ndarray, after: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.zeros(before.shape[:2])


def test_the_command_trains_scores_and_draws(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = replace(baselines.BASELINES["fc-ef"], build=Comparison, rate=0.1)
    monkeypatch.setitem(baselines.BASELINES, "fc-ef", small)
    other = ModuleType("other_models")
    other.untouched = untouched  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_models", other)
    out, sheet = tmp_path / "results.json", tmp_path / "sheet.png"
    asked = ["--data", str(data), "--minutes", "0.01", "--networks", "fc-ef"]
    asked += ["--out", str(out), "--sheet", str(sheet)]
    baselines.main([*asked, "--predictions", "none=other_models:untouched"])
    assert list(read_rows(out)) == ["none", "FC-EF"]
    written = json.loads(out.read_text())
    assert written["n_training"] == 11
    assert written["training"]["FC-EF"]["steps"] >= 1
    assert written["training"]["FC-EF"]["seconds"] >= 0.6
    assert sheet.stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "| FC-EF | 28 |" in printed and "| none | 0.00" in printed


@pytest.mark.parametrize("text", ["name", "name=module", "=m:f", "n=no_such_module:f", "n=json:no"])
def test_predictions_that_cannot_be_found_are_refused(
    text: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        baselines.main(["--data", str(data), "--predictions", text])
    assert "--predictions" in capsys.readouterr().err


def test_nothing_to_score_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        baselines.main(["--data", str(data), "--networks"])
    assert "no network" in capsys.readouterr().err


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_weights_and_pictures_share_the_layout(
    store: LayerStore, layout: torch.memory_format
) -> None:
    class Watching(Comparison):
        def forward(self, before: Tensor, after: Tensor) -> Tensor:
            for one in (before, after, self.convolution.weight):
                assert one.is_contiguous(memory_format=layout)
            return super().forward(before, after)

    clock = ticking(2)
    train(Watching(), batches(store, 0), 1, 0.1, layout=layout, clock=clock, tell=quiet)


def test_missing_start_weights_are_told_before_anything_is_trained(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train_nothing(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path))
    monkeypatch.setattr(baselines, "train", train_nothing)
    with pytest.raises(WeightsUnavailableError, match="efficientnet-lite0"):
        baselines.main(["--data", str(data), "--networks", "fc-ef", "tinycd-like"])


def test_no_time_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        baselines.main(["--data", str(data), "--minutes", "0"])
    assert "--minutes" in capsys.readouterr().err
