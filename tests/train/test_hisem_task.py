from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from whatchanged.data.tokens import END, NULL, START
from whatchanged.errors import UsageError
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.hisem.generate import UNKNOWN
from whatchanged.models.hisem.loss import caption_loss, curriculum_weight
from whatchanged.train.config import TrainConfig
from whatchanged.train.hisem_task import CaptionBatch, HiSemTask, drop_words
from whatchanged.train.loop import fit
from whatchanged.train.run import build_task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tasks, so that features are encoded once."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def make(tiny: Callable[..., TrainConfig], place: Path) -> Callable[..., HiSemTask]:
    """Function that builds a task with values laid over the small configuration."""

    def build(**values: Any) -> HiSemTask:
        task = build_task(tiny(place, **values))
        assert isinstance(task, HiSemTask)
        return task

    return build


def batch_of(task: HiSemTask, indices: list[int], seed: int = 0) -> CaptionBatch:
    return task.load(indices, torch.Generator().manual_seed(seed))


def gradients(task: HiSemTask, epoch: int) -> dict[str, Tensor]:
    task.model.train()
    task.model.zero_grad(set_to_none=True)
    task.loss(task.model, batch_of(task, list(range(6))), epoch, CPU).total.backward()
    return {n: p.grad for n, p in task.hisem.named_parameters() if p.grad is not None}


def test_a_batch_holds_features_captions_and_labels(make: Callable[..., HiSemTask]) -> None:
    task = make()
    batch = batch_of(task, [0, 2, 3])
    assert batch.encoded
    assert batch.before.shape == batch.after.shape == (3, 32, 4, 4)
    assert batch.changed.tolist() == [True, False, True]
    for row in batch.captions.tolist():
        end = row.index(END)
        assert row[0] == START and set(row[end + 1 :]) <= {NULL}
    assert batch.captions.shape[1] == max(row.index(END) + 1 for row in batch.captions.tolist())


def test_a_batch_is_decided_by_its_generator(make: Callable[..., HiSemTask]) -> None:
    values = {"flips": True, "photometric": 0.8, "views": 2}
    task = make(model={"encoder": {"unfreeze_last": 1}}, data=values)
    torch.manual_seed(1)
    one = batch_of(task, [0, 1, 2, 4], seed=7)
    torch.manual_seed(2)
    again = batch_of(task, [0, 1, 2, 4], seed=7)
    assert not one.encoded and one.before.shape == (4, 3, 64, 64)
    assert torch.equal(one.before, again.before) and torch.equal(one.captions, again.captions)
    others = [batch_of(task, [0, 1, 2, 4], seed=s) for s in range(5)]
    assert any(not torch.equal(one.before, other.before) for other in others)


# Routing and curriculum (design, points 10 and 20)


def paths_taken(task: HiSemTask, epoch: int, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Path of each pair of a batch when the router says the contrary of every label."""
    seen: list[list[int]] = []
    batch = batch_of(task, [0, 1, 2, 5])
    wrong = torch.stack([batch.changed.float(), 1 - batch.changed.float()], dim=1)
    monkeypatch.setattr(task.hisem.hasd.router, "forward", lambda before, after: wrong)
    forward = task.hisem.forward

    def watched(*arguments: Any, **options: Any) -> Any:
        output = forward(*arguments, **options)
        seen.append(output.path.tolist())
        return output

    monkeypatch.setattr(task.hisem, "forward", watched)
    task.loss(task.model, batch, epoch, CPU)
    return seen


@pytest.mark.parametrize(
    ("share", "epoch", "by_label"),
    [(0.8, 0, True), (0.8, 7, True), (0.8, 8, False), (0.8, 9, False), (0.0, 0, False),
     (1.0, 9, True), (0.7, 6, True), (0.7, 7, False)],
)  # fmt: skip
def test_pairs_follow_their_label_first_and_the_router_later(
    make: Callable[..., HiSemTask],
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    epoch: int,
    by_label: bool,
) -> None:
    task = make(epochs=10, label_routing=share)
    expected = [1, 1, 0, 0] if by_label else [0, 0, 1, 1]
    assert paths_taken(task, epoch, monkeypatch) == [expected]


def test_the_router_learns_nothing_in_the_warmup_and_something_after_it(
    make: Callable[..., HiSemTask],
) -> None:
    task = make(epochs=10, warmup_epochs=3)
    for epoch in (0, 1, 2):
        assert "hasd.router.project.weight" not in gradients(task, epoch)
    assert float(gradients(task, 3)["hasd.router.project.weight"].abs().max()) > 0


def test_the_loss_is_equation_19(make: Callable[..., HiSemTask]) -> None:
    task = make(epochs=10, router_weight=0.5)
    task.model.eval()
    batch = batch_of(task, list(range(8)))
    for epoch in (0, 3, 6, 9):
        with torch.no_grad():
            loss = task.loss(task.model, batch, epoch, CPU)
        alpha = curriculum_weight(epoch + 1, 10, 3)
        expected = loss.parts["caption"] + 0.5 * alpha * loss.parts["router"]
        assert float(loss.total) == pytest.approx(expected, rel=1e-6)
    assert alpha == 1.0


# Beside the paper: words the decoder must do without, and auxiliary heads


def test_words_are_dropped_and_nothing_else() -> None:
    captions = torch.tensor([[START, 9, 8, 7, END, NULL]]).repeat(400, 1)
    torch.manual_seed(0)
    dropped = drop_words(captions, 0.25)
    assert torch.equal(dropped[:, [0, 4, 5]], captions[:, [0, 4, 5]])
    share = (dropped[:, 1:4] == UNKNOWN).float().mean()
    assert 0.2 < float(share) < 0.3
    assert drop_words(captions, 0.0) is captions


def test_what_is_said_is_learned_from_whole_captions(
    make: Callable[..., HiSemTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(word_dropout=1.0)
    task.model.eval()
    batch = batch_of(task, [0, 1, 2])
    read: list[Tensor] = []
    forward = task.hisem.decoder.forward

    def watched(captions: Tensor, memory: Tensor) -> Tensor:
        read.append(captions)
        logits: Tensor = forward(captions, memory)
        return logits

    monkeypatch.setattr(task.hisem.decoder, "forward", watched)
    loss = task.loss(task.model, batch, 0, CPU)
    assert set(read[0].flatten().tolist()) <= {NULL, START, END, UNKNOWN}
    with torch.no_grad():
        maps = task.maps(batch, CPU)
        memory = task.hisem.memory(*maps, batch.changed).tokens
        expected = caption_loss(task.hisem.decoder(read[0], memory), batch.captions)
    assert loss.parts["caption"] == pytest.approx(float(expected), rel=1e-5)


def test_auxiliary_heads_add_their_weighted_parts_and_stay_out_of_the_checkpoint(
    make: Callable[..., HiSemTask], tmp_path: Path
) -> None:
    task = make(model={"encoder": {"unfreeze_last": 1}}, auxiliary=0.5, epochs=10)
    task.model.eval()
    batch = batch_of(task, [0, 1, 2, 3])
    with torch.no_grad():
        loss = task.loss(task.model, batch, 0, CPU)
    told = sum(loss.parts[name] for name in ("words", "mask", "cover"))
    assert float(loss.total) == pytest.approx(loss.parts["caption"] + 0.5 * told, rel=1e-5)
    trained = {id(p) for group in task.parameter_groups() for p in group["params"]}
    assert task.model.heads is not None
    assert all(id(p) in trained for p in cast(nn.Module, task.model.heads).parameters())
    task.save(tmp_path / "best", {})
    saved = load_checkpoint(tmp_path / "best")
    assert saved.tensors.keys() == task.hisem.state_dict().keys()


def test_auxiliary_heads_and_zoom_need_pictures(make: Callable[..., HiSemTask]) -> None:
    for values in ({"auxiliary": 0.5}, {"data": {"zoom": 0.9}}):
        with pytest.raises(UsageError, match="frozen encoder"):
            make(**values)


def test_router_accuracy_is_the_share_of_right_labels(
    make: Callable[..., HiSemTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    says_changed = torch.tensor([[0.0, 1.0]]).repeat(4, 1)
    monkeypatch.setattr(task.hisem.hasd.router, "forward", lambda before, after: says_changed)
    loss = task.loss(task.model, batch_of(task, [0, 1, 2, 3]), 5, CPU)
    assert loss.parts["router_accuracy"] == 0.75


def test_without_routing_there_is_no_router_to_report(make: Callable[..., HiSemTask]) -> None:
    task = make(model={"hasd": {"routing": False, "unchanged": "moe"}})
    loss = task.loss(task.model, batch_of(task, [0, 2]), 5, CPU)
    assert set(loss.parts) == {"caption"}


# What trains


def encoder_state(task: HiSemTask) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in task.hisem.encoder.state_dict().items()}


def test_a_frozen_encoder_stays_as_it_is_bit_for_bit(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = tiny(tmp_path, epochs=1, optimiser={"name": "adamw", "weight_decay": 0.1})
    task = build_task(config)
    assert isinstance(task, HiSemTask)
    before, rest = encoder_state(task), task.hisem.decoder.head.weight.detach().clone()
    fit(task, config, tmp_path)
    after = encoder_state(task)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not torch.equal(rest, task.hisem.decoder.head.weight)
    saved = load_checkpoint(tmp_path / "last").tensors
    assert all(torch.equal(saved[f"encoder.{k}"], v) for k, v in before.items())


def test_the_last_stages_train_and_the_first_stay_with_their_statistics(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = tiny(tmp_path, epochs=1, max_steps=2, model={"encoder": {"unfreeze_last": 2}})
    task = build_task(config)
    assert isinstance(task, HiSemTask) and task.cache is None
    before = encoder_state(task)
    fit(task, config, tmp_path)
    after = encoder_state(task)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    parts = {".".join(k.split(".")[:2]) for k in moved if not k.startswith("neck")}
    assert parts == {"stages.5", "stages.6"}
    assert any(k.startswith("neck.") for k in moved)
    assert any("running_mean" in k for k in moved)


def test_groups_have_the_rates_of_the_configuration(make: Callable[..., HiSemTask]) -> None:
    task = make(optimiser={"lr": 3e-4, "encoder_lr": 0.0}, model={"encoder": {"unfreeze_last": 1}})
    rest, encoder = task.parameter_groups()
    assert (rest["lr"], encoder["lr"]) == (3e-4, 0.0)
    trained = {id(p) for group in (rest, encoder) for p in group["params"]}
    assert trained == {id(p) for p in task.model.parameters() if p.requires_grad}
    (only,) = make().parameter_groups()
    own = {id(p) for p in make().hisem.encoder.parameters()}
    assert not own & {id(p) for p in only["params"]}


def test_the_seed_decides_the_first_weights(make: Callable[..., HiSemTask]) -> None:
    one, again, other = (make(seed=s).hisem.decoder.head.weight for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# Validation and checkpoint


def test_validation_tells_all_its_measures(make: Callable[..., HiSemTask]) -> None:
    task = make()
    numbers = task.validate()
    assert tuple(sorted(numbers)) == tuple(sorted(task.measures))
    mean = sum(numbers[k] for k in ("bleu4", "meteor", "rouge_l", "cider_d")) / 4
    assert numbers["s_m"] == pytest.approx(mean)


def test_validation_scores_captions_against_all_references(
    make: Callable[..., HiSemTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    perfect = [list(s.captions[0]) for s in task.data.validation]
    labels = [s.changed for s in task.data.validation]
    monkeypatch.setattr(task, "describe_validation", lambda: (perfect, labels))
    numbers = task.validate()
    assert numbers["bleu4"] == pytest.approx(100)
    assert (numbers["router_changed"], numbers["router_unchanged"]) == (1.0, 1.0)
    monkeypatch.setattr(task, "describe_validation", lambda: (perfect, [True] * len(labels)))
    numbers = task.validate()
    assert (numbers["router_changed"], numbers["router_unchanged"]) == (1.0, 0.0)


def test_cached_features_and_pictures_are_described_alike(
    make: Callable[..., HiSemTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    task.model.eval()
    cached = task.describe_validation()
    assert len(cached[0]) == len(cached[1]) == 3
    monkeypatch.setattr(task, "cache", None)
    assert task.describe_validation() == cached


def test_describing_leaves_training_mode_to_the_loop(make: Callable[..., HiSemTask]) -> None:
    task = make(model={"encoder": {"unfreeze_last": 1}})
    task.validate()
    assert not any(module.training for module in task.model.modules())
    task.model.train()
    assert task.hisem.decoder.training and task.hisem.encoder.stages[6].training
    assert not task.hisem.encoder.stages[0].training


def test_a_checkpoint_holds_all_that_describing_needs(
    make: Callable[..., HiSemTask], tmp_path: Path
) -> None:
    task = make()
    task.save(tmp_path / "best", {"s_m": 41.5})
    saved = load_checkpoint(tmp_path / "best")
    assert saved.family == "hisem" and saved.config["preset"] == "hisem-small"
    assert saved.config["model"]["width"] == 32
    assert saved.extras["vocabulary"]["words"] == list(task.data.vocabulary.words)
    assert saved.extras["preprocessing"]["input_size"] == 64
    assert saved.extras["validation"] == {"s_m": 41.5}
    assert saved.tensors.keys() == task.hisem.state_dict().keys()


def test_names_are_those_of_the_pairs(make: Callable[..., HiSemTask]) -> None:
    task = make()
    assert len(task) == 11
    assert task.names([0, 10]) == ["levir-half/train_000", "levir-half/train_010"]


def test_runs_share_the_features_of_a_frozen_encoder(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    values = {"data": {"feature_cache": str(tmp_path / "shared")}}
    for name in ("one", "other"):
        task = build_task(tiny(tmp_path / name, **values))
        assert isinstance(task, HiSemTask) and task.cache is not None
        assert not list((tmp_path / name).glob("features-*"))
    assert len(list((tmp_path / "shared").glob("features-*"))) == 1
