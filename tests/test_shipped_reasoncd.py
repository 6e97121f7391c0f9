"""What the shipped weights of ReasonCD can do, on wordings and pairs they were not trained on.

The limits stand some points below what docs/models/reasoncd-small.md measures on more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from whatchanged.data.synthetic import draw_scene
from whatchanged.data.wishes import Wish, load_wishes
from whatchanged.metrics.masks import MaskCounts
from whatchanged.models import weights
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.store import load_reasoncd
from whatchanged.train.config import DataConfig
from whatchanged.train.wish_data import ValidationPairs
from whatchanged.train.wish_scores import ask_layers

NAME = "reasoncd-small"


@pytest.fixture(scope="module")
def folder() -> Path:
    found = weights.locate(NAME)
    if found is None:
        pytest.skip(f"the weights {NAME} are not in this copy of the package")
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> ReasonCD:
    if weights.locate("smollm2-135m-instruct") is None:
        pytest.skip("run `whatchanged weights fetch smollm2-135m-instruct` for this test")
    model = load_reasoncd(folder)
    model.merge()
    return model


def unseen(kind: str, n: int) -> list[Wish]:
    """Evenly chosen wordings of the bank's test split."""
    wishes = [w for w in load_wishes("test") if w.kind == kind and w.understood is not None]
    return [wishes[i] for i in np.linspace(0, len(wishes) - 1, n).round().astype(int)]


def test_the_folder_is_small_and_holds_no_language_model(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40e6
    saved = load_checkpoint(folder)
    assert all(t.dtype == torch.float16 for t in saved.tensors.values() if t.is_floating_point())
    assert not any("embed_tokens" in name or "base_layer" in name for name in saved.tensors)
    assert (folder / "card.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("explicit", 0.5), ("implicit", 0.3)])
def test_unseen_wordings_are_understood(model: ReasonCD, kind: str, least: float) -> None:
    scene = draw_scene(3, size=256, changed=True)
    before, after = (p.transpose(2, 0, 1) for p in (scene.before, scene.after))
    wishes = unseen(kind, 32)
    answers = ask_layers(model, before, after, [wish.text for wish in wishes])
    right = [a.understood == w.understood for a, w in zip(answers, wishes, strict=True)]
    assert np.mean(right) >= least


@pytest.mark.slow
def test_what_no_picture_shows_is_refused(model: ReasonCD) -> None:
    scene = draw_scene(3, size=256, changed=True)
    before, after = (p.transpose(2, 0, 1) for p in (scene.before, scene.after))
    wishes = [w.text for w in load_wishes("test") if w.understood is None][:24]
    answers = ask_layers(model, before, after, wishes)
    assert np.mean([not a.found for a in answers]) >= 0.7


@pytest.mark.slow
def test_any_change_is_found_on_real_pairs(model: ReasonCD, shared_data: Path) -> None:
    data = ValidationPairs(DataConfig(captions=(str(shared_data / "captioned"),)))
    masked = [i for i, sample in enumerate(data.validation) if sample.mask is not None]
    total = MaskCounts()
    for place in np.linspace(0, len(masked) - 1, 24).round().astype(int):
        layers = data.validation_store.whole(masked[place])
        (answer,) = ask_layers(model, layers.before, layers.after, ["any change"])
        total = total.add(answer.mask.numpy(), layers.mask == 1, layers.mask != 255)
    assert total.scores().f1 > 45
