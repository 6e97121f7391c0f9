from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from whatchanged.errors import CheckpointError
from whatchanged.train.state import (
    Progress,
    drop_states,
    load_state,
    save_state,
    seed_step,
    step_generator,
)

CONFIG: dict[str, Any] = {"epochs": 3, "optimiser": {"lr": 0.1}, "out": "x", "max_steps": 0}


class Net(nn.Module):
    """Weights, a buffer of integers and a parameter that no loss reaches."""

    def __init__(self, seed: int, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.idle = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x))
        return out


def trained(seed: int = 0, steps: int = 3, width: int = 4) -> tuple[Net, torch.optim.Adam]:
    net = Net(seed, width)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    for step in range(steps):
        optimiser.zero_grad(set_to_none=True)
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        net(x).pow(3).sum().backward()
        optimiser.step()
    return net, optimiser


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_state_brings_back_weights_buffers_and_moments_exactly(tmp_path: Path) -> None:
    net, optimiser = trained()
    progress = Progress(epoch=1, step=2, global_step=9, best=1 / 3, seconds=0.1)
    target = save_state(tmp_path, net, optimiser, progress, CONFIG)
    assert target.name == "state-00000009"
    other, fresh = trained(seed=7, steps=1)
    assert load_state(tmp_path, other, fresh, CONFIG) == progress
    assert equal(net, other)
    old, new = optimiser.state_dict()["state"], fresh.state_dict()["state"]
    assert old.keys() == new.keys()  # the idle parameter has none in either
    for index, moments in old.items():
        assert moments.keys() == new[index].keys()
        assert all(torch.equal(moments[key], new[index][key]) for key in moments)


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    net, optimiser = trained(steps=2)
    save_state(tmp_path, net, optimiser, Progress(global_step=2), CONFIG)
    other, fresh = trained(seed=7, steps=0)
    load_state(tmp_path, other, fresh, CONFIG)
    for model, opt in ((net, optimiser), (other, fresh)):
        opt.zero_grad()
        model(torch.ones(5, 3).cumsum(0)).pow(3).sum().backward()
        opt.step()
    assert equal(net, other)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    net, optimiser = trained()
    for step in (1, 5, 30, 200):
        save_state(tmp_path, net, optimiser, Progress(global_step=step), CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-00000030", "state-00000200"]


def test_no_state_is_none(tmp_path: Path) -> None:
    net, optimiser = trained()
    assert load_state(tmp_path / "absent", net, optimiser, CONFIG) is None


def damage_byte(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def change_place(folder: Path) -> None:
    file = folder / "progress.json"
    file.write_text(file.read_text().replace("20", "21"))


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("harm", [damage_byte, truncate, change_place, remove_manifest])
def test_a_damaged_state_is_named_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Any
) -> None:
    first, optimiser = trained(steps=1)
    save_state(tmp_path, first, optimiser, Progress(global_step=10), CONFIG)
    second, optimiser = trained(steps=2)
    harm(save_state(tmp_path, second, optimiser, Progress(global_step=20), CONFIG))
    net, fresh = trained(seed=7)
    with caplog.at_level(logging.WARNING):
        assert load_state(tmp_path, net, fresh, CONFIG) == Progress(global_step=10)
    assert "state-00000020" in caplog.text
    assert equal(net, first)


def test_two_damaged_states_are_a_fresh_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, optimiser = trained()
    for step in (10, 20):
        damage_byte(save_state(tmp_path, net, optimiser, Progress(global_step=step), CONFIG))
    assert load_state(tmp_path, net, optimiser, CONFIG) is None
    assert "state-00000010" in caplog.text and "state-00000020" in caplog.text


def test_a_damaged_later_state_is_gone_after_the_next_save(tmp_path: Path) -> None:
    net, optimiser = trained()
    for step in (10, 20):
        last = save_state(tmp_path, net, optimiser, Progress(global_step=step), CONFIG)
    damage_byte(last)
    save_state(tmp_path, net, optimiser, Progress(global_step=12), CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-00000010", "state-00000012"]


def test_the_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    net, optimiser = trained()
    save_state(tmp_path, net, optimiser, Progress(global_step=1), CONFIG)
    other = {**CONFIG, "optimiser": {"lr": 0.2}}
    with pytest.raises(CheckpointError, match="another configuration") as caught:
        load_state(tmp_path, net, optimiser, other)
    assert "state-00000001" in caught.value.message
    assert "out" in caught.value.hint


@pytest.mark.parametrize("key", ["out", "resume", "max_steps", "save_minutes"])
def test_where_and_how_long_a_run_goes_may_change(tmp_path: Path, key: str) -> None:
    net, optimiser = trained()
    save_state(tmp_path, net, optimiser, Progress(global_step=1), CONFIG)
    assert load_state(tmp_path, net, optimiser, {**CONFIG, key: 77}) == Progress(global_step=1)


@pytest.mark.parametrize(
    ("default", "other"),
    [
        ({"language": None}, {"language": "reasoncd-small"}),
        ({"data": {"swap": 0.0}}, {"data": {"swap": 0.5}}),  # no run had it before
    ],
)
def test_a_key_that_came_later_and_has_its_default_makes_no_other_run(
    tmp_path: Path, default: dict[str, Any], other: dict[str, Any]
) -> None:
    net, optimiser = trained()
    save_state(tmp_path, net, optimiser, Progress(global_step=1), CONFIG)
    assert load_state(tmp_path, net, optimiser, {**CONFIG, **default}) is not None
    with pytest.raises(CheckpointError, match="another configuration"):
        load_state(tmp_path, net, optimiser, {**CONFIG, **other})


def test_what_a_run_starts_from_may_move_with_it(tmp_path: Path) -> None:
    net, optimiser = trained()
    plain = {**CONFIG, "out": "runs/words", "start": "runs/masks/best"}
    save_state(tmp_path, net, optimiser, Progress(global_step=1), plain)
    moved = {**plain, "out": "/moved/words", "start": "/moved/masks/best"}
    assert load_state(tmp_path, net, optimiser, moved) == Progress(global_step=1)
    for other in ("/moved/other/best", "runs/masks/best", "/masks/best"):
        with pytest.raises(CheckpointError, match="another configuration"):
            load_state(tmp_path, net, optimiser, {**moved, "start": other})


def test_a_state_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    net, optimiser = trained(width=4)
    save_state(tmp_path, net, optimiser, Progress(global_step=1), CONFIG)
    other, fresh = trained(width=5)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_state(tmp_path, other, fresh, CONFIG)


def test_dropping_leaves_nothing_to_resume_from(tmp_path: Path) -> None:
    net, optimiser = trained()
    save_state(tmp_path / "state", net, optimiser, Progress(global_step=1), CONFIG)
    drop_states(tmp_path / "state")
    assert load_state(tmp_path / "state", net, optimiser, CONFIG) is None
    drop_states(tmp_path / "state")


places = st.tuples(*(st.integers(0, 10_000) for _ in range(4)))


@given(places, places)
def test_draws_depend_on_the_place_alone(one: Any, other: Any) -> None:
    first, again, elsewhere = (
        torch.randint(2**62, (1,), generator=step_generator(*place)).item()
        for place in (one, one, other)
    )
    assert first == again
    assert (first == elsewhere) == (one == other)


def test_layers_and_data_draw_from_different_streams() -> None:
    seed_step(1, 2, 3)
    layers = torch.rand(8)
    data = torch.rand(8, generator=step_generator(1, 2, 3))
    assert not torch.equal(layers, data)
    seed_step(1, 2, 3)
    assert torch.equal(torch.rand(8), layers)
