from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from whatchanged.config import apply_mapping, from_mapping, to_mapping
from whatchanged.errors import CheckpointError, TrainingError, UsageError, exit_code
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.train import loop
from whatchanged.train.config import OptimiserConfig, TrainConfig
from whatchanged.train.curves import plot_curves
from whatchanged.train.loop import Loss, fit, rate_factor
from whatchanged.train.record import read_log
from whatchanged.train.state import Progress, load_state


class Killed(Exception):
    """What a killed run raises in these tests."""


@dataclass(frozen=True)
class ToyBatch:
    x: Tensor
    y: Tensor


class Toy:
    """Regression of 10 samples in float64, with drawn noise and dropout if asked."""

    measures = ("score",)
    broken = ()

    def __init__(
        self, *, noise: float = 0.0, dropout: float = 0.0, scores: Sequence[float] = ()
    ) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(
            nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
        ).double()
        draws = torch.Generator().manual_seed(1)
        self.x = torch.randn(10, 3, generator=draws, dtype=torch.float64)
        self.y = torch.randn(10, 1, generator=draws, dtype=torch.float64)
        self.noise, self.scores = noise, list(scores)
        self.n_validations = 0
        self.seen: list[list[int]] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        first, *_, last = self.model
        return [
            {"params": last.parameters(), "lr": 0.01},
            {"params": first.parameters(), "lr": 0.1},
        ]

    def __len__(self) -> int:
        return len(self.x)

    def names(self, indices: Sequence[int]) -> list[str]:
        return [f"sample-{i}" for i in indices]

    def load(self, indices: Sequence[int], generator: torch.Generator) -> ToyBatch:
        self.seen.append(list(indices))
        x = self.x[list(indices)]
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return ToyBatch(x + self.noise * noise, self.y[list(indices)])

    def loss(self, model: nn.Module, batch: ToyBatch, epoch: int, device: torch.device) -> Loss:
        error = (model(batch.x) - batch.y).pow(2).mean()
        return Loss(error, {"error": float(error.detach())})

    def validate(self) -> dict[str, float]:
        self.model.eval()
        score = self.scores[self.n_validations] if self.scores else -float(self.whole_loss())
        self.n_validations += 1
        return {"score": score}

    def whole_loss(self) -> Tensor:
        with torch.no_grad():
            loss: Tensor = (self.model(self.x) - self.y).pow(2).mean()
        return loss

    def save(self, folder: Path, numbers: Mapping[str, float]) -> None:
        save_checkpoint(
            folder,
            family="toy",
            config={},
            tensors=self.model.state_dict(),
            extras={"validation": dict(numbers)},
        )


def configured(out: Path, **values: Any) -> TrainConfig:
    base = {
        "task": "hisem",
        "out": str(out),
        "monitor": "score",
        "epochs": 4,
        "batch_size": 4,
        "save_minutes": 1e6,
    }
    return from_mapping(TrainConfig, apply_mapping(base, values))


def run(out: Path, toy: Toy | None = None, **values: Any) -> tuple[Toy, Progress]:
    toy = toy or Toy(noise=0.3, dropout=0.2)
    return toy, fit(toy, configured(out, **values), out)


def weights(toy: Toy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in toy.model.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def steps(out: Path) -> list[dict[str, Any]]:
    """Step records without the one number that depends on the clock."""
    records = [r for r in read_log(out / "log.jsonl") if r["event"] == "step"]
    return [{k: v for k, v in r.items() if k != "pairs_per_second"} for r in records]


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise inside a step, after its loss."""
    forward = loop._Run.forward

    def dying(self: Any, *arguments: Any) -> Loss:
        loss = forward(self, *arguments)
        if self.progress.global_step == step:
            raise Killed
        return loss

    monkeypatch.setattr(loop._Run, "forward", dying)


# What a run leaves


def test_a_run_leaves_what_its_folder_is_said_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "plot_curves", plot_curves)
    toy, progress = run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best", "curves.png", "last", "log.jsonl", "run.json", "state",
    ]  # fmt: skip
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (progress.epoch, progress.step, progress.global_step) == (4, 0, 12)
    assert same(weights(toy), load_checkpoint(tmp_path / "last").tensors)
    assert float(toy.whole_loss()) < float(Toy().whole_loss())


def test_the_log_tells_every_step(tmp_path: Path) -> None:
    run(tmp_path)
    records = read_log(tmp_path / "log.jsonl")
    told = [r for r in records if r["event"] == "step"]
    assert [r["step"] for r in told] == list(range(1, 13))
    assert [r["epoch"] for r in told] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for record in told:
        assert record["steps"] == 12
        assert record["loss"] == record["error"] > 0
        assert record["lr"] == 0.01
        assert record["pairs_per_second"] > 0
    validations = [(r["epoch"], r["step"]) for r in records if r["event"] == "validation"]
    assert validations == [(0, 3), (1, 6), (2, 9), (3, 12)]


def test_the_record_holds_facts_and_configuration(tmp_path: Path) -> None:
    config = configured(tmp_path)
    fit(Toy(), config, tmp_path, {"samples": 10, "left_out": ["images[3]: no captions"]})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["left_out"] == ["images[3]: no captions"]
    assert record["config"] == to_mapping(config)


def test_progress_is_told_by_logging(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="whatchanged"):
        run(tmp_path, Toy(scores=[1.0, 2.0, 3.0, 4.25]))
    assert "epoch 4 of 4: score 4.25" in caplog.text


def test_validation_comes_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    run(tmp_path, epochs=5, validate_every=2)
    events = [r["epoch"] for r in read_log(tmp_path / "log.jsonl") if r["event"] == "validation"]
    assert events == [1, 3, 4]
    run(tmp_path / "cut", epochs=5, validate_every=2, max_steps=3)  # where the first epoch ends
    events = [r for r in read_log(tmp_path / "cut" / "log.jsonl") if r["event"] == "validation"]
    assert len(events) == 1 and (tmp_path / "cut" / "best").is_dir()


@pytest.mark.parametrize(
    ("patience", "epochs"), [(0, 6), (1, 3), (2, 5), (3, 6)], ids=["never", "1", "2", "3"]
)
def test_a_run_ends_after_validations_without_a_better_one(
    tmp_path: Path, patience: int, epochs: int
) -> None:
    scores = [1.0, 2.0, 2.0, 3.0, 2.0, 1.0] if patience == 1 else [1.0, 2.0, 3.0, 2.0, 3.0, 1.0]
    _, progress = run(tmp_path, Toy(scores=scores), epochs=6, patience=patience)
    assert progress.epoch == epochs
    # It has ended: started again it takes no step, but for more patience.
    again, resumed = run(tmp_path, epochs=6, patience=patience)
    assert resumed.epoch == epochs and not again.seen
    if epochs < 6:
        more, longer = run(tmp_path, Toy(scores=[9.0] * 6), epochs=6, patience=patience + 1)
        assert longer.epoch == 6 and more.seen


def test_the_best_is_kept_when_later_epochs_are_worse(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []

    class Watched(Toy):
        def validate(self) -> dict[str, float]:
            kept.append(weights(self))
            return super().validate()

    _, progress = run(tmp_path, Watched(scores=[1.0, 3.0, 2.0, 3.0]))
    best, last = load_checkpoint(tmp_path / "best"), load_checkpoint(tmp_path / "last")
    assert best.extras["validation"] == {"score": 3.0}
    assert progress.best == 3.0
    assert same(best.tensors, kept[1])  # the first of two equal ones
    assert same(last.tensors, kept[3])
    assert not same(kept[1], kept[3])


def test_an_unknown_monitor_is_named_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'bleu9'") as caught:
        run(tmp_path, monitor="bleu9")
    assert "score" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# Order, pieces, rates


def test_an_epoch_shows_every_sample_once_in_its_own_order(tmp_path: Path) -> None:
    toy, _ = run(tmp_path)
    epochs = [[*chain(*toy.seen[i : i + 3])] for i in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [len(batch) for batch in toy.seen[:3]] == [4, 4, 2]
    again, _ = run(tmp_path / "again")
    other, _ = run(tmp_path / "other", seed=1)
    assert again.seen == toy.seen != other.seen


@pytest.mark.parametrize("accumulate", [2, 3, 4, 9])
def test_accumulated_gradients_are_those_of_one_large_batch(
    tmp_path: Path, accumulate: int
) -> None:
    whole, _ = run(tmp_path / "whole", Toy(), batch_size=7)
    pieces, _ = run(tmp_path / "pieces", Toy(), batch_size=7, accumulate=accumulate)
    assert max(len(batch) for batch in pieces.seen) == math.ceil(7 / accumulate)
    one, other = weights(whole), weights(pieces)
    assert all(torch.allclose(one[k], other[k], rtol=1e-9, atol=1e-12) for k in one)
    told = [[r["error"] for r in steps(tmp_path / name)] for name in ("whole", "pieces")]
    assert told[0] == pytest.approx(told[1], rel=1e-6)


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    def norm(toy: Toy) -> float:
        return math.sqrt(sum(float(p.grad.pow(2).sum()) for p in toy.model.parameters()))

    free, _ = run(tmp_path / "free", Toy(), max_steps=1)
    clipped, _ = run(tmp_path / "clipped", Toy(), max_steps=1, optimiser={"clip": 0.01})
    assert norm(free) > 0.1
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)


def test_every_group_has_its_rate_times_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any) -> Any:
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    run(tmp_path, optimiser={"schedule": "linear", "warmup": 2, "final": 0.0})
    factors = [0.5, 1.0, *(1 - i / 10 for i in range(10))]
    assert rates == [pytest.approx([0.01 * f, 0.1 * f]) for f in factors]
    assert [r["lr"] for r in steps(tmp_path)] == pytest.approx([0.01 * f for f in factors])


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimiser_is_the_one_asked_for(name: Any, kind: type) -> None:
    optimiser = loop._optimiser(Toy(), OptimiserConfig(name=name, weight_decay=0.25))
    assert type(optimiser) is kind
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.25, 0.25]


def test_schedules_have_the_shapes_they_are_named_for() -> None:
    constant = OptimiserConfig(warmup=4)
    assert [rate_factor(constant, s, 100) for s in (0, 1, 3, 4, 50, 99)] == [
        *(0.25, 0.5, 1.0, 1.0, 1.0, 1.0)
    ]
    linear = OptimiserConfig(schedule="linear", warmup=10, final=0.2)
    assert rate_factor(linear, 10, 110) == 1.0
    assert rate_factor(linear, 60, 110) == pytest.approx(0.6)
    assert rate_factor(linear, 110, 110) == pytest.approx(0.2)
    cosine = OptimiserConfig(schedule="cosine", warmup=10, final=0.2)
    assert rate_factor(cosine, 10, 110) == 1.0
    assert rate_factor(cosine, 35, 110) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert rate_factor(cosine, 60, 110) == pytest.approx(0.6)
    assert rate_factor(cosine, 200, 110) == pytest.approx(0.2)  # never rises again


@given(
    st.sampled_from(["constant", "cosine", "linear"]),
    st.integers(0, 50),
    st.floats(0, 1),
    st.integers(1, 300),
)
def test_rates_rise_in_the_warmup_and_never_after_it(
    schedule: Any, warmup: int, final: float, n_steps: int
) -> None:
    config = OptimiserConfig(schedule=schedule, warmup=warmup, final=final)
    factors = [rate_factor(config, step, n_steps) for step in range(n_steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    rising, falling = factors[:warmup], factors[warmup:]
    assert rising == sorted(rising)
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))


# Resume


@pytest.mark.parametrize("minutes", [0.0, 1e6])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, minutes: float) -> None:
    whole, _ = run(tmp_path / "whole")
    for step in (1, 5, 6, 10):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step)
            run(tmp_path / "killed", save_minutes=minutes)
    resumed, progress = run(tmp_path / "killed", save_minutes=minutes)
    assert progress.global_step == 12
    assert same(weights(whole), weights(resumed))
    assert steps(tmp_path / "whole") == steps(tmp_path / "killed")


def test_a_state_is_saved_within_an_epoch_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(monkeypatch, 5)
    with pytest.raises(Killed):
        run(tmp_path, save_minutes=0.0)
    toy = Toy()
    optimiser = torch.optim.Adam(toy.parameter_groups())
    plain = to_mapping(configured(tmp_path))
    progress = load_state(tmp_path / "state", toy.model, optimiser, plain)
    assert progress is not None
    assert (progress.epoch, progress.step, progress.global_step) == (1, 2, 5)
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_a_step_limit_leaves_a_model_and_can_be_lifted(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    _, progress = run(tmp_path / "cut", max_steps=5)
    assert (progress.epoch, progress.step, progress.global_step) == (1, 2, 5)
    assert load_checkpoint(tmp_path / "cut" / "last").family == "toy"
    assert (tmp_path / "cut" / "best").is_dir()
    resumed, _ = run(tmp_path / "cut")
    assert same(weights(whole), weights(resumed))
    assert [r["error"] for r in steps(tmp_path / "cut")] == [
        r["error"] for r in steps(tmp_path / "whole")
    ]


def test_a_decay_ends_at_the_step_limit(tmp_path: Path) -> None:
    schedule = {"schedule": "linear", "final": 0.0}
    run(tmp_path, max_steps=5, optimiser=schedule)
    assert [r["lr"] for r in steps(tmp_path)] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])
    assert {r["steps"] for r in steps(tmp_path)} == {5}
    run(tmp_path / "long", max_steps=99, optimiser=schedule)
    assert {r["steps"] for r in steps(tmp_path / "long")} == {12}  # the epochs end before


@pytest.mark.parametrize("limit", [0, 5, 6])
def test_running_a_finished_run_again_changes_nothing(tmp_path: Path, limit: int) -> None:
    first, _ = run(tmp_path, max_steps=limit)
    log = (tmp_path / "log.jsonl").read_bytes()
    again, progress = run(tmp_path, max_steps=limit)
    assert again.seen == [] and again.n_validations == 0
    assert progress.global_step == (limit or 12)
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert same(weights(first), weights(again))


@pytest.mark.parametrize("killed", [1, 4])
def test_starting_over_forgets_the_run_before(tmp_path: Path, killed: int) -> None:
    run(tmp_path, Toy())
    fresh, _ = run(tmp_path / "fresh")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, killed)
        run(tmp_path, resume=False)
    resumed, _ = run(tmp_path)  # from the new run's last state or none, never from the old end
    assert same(weights(fresh), weights(resumed))
    assert steps(tmp_path) == steps(tmp_path / "fresh")


def test_another_configuration_is_refused_and_the_record_stays(tmp_path: Path) -> None:
    run(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.json*")}
    with pytest.raises(CheckpointError, match="another configuration"):
        run(tmp_path, seed=1)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.json*")} == before


# Numbers stay numbers


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_a_number_stops_and_names_the_batch(
    tmp_path: Path, accumulate: int
) -> None:
    toy = Toy()
    toy.x[7] = math.nan
    with pytest.raises(TrainingError, match="the loss is nan at step") as caught:
        run(tmp_path, toy, save_minutes=0.0, accumulate=accumulate)
    assert exit_code(caught.value) == 9
    bad = next(batch for batch in toy.seen if 7 in batch)
    named = caught.value.message.rpartition("the batch: ")[2].split(", ")
    assert named == toy.names(bad)
    assert "state" in caught.value.hint
    assert all(bool(torch.isfinite(w).all()) for w in weights(toy).values())
    assert all(math.isfinite(r["loss"]) for r in steps(tmp_path))


def test_the_state_before_a_bad_loss_is_whole(tmp_path: Path) -> None:
    class Spoilt(Toy):
        def loss(self, model: nn.Module, batch: Any, epoch: int, device: torch.device) -> Loss:
            good = super().loss(model, batch, epoch, device)
            return Loss(good.total * math.inf, {}) if epoch == 2 else good

    with pytest.raises(TrainingError, match="inf at step 7"):
        run(tmp_path, Spoilt(noise=0.3, dropout=0.2))
    whole, _ = run(tmp_path / "whole")
    resumed, progress = run(tmp_path)
    assert progress.global_step == 12
    assert same(weights(whole), weights(resumed))


def test_a_gradient_that_is_not_a_number_stops_before_the_weights(tmp_path: Path) -> None:
    class Cusp(Toy):
        def loss(self, model: nn.Module, batch: Any, epoch: int, device: torch.device) -> Loss:
            good = super().loss(model, batch, epoch, device).total
            return Loss(good + (good * 0).sqrt(), {})  # finite, its derivative is not

    toy = Cusp()
    before = weights(toy)
    with pytest.raises(TrainingError, match="the gradient is nan at step 1; the batch: sample-"):
        run(tmp_path, toy)
    assert same(before, weights(toy))


def test_an_error_in_a_step_leaves_a_log_that_can_be_read(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 2)
        run(tmp_path)
    assert [r["step"] for r in steps(tmp_path)] == [1, 2]
