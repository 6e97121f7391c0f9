"""HiSem whole: from pictures to words, routing in training, sizes, and learning."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from whatchanged.models.backbones import EncoderConfig
from whatchanged.models.hisem.config import (
    PRESETS,
    BDAMConfig,
    DecoderConfig,
    HASDConfig,
    HiSemConfig,
)
from whatchanged.models.hisem.loss import hisem_loss
from whatchanged.models.hisem.model import GridPositions, HiSem
from whatchanged.models.outputs import HiSemOutput

VOCABULARY = 15
TINY = HiSemConfig(
    encoder=EncoderConfig(channels=32, input_size=64),
    width=24,
    grid=4,
    bdam=BDAMConfig(layers=2, heads=2),
    hasd=HASDConfig(norm="group", hidden=16, expert_hidden=12),
    decoder=DecoderConfig(heads=2, ffn=2, max_len=10),
)


def make(config: HiSemConfig = TINY, seed: int = 0) -> HiSem:
    torch.manual_seed(seed)
    return HiSem(config, VOCABULARY).eval()


@pytest.fixture(scope="module")
def model() -> Iterator[HiSem]:
    yield make()


def maps(
    n_pairs: int = 4, side: int = 4, seed: int = 1, channels: int = 32
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    pair = torch.randn(2, n_pairs, channels, side, side)
    return pair[0], pair[1]


def words(n_pairs: int = 4, seed: int = 2) -> Tensor:
    torch.manual_seed(seed)
    captions = torch.randint(4, VOCABULARY, (n_pairs, 8))
    captions[:, 0] = 2
    captions[:, 6] = 3
    captions[:, 7] = 0
    return captions


CHANGED = torch.tensor([True, False, True, False])


def loss(model: HiSem, alpha: float = 1.0, *, detach: bool = False) -> tuple[HiSemOutput, Tensor]:
    out = model(*maps(), words(), CHANGED, detach_router=detach)
    return out, hisem_loss(out, words(), CHANGED, alpha).total


# --- shapes and the way of the data ---------------------------------------------------------


def test_pictures_to_words(model: HiSem) -> None:
    pictures = torch.randn(2, 3, 3, 64, 64)
    before, after = model.encode(pictures[0], pictures[1])
    assert before.shape == after.shape == (3, 32, 4, 4)
    with torch.no_grad():
        memory = model.memory(before, after)
    assert memory.tokens.shape == (3, 16, 24) and memory.grid == (4, 4)
    assert memory.difference_map.shape == (3, 4, 4)
    beams = model.generate(memory, beam=3)
    assert [len(beam) for beam in beams] == [3, 3, 3]


def test_both_dates_share_one_call_of_the_encoder() -> None:
    model, calls = make(), []
    model.encoder.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
    pictures = torch.randn(2, 2, 3, 64, 64)
    before, after = model.encode(pictures[0], pictures[1])
    assert calls == [(4, 3, 64, 64)]
    torch.testing.assert_close(before, model.encoder(pictures[0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, model.encoder(pictures[1]), atol=1e-4, rtol=1e-4)


def test_output(model: HiSem) -> None:
    out = model(*maps(), words(), CHANGED)
    assert out.caption_logits.shape == (4, 7, VOCABULARY)
    assert out.router_logits.shape == (4, 2)
    assert out.path.tolist() == [1, 0, 1, 0]
    assert out.memory.experts.shape == (4, 16, 2)
    assert out.balance_loss.shape == ()
    probability = out.memory.changed_probability
    torch.testing.assert_close(probability, out.router_logits.softmax(1)[:, 1])
    assert model(*maps()).caption_logits is None


def test_equal_width_needs_no_projection() -> None:
    config = dataclasses.replace(TINY, encoder=EncoderConfig(channels=64), width=64)
    assert not list(make(config).project.parameters())
    assert list(make().project.parameters())


@torch.no_grad()
def test_equal_dates_differ_nowhere(model: HiSem) -> None:
    before, _ = maps()
    assert (model.memory(before, before).difference_map == 0).all()


@torch.no_grad()
def test_a_changed_place_shows_on_the_map(model: HiSem) -> None:
    before, _ = maps()
    after = before.clone()
    after[:, :, 1, 2] += 3.0
    seen = model.memory(before, after).difference_map
    assert (seen.flatten(1).argmax(dim=1) == 1 * 4 + 2).all()


@torch.no_grad()
def test_swapped_dates_change_what_is_seen(model: HiSem) -> None:
    before, after = maps()
    a, b = model.memory(before, after), model.memory(after, before)
    assert not torch.allclose(a.tokens, b.tokens)
    assert not torch.allclose(a.router_logits, b.router_logits)


@torch.no_grad()
def test_pairs_of_a_batch_are_seen_alone(model: HiSem) -> None:
    before, after = maps()
    together = model(before, after, words()).caption_logits
    for pair in range(4):
        row = slice(pair, pair + 1)
        alone = model(before[row], after[row], words()[row]).caption_logits
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)


def test_word_attention(model: HiSem) -> None:
    with torch.no_grad():
        memory = model.memory(*maps())
    best = [beam[0] for beam in model.generate(memory, beam=2)]
    seen = model.word_attention(memory, best)
    for weights, hypothesis in zip(seen, best, strict=True):
        assert weights.shape == (len(hypothesis.ids), 4, 4)
        torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(len(hypothesis.ids)))
    short = dataclasses.replace(best[0], ids=best[0].ids[:1])
    cut = model.word_attention(memory, [short, *best[1:]])[0]
    torch.testing.assert_close(cut, seen[0][:1])
    empty = dataclasses.replace(best[0], ids=())
    assert model.word_attention(memory, [empty] * 4)[0].shape == (0, 4, 4)


# --- positions ------------------------------------------------------------------------------


def test_positions_join_row_and_column() -> None:
    positions = GridPositions(6, 3)
    table = positions((3, 3))
    for row in range(3):
        for column in range(3):
            expected = torch.cat([positions.rows[row], positions.columns[column]])
            assert torch.equal(table[row * 3 + column], expected)


@pytest.mark.parametrize("grid", [(6, 6), (5, 7), (2, 3), (1, 1)])
def test_other_grids_interpolate(grid: tuple[int, int]) -> None:
    positions = GridPositions(4, 4)
    with torch.no_grad():
        positions.rows.copy_(torch.arange(4.0).unsqueeze(1).expand(4, 2))
        positions.columns.copy_(-torch.arange(4.0).unsqueeze(1).expand(4, 2))
    table = positions(grid).view(*grid, 4)
    for i in range(grid[0]):
        for j in range(grid[1]):
            # Centre of the cell on the configured grid, held at its border.
            row = min(max((i + 0.5) * 4 / grid[0] - 0.5, 0.0), 3.0)
            column = min(max((j + 0.5) * 4 / grid[1] - 0.5, 0.0), 3.0)
            expected = torch.tensor([row, row, -column, -column])
            torch.testing.assert_close(table[i, j], expected)


@torch.no_grad()
def test_larger_pictures_work(model: HiSem) -> None:
    before, after = maps(2, side=6)
    memory = model.memory(before, after)
    assert memory.tokens.shape == (2, 36, 24) and memory.grid == (6, 6)
    assert len(model.generate(memory)) == 2


def test_place_matters(model: HiSem) -> None:
    before, after = maps()
    moved = model.memory(before.flip(3), after.flip(3)).tokens.view(4, 4, 4, 24).flip(2)
    assert not torch.allclose(moved.flatten(1, 2), model.memory(before, after).tokens, atol=1e-3)


# --- training -------------------------------------------------------------------------------


def test_router_learns_after_the_warmup_only() -> None:
    model = make().train()
    router = model.hasd.router.project.weight
    for detach in (True, False):  # detached as in training, and by its weight alone
        model.zero_grad()
        loss(model, alpha=0.0, detach=detach)[1].backward()
        assert router.grad is None or (router.grad == 0).all()
    model.zero_grad()
    loss(model, alpha=0.1)[1].backward()
    assert router.grad.abs().max() > 0


def test_detached_router_changes_no_other_gradient_at_weight_zero() -> None:
    grads = []
    for detach in (True, False):
        model = make()
        loss(model, alpha=0.0, detach=detach)[1].backward()
        grads.append(model.bdam.layers[0].dfc.gate[0].weight.grad)
    assert torch.equal(grads[0], grads[1])


def test_router_loss_trains_bdam() -> None:
    model = make()
    out = model(*maps(), None, CHANGED)
    torch.nn.functional.cross_entropy(out.router_logits, CHANGED.long()).backward()
    assert model.bdam.layers[-1].bdci.after_qkv.weight.grad.abs().max() > 0


def test_every_parameter_learns_from_a_mixed_batch() -> None:
    config = dataclasses.replace(TINY, hasd=dataclasses.replace(TINY.hasd, top_groups=4, top_k=8))
    model = make(config).train()
    loss(model)[1].backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("encoder"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_few_pairs_are_learned_by_heart() -> None:
    """Captions, routes and greedy decoding of four random pairs, from predicted routes."""
    config = dataclasses.replace(
        TINY,
        hasd=dataclasses.replace(TINY.hasd, dropout=0.0),
        decoder=dataclasses.replace(TINY.decoder, dropout=0.0),
    )
    model = make(config).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimiser.zero_grad()
        _, total = loss(model)
        total.backward()
        optimiser.step()
    assert float(total) < 0.02
    model.eval()
    with torch.no_grad():
        memory = model.memory(*maps())
        assert memory.path.tolist() == [1, 0, 1, 0]
        for beam in (1, 3):
            said = [list(found[0].ids) for found in model.generate(memory, beam=beam)]
            assert said == words()[:, 1:6].tolist()


# --- numbers --------------------------------------------------------------------------------


def test_bfloat16_autocast_agrees_and_trains() -> None:
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        out, total = loss(model)
    total.backward()
    exact, exact_total = loss(model)
    assert out.path.tolist() == exact.path.tolist()
    torch.testing.assert_close(total, exact_total, atol=0.05, rtol=0.05)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        memory = model.memory(*maps())
        assert len(model.generate(memory, beam=2)) == len(model.generate(memory)) == 4


def test_float64_agrees() -> None:
    model = make()
    exact = model(*maps(), words()).caption_logits
    model.double()
    before, after = maps()
    wide = model(before.double(), after.double(), words()).caption_logits
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), exact, atol=1e-4, rtol=1e-4)


def test_state_dict_round_trip() -> None:
    first, second = make(seed=0), make(seed=1)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    a, b = first(*maps(), words()), second(*maps(), words())
    assert torch.equal(a.caption_logits, b.caption_logits)
    assert torch.equal(a.router_logits, b.router_logits)


def test_same_seed_same_model() -> None:
    first, second = make(seed=3).state_dict(), make(seed=3).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- configurations -------------------------------------------------------------------------


def replaced(part: str, **values: object) -> HiSemConfig:
    return dataclasses.replace(TINY, **{part: dataclasses.replace(getattr(TINY, part), **values)})  # type: ignore[arg-type]


ABLATIONS = {
    "III without BDAM": replaced("bdam", layers=0),
    "III without HASD": replaced("hasd", routing=False, unchanged="none", changed="none"),
    "IV DFC": replaced("bdam", bdci=False),
    "IV BDCI": replaced("bdam", dfc=False),
    "V one ffn": replaced("hasd", routing=False, unchanged="ffn", changed="ffn"),
    "V one moe": replaced("hasd", routing=False, unchanged="moe", changed="moe"),
    "V both ffn": replaced("hasd", changed="ffn"),
    "V both moe": replaced("hasd", unchanged="moe"),
    "VIII one BDAM layer": replaced("bdam", layers=1),
    "VIII three decoder layers": replaced("decoder", layers=3),
    "published decoder": replaced("decoder", outer_residual=True),
    "published weights": replaced("hasd", normalise=False),
    "published norm": replaced("hasd", norm="batch"),
    "published balance": replaced("hasd", balance_loss=0.001),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_train_and_speak(name: str) -> None:
    model = make(ABLATIONS[name]).train()
    out, total = loss(model)
    total.backward()
    assert torch.isfinite(total)
    assert (out.router_logits is None) == (not ABLATIONS[name].hasd.routing)
    model.eval()
    with torch.no_grad():
        assert len(model.generate(model.memory(*maps()), beam=2)) == 4
    assert (float(out.balance_loss.detach()) > 0) == (name == "published balance")


@pytest.mark.parametrize(
    ("name", "least", "most"), [("hisem-small", 8e6, 12.5e6), ("hisem-clip-b16", 170e6, 185e6)]
)
def test_sizes_of_the_presets(name: str, least: float, most: float) -> None:
    with torch.device("meta"):
        model = HiSem(PRESETS[name], 500)
    assert least < sum(p.numel() for p in model.parameters()) < most


def test_equations_can_be_found_by_number() -> None:
    from importlib import resources

    folder = resources.files("whatchanged.models.hisem")
    text = "".join(
        f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".py")
    )
    missing = [n for n in range(1, 20) if f"Eq. {n}" not in text]
    assert missing == []
