from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from whatchanged.answers import Understood
from whatchanged.config import to_mapping
from whatchanged.data.transitions import wish_mask
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.train import mask_task
from whatchanged.train.config import TrainConfig
from whatchanged.train.loop import fit
from whatchanged.train.mask_task import MASKS_FAMILY, MaskBatch, MaskTask, count_masks
from whatchanged.train.record import read_log
from whatchanged.train.run import build_task, train
from whatchanged.train.wish_data import ANY, BUILDINGS, single_classes

CPU = torch.device("cpu")
# Places of the pairs of tests/train/conftest.py; 6 and 7 are the mask set's.
BUILT, SAME, UNMASKED, NONE, THERE = 0, 1, 3, 6, 7


@pytest.fixture(scope="module")
def make(tiny_wishes: Callable[..., TrainConfig]) -> Callable[..., MaskTask]:
    """Function that builds a task with values laid over the small configuration."""

    def build(**values: Any) -> MaskTask:
        task = build_task(tiny_wishes("wish-masks", "unused", **values))
        assert isinstance(task, MaskTask)
        return task

    return build


@pytest.fixture(scope="module")
def task(make: Callable[..., MaskTask]) -> MaskTask:
    """A task with a frozen encoder that no test trains."""
    return make()


def batch_of(task: MaskTask, indices: list[int], seed: int = 0) -> MaskBatch:
    return task.load(indices, torch.Generator().manual_seed(seed))


def gradients(task: MaskTask, batch: MaskBatch) -> dict[str, Tensor]:
    task.model.train()
    task.model.zero_grad(set_to_none=True)
    task.loss(task.model, batch, 0, CPU).total.backward()
    found = {n: p.grad for n, p in task.part.named_parameters() if p.grad is not None}
    task.model.zero_grad(set_to_none=True)
    return found


# Batches


def test_a_batch_holds_pairs_and_the_wishes_about_each(task: MaskTask) -> None:
    batch = batch_of(task, [BUILT, THERE, UNMASKED, SAME])
    assert batch.before.shape == batch.after.shape == (4, 3, 64, 64)
    assert batch.before.dtype == torch.float32 and float(batch.before.max()) <= 255
    n = len(batch.wishes)
    assert batch.masks.shape == (n, 64, 64) and batch.masks.dtype == torch.uint8
    assert batch.rows.tolist() == [0] * 4 + [1] * 2 + [3] * 4  # nothing is known of the third
    assert batch.wishes[4:6] == (ANY, BUILDINGS)
    assert torch.equal(batch.masks[4], batch.masks[5]) and int(batch.masks[4].sum()) == 64 * 32
    assert not batch.masks[6:].any()  # unchanged


def test_the_number_of_wishes_and_their_kind_follow_the_configuration(
    make: Callable[..., MaskTask],
) -> None:
    task = make(wishes={"per_pair": 6, "absent": 1.0})
    batch = batch_of(task, [SAME])
    assert len(batch.wishes) == 6
    whole = next(b for b in (batch_of(task, [BUILT], s) for s in range(9)) if len(b.wishes) == 6)
    assert not whole.masks[1:].eq(1).any()  # "any" comes first, and all else is absent


def test_a_batch_is_decided_by_its_generator(make: Callable[..., MaskTask]) -> None:
    task = make(data={"photometric": 0.7})
    torch.manual_seed(1)
    np.random.seed(1)
    one = batch_of(task, [BUILT, THERE, SAME], seed=5)
    torch.manual_seed(2)
    np.random.seed(2)
    again = batch_of(task, [BUILT, THERE, SAME], seed=5)
    for key in ("before", "after", "rows", "masks"):
        assert torch.equal(getattr(one, key), getattr(again, key)), key
    assert one.wishes == again.wishes
    others = [batch_of(task, [BUILT, THERE, SAME], seed=s) for s in (6, 7)]
    assert all(not torch.equal(one.before, other.before) for other in others)
    assert any(one.wishes != other.wishes for other in others)


def test_names_are_those_of_the_pairs(task: MaskTask) -> None:
    assert len(task) == 8
    assert task.names([BUILT, THERE]) == ["clcd/built", "houses/there"]


# Loss


def test_the_loss_is_that_of_the_mask_in_equation_16(task: MaskTask) -> None:
    task.model.eval()
    batch = batch_of(task, [BUILT, THERE, SAME])
    batch.masks[0, :9] = 255  # unknown: counts nowhere
    with torch.no_grad():
        loss = task.loss(task.model, batch, 0, CPU)
        logits = task.part(batch.before, batch.after, batch.rows, batch.wishes)
    known, met, p = batch.masks != 255, batch.masks == 1, logits.double().sigmoid()
    bce = -torch.where(met, p, 1 - p)[known].log().mean()
    p = p * known
    area = p.sum((1, 2)) + met.sum((1, 2))
    dice = 1 - (2 * (p * met).sum((1, 2)) + 1) / (area + 1)
    assert loss.parts["bce"] == pytest.approx(float(bce), rel=1e-4)
    wished = met.flatten(1).any(dim=1)  # Dice of an empty mask teaches to predict nothing
    assert 0 < int(wished.sum()) < len(wished)
    assert loss.parts["dice"] == pytest.approx(float(dice[wished].mean()), rel=1e-4)
    expected = 2.0 * loss.parts["bce"] + 0.5 * loss.parts["dice"]
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_which_nothing_is_known_trains_nothing(task: MaskTask) -> None:
    batch = batch_of(task, [UNMASKED])
    assert batch.wishes == () and batch.masks.shape == (0, 64, 64)
    loss = task.loss(task.model.eval(), batch, 0, CPU)
    assert float(loss.total.detach()) == 0
    found = gradients(task, batch)
    assert all(not grad.any() for grad in found.values())


# What trains


def test_fusion_table_and_decoder_train_under_a_frozen_encoder(task: MaskTask) -> None:
    (group,) = task.parameter_groups()
    chosen = {id(p) for p in group["params"]}
    names = {n for n, p in task.part.named_parameters() if id(p) in chosen}
    assert {n.partition(".")[0] for n in names} == {"fusion", "table", "decoder"}
    assert not {n for n in names if n.startswith("decoder.no_mask_embed")}
    assert group["lr"] == 1e-3
    found = gradients(task, batch_of(task, [BUILT, THERE]))
    assert set(found) == names
    still = {n for n, grad in found.items() if not grad.any()}
    # What one mask never reads, and a bias that a norm takes away again.
    assert {n.partition(".")[0] for n in names - still} == {"fusion", "table", "decoder"}
    assert {"table.classes.weight", "table.directions.weight", "table.mlp.0.weight"}.isdisjoint(
        still
    )
    assert len(still) < 0.1 * len(names), sorted(still)


def test_the_last_stages_of_the_encoder_train_at_their_own_rate(
    make: Callable[..., MaskTask],
) -> None:
    unfrozen = {"compact": {"encoder": {"unfreeze_last": 1}}}
    task = make(model=unfrozen, optimiser={"lr": 1e-3, "encoder_lr": 1e-5})
    rest, encoder = task.parameter_groups()
    assert (rest["lr"], encoder["lr"]) == (1e-3, 1e-5)
    chosen = {id(p) for p in encoder["params"]}
    names = {n for n, p in task.part.named_parameters() if id(p) in chosen}
    assert all(n.startswith(("vision.encoder.stages.6", "vision.encoder.neck")) for n in names)
    trained = {id(p) for p in task.part.parameters() if p.requires_grad}
    assert chosen | {id(p) for p in rest["params"]} == trained
    found = gradients(task, batch_of(task, [BUILT]))
    assert float(found["vision.encoder.neck.weight"].abs().max()) > 0
    same = make(model=unfrozen, optimiser={"encoder_lr": None}).parameter_groups()
    assert [group["lr"] for group in same] == [1e-3, 1e-3]


def test_only_the_compact_encoder_is_trained_this_way(
    make: Callable[..., MaskTask], reasoncd_kit: Any
) -> None:
    with pytest.raises(UsageError, match="compact encoder only"):
        make(model={"compact": None, "clip_sam": to_mapping(reasoncd_kit.TINY_CLIP_SAM.clip_sam)})


# Validation


def truth(task: MaskTask, pair: tuple[Tensor, Tensor], wishes: Sequence[Understood]) -> Tensor:
    """Probabilities of a part that knows the validation pairs."""
    store = task.data.validation_store
    wholes = [store.whole(i) for i in range(len(store))]
    (layers,) = (
        layers
        for layers in (*wholes, *(whole.swapped() for whole in wholes))
        if torch.equal(torch.from_numpy(layers.before)[None], pair[0])
        and torch.equal(torch.from_numpy(layers.after)[None], pair[1])
    )
    known = [
        wish_mask(w, None, None, layers.mask) if w == ANY
        else wish_mask(w, layers.classes_before, layers.classes_after, layers.mask)
        for w in wishes
    ]  # fmt: skip
    return torch.from_numpy(np.stack(known) == 1).float()


def test_a_perfect_part_has_f1_of_one_and_a_blind_one_of_zero(
    task: MaskTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_task, "_LEAST_PAIRS", 1)
    monkeypatch.setattr(task, "_probabilities", lambda pair, wishes: truth(task, pair, wishes))
    assert task.validate() == dict.fromkeys(task.measures, 1.0)
    monkeypatch.setattr(
        task, "_probabilities", lambda pair, wishes: torch.zeros(len(wishes), 64, 64)
    )
    assert task.validate() == dict.fromkeys(task.measures, 0.0)
    # Everything marked: all that changed is found, among four pictures.
    monkeypatch.setattr(
        task, "_probabilities", lambda pair, wishes: torch.ones(len(wishes), 64, 64)
    )
    changed = 64 * 32 + 4 * 8
    assert task.validate()["iou_any"] == pytest.approx(changed / (4 * 64 * 64))


def test_a_part_that_is_blind_for_one_order_of_the_dates_is_found_out(
    task: MaskTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_task, "_LEAST_PAIRS", 1)
    store = task.data.validation_store
    first = [torch.from_numpy(store.whole(i).before)[None] for i in range(len(store))]

    def forwards(pair: tuple[Tensor, Tensor], wishes: Sequence[Understood]) -> Tensor:
        known = any(torch.equal(before, pair[0]) for before in first)
        return truth(task, pair, wishes) * float(known)

    monkeypatch.setattr(task, "_probabilities", forwards)
    numbers = task.validate()
    assert (numbers["f1_any"], numbers["f1_any_exchanged"]) == (1.0, 0.0)
    assert numbers["score"] == 0.75


def test_classes_that_few_pairs_show_have_no_number(
    task: MaskTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "_probabilities", lambda pair, wishes: truth(task, pair, wishes))
    numbers = task.validate()
    assert numbers["f1_classes"] == 0.0 and numbers["score"] == 0.5


def test_masks_are_counted_where_the_answer_is_known(task: MaskTask) -> None:
    asked: list[Understood] = []

    def ask(pair: tuple[Tensor, Tensor], wishes: Sequence[Understood]) -> Tensor:
        asked.extend(wishes)
        return truth(task, pair, wishes)

    counts = count_masks(task.data, ask)
    assert set(counts) <= {ANY, *single_classes()} and asked.count(ANY) == 4
    found, n_met = counts[ANY]
    assert (found.tp, found.fp, found.fn, n_met) == (64 * 32 + 32, 0, 0, 2)
    assert found.n_pixels == 4 * 64 * 64
    houses, n_met = counts[Understood(("building",), "appeared")]
    assert (houses.tp, n_met) == (64 * 32 + 32, 2)
    trees, n_met = counts[Understood(("tree",), "disappeared")]
    assert (trees.tp, n_met) == (0, 0)


def test_without_a_mask_there_is_nothing_to_score(
    make: Callable[..., MaskTask], write_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    task = make(data={"captions": [str(write_pairs(tmp_path, n_train=1, n_val=2))]})
    assert task.validate() == dict.fromkeys(task.measures, 0.0)


def test_the_part_itself_is_asked(task: MaskTask) -> None:
    task.model.train()
    numbers = task.validate()
    assert not task.model.training and all(0 <= value <= 1 for value in numbers.values())


# Runs


def test_a_run_leaves_a_mask_part(
    tiny_wishes: Callable[..., TrainConfig], make: Callable[..., MaskTask], tmp_path: Path
) -> None:
    config, task = tiny_wishes("wish-masks", tmp_path, max_steps=2), make()
    first = {k: v.clone() for k, v in task.part.state_dict().items()}
    progress = fit(task, config, tmp_path)
    assert progress.global_step == 2
    saved = load_checkpoint(tmp_path / "best")
    assert saved.family == MASKS_FAMILY == "reasoncd-masks"
    assert saved.config == {"preset": "reasoncd-small", "model": to_mapping(task.reasoncd)}
    assert set(saved.extras["validation"]) == set(task.measures)
    for name, tensor in task.part.state_dict().items():
        assert torch.equal(saved.tensors[name], tensor), name
    moved = {k for k, v in task.part.state_dict().items() if not torch.equal(first[k], v)}
    assert {k.partition(".")[0] for k in moved} == {"fusion", "table", "decoder"}
    assert any("running_mean" in k for k in moved)


def test_a_run_resumes_exactly(tiny_wishes: Callable[..., TrainConfig], tmp_path: Path) -> None:
    values: dict[str, Any] = {"batch_size": 2, "data": {"photometric": 0.5}, "accumulate": 2}
    for out, stops in (("whole", [4]), ("halves", [1, 4])):
        for stop in stops:
            train(tiny_wishes("wish-masks", tmp_path / out, max_steps=stop, **values))
    steps = []
    for out in ("whole", "halves"):
        records = [r for r in read_log(tmp_path / out / "log.jsonl") if r["event"] == "step"]
        steps.append([{k: v for k, v in r.items() if k != "pairs_per_second"} for r in records])
    assert len(steps[0]) == 4
    # The rate is shown of the steps that a run was meant to have.
    assert [r["loss"] for r in steps[0]] == [r["loss"] for r in steps[1]]
    one, other = (load_checkpoint(tmp_path / out / "last").tensors for out in ("whole", "halves"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# Going on


def test_a_run_goes_on_from_a_mask_part(make: Callable[..., MaskTask], tmp_path: Path) -> None:
    first = make(seed=1)
    first.save(tmp_path / "best", {})
    second = make(seed=2, start=str(tmp_path / "best"))
    theirs, ours = first.part.state_dict(), second.part.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    plain = make(seed=2).part.state_dict()
    assert not all(torch.equal(plain[name], ours[name]) for name in ours)


def test_a_kept_table_does_not_train(make: Callable[..., MaskTask], tmp_path: Path) -> None:
    make(seed=1).save(tmp_path / "best", {})
    task = make(start=str(tmp_path / "best"), wishes={"keep_table": True})
    chosen = {id(p) for group in task.parameter_groups() for p in group["params"]}
    names = {n for n, p in task.part.named_parameters() if id(p) in chosen}
    assert {n.partition(".")[0] for n in names} == {"fusion", "decoder"}
    found = gradients(task, batch_of(task, [BUILT, THERE]))
    assert set(found) == names
    with pytest.raises(UsageError, match="no run has trained"):
        make(wishes={"keep_table": True})


def test_a_mask_part_of_another_size_is_refused(
    make: Callable[..., MaskTask], tmp_path: Path
) -> None:
    make().save(tmp_path / "best", {})
    with pytest.raises(CheckpointError, match="not the mask part of this run"):
        make(start=str(tmp_path / "best"), model={"fusion": {"width": 32}})
