"""The caption decoder against slow loops, and its cache against no cache."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import DecoderConfig
from whatchanged.models.hisem.decoder import Attention, CaptionDecoder, DecoderLayer, sinusoids

WIDTH, VOCABULARY = 8, 13
SMALL = DecoderConfig(heads=2, ffn=2, max_len=9)
CONFIGS = {
    "paper": SMALL,
    "two layers": dataclasses.replace(SMALL, layers=2),
    "outer residual": dataclasses.replace(SMALL, outer_residual=True),
    "two layers, outer residual": dataclasses.replace(SMALL, layers=2, outer_residual=True),
    "four heads": dataclasses.replace(SMALL, heads=4),
    "wide": dataclasses.replace(SMALL, ffn=3),
}


def make(config: DecoderConfig = SMALL, seed: int = 0) -> CaptionDecoder:
    torch.manual_seed(seed)
    module = CaptionDecoder(WIDTH, VOCABULARY, config).double().eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def memory(n_pairs: int = 2, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(n_pairs, 5, WIDTH, dtype=torch.float64)


def captions(n_pairs: int = 2, n_words: int = 7, seed: int = 2) -> Tensor:
    torch.manual_seed(seed)
    words = torch.randint(4, VOCABULARY, (n_pairs, n_words))
    words[:, 0] = 2
    return words


def slow_attention(module: Attention, query: Tensor, seen: list[Tensor]) -> Tensor:
    d, size = WIDTH, WIDTH // module.heads
    q = module.query.weight @ query + module.query.bias
    pairs = [module.key_value.weight @ x + module.key_value.bias for x in seen]
    parts = []
    for h in range(module.heads):
        head, offset = slice(h * size, (h + 1) * size), slice(d + h * size, d + (h + 1) * size)
        weights = [math.exp(float(q[head] @ kv[head]) / math.sqrt(size)) for kv in pairs]
        parts.append(sum(w / sum(weights) * kv[offset] for w, kv in zip(weights, pairs)))  # noqa: B905
    return module.out.weight @ torch.cat(parts) + module.out.bias


def slow_norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    scaled = centred / math.sqrt(float((centred**2).mean()) + module.eps)
    return scaled * module.weight + module.bias


def slow_layer(module: DecoderLayer, x: list[Tensor], seen: list[Tensor]) -> list[Tensor]:
    out = []
    for t in range(len(x)):
        y = slow_norm(
            module.norms[0], x[t] + slow_attention(module.self_attention, x[t], x[: t + 1])
        )
        y = slow_norm(module.norms[1], y + slow_attention(module.cross_attention, y, seen))
        hidden = (module.ffn[0].weight @ y + module.ffn[0].bias).clamp(min=0)
        y = slow_norm(module.norms[2], y + module.ffn[3].weight @ hidden + module.ffn[3].bias)
        out.append(x[t] + y if module.outer_residual else y)
    return out


def slow_decoder(module: CaptionDecoder, words: list[int], seen: list[Tensor]) -> Tensor:
    x = []
    for t, word in enumerate(words):
        place = [
            math.sin(t / 10000 ** (i / WIDTH))
            if i % 2 == 0
            else math.cos(t / 10000 ** ((i - 1) / WIDTH))
            for i in range(WIDTH)
        ]
        x.append(module.embedding.weight[word] + torch.tensor(place, dtype=torch.float64))
    for layer in module.layers:
        x = slow_layer(layer, x, seen)
    return torch.stack([module.head.weight @ y + module.head.bias for y in x])


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_slow_loops(name: str) -> None:
    module, words, seen = make(CONFIGS[name]), captions(), memory()
    # The table of positions is kept as float32; loops at full precision need it exact.
    module.places = sinusoids(9, WIDTH, torch.float64)
    logits = module(words, seen)
    for pair in range(2):
        slow = slow_decoder(module, words[pair].tolist(), list(seen[pair]))
        assert (logits[pair] - slow).abs().max() <= 1e-10


@torch.no_grad()
def test_every_switch_changes_the_logits() -> None:
    results = {}
    for name, config in CONFIGS.items():
        module = CaptionDecoder(WIDTH, VOCABULARY, config).double().eval()
        for key, parameter in module.named_parameters():
            torch.manual_seed(sum(map(ord, key)))
            parameter.normal_(std=0.5)
        results[name] = module(captions(), memory())
    for name, result in results.items():
        assert name == "paper" or not torch.allclose(result, results["paper"]), name


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_cached_steps_equal_the_whole_caption(name: str) -> None:
    module, seen = make(CONFIGS[name]), memory(3)
    words = captions(3, 9)
    whole = module(words, seen)
    known = module.remember(seen)
    past = module.room(known, 3, 9)
    for t in range(9):
        step = module.step(words[:, t : t + 1], t, known, past)
        torch.testing.assert_close(step[:, 0], whole[:, t], atol=1e-10, rtol=0)


@torch.no_grad()
def test_several_captions_a_pair_share_one_memory() -> None:
    module, seen = make(CONFIGS["two layers"]), memory(2)
    words = torch.stack([captions(2, seed=s) for s in (5, 6, 7)], dim=1)  # [B, K, T]
    known = module.remember(seen)
    assert known[0].keys.shape[0] == 2
    past = module.room(known, 6, 7)
    for t in range(7):
        step = module.step(words[:, :, t], t, known, past)
        for k in range(3):
            whole = module(words[:, k], seen)[:, t]
            torch.testing.assert_close(step[:, k], whole, atol=1e-10, rtol=0)


@torch.no_grad()
def test_no_word_sees_a_later_one() -> None:
    module, words, seen = make(CONFIGS["two layers"]), captions(), memory()
    logits = module(words, seen)
    words[:, 4] = (words[:, 4] + 1) % VOCABULARY
    other = module(words, seen)
    assert torch.equal(logits[:, :4], other[:, :4])
    assert not torch.allclose(logits[:, 4], other[:, 4])


@torch.no_grad()
def test_padding_does_not_reach_the_words_before_it() -> None:
    module, words, seen = make(), captions(), memory()
    padded = torch.cat([words, torch.zeros(2, 2, dtype=torch.long)], dim=1)
    torch.testing.assert_close(module(padded, seen)[:, :7], module(words, seen))


@torch.no_grad()
def test_attention_sums_to_one_and_finds_what_is_there() -> None:
    module, words, seen = make(CONFIGS["two layers"]), captions(), memory()
    weights = module.attention(words, seen)
    assert weights.shape == (2, 7, 5)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 7, dtype=torch.float64))
    assert weights.std(dim=2).min() > 0


@torch.no_grad()
def test_attention_is_what_the_layer_uses() -> None:
    """With one head and an identity value path the weights reproduce the attended memory."""
    torch.manual_seed(0)
    module = Attention(WIDTH, 1, 0.0).double()
    eye = torch.eye(WIDTH, dtype=torch.float64)
    module.key_value.weight[WIDTH:] = eye
    module.out.weight.copy_(eye)
    module.key_value.bias.zero_()
    module.out.bias.zero_()
    x, seen = memory(2, seed=3), memory(2)
    known = module.remember(seen)
    torch.testing.assert_close(module.weights(x, known) @ seen, module(x, known))


def test_gradients_reach_memory_and_every_parameter() -> None:
    module, seen = make(CONFIGS["two layers"]), memory().requires_grad_()
    module.train()
    module(captions(), seen).pow(2).sum().backward()
    assert seen.grad.abs().max() > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_gradcheck() -> None:
    module, words = make(), captions(1, 3)
    seen = memory(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(words, x), (seen,))


def test_dropout_only_while_training() -> None:
    module, words, seen = make(), captions(), memory()
    assert torch.equal(module(words, seen), module(words, seen))
    module.train()
    assert not torch.equal(module(words, seen), module(words, seen))


def test_a_caption_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="10 words is longer than the decoder's 9"):
        make()(captions(n_words=10), memory())
