from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from baseline_networks import BASELINES, FCEF, FCSiamDiff, Mixing, TinyCDLike, build_tinycd
from whatchanged.models import weights
from whatchanged.models.backbones import CompactEncoder, EncoderConfig

KINDS = [FCEF, FCSiamDiff, TinyCDLike]


def two_dates(n: int = 2, side: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    before, after = torch.randn(2, n, 3, side, side, generator=generator)
    return before, after


def build(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


@pytest.mark.parametrize("kind", KINDS)
def test_one_logit_a_pixel_and_every_parameter_learns(kind: type[nn.Module]) -> None:
    network = build(kind).train()
    logits = network(*two_dates())
    assert logits.shape == (2, 64, 64)
    logits.square().mean().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before a norm that takes the mean away again has nothing to learn but noise.
    assert [name for name in idle if not name.endswith("bias")] == []


@pytest.mark.parametrize(
    ("kind", "published"), [(FCEF, 1.35e6), (FCSiamDiff, 1.35e6), (TinyCDLike, 0.286e6)]
)
def test_sizes_are_the_papers(kind: type[nn.Module], published: float) -> None:
    assert sum(p.numel() for p in kind().parameters()) == pytest.approx(published, rel=0.05)


def test_daudts_networks_have_four_scales_down_and_up() -> None:
    shapes = [
        tuple(p.shape)
        for name, p in FCEF().named_parameters()
        if name.endswith("weight") and p.ndim == 4
    ]
    down = [(16, 6), (16, 16), (32, 16), (32, 32), (64, 32), (64, 64), (64, 64)]
    down += [(128, 64), (128, 128), (128, 128)]
    assert [shape[:2] for shape in shapes[: len(down)]] == down
    # Transposed convolutions list their inputs first: four that double, then the rest.
    up = [(128, 128), (64, 64), (32, 32), (16, 16)]
    up += [(256, 128), (128, 128), (128, 64), (128, 64), (64, 64), (64, 32)]
    up += [(64, 32), (32, 16), (32, 16), (16, 1)]
    assert [shape[:2] for shape in shapes[len(down) :]] == up
    assert all(shape[2:] == (3, 3) for shape in shapes)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_difference_forgets_the_order_of_dates(kind: type[nn.Module]) -> None:
    network = build(kind).eval()
    before, after = two_dates()
    with torch.inference_mode():
        forwards, backwards = network(before, after), network(after, before)
    assert torch.allclose(forwards, backwards, atol=1e-6) is (kind is FCSiamDiff)


def test_equal_dates_look_alike_to_the_difference_whatever_they_show() -> None:
    network = build(FCSiamDiff).eval()
    first, second = two_dates()
    with torch.inference_mode():
        assert torch.allclose(network(first, first), network(second, second), atol=1e-6)
        assert not torch.allclose(network(first, second), network(first, first), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_a_batch_do_not_touch(kind: type[nn.Module]) -> None:
    network = build(kind).eval()
    before, after = two_dates()
    with torch.inference_mode():
        together = network(before, after)
        alone = network(before[1:], after[1:])
    assert torch.allclose(together[1:], alone, atol=1e-4)


def test_mixing_joins_equal_channels_of_both_dates_only() -> None:
    torch.manual_seed(0)
    mixing = Mixing(5)
    mixing.norm = nn.Identity()  # type: ignore[assignment]
    before, after = torch.randn(2, 1, 5, 8, 8).requires_grad_().unbind()
    before.retain_grad()
    after.retain_grad()
    mixing(before, after)[:, 2].sum().backward()
    for date in (before, after):
        assert date.grad is not None
        assert date.grad[:, 2].any()
        assert not date.grad[:, [0, 1, 3, 4]].any()


def test_the_small_backbone_starts_from_imagenet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    published = CompactEncoder(EncoderConfig())
    file = tmp_path / "weights.pth"
    torch.save({k: v for k, v in published.state_dict().items() if "neck" not in k}, file)
    monkeypatch.setattr(weights, "require", lambda name: file)
    network = build_tinycd()
    assert torch.equal(network.stem[1].weight, published.stem[1].weight)
    for own, theirs in zip(network.stages, published.stages, strict=False):
        for key, value in theirs.state_dict().items():
            assert torch.equal(own.state_dict()[key], value)


def test_every_baseline_names_its_paper() -> None:
    assert list(BASELINES) == ["fc-ef", "fc-siam-diff", "tinycd-like"]
    assert all("20" in baseline.source for baseline in BASELINES.values())
