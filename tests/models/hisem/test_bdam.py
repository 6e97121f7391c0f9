"""BDAM against slow loops written from Eq. 1-8, and the laws it obeys."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from whatchanged.models.hisem.bdam import BDAM, CrossTemporalInteraction, FeatureConditioning
from whatchanged.models.hisem.config import BDAMConfig

WIDTH, GRID = 8, (2, 3)
LENGTH = GRID[0] * GRID[1]
SMALL = BDAMConfig(layers=2, heads=2)


def make(config: BDAMConfig = SMALL, seed: int = 0) -> BDAM:
    torch.manual_seed(seed)
    module = BDAM(WIDTH, config).double()
    for parameter in module.parameters():  # norms and biases off their neutral start values
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def dates(n_pairs: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    pair = torch.randn(2, n_pairs, LENGTH, WIDTH, dtype=torch.float64)
    return pair[0], pair[1]


# --- the equations, one token at a time, in numpy -------------------------------------------


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def linear(module: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    out = np.array([sum(row[i] * x[i] for i in range(len(x))) for row in array(module.weight)])
    return out if module.bias is None else out + array(module.bias)


def layer_norm(module: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean()
    scaled = centred / math.sqrt((centred**2).mean() + module.eps)
    return scaled * array(module.weight) + array(module.bias)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow_conditioning(
    module: FeatureConditioning, before: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kernel = array(module.convolution.weight)[:, 0]  # [D, 3, 3]
    difference = np.zeros_like(before)
    streams = [np.zeros_like(before), np.zeros_like(after)]
    for n in range(LENGTH):
        raw = np.abs(before[n] - after[n])  # Eq. 1
        hidden = linear(module.gate[0], np.concatenate([before[n], after[n]]))
        gate = sigmoid(linear(module.gate[2], np.maximum(hidden, 0)))  # Eq. 2
        difference[n] = raw * gate  # Eq. 3
        row, column = divmod(n, GRID[1])
        for stream, features in zip(streams, (before, after), strict=True):
            local = np.zeros(WIDTH)
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    r, c = row + i, column + j
                    if 0 <= r < GRID[0] and 0 <= c < GRID[1]:
                        local += kernel[:, i + 1, j + 1] * features[r * GRID[1] + c]
            stream[n] = layer_norm(module.norm, features[n] + local) + difference[n]
    return streams[0], streams[1], difference


def slow_attention(
    queries: np.ndarray, keys: np.ndarray, bias: np.ndarray, head: slice
) -> np.ndarray:
    scale = math.sqrt(head.stop - head.start)
    matrix = np.zeros((LENGTH, LENGTH))
    for i in range(LENGTH):
        logits = np.array([queries[i, head] @ keys[j, head] / scale for j in range(LENGTH)])
        logits += np.diag(bias)[i]
        weights = np.exp(logits - logits.max())
        matrix[i] = weights / weights.sum()
    return matrix


def slow_interaction(
    module: CrossTemporalInteraction,
    before: np.ndarray,
    after: np.ndarray,
    difference: np.ndarray,
    alpha: np.ndarray,
    balance: float,
) -> tuple[np.ndarray, np.ndarray]:
    d = WIDTH
    weights = [array(module.before_qkv.weight), array(module.after_qkv.weight)]
    q1, k1, v1 = (before @ weights[0][i * d : (i + 1) * d].T for i in range(3))
    q2, k2, v2 = (after @ weights[1][i * d : (i + 1) * d].T for i in range(3))
    bias = np.zeros((2, LENGTH))
    if module.score is not None:
        for n in range(LENGTH):
            bias[:, n] = alpha * linear(module.score, difference[n])  # Eq. 4
    to_before, to_after = np.zeros_like(before), np.zeros_like(after)
    size = d // module.heads
    for h in range(module.heads):
        head = slice(h * size, (h + 1) * size)
        a12 = slow_attention(q1, k2, bias[0], head)  # Eq. 5
        a21 = slow_attention(q2, k1, bias[1], head)  # Eq. 6
        to_after[:, head] = (a12 - balance * a21) @ v2[:, head]  # Eq. 7
        to_before[:, head] = (a21 - balance * a12) @ v1[:, head]  # Eq. 8
    fused = []
    for fusion, stream, attended in (
        (module.before_fusion, before, to_before),
        (module.after_fusion, after, to_after),
    ):
        rows = []
        for n in range(LENGTH):
            gate = sigmoid(linear(fusion.gate, np.concatenate([stream[n], attended[n]])))
            mixed = gate * attended[n] + (1 - gate) * stream[n]
            rows.append(layer_norm(fusion.norm, linear(fusion.project, mixed)))
        fused.append(np.array(rows))
    return fused[0], fused[1]


def slow_bdam(module: BDAM, before: np.ndarray, after: np.ndarray) -> list[np.ndarray]:
    first = None
    for layer in module.layers:
        difference = np.abs(before - after)
        if layer.dfc is not None:
            before, after, difference = slow_conditioning(layer.dfc, before, after)
        if layer.bdci is not None:
            before, after = slow_interaction(
                layer.bdci,
                before,
                after,
                difference,
                array(module.alpha),
                float(module.balance.detach()),
            )
        first = difference if first is None else first
    return [before, after, np.abs(before - after) if first is None else first]


ABLATIONS = {
    "paper": SMALL,
    "one layer": dataclasses.replace(SMALL, layers=1),
    "no layers": dataclasses.replace(SMALL, layers=0),
    "dfc only": dataclasses.replace(SMALL, bdci=False),
    "bdci only": dataclasses.replace(SMALL, dfc=False),
    "neither": dataclasses.replace(SMALL, dfc=False, bdci=False),
    "no bias": dataclasses.replace(SMALL, bias=False),
    "learnable lambda": dataclasses.replace(SMALL, learnable_balance=True),
    "other lambda": dataclasses.replace(SMALL, balance=0.3),
    "other alpha": dataclasses.replace(SMALL, alpha=(-2.0, 3.0)),
    "wide gate": dataclasses.replace(SMALL, gate_reduction=1),
    "four heads": dataclasses.replace(SMALL, heads=4),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_equals_slow_loops(name: str) -> None:
    module = make(ABLATIONS[name])
    before, after = dates()
    out = module(before, after, GRID)
    for pair in range(len(before)):
        slow = slow_bdam(module, array(before[pair]), array(after[pair]))
        fast = [out.before[pair], out.after[pair], out.difference[pair]]
        for a, b in zip(fast, slow, strict=True):
            assert np.abs(array(a) - b).max() <= 1e-10


def test_every_switch_changes_the_features() -> None:
    before, after = dates()
    seen = {}
    for name, config in ABLATIONS.items():
        if name != "learnable lambda":  # starts at the fixed value
            module = BDAM(WIDTH, config).double()
            with torch.no_grad():
                for key, parameter in sorted(module.named_parameters()):
                    if key != "alpha":
                        torch.manual_seed(len(key))
                        parameter.normal_()
            seen[name] = module(before, after, GRID).after
    for name, features in seen.items():
        if name in ("no layers", "neither"):
            assert torch.equal(features, after), name
        else:
            assert not torch.allclose(features, seen["paper"]) or name == "paper", name


def test_gradients() -> None:
    module = make(dataclasses.replace(SMALL, layers=1, learnable_balance=True))
    before, after = dates(n_pairs=1)
    inputs = (before.requires_grad_(), after.requires_grad_())
    named = [(n, p) for n, p in module.named_parameters() if n in ("alpha", "balance")]
    named += [(n, p) for n, p in module.named_parameters() if "score" in n or "gate.0" in n]
    names = [name for name, _ in named]

    def run(b: Tensor, a: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        out = torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (b, a, GRID)
        )
        return out.before, out.after, out.difference

    assert torch.autograd.gradcheck(run, (*inputs, *(p for _, p in named)), fast_mode=True)


def test_every_parameter_learns() -> None:
    module = make(dataclasses.replace(SMALL, learnable_balance=True))
    out = module(*dates(), GRID)
    # A sum over a LayerNorm's output hides its input, so weigh the features unevenly.
    uneven = torch.linspace(-1, 1, WIDTH, dtype=torch.float64)
    ((out.before * uneven).sum() + (out.after * uneven**2).sum()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_lambda_is_trained_only_if_asked() -> None:
    assert "balance" not in dict(make().named_parameters())
    assert "balance" in dict(make(ABLATIONS["learnable lambda"]).named_parameters())


@pytest.mark.parametrize("name", ["no layers", "dfc only", "no bias"])
def test_nothing_untrainable_hides_among_the_parameters(name: str) -> None:
    assert "alpha" not in dict(make(ABLATIONS[name]).named_parameters())


def test_equal_dates_differ_nowhere() -> None:
    before, _ = dates()
    for name in ("paper", "bdci only", "no layers"):
        assert make(ABLATIONS[name])(before, before, GRID).difference.abs().max() == 0


def test_a_local_change_shows_in_its_place() -> None:
    before, _ = dates()
    after = before.clone()
    after[:, 4] += 1.0
    difference = make()(before, after, GRID).difference.norm(dim=2)
    assert (difference[:, 4] > 0).all()
    others = [n for n in range(LENGTH) if n != 4]
    assert difference[:, others].abs().max() == 0


def test_swapped_dates_change_the_features() -> None:
    module = make()
    before, after = dates()
    out, swapped = module(before, after, GRID), module(after, before, GRID)
    assert not torch.allclose(out.before, swapped.before)
    assert not torch.allclose(out.before, swapped.after)
    assert not torch.allclose(out.after - out.before, swapped.after - swapped.before)
    assert not torch.allclose(out.after - out.before, swapped.before - swapped.after)


def test_conditioning_is_symmetric_in_the_dates_but_for_its_gate() -> None:
    module = make().layers[0].dfc
    before, after = dates()
    with torch.no_grad():
        module.gate[0].weight.zero_()
    out, swapped = module(before, after, GRID), module(after, before, GRID)
    torch.testing.assert_close(out[0], swapped[1])
    torch.testing.assert_close(out[2], swapped[2])


def test_bias_touches_the_diagonal_only() -> None:
    """A huge bias at one place makes that place look at itself, and leaves the rest alone."""
    torch.manual_seed(0)
    module = CrossTemporalInteraction(WIDTH, 1, bias=True).double()
    with torch.no_grad():
        module.score.weight.fill_(1.0)
        module.score.bias.zero_()
    before, after = dates(n_pairs=1)
    quiet = torch.zeros(1, LENGTH, WIDTH, dtype=torch.float64)
    loud = quiet.clone()
    loud[:, 2] = 1000.0
    alpha = torch.tensor([1.0, 0.0], dtype=torch.float64)
    attended: list[Tensor] = []
    module.after_fusion.register_forward_hook(lambda _, inputs, __: attended.append(inputs[1]))
    none = torch.tensor(0.0, dtype=torch.float64)
    module(before, after, quiet, alpha, none)
    module(before, after, loud, alpha, none)
    values = after @ module.after_qkv.weight[2 * WIDTH :].T
    torch.testing.assert_close(attended[1][:, 2], values[:, 2])
    others = [n for n in range(LENGTH) if n != 2]
    torch.testing.assert_close(attended[0][:, others], attended[1][:, others])


def test_pairs_do_not_see_each_other() -> None:
    module = make()
    before, after = dates(n_pairs=3)
    together, alone = module(before, after, GRID), module(before[1:2], after[1:2], GRID)
    torch.testing.assert_close(together.after[1:2], alone.after)


def test_any_grid() -> None:
    module = make()
    x = torch.randn(1, 20, WIDTH, dtype=torch.float64)
    assert module(x, -x, (4, 5)).before.shape == (1, 20, WIDTH)
    assert not torch.allclose(module(x, -x, (4, 5)).before, module(x, -x, (5, 4)).before)
