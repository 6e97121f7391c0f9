from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from whatchanged.data.augment import mirror, misregister, photometric, zoom


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 4, side: int = 48) -> Tensor:
    """Smooth coloured pictures, like ground seen from above rather than noise."""
    coarse = torch.rand(n, 3, 6, 6, generator=generator(99))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return smooth.clamp(0, 1).mul(255).to(torch.uint8)


def test_mirror_exchanges_the_sides_of_pictures_and_maps() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(mirror(picture, True, False), picture[:, :, ::-1])
    assert np.array_equal(mirror(picture, False, True), picture[:, ::-1])
    assert np.array_equal(mirror(picture[0], True, True), picture[0, ::-1, ::-1])
    assert np.array_equal(mirror(picture, False, False), picture)


@given(st.booleans(), st.booleans())
def test_mirroring_twice_is_the_identity(horizontal: bool, vertical: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    once = mirror(picture, horizontal, vertical)
    assert once.flags.c_contiguous
    assert np.array_equal(mirror(once, horizontal, vertical), picture)


def test_photometric_keeps_shape_range_and_input() -> None:
    before, after = pictures(), pictures().flip(0)
    kept = before.clone()
    for seed in range(5):
        new_before, new_after = photometric(before, after, 1.0, generator(seed))
        for new, old in ((new_before, before), (new_after, after)):
            assert new.shape == old.shape
            assert new.dtype == torch.float32
            assert 0 <= new.min() <= new.max() <= 255
            assert torch.isfinite(new).all()
    assert torch.equal(before, kept)


def test_photometric_leaves_float_input_alone() -> None:
    before, after = pictures().float(), pictures().float()
    kept = before.clone()
    photometric(before, after, 1.0, generator())
    assert torch.equal(before, kept)


def test_strength_zero_changes_nothing() -> None:
    before, after = photometric(pictures(), pictures().flip(0), 0.0, generator())
    assert torch.equal(before, pictures().float())
    assert torch.equal(after, pictures().flip(0).float())


def test_strength_sets_how_much_changes() -> None:
    def change(strength: float) -> float:
        new, _ = photometric(pictures(32), pictures(32), strength, generator(1))
        return float((new - pictures(32)).abs().mean())

    weak, middle, full = change(0.1), change(0.5), change(1.0)
    assert 0 < weak < middle < full < 60


def test_the_dates_are_drawn_independently() -> None:
    before, after = photometric(pictures(8), pictures(8), 1.0, generator())
    assert ((before - after).abs().mean((1, 2, 3)) > 2).all()


def test_the_content_stays_recognisable() -> None:
    old = pictures(64)
    new, _ = photometric(old, old, 1.0, generator(3))
    for a, b in zip(old.float().mean(1), new.mean(1), strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.8


def test_a_saved_generator_repeats_the_draws() -> None:
    one = generator(5)
    photometric(pictures(), pictures(), 1.0, one)
    state = one.get_state()
    expected = photometric(pictures(), pictures(), 1.0, one)
    other = torch.Generator()
    other.set_state(state)
    again = photometric(pictures(), pictures(), 1.0, other)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert not torch.equal(again[0], photometric(pictures(), pictures(), 1.0, other)[0])


def test_the_number_of_draws_does_not_depend_on_the_pictures() -> None:
    one, two = generator(6), generator(6)
    photometric(pictures(), pictures(), 1.0, one)
    photometric(torch.zeros_like(pictures()), pictures(), 1.0, two)
    assert torch.equal(one.get_state(), two.get_state())


def test_global_random_state_is_not_touched() -> None:
    state = torch.random.get_rng_state()
    photometric(pictures(), pictures(), 1.0, generator())
    misregister(pictures(), 1.5, generator())
    zoom([pictures()], 0.9, generator())
    assert torch.equal(torch.random.get_rng_state(), state)


@given(st.floats(0, 255), st.integers(0, 50))
@settings(max_examples=20)
def test_a_flat_picture_stays_flat_under_shift_and_zoom(value: float, seed: int) -> None:
    flat = torch.full((2, 3, 16, 16), value)
    assert torch.allclose(misregister(flat, 1.5, generator(seed)), flat, atol=1e-3)
    assert torch.allclose(zoom([flat], 0.8, generator(seed))[0], flat, atol=1e-3)


def test_misregister_shifts_by_fractions_of_pixels() -> None:
    ramp = torch.arange(32.0).expand(8, 3, 32, 32)
    shifted = misregister(ramp, 1.5, generator())
    offset = (shifted - ramp)[:, :, 4:-4, 4:-4]
    per_picture = offset.mean((1, 2, 3))
    assert torch.allclose(offset, per_picture.view(8, 1, 1, 1).expand_as(offset), atol=1e-4)
    assert per_picture.abs().max() <= 1.5
    assert per_picture.std() > 0.3
    assert len(per_picture.unique()) == 8


def test_misregister_by_nothing_is_the_identity() -> None:
    assert torch.equal(misregister(pictures(), 0.0, generator()), pictures().float())


def test_zoom_cuts_all_layers_of_a_pair_alike() -> None:
    rows = torch.arange(64, dtype=torch.uint8).view(1, 1, 64, 1).expand(6, 3, 64, 64).contiguous()
    maps = rows[:, 0].contiguous()
    before, after, mask = zoom([rows, rows.clone(), maps], 0.8, generator(2))
    assert torch.equal(before, after)
    assert before.dtype == mask.dtype == torch.uint8
    assert before.shape == rows.shape
    assert mask.shape == maps.shape
    assert (before[:, 0].int() - mask.int()).abs().max() <= 1
    spans = mask[:, -1, 0].int() - mask[:, 0, 0].int() + 1
    assert spans.min() >= 51
    assert len(spans.unique()) > 1
    assert torch.equal(rows[:, 0], maps)  # the input is left as it was


def test_zoom_of_maps_makes_no_new_class() -> None:
    maps = torch.randint(0, 2, (4, 32, 32), generator=generator()).to(torch.uint8) * 255
    assert set(zoom([maps], 0.8, generator())[0].unique().tolist()) <= {0, 255}


def test_zoom_by_one_is_the_identity() -> None:
    assert torch.equal(zoom([pictures()], 1.0, generator())[0], pictures())


@pytest.mark.parametrize("side", [33, 48])
def test_sides_that_no_jpeg_block_divides(side: int) -> None:
    odd = pictures(16, side)
    assert photometric(odd, odd, 1.0, generator())[1].shape == odd.shape
