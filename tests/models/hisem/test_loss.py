"""Eq. 11, 18 and 19, by hand, and the curriculum."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import UsageError
from whatchanged.models.hisem.loss import caption_loss, curriculum_weight, hisem_loss
from whatchanged.models.outputs import HiSemMemory, HiSemOutput

CAPTIONS = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 4, 4, 7, 5, 3]])
CHANGED = torch.tensor([False, True])


def output(*, router: bool = True, captions: bool = True, balance: float = 0.0) -> HiSemOutput:
    torch.manual_seed(0)
    memory = HiSemMemory(
        tokens=torch.zeros(2, 4, 8),
        grid=(2, 2),
        router_logits=torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
        if router
        else None,
        path=torch.tensor([0, 1]),
        balance_loss=torch.tensor(balance),
        experts=None,
        difference_map=torch.zeros(2, 2, 2),
    )
    logits = torch.randn(2, 5, 9, requires_grad=True) if captions else None
    return HiSemOutput(logits, memory)


def test_caption_loss_by_hand() -> None:
    logits = output().caption_logits
    assert logits is not None
    logits = logits.detach()
    terms = []
    for b in range(2):
        for t in range(5):
            target = int(CAPTIONS[b, t + 1])
            if target != 0:
                scores = logits[b, t].tolist()
                log_sum = math.log(sum(math.exp(s) for s in scores))
                terms.append(log_sum - scores[target])  # -log p, Eq. 18
    assert len(terms) == 3 + 5
    assert float(caption_loss(logits, CAPTIONS)) == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_padding_has_no_part_in_the_loss() -> None:
    logits = output().caption_logits
    assert logits is not None
    caption_loss(logits, CAPTIONS).backward()
    assert logits.grad is not None
    assert (logits.grad[0, 3:] == 0).all() and (logits.grad[0, :3] != 0).any(dim=1).all()
    wider = torch.cat([CAPTIONS, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    padded = torch.cat([logits, torch.randn(2, 3, 9)], dim=1)
    torch.testing.assert_close(caption_loss(padded, wider), caption_loss(logits, CAPTIONS))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_total_is_eq_19(alpha: float) -> None:
    out = output(balance=0.125)
    parts = hisem_loss(out, CAPTIONS, CHANGED, alpha)
    assert out.router_logits is not None
    rows = out.router_logits.tolist()
    by_hand = 0.0
    for row, label in zip(rows, (0, 1), strict=True):
        by_hand += (math.log(math.exp(row[0]) + math.exp(row[1])) - row[label]) / 2  # Eq. 11
    assert float(parts.router.detach()) == pytest.approx(by_hand, rel=1e-6)
    total = float(parts.caption.detach()) + 0.8 * alpha * by_hand + 0.125  # Eq. 19
    assert float(parts.total.detach()) == pytest.approx(total, rel=1e-6)
    assert float(parts.balance.detach()) == 0.125


def test_the_label_of_a_changed_pair_is_one() -> None:
    out = output()
    with torch.no_grad():
        assert out.router_logits is not None
        out.router_logits.copy_(torch.tensor([[20.0, -20.0], [-20.0, 20.0]]))
    assert float(hisem_loss(out, CAPTIONS, CHANGED, 1.0).router) < 1e-6
    assert float(hisem_loss(out, CAPTIONS, ~CHANGED, 1.0).router) > 10


def test_zero_weight_leaves_no_router_gradient() -> None:
    out = output()
    assert out.router_logits is not None
    hisem_loss(out, CAPTIONS, CHANGED, 0.0).total.backward()
    assert out.router_logits.grad is None or (out.router_logits.grad == 0).all()
    hisem_loss(out, CAPTIONS, CHANGED, 0.5).total.backward()
    assert (out.router_logits.grad != 0).all()


def test_without_routing_only_the_caption_counts() -> None:
    parts = hisem_loss(output(router=False), CAPTIONS, CHANGED, 1.0)
    assert float(parts.router.detach()) == 0 and float(parts.total.detach()) == float(
        parts.caption.detach()
    )


def test_without_captions_there_is_no_loss() -> None:
    with pytest.raises(UsageError, match="with captions"):
        hisem_loss(output(captions=False), CAPTIONS, CHANGED, 1.0)


def test_changed_probability() -> None:
    memory = output().memory
    assert memory.changed_probability is not None and memory.router_logits is not None
    for p, row in zip(memory.changed_probability, memory.router_logits.tolist(), strict=True):
        assert float(p) == pytest.approx(1 / (1 + math.exp(row[0] - row[1])), rel=1e-6)
    assert output(router=False).memory.changed_probability is None


def test_the_papers_curriculum() -> None:
    weights = [curriculum_weight(epoch, 50) for epoch in range(1, 51)]
    assert weights[:3] == [0, 0, 0]
    assert all(w > 0 for w in weights[3:])
    assert weights[3] == pytest.approx(0.5 * (1 - math.cos(math.pi / 47)))
    assert weights[-1] == 1.0


def test_half_way_is_half() -> None:
    assert curriculum_weight(8, 13) == pytest.approx(0.5)


@given(st.integers(1, 60), st.integers(0, 10), st.floats(0, 60), st.floats(0, 60))
def test_the_curriculum_never_falls(epochs: int, warmup: int, a: float, b: float) -> None:
    low, high = (curriculum_weight(e, epochs, warmup) for e in sorted((a, b)))
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_training_within_the_warmup_never_weighs_the_router(epochs: int) -> None:
    assert [curriculum_weight(e, epochs) for e in range(1, epochs + 1)] == [0] * epochs
