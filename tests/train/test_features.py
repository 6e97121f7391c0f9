from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whatchanged.config import from_mapping
from whatchanged.models.backbones import Encoder, EncoderConfig, build_encoder, normalise
from whatchanged.train import features
from whatchanged.train.caption_data import CaptionData, View
from whatchanged.train.config import DataConfig
from whatchanged.train.features import FeatureCache

ENCODER = EncoderConfig(channels=32, unfreeze_last=0, input_size=64)


@pytest.fixture(scope="module")
def data(pairs: Path) -> CaptionData:
    """All kinds of views: flips, two lights, pairs of one picture."""
    values: dict[str, Any] = {
        "captions": [str(pairs)],
        "size": 64,
        "min_count": 0,
        "flips": True,
        "photometric": 0.8,
        "views": 2,
        "self_pairs": 0.2,
    }
    return CaptionData.open(from_mapping(DataConfig, values))


@pytest.fixture(scope="module")
def encoder(data: CaptionData) -> Encoder:
    """Random weights, frozen, with statistics under which pictures give different features."""
    torch.manual_seed(3)
    encoder = build_encoder(ENCODER)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean
    encoder.train()
    pixels = torch.from_numpy(np.stack([pair.before for pair in data.train]))
    with torch.no_grad():
        encoder(normalise(pixels, ENCODER))
    return encoder.eval()


@pytest.fixture(scope="module")
def built(
    data: CaptionData, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FeatureCache, Path]:
    """A cache and its folder."""
    folder = tmp_path_factory.mktemp("cache")
    return FeatureCache(encoder, data, folder), folder


@torch.no_grad()
def encode(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    return encoder(normalise(pixels, encoder.config))


def close(cached: torch.Tensor, exact: torch.Tensor) -> bool:
    return cached.dtype == torch.float16 and torch.allclose(
        cached.float(), exact, atol=2e-3 * float(exact.abs().max()), rtol=2e-3
    )


def test_a_pair_as_it_is_has_the_features_encoded_on_the_fly(
    built: tuple[FeatureCache, Path], data: CaptionData, encoder: Encoder
) -> None:
    cache, _ = built
    indices = [4, 0, 1, 0]
    views = [View(0, 0), View(3, 0), View(2, 0), View(1, 0)]
    shown = data.pictures(indices, views, torch.Generator())
    pictures = (shown.before, shown.after)
    for cached, pixels in zip(cache.train(indices, views), pictures, strict=True):
        assert cached.shape == (4, 32, 4, 4)
        exact = encode(encoder, pixels)
        assert close(cached, exact)
        assert not any(close(cached[[1]], exact[[row]]) for row in (0, 2, 3))


def test_every_view_has_a_row_of_its_own(
    built: tuple[FeatureCache, Path], data: CaptionData
) -> None:
    cache, _ = built
    rows = [
        (index, View(flip, light + int(pair.same)))
        for index, pair in enumerate(data.train)
        for flip in range(4)
        for light in range(2)
    ]
    before, _ = cache.train([i for i, _ in rows], [v for _, v in rows])
    assert len(rows) == len(data.train) * 8
    # All differ but the same picture as it is in a pair and in the pair of one picture.
    kinds = {tuple(row.flatten().tolist()) for row in before}
    assert len(kinds) == len(rows)


def test_other_lights_are_drawn_once_and_stay(
    built: tuple[FeatureCache, Path], data: CaptionData, encoder: Encoder, tmp_path: Path
) -> None:
    cache, _ = built
    plain, lit = (cache.train([0], [View(0, light)])[0] for light in (0, 1))
    assert not close(lit, plain.float())
    again = FeatureCache(encoder, data, tmp_path).train([0], [View(0, 1)])[0]
    assert torch.equal(lit, again)


def test_pairs_of_one_picture_are_kept_in_two_lights(
    built: tuple[FeatureCache, Path], data: CaptionData
) -> None:
    cache, _ = built
    index = next(i for i, pair in enumerate(data.train) if pair.same)
    for light in (1, 2):
        before, after = cache.train([index], [View(0, light)])
        assert not close(before, after.float())


def test_validation_pairs_are_encoded_as_they_are(
    built: tuple[FeatureCache, Path], data: CaptionData, encoder: Encoder
) -> None:
    cache, _ = built
    for cached, pixels in zip(
        cache.validation([2, 0]), data.validation_pictures([2, 0]), strict=True
    ):
        assert close(cached, encode(encoder, pixels))


def folders(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_a_second_run_reads_what_the_first_wrote(
    built: tuple[FeatureCache, Path],
    data: CaptionData,
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, place = built
    before = folders(place)
    monkeypatch.setattr(features, "_build", lambda *_: pytest.fail("built twice"))
    FeatureCache(encoder, data, place)
    assert folders(place) == before and len(before) == 1


def other_weight(encoder: Encoder, data: CaptionData) -> tuple[Encoder, CaptionData]:
    other = build_encoder(ENCODER)
    other.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        next(other.parameters())[0, 0, 0, 0] += 1e-3
    return other, data


def other_normalisation(encoder: Encoder, data: CaptionData) -> tuple[Encoder, CaptionData]:
    other = build_encoder(replace(ENCODER, mean=(0.4, 0.4, 0.4)))
    other.load_state_dict(encoder.state_dict())
    return other, data


def other_before(encoder: Encoder, data: CaptionData) -> tuple[Encoder, CaptionData]:
    pixels = data.train[3].before.copy()
    pixels[0, 1, 1] ^= 1
    pairs = list(data.train)
    pairs[3] = replace(pairs[3], before=pixels)
    return encoder, replace(data, train=tuple(pairs))


def other_validation(encoder: Encoder, data: CaptionData) -> tuple[Encoder, CaptionData]:
    pixels = data.store.after.copy()
    pixels[0, 0, 1, 1] ^= 1
    return encoder, replace(data, store=replace(data.store, after=pixels))


def other_light(encoder: Encoder, data: CaptionData) -> tuple[Encoder, CaptionData]:
    return encoder, replace(data, config=replace(data.config, photometric=0.4))


@pytest.mark.parametrize(
    "change", [other_weight, other_normalisation, other_before, other_validation, other_light]
)
def test_whatever_changes_the_features_has_another_folder(
    built: tuple[FeatureCache, Path], data: CaptionData, encoder: Encoder, change: Any
) -> None:
    _, place = built
    changed_encoder, changed_data = change(encoder, data)
    digest = features._digest(changed_encoder, changed_data)
    assert f"features-{digest}" not in folders(place)
    assert f"features-{features._digest(encoder, data)}" in folders(place)


def test_a_build_that_fails_leaves_no_folder(
    data: CaptionData, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CaptionData, "validation_pictures", interrupted)
        FeatureCache(encoder, data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_replaced(
    data: CaptionData, encoder: Encoder, tmp_path: Path, built: tuple[FeatureCache, Path]
) -> None:
    name = f"features-{features._digest(encoder, data)}"
    left = tmp_path / f"{name}.part"
    left.mkdir()
    (left / "train.npy").write_bytes(b"half a file")
    cache = FeatureCache(encoder, data, tmp_path)
    assert folders(tmp_path) == {name}
    assert np.array_equal(cache._train, built[0]._train)
