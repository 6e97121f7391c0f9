"""Loading models for wishes, and pairs as these see them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray

from whatchanged import ask_pair
from whatchanged.answers import EXPLAIN
from whatchanged.ask_pair import (
    AskModel,
    language_base,
    load_ask_model,
    n_parts,
    read_pair,
    see_windows,
)
from whatchanged.ask_windows import plan_windows
from whatchanged.errors import (
    CheckpointError,
    InputError,
    UsageError,
    WeightsUnavailableError,
)
from whatchanged.models import weights
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.reasoncd.config import SightConfig
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.vision import ClipSamVision

SIDE = 64
SIGHT = SightConfig(tile=SIDE, unknown=2 * SIDE)


@pytest.fixture(scope="module")
def tiny(tiny_ask_model: Path) -> AskModel:
    return load_ask_model(tiny_ask_model)


def write(path: Path, picture: NDArray[np.uint8], **profile: Any) -> Path:
    height, width, count = picture.shape
    options = {
        "crs": "EPSG:32650",
        "transform": Affine(2.0, 0, 450_000, 0, -2.0, 4_300_000),
        "driver": "GTiff",
    }
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype="uint8", **options | profile
    ) as file:
        file.write(np.moveaxis(picture, 2, 0))
    return path


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Pair of 100 x 220 pixels whose right half is nodata in the later date."""
    later = noise(100, 220, 1)
    later[:, 110:] = 0
    return (
        write(tmp_path / "before.tif", noise(100, 220)),
        write(tmp_path / "after.tif", later, nodata=0),
    )


# --- models ----------------------------------------------------------------------------------


def test_a_model_is_loaded_once(tiny_ask_model: Path, tiny: AskModel) -> None:
    assert load_ask_model(tiny_ask_model) is tiny
    assert tiny.name == str(tiny_ask_model)
    assert tiny.sha256 == load_checkpoint(tiny_ask_model).manifest.sha256
    assert not tiny.reasoncd.training


def test_a_replaced_checkpoint_is_read_again(tiny_ask_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_ask_model, folder)
    first = load_ask_model(folder)
    saved = load_checkpoint(folder)
    moved = {k: v + 1 if k == "project.bias" else v for k, v in saved.tensors.items()}
    shutil.rmtree(folder)
    save_checkpoint(
        folder, family=saved.family, config=saved.config, tensors=moved, extras=saved.extras
    )
    second = load_ask_model(folder)
    assert second.sha256 != first.sha256
    bias = first.reasoncd.project.bias
    torch.testing.assert_close(second.reasoncd.project.bias, bias + 1)


def test_another_family_is_refused(tiny_model: Path) -> None:
    with pytest.raises(CheckpointError, match="hisem"):
        load_ask_model(tiny_model)


def test_an_unknown_model_is_said() -> None:
    with pytest.raises(WeightsUnavailableError, match="reasoncd-smal"):
        load_ask_model("reasoncd-smal")


@pytest.mark.parametrize("wish", ["", " \t\n", "\x00\x07\x1b", "?!", "x" * 301, "\u200b\u202e"])
def test_wishes_that_say_nothing_or_too_much_are_refused(tiny: AskModel, wish: str) -> None:
    for explain in (False, True):
        with pytest.raises(UsageError, match="the wish"):
            tiny.asked(["new houses", wish], explain=explain)


def test_a_reason_is_asked_for_after_the_wish(tiny: AskModel) -> None:
    wishes = ["new houses", "lost trees"]
    assert tiny.asked(wishes, explain=False) == wishes
    assert tiny.asked(wishes, explain=True) == [f"{wish} {EXPLAIN}" for wish in wishes]


def test_the_request_for_a_reason_counts_against_no_limit(tiny: AskModel) -> None:
    def fits(wish: str) -> bool:
        try:
            return bool(tiny.asked([wish], explain=False))
        except UsageError:
            return False

    longest = [wish for n in range(1, 30) if fits(wish := "houses " * n)][-1]
    assert not fits(f"{longest} {EXPLAIN[:-1]}")
    assert tiny.asked([longest], explain=True) == [f"{longest} {EXPLAIN}"]


def test_a_missing_language_base_is_named(
    tiny_ask_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert language_base(tiny_ask_model) is None
    saved = load_checkpoint(tiny_ask_model)
    folder = tmp_path / "small"
    language = {**saved.config["language"], "start": "smollm2-135m-instruct"}
    config = {**saved.config, "language": language}
    save_checkpoint(
        folder, family=saved.family, config=config, tensors=saved.tensors, extras=saved.extras
    )
    monkeypatch.setenv("WHATCHANGED_CACHE", str(tmp_path / "cache"))
    assert language_base(folder) == "smollm2-135m-instruct"
    with pytest.raises(WeightsUnavailableError, match="smollm2-135m-instruct"):
        load_ask_model(folder)
    monkeypatch.setattr(weights, "locate", lambda name: tmp_path)
    assert language_base(folder) is None


# --- pairs -----------------------------------------------------------------------------------


def test_a_pair_is_read_whole_with_all_that_is_known_of_it(files: tuple[Path, Path]) -> None:
    pair = read_pair(*files, SIGHT)
    assert pair.pixels.before.shape == (100, 220, 3)
    assert pair.grid.crs.to_epsg() == 32650
    assert pair.reading["after"]["path"] == str(files[1].resolve())
    assert pair.plan.source == (100, 220)
    # 2 m a pixel are coarser than 1 m, so a window of 64 pixels is its due.
    assert pair.plan.width <= 1.5 * SIDE
    assert pair.plan.gsd_m == pytest.approx(2 * pair.plan.width / SIDE)


def test_little_that_is_valid_is_warned_of(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert not any("valid" in warning for warning in read_pair(*files, SIGHT).warnings)
    later = noise(100, 220, 1)
    later[:, 40:] = 0
    after = write(tmp_path / "later.tif", later, nodata=0)
    assert "only 18% of the pixels are valid in both" in read_pair(files[0], after, SIGHT).warnings


def test_nothing_valid_is_an_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    after = write(tmp_path / "later.tif", np.zeros((100, 220, 3), np.uint8), nodata=0)
    with pytest.raises(InputError, match="no pixel that is valid"):
        read_pair(files[0], after, SIGHT)


def test_what_is_too_large_is_refused_with_a_way_out(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_pair, "MAX_PIXELS", 21_999)
    with pytest.raises(InputError, match="220 x 100") as caught:
        read_pair(*files, SIGHT)
    assert "srcwin" in caught.value.hint


def test_windows_without_a_valid_pixel_are_not_looked_at(
    tiny: AskModel, files: tuple[Path, Path]
) -> None:
    pair = read_pair(*files, SIGHT)
    seen = list(see_windows(tiny, pair))
    corners = [corner for windows in seen for corner in windows.corners]
    assert corners == [corner for corner in pair.plan.corners if corner[1] < 110]
    assert 0 < len(corners) < len(pair.plan.corners)
    assert len(seen) == n_parts(pair)
    assert all(w.encoded.n_pairs == len(w.corners) <= 4 for w in seen)


def test_a_gap_is_the_same_grey_in_both_dates(
    tiny: AskModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    see = ReasonCD.see

    def recorded(self: ReasonCD, before: torch.Tensor, after: torch.Tensor) -> Any:
        shown.append((before, after))
        return see(self, before, after)

    monkeypatch.setattr(ReasonCD, "see", recorded)
    pair = read_pair(*files, SIGHT)
    seen = list(see_windows(tiny, pair))
    for windows, (before, after) in zip(seen, shown, strict=True):
        for row, (top, left) in enumerate(windows.corners):
            valid = pair.plan.cut(pair.pixels.valid, (top, left))
            for date, picture in ((before, pair.pixels.before), (after, pair.pixels.after)):
                window = date[row].permute(1, 2, 0).numpy()
                assert (window[~valid] == 127).all()
                cut = pair.plan.cut(picture, (top, left))
                assert (window[valid] == cut[valid]).all()


def test_large_windows_are_reduced_ahead_and_seen_the_same(
    tiny: AskModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = read_pair(*files, SIGHT)
    assert max(pair.plan.height, pair.plan.width) > SIDE
    today = list(see_windows(tiny, pair))
    given: list[torch.Tensor] = []
    see = ReasonCD.see

    def recorded(self: ReasonCD, before: torch.Tensor, after: torch.Tensor) -> Any:
        given.extend([before, after])
        return see(self, before, after)

    monkeypatch.setattr(ReasonCD, "see", recorded)
    monkeypatch.setattr(ask_pair, "_LARGE", pair.plan.height * pair.plan.width - 1)
    reduced = list(see_windows(tiny, pair))
    assert len(reduced) == n_parts(pair)
    assert all(max(stack.shape[-2:]) == SIDE for stack in given)
    for name in ("before", "after"):
        old, new = ([getattr(w.encoded.features, name) for w in seen] for seen in (today, reduced))
        for field in ("tokens", "deep"):
            torch.testing.assert_close(
                torch.cat([getattr(f, field) for f in new]),
                torch.cat([getattr(f, field) for f in old]),
                atol=1e-4,
                rtol=1e-4,
            )
    for windows in reduced:
        assert windows.encoded.features.size == (pair.plan.height, pair.plan.width)
        assert windows.encoded.features.valid == today[0].encoded.features.valid
    old, new = (
        tiny.reasoncd.ask(seen[0].encoded, ["new houses"], [0], force_target=True)[0]
        for seen in (today, reduced)
    )
    assert new.answer == old.answer
    torch.testing.assert_close(new.probability, old.probability, atol=1e-4, rtol=1e-4)


def test_eyes_that_see_more_than_the_square_get_windows_as_they_are(
    tiny: AskModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP reduces the whole window by itself: a reduced one would look different to it."""
    pair = read_pair(*files, SIGHT)
    monkeypatch.setattr(ask_pair, "_LARGE", 1)
    assert ask_pair._side_of(tiny, pair.plan) == SIDE
    monkeypatch.setattr(ask_pair, "CompactVision", ClipSamVision)
    assert ask_pair._side_of(tiny, pair.plan) is None


def test_the_larger_windows_are_the_fewer_are_stacked() -> None:
    def n(height: int, width: int, gsd_m: float) -> int:
        return ask_pair._n_together(plan_windows(height, width, gsd_m, SightConfig()))

    assert n(1024, 1024, 0.5) == 4
    assert n(8192, 8192, 0.075) == 1
    assert n(1500, 1500, 0.2) == 1


def test_windows_together_are_the_same_as_alone(
    tiny: AskModel, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = read_pair(*files, SIGHT)
    together = torch.cat([w.encoded.fused for w in see_windows(tiny, pair)])
    monkeypatch.setattr(ask_pair, "_TOGETHER", 1)
    alone = torch.cat([w.encoded.fused for w in see_windows(tiny, pair)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
