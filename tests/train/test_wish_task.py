from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from whatchanged.answers import EXPLAIN, TARGET, Understood, parse_answer
from whatchanged.data.wishes import Wish, load_families, load_wishes
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.reasoncd.config import ReasonCDConfig
from whatchanged.models.reasoncd.loss import mask_bce, mask_dice, text_loss
from whatchanged.models.reasoncd.mask_part import WishTable
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.prompt import IGNORED, TextSample
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.train import wish_task
from whatchanged.train.config import TrainConfig
from whatchanged.train.loop import fit
from whatchanged.train.run import build_task, train
from whatchanged.train.wish_task import (
    TrainedReasonCD,
    WishBatch,
    WishTask,
    answer_to,
    load_masks,
    vary,
)

CPU = torch.device("cpu")
# Places of the pairs of tests/train/conftest.py; 7 is the mask set's.
BUILT, SAME, UNMASKED, THERE = 0, 1, 3, 7
HOUSES = Understood(("building",), "appeared")
WISH = Wish("new homes", HOUSES, "explicit", "homes", "Homes are buildings.")
OFF = Wish("any pandas?", None, "implicit", "animals", "Animals are too small.")
LEARNED = {"language", "project", "state_prompt"}


@pytest.fixture(autouse=True)
def tiny_start(monkeypatch: pytest.MonkeyPatch, reasoncd_kit: ModuleType) -> None:
    """Start from a tiny random ReasonCD in the place of a real language model."""

    def start(config: ReasonCDConfig) -> ReasonCD:
        return reasoncd_kit.make(config).train()

    monkeypatch.setattr(wish_task, "start_reasoncd", start)


@pytest.fixture(scope="module")
def masks(
    tiny_wishes: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Checkpoint of a mask part, other than the tiny model's own."""
    folder = tmp_path_factory.mktemp("masks")
    task = build_task(tiny_wishes("wish-masks", "unused", seed=5))
    task.model.train()
    task.loss(task.model, task.load([BUILT, THERE], torch.Generator()), 0, CPU)  # statistics
    task.save(folder, {})
    return folder


@pytest.fixture(scope="module")
def configure(tiny_wishes: Callable[..., TrainConfig], masks: Path) -> Callable[..., TrainConfig]:
    def make(out: Path | str = "unused", **values: Any) -> TrainConfig:
        return tiny_wishes("wishes", out, **{"start": str(masks), **values})

    return make


@pytest.fixture
def make(configure: Callable[..., TrainConfig]) -> Callable[..., WishTask]:
    """Function that builds a task with values laid over the small configuration."""

    def build(**values: Any) -> WishTask:
        task = build_task(configure(**values))
        assert isinstance(task, WishTask)
        return task

    return build


def batch_of(task: WishTask, indices: list[int], seed: int = 0) -> WishBatch:
    return task.load(indices, torch.Generator().manual_seed(seed))


def texts(task: WishTask, sample: TextSample) -> tuple[str, str]:
    """The wish and the answer of a sample, in words."""
    ids, writer = task.reasoncd.writer, task.reasoncd.writer.ids
    start, end = (sample.ids.index(i) for i in (writer.wish_start, writer.wish_end))
    wish = ids.tokenizer.decode(sample.ids[start + 1 : end])
    said = [i for i in sample.labels if i != IGNORED]
    assert said[-1] == writer.answer_end
    return wish.strip(), ids.say(said[:-1])


def many(task: WishTask, index: int, n: int = 12) -> list[tuple[str, str, Understood | None]]:
    found = []
    for seed in range(n):
        batch = batch_of(task, [index], seed)
        told = [texts(task, sample) for group in batch.groups for sample in group]
        found += [(*t, u) for t, u in zip(told, batch.understood, strict=True)]
    return found


def gradients(task: WishTask, batch: WishBatch) -> dict[str, Tensor]:
    task.model.train()
    task.model.zero_grad(set_to_none=True)
    task.loss(task.model, batch, 0, CPU).total.backward()
    return {n: p.grad for n, p in task.reasoncd.named_parameters() if p.grad is not None}


# Answers


def test_a_reason_comes_first_and_only_where_it_is_wanted() -> None:
    said = answer_to(WISH, met=True, explained=True)
    assert said == "Homes are buildings. It's buildings that appeared: <CHG>."
    assert answer_to(WISH, met=True, explained=False) == "It's buildings that appeared: <CHG>."


def test_what_is_not_there_and_what_cannot_be_seen_get_no_target_token() -> None:
    for explained in (True, False):
        absent = answer_to(WISH, met=False, explained=explained)
        assert TARGET not in absent and absent.startswith(WISH.why) == explained
        assert "There are no buildings that appeared" in absent
        off = answer_to(OFF, met=False, explained=explained)
        assert TARGET not in off and parse_answer(off) is None
        assert off.startswith(OFF.why) == explained


def test_every_answer_of_the_bank_states_what_the_wish_means() -> None:
    for family in load_families():
        wish = Wish(family.wishes[0], family.understood, family.kind, family.name, family.why)
        for explained in (True, False):
            for met in (True, False) if family.understood else (False,):
                said = answer_to(wish, met=met, explained=explained)
                assert parse_answer(said) == family.understood and (TARGET in said) == met


# Words that are written otherwise


def slips(one: str, other: str) -> int:
    """Places of neighbours exchanged, if nothing else differs; else -1."""
    place = count = 0
    while place < len(one):
        if one[place] == other[place]:
            place += 1
        elif one[place : place + 2] == other[place : place + 2][::-1]:
            place, count = place + 2, count + 1
        else:
            return -1
    return count


def test_a_hasty_hand_keeps_the_words() -> None:
    rng = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    for wish in (*load_wishes("train")[::9], replace(WISH, text="?"), replace(WISH, text="a b c")):
        text = wish.text
        written = vary(text, rng)
        assert written.strip()
        plain, other = (re.sub(r"[?.!]+$", "", t).lower() for t in (text, written))
        assert len(plain) == len(other) or not plain
        assert slips(plain, other) in (0, 1)
        if slips(plain, other):
            assert written[0] == text[0] and written[-1] == text[-1]
        same = "capitals" if written.lower() == text.lower() else "marks"
        kinds["slip" if slips(plain, other) else "as it is" if written == text else same] += 1
    assert all(kinds[kind] > 10 for kind in ("slip", "marks", "capitals", "as it is")), kinds


# Batches


def test_a_batch_groups_its_samples_by_pair(make: Callable[..., WishTask]) -> None:
    task = make(wishes={"per_pair": 3})
    batch = batch_of(task, [BUILT, THERE, SAME])
    assert batch.before.shape == (3, 3, 64, 64)
    assert [len(group) for group in batch.groups] == [3, 2, 3]
    assert len(batch.understood) == len(batch.masks) == 8
    assert batch.masks.dtype == torch.uint8 and batch.masks.shape[1:] == (64, 64)


def test_answers_follow_what_the_pair_meets(
    make: Callable[..., WishTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wish_task, "_EXPLAINED", 0.5)
    monkeypatch.setattr(wish_task, "_COMPOSED", 0.0)
    task = make(wishes={"per_pair": 8, "absent": 0.4})
    found = many(task, THERE)  # houses were built: "any" and buildings are met
    met = {u: TARGET in said for _, said, u in found if u is not None}
    assert met and all(met.values())
    unchanged = many(task, SAME, 6)
    assert len(unchanged) == 48 and not any(TARGET in said for _, said, _ in unchanged)
    both = [*found, *unchanged]
    explained = [(wish, said, u) for wish, said, u in both if wish.endswith(EXPLAIN)]
    assert 0.3 < len(explained) / len(both) < 0.7
    reasons = {family.why for family in load_families() if family.split == "train"}
    for wish, said, understood in both:
        assert parse_answer(said) == understood
        assert any(said.startswith(why) for why in reasons) == wish.endswith(EXPLAIN), said


def test_some_wishes_are_off_the_subject_and_have_no_mask(
    make: Callable[..., WishTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    monkeypatch.setattr(wish_task, "_OFF_SUBJECT", 1.0)
    batch = batch_of(task, [THERE])
    assert batch.understood == (None, None) and not batch.masks.any()
    assert all("seen from above" in texts(task, s)[1] for s in batch.groups[0])
    monkeypatch.setattr(wish_task, "_OFF_SUBJECT", 0.0)
    assert None not in batch_of(task, [THERE]).understood


def test_a_pair_of_which_nothing_is_known_is_asked_off_the_subject(
    make: Callable[..., WishTask],
) -> None:
    batch = batch_of(make(), [UNMASKED])
    assert batch.understood == (None,) and len(batch.groups[0]) == 1


def test_wordings_are_those_of_the_training_split(
    make: Callable[..., WishTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wish_task, "_NOISY", 0.0)
    monkeypatch.setattr(wish_task, "_COMPOSED", 0.0)
    task = make(wishes={"per_pair": 8})
    clean = task.reasoncd.writer
    allowed = {
        texts(task, clean.sample(w.text, "It's <CHG>."))[0]: w.understood
        for w in load_wishes("train")
    }
    for wish, _, understood in many(task, SAME, 8):
        assert allowed[wish.removesuffix(EXPLAIN).strip()] == understood


def test_some_wordings_are_composed_where_there_are_names(
    make: Callable[..., WishTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wish_task, "_NOISY", 0.0)
    monkeypatch.setattr(wish_task, "_COMPOSED", 1.0)
    monkeypatch.setattr(wish_task, "_EXPLAINED", 1.0)
    found = many(make(wishes={"per_pair": 8}), SAME, 8)
    for _, said, understood in found:
        assert parse_answer(said) == understood
        named = understood is not None and understood.classes != ("any",)
        assert said.startswith('"') == named, said
    assert len({wish for wish, _, understood in found if understood}) > 40


def test_a_meaning_of_many_ideas_is_drawn_more_often(make: Callable[..., WishTask]) -> None:
    task = make()
    rare = min(task.weights, key=task.weights.__getitem__)
    often = max(task.weights, key=task.weights.__getitem__)
    assert {task.weights[m] - len(task.bank[m]) for m in (rare, often)} == {4}
    assert task.weights[often] > 3 * task.weights[rare]
    drawn = Counter(u for seed in range(60) for u in batch_of(task, [SAME], seed).understood)
    ideas = len(task.bank[often]), len(task.bank[rare])
    assert drawn[often] > drawn[rare] and ideas[0] > 3 * ideas[1]


def test_the_language_part_can_go_on_over_another_mask_part(
    make: Callable[..., WishTask], masks: Path, tmp_path: Path
) -> None:
    first = make(seed=7)
    with torch.no_grad():
        for name, parameter in first.reasoncd.named_parameters():
            if ".lora_" in name or name.startswith(("language.rows", "project.", "state_prompt.")):
                parameter.add_(torch.randn_like(parameter))
    first.save(tmp_path / "first", {})
    second = make(language=str(tmp_path / "first"))
    fresh = make()
    told, other = first.reasoncd.state_dict(), fresh.reasoncd.state_dict()
    for name, tensor in second.reasoncd.state_dict().items():
        assert torch.equal(tensor, told[name]), name
    assert not torch.equal(told["language.rows"], other["language.rows"])
    with pytest.raises(CheckpointError, match="not a ReasonCD"):
        make(language=str(masks))
    with pytest.raises(CheckpointError, match="not of this preset"):
        make(language=str(tmp_path / "first"), model={"language": {"lora_rank": 3}})


def test_a_batch_is_decided_by_its_generator(make: Callable[..., WishTask]) -> None:
    task = make(data={"photometric": 0.5})
    one, again, other = (batch_of(task, [BUILT, SAME], seed) for seed in (3, 3, 4))
    assert one.groups == again.groups and one.understood == again.understood
    assert torch.equal(one.before, again.before) and torch.equal(one.masks, again.masks)
    assert one.groups != other.groups and not torch.equal(one.before, other.before)


# Loss


def test_prompts_are_drawn_to_those_of_the_table(make: Callable[..., WishTask]) -> None:
    task = make(wishes={"align": 0.7})
    task.model.eval()
    batch = batch_of(task, [BUILT, THERE, SAME])
    with torch.no_grad():
        loss = task.loss(task.model, batch, 0, CPU)
        output = task.model(batch.before, batch.after, batch.groups)
    ids = task.reasoncd.writer.ids
    met = [
        understood
        for understood, sample in zip(
            batch.understood, (s for g in batch.groups for s in g), strict=True
        )
        if ids.target in sample.labels
    ]
    assert len(met) == len(output.prompts) > 1
    align = F.mse_loss(output.prompts, task.table(met))
    text = text_loss(output.text_logits, output.text_labels, ids.target)
    assert loss.parts == pytest.approx({"text": float(text), "align": float(align)})
    assert float(loss.total) == pytest.approx(float(text) + 0.7 * float(align))


def test_the_table_is_the_mask_parts_and_stays(make: Callable[..., WishTask], masks: Path) -> None:
    task = make()
    saved = load_checkpoint(masks).tensors
    for name, tensor in task.table.state_dict().items():
        assert torch.equal(tensor, saved[f"table.{name}"])
    gradients(task, batch_of(task, [BUILT]))
    assert all(p.grad is None for p in task.table.parameters())


def test_with_masks_the_loss_is_equation_16_beside_the_alignment(
    make: Callable[..., WishTask],
) -> None:
    task = make(wishes={"decode": True, "align": 0.0})
    task.model.eval()
    batch = batch_of(task, [BUILT, THERE, SAME])
    with torch.no_grad():
        loss = task.loss(task.model, batch, 0, CPU)
        output = task.model(batch.before, batch.after, batch.groups)
    truth = batch.masks[output.has_target]
    assert len(truth) == len(output.mask_logits) > 1 and bool(truth.eq(1).any((1, 2)).all())
    bce, dice = (float(f(output.mask_logits, truth)) for f in (mask_bce, mask_dice))
    assert loss.parts["bce"] == pytest.approx(bce) and loss.parts["dice"] == pytest.approx(dice)
    expected = loss.parts["text"] + 2 * bce + 0.5 * dice
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("decode", [False, True])
def test_a_batch_without_a_target_token_learns_words_alone(
    make: Callable[..., WishTask], decode: bool
) -> None:
    task = make(wishes={"decode": decode})
    batch = batch_of(task, [SAME])
    loss = task.loss(task.model, batch, 0, CPU)
    assert loss.parts["align"] == 0 and float(loss.total.detach()) == pytest.approx(
        loss.parts["text"]
    )
    loss.total.backward()


# What trains


def test_without_masks_the_eyes_stay_as_they_are(make: Callable[..., WishTask]) -> None:
    task = make()
    (group,) = task.parameter_groups()
    chosen = {id(p) for p in group["params"]}
    names = {n for n, p in task.reasoncd.named_parameters() if id(p) in chosen}
    assert {n.partition(".")[0] for n in names} == LEARNED
    inside = {n for n in names if n.startswith("language.")}
    assert "language.rows" in inside and all(".lora_" in n for n in inside - {"language.rows"})
    found = gradients(task, batch_of(task, [BUILT, THERE]))
    assert set(found) == names and all(grad.any() for grad in found.values())


def test_with_masks_they_reach_the_language_model(make: Callable[..., WishTask]) -> None:
    task = make(wishes={"decode": True, "align": 0.0})
    batch = batch_of(task, [BUILT, THERE])
    task.model.train()
    assert task.reasoncd.fusion.training
    output = task.model(batch.before, batch.after, batch.groups)
    output.mask_logits.square().mean().backward()  # of the masks alone
    found = {n for n, p in task.reasoncd.named_parameters() if p.grad is not None and p.grad.any()}
    parts = {n.partition(".")[0] for n in found}
    assert parts == {"language", "project", "state_prompt", "fusion", "decoder"}
    assert any(".lora_B" in n for n in found)


def test_statistics_of_what_does_not_train_stay(make: Callable[..., WishTask]) -> None:
    for decode in (False, True):
        task = make(wishes={"decode": decode})
        buffers = {k: v.clone() for k, v in task.reasoncd.fusion.named_buffers()}
        gradients(task, batch_of(task, [BUILT]))
        moved = [k for k, v in task.reasoncd.fusion.named_buffers() if not v.equal(buffers[k])]
        assert bool(moved) == decode


# Starting from a mask part


def test_eyes_and_decoder_are_those_of_the_mask_part(
    make: Callable[..., WishTask], masks: Path
) -> None:
    saved = load_checkpoint(masks).tensors
    own = make().reasoncd.state_dict()
    for name in saved:
        if not name.startswith("table."):
            assert torch.equal(own[name], saved[name]), name


def test_other_families_and_sizes_are_refused(
    masks: Path, reasoncd_kit: ModuleType, tmp_path: Path
) -> None:
    saved = load_checkpoint(masks)
    model, table = reasoncd_kit.make(), WishTable(16)
    save_checkpoint(
        tmp_path / "h", family="hisem", config={}, tensors=dict(saved.tensors), extras={}
    )
    with pytest.raises(CheckpointError, match="holds a hisem, not a mask part"):
        load_masks(model, table, tmp_path / "h")
    with pytest.raises(CheckpointError, match="not the mask part of this preset"):
        load_masks(model, WishTable(24), masks)
    tiny = reasoncd_kit.TINY
    wide = reasoncd_kit.make(replace(tiny, fusion=replace(tiny.fusion, hidden=32)))
    with pytest.raises(CheckpointError, match="not the mask part of this preset"):
        load_masks(wide, table, masks)


def test_without_a_mask_part_masks_must_be_learned_with_the_words(
    make: Callable[..., WishTask],
) -> None:
    for wishes in ({}, {"decode": True}, {"align": 0.0}):
        with pytest.raises(UsageError, match="needs a trained mask part"):
            make(start=None, wishes=wishes)
    task = make(start=None, wishes={"decode": True, "align": 0.0})  # the paper's way
    loss = task.loss(task.model, batch_of(task, [BUILT, THERE]), 0, CPU)
    assert loss.parts["align"] == 0 and loss.parts["bce"] > 0


# Runs


def asked(model: ReasonCD, kit: ModuleType) -> tuple[list[str], Tensor]:
    with torch.no_grad():
        pairs = model.encode(model.see(*kit.pictures()))
    found = model.ask(pairs, ["new houses", "lost trees"], force_target=True)
    return [answer.answer for answer in found], torch.stack([a.probability for a in found])


def test_a_run_leaves_a_model_that_answers_the_same(
    configure: Callable[..., TrainConfig], reasoncd_kit: ModuleType, tmp_path: Path
) -> None:
    config = configure(tmp_path, max_steps=2)
    task = build_task(config)
    assert isinstance(task, WishTask)
    first = {k: v.clone() for k, v in task.reasoncd.state_dict().items()}
    assert fit(task, config, tmp_path).global_step == 2
    moved = {k for k, v in task.reasoncd.state_dict().items() if not v.equal(first[k])}
    assert {k.partition(".")[0] for k in moved} == LEARNED
    loaded = load_reasoncd(tmp_path / "best")
    for name, tensor in task.reasoncd.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    own, again = asked(task.reasoncd.eval(), reasoncd_kit), asked(loaded, reasoncd_kit)
    assert own[0] == again[0]
    torch.testing.assert_close(own[1], again[1])


def test_a_run_resumes_exactly(configure: Callable[..., TrainConfig], tmp_path: Path) -> None:
    values: dict[str, Any] = {"batch_size": 2, "wishes": {"decode": True, "per_pair": 2}}
    for out, stops in (("whole", [3]), ("halves", [1, 3])):
        for stop in stops:
            train(configure(tmp_path / out, max_steps=stop, **values))
    one, other = (load_checkpoint(tmp_path / out / "last").tensors for out in ("whole", "halves"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_what_is_trained_has_one_forward(make: Callable[..., WishTask]) -> None:
    task = make()
    assert isinstance(task.model, TrainedReasonCD) and len(task) == 8
    assert task.names([BUILT]) == ["clcd/built"]
    batch = batch_of(task, [BUILT])
    task.model.train()
    output = task.model(batch.before, batch.after, batch.groups)
    assert output.mask_logits.shape[0] == 0 and output.prompts.requires_grad
    assert set(task.validate()) == set(task.measures) and not task.model.training
