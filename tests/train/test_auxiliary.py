from __future__ import annotations

import math

import pytest
import torch

from whatchanged.train.auxiliary import (
    AuxiliaryHeads,
    AuxiliaryTarget,
    changed_share,
    cover_loss,
)

UNKNOWN = 255


def test_shares_are_of_the_known_pixels_of_a_cell() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[0, :2, :2] = torch.tensor([[1, 0], [UNKNOWN, 1]])
    mask[0, :2, 2:] = torch.tensor([[UNKNOWN, UNKNOWN], [1, UNKNOWN]])
    share, known = changed_share(mask, (2, 2))
    torch.testing.assert_close(share[0], torch.tensor([[2 / 3, 1.0], [0.0, 0.0]]))
    assert known[0].tolist() == [[1, 0], [1, 1]]


def test_cover_equals_a_loop_over_pixels() -> None:
    torch.manual_seed(0)
    classes = torch.randint(0, 9, (2, 6, 6))
    classes[classes == 8] = UNKNOWN
    logits = torch.randn(2, 8, 3, 3)
    total, n = 0.0, 0
    for b in range(2):
        for y in range(6):
            for x in range(6):
                number = int(classes[b, y, x])
                if number in (0, UNKNOWN):
                    continue
                total -= float(logits[b, 1:, y // 2, x // 2].log_softmax(0)[number - 1])
                n += 1
    found = cover_loss(logits, classes.to(torch.uint8))
    assert float(found) == pytest.approx(total / n, rel=1e-5)


def test_where_nothing_is_known_nothing_is_learned() -> None:
    torch.manual_seed(0)
    heads = AuxiliaryHeads(8, 5)
    tokens = torch.randn(2, 4, 8, requires_grad=True)
    layers = torch.full((2, 3, 4, 4), UNKNOWN, dtype=torch.uint8)
    parts = heads(tokens, (2, 2), AuxiliaryTarget(torch.zeros(2, 5), layers))
    assert float(parts["mask"]) == 0 and float(parts["cover"]) == 0
    (parts["mask"] + parts["cover"]).backward()
    assert not tokens.grad.any()  # type: ignore[union-attr]


def test_heads_learn_words_and_places() -> None:
    torch.manual_seed(0)
    heads = AuxiliaryHeads(8, 5)
    tokens = torch.randn(2, 4, 8)
    layers = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    layers[0, :, :2, :2] = torch.tensor([1, 3, 5], dtype=torch.uint8).view(3, 1, 1)
    target = AuxiliaryTarget(torch.eye(5)[:2], layers)
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.1)
    first = sum(heads(tokens, (2, 2), target).values())
    for _ in range(100):
        optimiser.zero_grad()
        sum(heads(tokens, (2, 2), target).values()).backward()  # type: ignore[union-attr]
        optimiser.step()
    last = {name: float(part) for name, part in heads(tokens, (2, 2), target).items()}
    assert math.isfinite(float(first)) and all(part < 0.05 for part in last.values())
