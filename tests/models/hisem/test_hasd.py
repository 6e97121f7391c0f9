"""HASD: the image router, both paths, and what is computed for whom."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from whatchanged.models.hisem.config import HASDConfig
from whatchanged.models.hisem.hasd import HASD, FusionBlock, ImageRouter, choose_path

WIDTH, GRID = 8, (2, 3)
LENGTH = 6
SMALL = HASDConfig(hidden=10, expert_hidden=5, norm="group", dropout=0.0)
MONOLITHIC = {
    "nothing": dataclasses.replace(SMALL, routing=False, unchanged="none", changed="none"),
    "ffn": dataclasses.replace(SMALL, routing=False, unchanged="ffn", changed="ffn"),
    "moe": dataclasses.replace(SMALL, routing=False, unchanged="moe", changed="moe"),
}
ROUTED = {
    "both ffn": dataclasses.replace(SMALL, changed="ffn"),
    "both moe": dataclasses.replace(SMALL, unchanged="moe"),
    "paper": SMALL,
    "turned round": dataclasses.replace(SMALL, unchanged="moe", changed="ffn"),
}


def make(config: HASDConfig = SMALL, seed: int = 0) -> HASD:
    torch.manual_seed(seed)
    return HASD(WIDTH, config).double()


def dates(n_pairs: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    pair = torch.randn(2, n_pairs, LENGTH, WIDTH, dtype=torch.float64)
    return pair[0], pair[1]


def labels(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


@torch.no_grad()
def test_router_by_hand() -> None:
    torch.manual_seed(0)
    router = ImageRouter(WIDTH).double()
    before, after = dates()
    logits = router(before, after)
    for b in range(4):
        pooled = [
            sum(float(after[b, n, d] - before[b, n, d]) for n in range(LENGTH)) / LENGTH
            for d in range(WIDTH)
        ]
        for path in range(2):
            row = router.project.weight[path]
            by_hand = sum(float(row[d]) * pooled[d] for d in range(WIDTH))  # Eq. 9
            assert abs(float(logits[b, path]) - by_hand) <= 1e-10
    assert router.project.bias is None
    torch.testing.assert_close(router(after, before), -logits)


def test_a_tie_counts_as_changed() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert choose_path(logits).tolist() == [1, 0, 1]
    before, _ = dates()
    assert make()(before, before, GRID).path.tolist() == [1, 1, 1, 1]


def test_prediction_routes_by_the_logits_and_labels_overrule_them() -> None:
    module, (before, after) = make(), dates(20)
    out = module(before, after, GRID)
    assert out.path.tolist() == choose_path(out.router_logits).tolist()
    assert 0 < int(out.path.sum()) < 20
    told = module(before, after, GRID, out.path == 0)
    assert told.path.tolist() == (1 - out.path).tolist()
    assert torch.equal(told.router_logits, out.router_logits)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_each_pair_gets_its_own_path_and_its_own_row(norm: str) -> None:
    module = make(dataclasses.replace(SMALL, norm=norm)).eval()
    before, after = dates(5)
    changed = labels(1, 0, 0, 1, 0)
    out = module(before, after, GRID, changed)
    for row in range(5):
        path = module.paths[int(changed[row])]
        alone = path(before[row : row + 1], after[row : row + 1], GRID)
        torch.testing.assert_close(out.tokens[row], alone.tokens[0])


def slow_layer_norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    scaled = centred / math.sqrt(float((centred**2).mean()) + module.eps)
    return scaled * module.weight + module.bias


def slow_fusion(module: FusionBlock, before: Tensor, after: Tensor) -> Tensor:
    """One pair through Eq. 12 in evaluation mode, convolutions as sums over neighbours."""

    def norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
        scaled = (x - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps)
        return scaled * layer.weight + layer.bias

    first, _, wide, second, _, narrow, third = module.residual
    joined = [
        module.join.weight @ torch.cat([before[n], after[n]]) + module.join.bias
        for n in range(LENGTH)
    ]
    active = [norm(first, x).clamp(min=0) for x in joined]
    fused = []
    for n in range(LENGTH):
        row, column = divmod(n, GRID[1])
        local = torch.zeros(WIDTH, dtype=before.dtype)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                r, c = row + i, column + j
                if 0 <= r < GRID[0] and 0 <= c < GRID[1]:
                    local += wide.weight[:, :, i + 1, j + 1] @ active[r * GRID[1] + c]
        context = norm(third, narrow.weight[:, :, 0, 0] @ norm(second, local).clamp(min=0))
        fused.append(slow_layer_norm(module.norm, (joined[n] + context).clamp(min=0)))
    return torch.stack(fused)


@torch.no_grad()
def test_fusion_block_and_both_bodies_equal_slow_loops() -> None:
    module = make(dataclasses.replace(SMALL, norm="batch"))
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if "var" in name:
            tensor.uniform_(0.5, 2)
        elif "norm" in name or "running_mean" in name:
            tensor += 0.3 * torch.randn_like(tensor)
    module.eval()
    before, after = dates(2)
    out = module(before, after, GRID, labels(0, 1))
    plain, expert = module.paths[0], module.paths[1]
    fused = slow_fusion(plain.fusion, before[0], after[0])
    up, _, _, down = plain.body.layers
    for n in range(LENGTH):
        hidden = (up.weight @ fused[n] + up.bias).clamp(min=0)
        y = slow_layer_norm(plain.body.norm, fused[n] + down.weight @ hidden + down.bias)
        assert (out.tokens[0, n] - y).abs().max() <= 1e-10
    fused = slow_fusion(expert.fusion, before[1], after[1])
    for n in range(LENGTH):
        mixed = expert.body.moe(fused[n : n + 1])[0][0]  # itself checked in test_moe.py
        y = slow_layer_norm(expert.body.norm, fused[n] + mixed)
        assert (out.tokens[1, n] - y).abs().max() <= 1e-10


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("changed", [(0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 1), (0,), (1,)])
def test_empty_and_single_pair_paths(norm: str, training: bool, changed: tuple[int, ...]) -> None:
    module = make(dataclasses.replace(SMALL, norm=norm)).train(training)
    before, after = dates(len(changed))
    out = module(before.requires_grad_(), after, GRID, labels(*changed))
    assert out.tokens.shape == (len(changed), LENGTH, WIDTH)
    out.tokens.pow(3).sum().backward()
    assert torch.isfinite(out.tokens).all() and torch.isfinite(before.grad).all()
    for index, path in enumerate(module.paths):
        ran = path.fusion.join.weight.grad is not None
        assert ran == (index in changed)


def test_batch_norm_sees_the_routed_pairs_only() -> None:
    module = make(dataclasses.replace(SMALL, norm="batch")).train()
    before, after = dates(4)
    changed = labels(0, 1, 0, 1)
    out = module(before, after, GRID, changed).tokens
    before[1] += 5.0
    other = module(before, after, GRID, changed).tokens
    assert torch.equal(out[[0, 2]], other[[0, 2]])
    assert not torch.allclose(out[3], other[3])


def test_group_norm_does_not_depend_on_other_pairs() -> None:
    module = make().train()
    before, after = dates(4)
    changed = labels(0, 1, 0, 1)
    out = module(before, after, GRID, changed).tokens
    alone = module(before[3:], after[3:], GRID, changed[3:]).tokens
    torch.testing.assert_close(out[3:], alone)


def test_unchanged_pairs_never_meet_the_experts() -> None:
    module = make()
    seen: list[int] = []
    module.paths[1].body.moe.register_forward_hook(lambda _, i, __: seen.append(len(i[0])))
    before, after = dates(4)
    module(before, after, GRID, labels(0, 0, 0, 0))
    assert seen == []
    module(before, after, GRID, labels(0, 1, 0, 1))
    assert seen == [2 * LENGTH]


def test_experts_are_told_per_pair() -> None:
    module, (before, after) = make(), dates(3)
    experts = module(before, after, GRID, labels(1, 0, 1)).experts
    assert experts.shape == (3, LENGTH, 2)
    assert (experts[1] == -1).all()
    assert ((experts[[0, 2]] >= 0) & (experts[[0, 2]] < 8)).all()
    assert module(before, after, GRID, labels(0, 0, 0)).experts is None


@pytest.mark.parametrize("name", ROUTED)
def test_table_v_with_routing(name: str) -> None:
    module, (before, after) = make(ROUTED[name]), dates(2)
    out = module(before, after, GRID, labels(0, 1))
    kinds = [type(path.body).__name__ for path in module.paths]
    words = {"ffn": "FeedForwardBody", "moe": "ExpertBody"}
    assert kinds == [words[ROUTED[name].unchanged], words[ROUTED[name].changed]]
    met = [] if out.experts is None else [bool((e >= 0).all()) for e in out.experts]
    assert met == ([] if name == "both ffn" else [k == "ExpertBody" for k in kinds])


@pytest.mark.parametrize("name", MONOLITHIC)
def test_tables_iii_and_v_without_routing(name: str) -> None:
    module, (before, after) = make(MONOLITHIC[name]), dates(3)
    out = module(before, after, GRID, labels(0, 1, 0))
    assert out.router_logits is None and out.path.tolist() == [1, 1, 1]
    assert len(module.paths) == 1
    assert torch.equal(out.tokens, module(before, after, GRID).tokens)
    assert torch.equal(out.tokens, module.paths[0](before, after, GRID).tokens)
    assert (out.experts is not None) == (name == "moe")
    swapped = module(after, before, GRID).tokens
    assert not torch.allclose(out.tokens, swapped), "without routing order must still be seen"


def test_every_body_differs() -> None:
    before, after = dates(2)
    results = [make(c)(before, after, GRID).tokens for c in MONOLITHIC.values()]
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[1], results[2])


def test_caption_gradient_never_reaches_the_router() -> None:
    module = make()
    out = module(*dates(), GRID)
    out.tokens.pow(3).sum().backward()
    assert module.router.project.weight.grad is None


@pytest.mark.parametrize("detach", [True, False])
def test_detached_logits(detach: bool) -> None:
    module, (before, after) = make(), dates()
    out = module(before.requires_grad_(), after, GRID, detach_router=detach)
    assert out.router_logits.requires_grad is not detach


def test_balance_loss_is_weighted_by_pairs() -> None:
    before, after = dates(4)
    assert float(make()(before, after, GRID, labels(1, 1, 0, 0)).balance_loss) == 0
    module = make(dataclasses.replace(SMALL, balance_loss=0.5))
    both = module(before, after, GRID, labels(1, 1, 0, 0)).balance_loss
    alone = module(before[:2], after[:2], GRID, labels(1, 1)).balance_loss.detach()
    assert float(both.detach()) == pytest.approx(float(alone) / 2)
    assert float(alone) > 0.4  # 0.5 of an even load's 1, or more
    assert float(module(before, after, GRID, labels(0, 0, 0, 0)).balance_loss) == 0
    both.backward()
    assert module.paths[1].body.moe.router.score.weight.grad.abs().max() > 0


def test_dropout_is_the_unchanged_paths() -> None:
    before, after = dates(2)
    module = make(dataclasses.replace(SMALL, dropout=0.5))
    first, second = (module(before, after, GRID, labels(0, 1)).tokens for _ in range(2))
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_gradients() -> None:
    module = make()
    before, after = dates(2)

    def run(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        out = module(before, after, GRID, labels(0, 1))
        return out.tokens, out.router_logits

    assert torch.autograd.gradcheck(
        run, (before.requires_grad_(), after.requires_grad_()), fast_mode=True
    )
