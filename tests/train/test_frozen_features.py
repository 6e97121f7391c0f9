"""Features of frozen encoders: computed once, found again, never mistaken."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from whatchanged.models.reasoncd.vision import ClipSamVision, see_pair
from whatchanged.train.frozen_features import FrozenFeatures


@pytest.fixture
def vision(reasoncd_kit: ModuleType) -> ClipSamVision:
    eyes = reasoncd_kit.make(reasoncd_kit.TINY_CLIP_SAM).vision
    assert isinstance(eyes, ClipSamVision)
    return eyes


def pictures(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 64, 64), generator=generator).float()


class Watched:
    """Sees pictures and counts them."""

    def __init__(self, vision: ClipSamVision) -> None:
        self.vision, self.seen = vision, 0

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(pictures)
        return self.vision._see_frozen(pictures)


@torch.no_grad()
def test_every_picture_is_seen_once(vision: ClipSamVision, tmp_path: Path) -> None:
    see, kept = Watched(vision), FrozenFeatures(vision, tmp_path)
    shown = pictures(4)
    first = kept(shown[:3], see)
    for found, expected in zip(first, vision._see_frozen(shown[:3]), strict=True):
        assert torch.equal(found, expected.half().float())
    # In another order, among new ones, twice in a batch, and by another process.
    again = FrozenFeatures(vision, tmp_path)(shown[[2, 3, 0, 2]], see)
    assert see.seen == 4
    for found, earlier in zip(again, first, strict=True):
        assert torch.equal(found[[0, 2, 3]], earlier[[2, 0, 2]])
    assert len(list(kept.folder.iterdir())) == 4


@torch.no_grad()
def test_damaged_files_are_made_anew(vision: ClipSamVision, tmp_path: Path) -> None:
    see, kept = Watched(vision), FrozenFeatures(vision, tmp_path)
    first = kept(pictures(2), see)
    one, other = sorted(kept.folder.iterdir())
    one.write_bytes(one.read_bytes()[:-7])
    other.write_bytes(b"")
    again = kept(pictures(2), see)
    assert see.seen == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_other_weights_have_another_folder(vision: ClipSamVision, tmp_path: Path) -> None:
    first = FrozenFeatures(vision, tmp_path).folder
    assert FrozenFeatures(vision, tmp_path).folder == first
    with torch.no_grad():
        next(vision.sam.parameters()).add_(1)
    assert FrozenFeatures(vision, tmp_path).folder != first


def test_what_trains_sees_through_it_as_without(vision: ClipSamVision, tmp_path: Path) -> None:
    vision.train()
    dates = pictures(2), pictures(2, seed=1)
    plain = see_pair(vision, *dates)
    vision.kept = FrozenFeatures(vision, tmp_path)
    for _ in range(2):
        found = see_pair(vision, *dates)
        for date in ("before", "after"):
            ours, theirs = getattr(found, date), getattr(plain, date)
            torch.testing.assert_close(ours.deep, theirs.deep, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(ours.tokens, theirs.tokens, rtol=1e-3, atol=1e-3)
            assert ours.levels[0].requires_grad and not ours.deep.requires_grad
        assert found.valid == plain.valid
    assert len(list(Path(vision.kept.folder).iterdir())) == 4
