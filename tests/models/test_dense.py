from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from whatchanged.models.backbones import CompactEncoder, EncoderConfig, build_encoder
from whatchanged.models.dense import (
    N_CLASSES,
    N_KINDS,
    DenseChangeNet,
    DenseOutput,
    DenseTarget,
    dense_loss,
)

B, SIDE, WORDS = 4, 32, 6


def network(unfreeze_last: int = 7) -> DenseChangeNet:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(channels=32, unfreeze_last=unfreeze_last))
    assert isinstance(encoder, CompactEncoder)
    return DenseChangeNet(encoder, WORDS)


def pictures(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def random_output(seed: int = 0) -> DenseOutput:
    torch.manual_seed(seed)
    return DenseOutput(
        mask=torch.randn(B, N_KINDS, SIDE // 4, SIDE // 4, dtype=torch.float64),
        classes_before=torch.randn(B, N_CLASSES, SIDE // 8, SIDE // 8, dtype=torch.float64),
        classes_after=torch.randn(B, N_CLASSES, SIDE // 8, SIDE // 8, dtype=torch.float64),
        words=torch.randn(B, WORDS, dtype=torch.float64),
        changed=torch.randn(B, dtype=torch.float64),
    )


def unknown() -> DenseTarget:
    nothing = torch.full((B, SIDE, SIDE), 255, dtype=torch.uint8)
    return DenseTarget(
        mask=nothing,
        kind=torch.tensor([0, 1, 2, 0]),
        classes_before=nothing,
        classes_after=torch.zeros_like(nothing),
        words=-torch.ones(B, WORDS),
        changed=-torch.ones(B),
    )


def test_heads_have_the_shapes_they_are_said_to_have() -> None:
    output = network().eval()(pictures(), pictures(1))
    assert output.mask.shape == (2, N_KINDS, 16, 16)
    assert output.classes_before.shape == output.classes_after.shape == (2, N_CLASSES, 8, 8)
    assert output.words.shape == (2, WORDS)
    assert output.changed.shape == (2,)


def test_other_sides_work_too() -> None:
    output = network().eval()(torch.randn(1, 3, 64, 96), torch.randn(1, 3, 64, 96))
    assert output.mask.shape == (1, N_KINDS, 16, 24)


@torch.no_grad()
def test_land_cover_of_a_date_depends_on_that_date_alone() -> None:
    net = network().eval()
    one, other = net(pictures(0), pictures(1)), net(pictures(0), pictures(2))
    swapped = net(pictures(1), pictures(0))
    assert torch.allclose(one.classes_before, other.classes_before, atol=1e-5)
    assert not torch.allclose(one.classes_after, other.classes_after, atol=1e-3)
    assert torch.allclose(swapped.classes_after, one.classes_before, atol=1e-5)
    assert not torch.allclose(swapped.mask, one.mask, atol=1e-4)  # time has a direction


def test_the_frozen_part_of_the_encoder_stays_in_training_mode_off() -> None:
    net = network(unfreeze_last=1)
    net.train()
    assert net.deep.training and net.encoder.stages[6].training
    assert not net.encoder.stages[5].training and not net.encoder.stem.training
    before = {k: v.clone() for k, v in net.encoder.state_dict().items()}
    net(pictures(), pictures(1))
    moved = {k for k, v in net.encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(key.startswith("stages.6") for key in moved)
    net.eval()
    assert not any(module.training for module in net.modules())


# Losses


def test_what_is_not_known_costs_nothing_and_teaches_nothing() -> None:
    output = random_output()
    tensors = [t.requires_grad_() for t in vars(output).values()]
    parts = dense_loss(output, unknown())
    assert set(parts) == {"mask", "cover", "words", "changed"}
    assert all(float(part.detach()) == 0 for part in parts.values())
    total = torch.stack([part.double() for part in parts.values()]).sum()
    for gradient in torch.autograd.grad(total, tensors, allow_unused=True):
        assert gradient is None or float(gradient.abs().max()) == 0


def test_changed_is_the_mean_over_the_labelled_pairs() -> None:
    output = random_output()
    target = replace(unknown(), changed=torch.tensor([1.0, -1.0, 0.0, -1.0]))
    chosen, truth = output.changed[[0, 2]], torch.tensor([1.0, 0.0]).double()
    expected = 0.5 * F.binary_cross_entropy_with_logits(chosen, truth)
    assert float(dense_loss(output, target)["changed"]) == pytest.approx(float(expected), rel=1e-6)


def test_words_are_the_mean_over_the_captioned_pairs() -> None:
    output = random_output()
    words = -torch.ones(B, WORDS)
    words[1] = torch.tensor([0, 1, 0.5, 0, 0, 0])
    expected = F.binary_cross_entropy_with_logits(
        output.words[1], words[1].double(), reduction="sum"
    )
    loss = dense_loss(output, replace(unknown(), words=words))["words"]
    assert float(loss) == pytest.approx(float(expected) / 10, rel=1e-6)


def test_each_kind_of_mask_teaches_its_own_channel() -> None:
    output = random_output()
    output.mask.requires_grad_()
    mask = unknown().mask.clone()
    mask[1] = 0
    mask[1, :8] = 1
    loss = dense_loss(output, replace(unknown(), mask=mask))["mask"]
    (gradient,) = torch.autograd.grad(loss, output.mask)
    reached = gradient.abs().amax((2, 3)) > 0
    assert reached.nonzero().tolist() == [[1, 1]]  # pair 1, its kind 1


def test_the_mask_loss_is_cross_entropy_and_half_dice() -> None:
    output = random_output()
    mask = torch.zeros(B, SIDE, SIDE, dtype=torch.uint8)
    mask[0, :16] = 1
    mask[1:] = 255
    logits, truth = output.mask[0, 0].float(), torch.zeros(8, 8)
    truth[:4] = 1
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
    expected = F.binary_cross_entropy_with_logits(logits, truth) + 0.5 * dice
    loss = dense_loss(output, replace(unknown(), mask=mask))["mask"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_unknown_pixels_of_a_mask_do_not_count() -> None:
    mask = torch.zeros(B, SIDE, SIDE, dtype=torch.uint8)
    mask[:, :, 16:] = 255
    one, other = random_output(0), random_output(1)
    mixed = one.mask.clone()
    mixed[..., 4:] = other.mask[..., 4:]
    target = replace(unknown(), mask=mask)
    first = dense_loss(one, target)["mask"]
    assert torch.equal(first, dense_loss(replace(one, mask=mixed), target)["mask"])
    assert not torch.equal(first, dense_loss(other, target)["mask"])


def test_a_pixel_half_changed_is_half_a_truth() -> None:
    mask = torch.zeros(B, SIDE, SIDE, dtype=torch.uint8)
    mask[:, :, ::2] = 1  # every pixel of the coarse grid is half changed
    zero = replace(random_output(), mask=torch.zeros(B, N_KINDS, 8, 8))
    loss = dense_loss(zero, replace(unknown(), mask=mask))["mask"]
    dice = 1 - (2 * 64 * 0.25 + 1) / (64 * 0.5 + 64 * 0.5 + 1)
    assert float(loss) == pytest.approx(0.6931472 + 0.5 * dice, rel=1e-5)


def test_land_cover_counts_where_it_is_known() -> None:
    output = random_output()
    before = torch.zeros(B, SIDE, SIDE, dtype=torch.uint8)
    before[2, 8:16, 8:16] = 5  # one cell of the coarse grid, [1, 1]
    before[3] = 255
    expected = F.cross_entropy(output.classes_before[2, :, 1, 1].float(), torch.tensor(5))
    loss = dense_loss(output, replace(unknown(), classes_before=before))["cover"]
    assert float(loss) == pytest.approx(0.5 * float(expected), rel=1e-5)
    after = dense_loss(output, replace(unknown(), classes_after=before))["cover"]
    assert float(after) != pytest.approx(float(loss), rel=1e-5)


def test_a_network_can_learn_two_pairs() -> None:
    net = network()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    mask = torch.zeros(2, 64, 64, dtype=torch.uint8)
    mask[1, 16:48, 16:48] = 1
    before, after = pictures(), pictures().clone()
    after[1, :, 16:48, 16:48] += 3
    target = DenseTarget(
        mask=mask,
        kind=torch.zeros(2, dtype=torch.long),
        classes_before=mask * 3,
        classes_after=mask * 5,
        words=torch.eye(2, WORDS),
        changed=torch.tensor([0.0, 1.0]),
    )
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        total = torch.stack(list(dense_loss(net(before, after), target).values())).sum()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.5 * losses[0]
