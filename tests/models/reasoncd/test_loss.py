"""Losses against their formulas (Eq. 11-16), and the rule of ten."""

from __future__ import annotations

import math

import pytest
import torch

from whatchanged.models.reasoncd.loss import (
    LossWeights,
    mask_bce,
    mask_dice,
    reasoncd_loss,
    text_loss,
)
from whatchanged.models.reasoncd.outputs import ReasonCDOutput

TARGET = 3


def test_ten_times_where_the_target_is_missed() -> None:
    logits = torch.tensor([[0.0, 0, 0, 5], [4.0, 0, 0, 1], [0.0, 3, 0, 0]])
    labels = torch.tensor([TARGET, TARGET, 0])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = [math.exp(x) / sum(math.exp(y) for y in row) for x in row]
        missed = label == TARGET and max(range(4), key=lambda i: row[i]) != TARGET
        total += -math.log(p[label]) * (10 if missed else 1)
    assert float(text_loss(logits, labels, TARGET)) == pytest.approx(total / 3, rel=1e-5)


def test_a_said_target_and_other_words_count_once() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.equal(text_loss(logits, labels, TARGET), plain)
    said = logits.clone()
    said[:, TARGET] = 9.0
    labels[:] = TARGET
    torch.testing.assert_close(
        text_loss(said, labels, TARGET), torch.nn.functional.cross_entropy(said, labels)
    )


def test_the_weight_is_a_switch() -> None:
    logits, labels = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([TARGET])
    once, ten = (text_loss(logits, labels, TARGET, w) for w in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * once)


def test_mask_losses_from_their_formulas() -> None:
    torch.manual_seed(1)
    logits, truth = torch.randn(2, 3, 4), torch.randint(0, 2, (2, 3, 4))
    p, q = logits.sigmoid(), truth.float()
    bce = -(q * p.log() + (1 - q) * (1 - p).log()).mean()
    torch.testing.assert_close(mask_bce(logits, truth), bce)
    dice = 0.0
    for k in range(2):
        both = sum(float(a * b) for a, b in zip(p[k].flatten(), q[k].flatten(), strict=True))
        dice += 1 - (2 * both + 1) / (float(p[k].sum()) + float(q[k].sum()) + 1)
    assert float(mask_dice(logits, truth)) == pytest.approx(dice / 2, rel=1e-5)


def test_an_empty_mask_said_empty_costs_nothing() -> None:
    logits, truth = torch.full((1, 4, 4), -50.0), torch.zeros(1, 4, 4)
    assert float(mask_dice(logits, truth)) == pytest.approx(0, abs=1e-6)
    assert float(mask_bce(logits, truth)) == pytest.approx(0, abs=1e-6)


def test_unknown_pixels_do_not_count() -> None:
    torch.manual_seed(2)
    logits, truth = torch.randn(1, 2, 4), torch.randint(0, 2, (1, 2, 4))
    truth[:, :, 2:] = 255
    for loss in (mask_bce, mask_dice):
        torch.testing.assert_close(loss(logits, truth), loss(logits[..., :2], truth[..., :2]))


def output(has_target: list[bool]) -> ReasonCDOutput:
    torch.manual_seed(3)
    n = sum(has_target)
    return ReasonCDOutput(
        torch.randn(5, 4, requires_grad=True),
        torch.tensor([0, 1, 2, 3, 0]),
        torch.randn(n, 4, 4, requires_grad=True),
        torch.tensor(has_target),
        prompts=torch.zeros(n, 2),
        owners=torch.tensor(has_target).nonzero().flatten(),
    )


def test_the_sum_has_the_papers_weights() -> None:
    out, truth = output([True, False, True]), torch.randint(0, 2, (3, 4, 4))
    parts = reasoncd_loss(out, truth, TARGET)
    torch.testing.assert_close(parts.total, parts.text + 2 * parts.bce + 0.5 * parts.dice)
    torch.testing.assert_close(parts.bce, mask_bce(out.mask_logits, truth[[0, 2]]))
    other = truth.clone()
    other[1] = 1 - other[1]  # the truth of a sample without target token
    assert torch.equal(parts.total, reasoncd_loss(out, other, TARGET).total)


@pytest.mark.parametrize("name", ["text", "bce", "dice", "missed_target"])
def test_every_weight_matters(name: str) -> None:
    out, truth = output([True, True]), torch.randint(0, 2, (2, 4, 4))
    out.text_logits.data[3, 0] = 9.0
    default = reasoncd_loss(out, truth, TARGET).total
    changed = reasoncd_loss(out, truth, TARGET, LossWeights(**{name: 3.5})).total
    assert not torch.allclose(default, changed)


def test_no_target_in_the_batch() -> None:
    out = output([False, False])
    parts = reasoncd_loss(out, torch.zeros(2, 4, 4), TARGET)
    parts.total.backward()
    assert parts.bce.item() == parts.dice.item() == 0
    assert bool(torch.isfinite(out.text_logits.grad).all())
    assert float(text_loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), TARGET)) == 0
