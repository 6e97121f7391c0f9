"""ReasonCD's tables at the size of a second: mask parts, adapters over them, and wishes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from whatchanged.data.asked_pairs import open_pairs
from whatchanged.errors import CheckpointError
from whatchanged.evaluate_masks import open_drawer
from whatchanged.models.reasoncd.mask_part import load_mask_part
from whatchanged.models.reasoncd.store import start_reasoncd
from whatchanged.reproduce import pictures
from whatchanged.reproduce.command import carry_out
from whatchanged.reproduce.experiments import MASK_SCORES
from whatchanged.reproduce.plan import Request, make_plan
from whatchanged.train import wish_task

Ask = Callable[..., Request]
LANGUAGE = (
    "model.language={start: null, vocabulary: 323, width: 32, hidden: 48, layers: 1, heads: 4, "
    "key_heads: 2, positions: 512}",
    "model.prompt.max_length=400",
    "model.prompt.max_answer_tokens=4",
    "wishes.per_pair=2",
)


@pytest.fixture(scope="module")
def kit(repository: Path) -> ModuleType:
    """What the tests of ReasonCD build their models of."""
    path = repository / "tests" / "models" / "reasoncd" / "conftest.py"
    spec = importlib.util.spec_from_file_location("reasoncd_kit", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduced")


@pytest.fixture(autouse=True)
def small(kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "DPI", 20)
    tokenizer = kit.byte_tokenizer()
    monkeypatch.setattr(
        wish_task, "start_reasoncd", lambda config: start_reasoncd(config, tokenizer)
    )


def own_row(results: Any) -> dict[str, float]:
    (row,) = [row for row in results.table.rows if row.source == "ours"]
    return dict(zip(MASK_SCORES, row.values, strict=True))


def test_reasoncd_over_a_mask_part(ask_for: Ask, trained: Path, kit: ModuleType) -> None:
    language = (LANGUAGE[0].replace("323", str(len(kit.byte_tokenizer()))), *LANGUAGE[1:])
    request = ask_for("reasoncd-table-3", trained, (0,), *language)
    results = carry_out(make_plan(request))
    assert sorted(p.name for p in (trained / "runs").iterdir()) == ["msff-seed0", "rank-8-seed0"]
    assert {p.name for p in results.pictures} == {
        *("curves-step.png", "curves-validation.png", "masks.png"),
    }
    scores = own_row(results)
    assert all(0 <= scores[name] <= 100 for name in ("f1", "precision", "recall", "oa", "iou"))
    assert results.table is not None
    floors = {row.label[0]: row for row in results.table.rows if row.source == "floor"}
    # Two of four pairs change 24 x 24 of 64 x 64 pixels.
    share = 100 * 2 * 24 * 24 / (4 * 64 * 64)
    everything = dict(zip(MASK_SCORES, floors["everything changed"].values, strict=True))
    assert (everything["precision"], everything["recall"]) == pytest.approx((share, 100.0))
    nothing = dict(zip(MASK_SCORES, floors["nothing changed"].values, strict=True))
    assert (nothing["f1"], nothing["oa"]) == pytest.approx((0.0, 100 - share))

    (asked,) = carry_out(
        make_plan(replace(request, experiment=_figure("reasoncd-fig-15")))
    ).pictures
    assert asked.name == "wishes.png"


def _figure(name: str) -> Any:
    from whatchanged.reproduce.experiments import experiment

    return experiment(name)


def test_the_mask_part_that_was_trained_is_the_one_that_draws(trained: Path, pairs: Path) -> None:
    folder = trained / "runs" / "msff-seed0" / "best"
    part = load_mask_part(folder)
    assert not part.training and part.fusion.training is False
    found, _ = open_pairs(pairs, "test", 64)
    _, draw = open_drawer(folder)
    (mask,) = draw(found[0].before, found[0].after, found[0].wishes)
    assert mask.shape == (64, 64) and mask.dtype == np.bool_
    with pytest.raises(CheckpointError, match="not a mask part"):
        load_mask_part(trained / "runs" / "rank-8-seed0" / "best")
