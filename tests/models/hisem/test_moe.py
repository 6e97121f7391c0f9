"""The mixture of experts against slow loops from Eq. 13-17, and its laws."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from whatchanged.models.hisem.config import HASDConfig
from whatchanged.models.hisem.moe import (
    MixtureOfExperts,
    SwiGLU,
    TokenRoute,
    TokenRouter,
    balance_loss,
)

WIDTH = 6
SMALL = HASDConfig(expert_hidden=5)


def make(config: HASDConfig = SMALL, seed: int = 0) -> MixtureOfExperts:
    torch.manual_seed(seed)
    module = MixtureOfExperts(WIDTH, config).double()
    module.router.score.weight.data *= 3
    return module


def tokens(n: int = 11, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(n, WIDTH, dtype=torch.float64)


def slow_swiglu(module: SwiGLU, x: Tensor) -> Tensor:
    gate_up, down = module.gate_up.weight, module.down.weight
    half = len(gate_up) // 2
    hidden = []
    for h in range(half):
        gate, up = float(gate_up[h] @ x), float(gate_up[half + h] @ x)
        hidden.append(gate / (1 + math.exp(-gate)) * up)
    return down @ torch.tensor(hidden, dtype=x.dtype)


def slow_moe(module: MixtureOfExperts, x: Tensor) -> tuple[Tensor, list[int]]:
    """One token through Eq. 13-17."""
    config = module.router.config
    scores = [1 / (1 + math.exp(-float(row @ x))) for row in module.router.score.weight]  # Eq. 13
    size = config.experts // config.groups
    groups = [scores[g * size : (g + 1) * size] for g in range(config.groups)]
    best = [max(group) for group in groups]  # Eq. 14
    kept = sorted(range(config.groups), key=lambda g: -best[g])[: config.top_groups]  # Eq. 15
    allowed = [e for e in range(config.experts) if e // size in kept]
    chosen = sorted(allowed, key=lambda e: -scores[e])[: config.top_k]  # Eq. 16
    total = sum(scores[e] for e in chosen) if config.normalise else 1.0
    y = torch.zeros_like(x)
    for e in chosen:
        y = y + scores[e] / total * slow_swiglu(module.experts[e], x)
    if module.shared is not None:
        y = y + slow_swiglu(module.shared, x)  # Eq. 17
    return y, chosen


CONFIGS = {
    "paper": SMALL,
    "raw sigmoids": dataclasses.replace(SMALL, normalise=False),
    "no shared experts": dataclasses.replace(SMALL, shared_experts=0),
    "wide shared experts": dataclasses.replace(SMALL, shared_hidden=9),
    "two groups": dataclasses.replace(SMALL, groups=2, top_groups=1, top_k=3),
    "one of all": dataclasses.replace(SMALL, groups=8, top_groups=8, top_k=1),
    "dense": dataclasses.replace(SMALL, groups=1, top_groups=1, top_k=8),
    "three experts": dataclasses.replace(SMALL, experts=3, groups=3, top_groups=2, top_k=2),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_slow_loops(name: str) -> None:
    module, x = make(CONFIGS[name]), tokens()
    fast, route = module(x)
    for n in range(len(x)):
        slow, chosen = slow_moe(module, x[n])
        assert (fast[n] - slow).abs().max() <= 1e-10
        assert route.experts[n].tolist() == chosen


@torch.no_grad()
def test_every_switch_changes_the_result() -> None:
    results = {}
    for name, config in CONFIGS.items():
        module = MixtureOfExperts(WIDTH, config).double()
        for key, parameter in module.named_parameters():
            torch.manual_seed(sum(map(ord, key)))
            parameter.normal_()
        results[name] = module(tokens())[0]
    for name, result in results.items():
        assert name == "paper" or not torch.allclose(result, results["paper"]), name


routers = st.integers(1, 4).flatmap(
    lambda groups: st.tuples(
        st.just(groups), st.integers(1, 3), st.integers(1, groups), st.integers(0, 2**31)
    )
)


@settings(max_examples=60, deadline=None)
@given(routers, st.booleans(), st.data())
@torch.no_grad()
def test_experts_lie_in_the_kept_groups(
    router: tuple[int, int, int, int], normalise: bool, data: st.DataObject
) -> None:
    groups, size, top_groups, seed = router
    top_k = data.draw(st.integers(1, top_groups * size))
    config = HASDConfig(
        experts=groups * size,
        groups=groups,
        top_groups=top_groups,
        top_k=top_k,
        normalise=normalise,
    )
    torch.manual_seed(seed)
    route = TokenRouter(WIDTH, config).double()(tokens(7, seed))
    assert route.experts.shape == route.weights.shape == (7, top_k)
    for scores, experts, weights in zip(route.scores, route.experts, route.weights, strict=True):
        assert len(set(experts.tolist())) == top_k
        assert len({e // size for e in experts.tolist()}) <= top_groups
        # Its best expert is everyone's best: groups are ranked by their maximum.
        assert scores[experts[0]] == scores.max()
        if normalise:
            assert abs(float(weights.sum()) - 1) < 1e-12
        else:
            assert torch.equal(weights, scores[experts])
        assert (weights > 0).all()


@torch.no_grad()
def test_two_shared_experts_are_one_with_their_units_side_by_side() -> None:
    first, second = SwiGLU(WIDTH, 4).double(), SwiGLU(WIDTH, 4).double()
    merged = SwiGLU(WIDTH, 8).double()
    gates = [m.gate_up.weight[:4] for m in (first, second)]
    ups = [m.gate_up.weight[4:] for m in (first, second)]
    merged.gate_up.weight.copy_(torch.cat(gates + ups))
    merged.down.weight.copy_(torch.cat([first.down.weight, second.down.weight], dim=1))
    torch.testing.assert_close(merged(tokens()), first(tokens()) + second(tokens()))


def test_only_routed_tokens_are_computed() -> None:
    module = make()
    seen: list[int] = []
    for expert in module.experts:
        expert.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    _, route = module(tokens(40))
    assert sum(seen) == 40 * SMALL.top_k
    counts = torch.bincount(route.experts.flatten(), minlength=SMALL.experts)
    assert seen == [int(count) for count in counts if count]


def test_an_expert_without_tokens_does_not_run() -> None:
    module = make()
    with torch.no_grad():
        module.router.score.weight.zero_()
        module.router.score.weight[2:4] = 1.0
    y, route = module(torch.ones(3, WIDTH, dtype=torch.float64))
    y.sum().backward()
    assert {2, 3} == set(route.experts.flatten().tolist())
    ran = [e.down.weight.grad is not None for e in module.experts]
    assert ran == [False, False, True, True, False, False, False, False]


def test_one_token() -> None:
    module = make()
    torch.testing.assert_close(module(tokens(5)[:1])[0], module(tokens(5))[0][:1])


@pytest.mark.parametrize("normalise", [True, False])
def test_gradients(normalise: bool) -> None:
    module = make(dataclasses.replace(SMALL, normalise=normalise))
    x = tokens(5).requires_grad_()
    weight = module.router.score.weight

    def run(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, {"router.score.weight": weight}, (x,))[0]
        return out

    assert torch.autograd.gradcheck(run, (x, weight))


def test_caption_loss_trains_the_token_router() -> None:
    module = make()
    module(tokens())[0].pow(2).sum().backward()
    assert module.router.score.weight.grad.abs().max() > 0


def even_route(n_tokens: int, n_experts: int) -> TokenRoute:
    scores = torch.full((n_tokens, n_experts), 0.5, dtype=torch.float64)
    first = torch.arange(n_tokens) % n_experts
    experts = torch.stack([first, (first + 1) % n_experts], dim=1)
    return TokenRoute(scores, experts, torch.full(experts.shape, 0.5))


def test_balance_loss_of_an_even_load_is_one() -> None:
    assert float(balance_loss(even_route(16, 8), n_pairs=2)) == pytest.approx(1.0)


def test_balance_loss_punishes_a_favourite() -> None:
    route = even_route(16, 8)
    scores = route.scores.clone()
    scores[:, :2] = 0.9
    experts = torch.tensor([[0, 1]]).expand(16, 2)
    assert float(balance_loss(TokenRoute(scores, experts, route.weights), 2)) > 1.2


def test_balance_loss_by_hand() -> None:
    module, x = make(), tokens(12)
    _, route = module(x)
    total = 0.0
    for pair in range(3):
        rows = range(pair * 4, pair * 4 + 4)
        for e in range(8):
            share = sum(e in route.experts[n].tolist() for n in rows) * 8 / (2 * 4)
            chance = sum(float(route.scores[n, e] / route.scores[n].sum()) for n in rows) / 4
            total += share * chance / 3
    assert float(balance_loss(route, 3)) == pytest.approx(total, abs=1e-12)


def test_choice_of_experts_does_not_depend_on_autocast() -> None:
    torch.manual_seed(0)
    module = MixtureOfExperts(WIDTH, SMALL)
    x = tokens(200).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, route = module(x)
    assert torch.equal(route.experts, module(x)[1].experts)
    torch.testing.assert_close(y.float(), module(x)[0], atol=0.02, rtol=0.05)
