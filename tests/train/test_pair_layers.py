from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whatchanged.data.samples import CaptionSample
from whatchanged.train.pair_layers import FINE, LayerStore, PairLayers


def write(path: Path, pixels: np.ndarray) -> Path:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> list[CaptionSample]:
    """A large pair whose mask is the bright part of its later picture, and a small one."""
    made = []
    for name, source, side in (("large", "clcd", FINE), ("small", "levir-cc", 64)):
        rows, columns = np.indices((side, side))
        bright = ((rows > side // 3) & (columns > side // 4)).astype(np.uint8)
        before = np.full((side, side, 3), 90, np.uint8)
        after = np.stack([bright * 200] * 3, axis=2)
        made.append(
            CaptionSample(
                name=name,
                split="train",
                before=write(tmp_path / "A" / f"{name}.png", before),
                after=write(tmp_path / "B" / f"{name}.png", after),
                captions=(),
                changed=True,
                mask=write(tmp_path / "label" / f"{name}.png", bright * 255),
                classes_before=None,
                classes_after=write(tmp_path / "sem" / f"{name}.png", bright * 5),
                gsd_m=None,
                source=source,
            )
        )
    return made


def agree(layers: PairLayers) -> float:
    """Share of pixels where picture, mask and classes say the same."""
    bright = layers.after[0] > 100
    return (
        float(
            ((layers.mask == 1) == bright).mean() + ((layers.classes_after == 5) == bright).mean()
        )
        / 2
    )


def test_whole_pairs_have_all_layers(samples: list[CaptionSample]) -> None:
    store = LayerStore(samples, 64)
    assert len(store) == 2
    for index in range(2):
        layers = store.whole(index)
        assert layers.before.shape == layers.after.shape == (3, 64, 64)
        assert agree(layers) > 0.97
        assert (layers.classes_before == 255).all()


def test_large_pairs_are_also_seen_in_parts(samples: list[CaptionSample]) -> None:
    store = LayerStore(samples, 64)
    rng = np.random.default_rng(0)
    assert store.crop(1, rng) is None
    crops = [store.crop(0, rng) for _ in range(20)]
    shares = set()
    for crop in crops:
        assert crop is not None and crop.before.shape == (3, 64, 64)
        assert agree(crop) > 0.95
        shares.add(float((crop.mask == 1).mean()))
    assert len(shares) > 10  # not the whole picture again and again


def test_all_layers_turn_alike_in_eight_ways(samples: list[CaptionSample]) -> None:
    layers = LayerStore(samples, 64).whole(0)
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(80):
        turned = layers.turned(rng)
        assert agree(turned) == agree(layers)
        assert all(getattr(turned, f.name).flags.c_contiguous for f in fields(turned))
        seen.add(turned.mask.tobytes())
    assert len(seen) == 8


def test_exchanged_dates_are_exchanged_in_all_layers(samples: list[CaptionSample]) -> None:
    layers = LayerStore(samples, 64).whole(0)
    other = layers.swapped()
    assert other.before is layers.after and other.after is layers.before
    assert other.classes_before is layers.classes_after
    assert other.classes_after is layers.classes_before
    assert other.mask is layers.mask
