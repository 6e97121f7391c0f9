from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from whatchanged.data.tokens import END, NULL, START
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.metrics.cider import CiderScorer, cider_d
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.hisem.config import DecoderConfig
from whatchanged.models.hisem.decoder import CaptionDecoder
from whatchanged.models.hisem.generate import sample
from whatchanged.train.config import TrainConfig
from whatchanged.train.loop import fit
from whatchanged.train.run import build_task
from whatchanged.train.self_critical import SelfCriticalTask, advantages, policy_loss

Make = Callable[..., TrainConfig]
SMALL = {"optimiser": {"lr": 5e-3}, "samples": 4}


@pytest.fixture(scope="module")
def started(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HiSem trained for a few steps, the folder of its best checkpoint."""
    out = tmp_path_factory.mktemp("start")
    config = tiny(out, epochs=8)
    fit(build_task(config), config, out)
    return out / "best"


@pytest.fixture
def reward(tiny: Make, started: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(**values: Any) -> TrainConfig:
        base = {"task": "self-critical", "start": str(started), **SMALL}
        return tiny(tmp_path / "run", **base, **values)

    return make


def decoder() -> CaptionDecoder:
    torch.manual_seed(3)
    return CaptionDecoder(16, 9, DecoderConfig(heads=2, max_len=7)).eval()


def test_samples_follow_the_decoders_own_distribution() -> None:
    model, memory = decoder(), torch.randn(1, 5, 16)
    with torch.no_grad():
        logits = model(torch.tensor([[START]]), memory)[0, 0].double()
    chances = logits.softmax(0)
    chances[[NULL, 1, START]] = 0
    drawn = sample(model, memory, 4000, 7, torch.Generator().manual_seed(0))
    first = torch.bincount(drawn[0, :, 1], minlength=9) / 4000
    assert torch.allclose(first.double(), chances / chances.sum(), atol=0.03)


def test_samples_start_end_and_are_filled_with_null() -> None:
    drawn = sample(decoder(), torch.randn(3, 5, 16), 6, 7, torch.Generator().manual_seed(1))
    assert drawn.shape[:2] == (3, 6) and drawn.shape[2] <= 7
    for row in drawn.flatten(0, 1).tolist():
        assert row[0] == START and START not in row[1:]
        if END in row:
            assert set(row[row.index(END) + 1 :]) <= {NULL}


def test_samples_are_decided_by_their_generator() -> None:
    model, memory = decoder(), torch.randn(2, 5, 16)
    one, same, other = (
        sample(model, memory, 5, 7, torch.Generator().manual_seed(s)) for s in (4, 4, 5)
    )
    assert torch.equal(one, same)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_advantages_are_against_the_mean_of_the_others() -> None:
    values = advantages(torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]]))
    assert torch.allclose(values, torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))


def test_policy_loss_equals_a_loop() -> None:
    logits = torch.randn(4, 3, 6, dtype=torch.float64)
    ids = torch.tensor(
        [[START, 4, 5, END], [START, 5, END, 0], [START, END, 0, 0], [START, 4, 4, 4]]
    )
    advantage = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    total, words = 0.0, 0
    for n in range(4):
        for t in range(3):
            if ids[n, t + 1] != NULL:
                chance = logits[n, t].softmax(0)[ids[n, t + 1]].log()
                total -= float(advantage.flatten()[n] * chance)
                words += 1
    assert float(policy_loss(logits, ids, advantage)) == pytest.approx(total / words, abs=1e-6)


def test_single_captions_score_as_in_the_set() -> None:
    references = [
        (("a", "house", "is", "built"), ("a", "house", "appears")),
        (("trees", "are", "cut", "down"),),
        (("a", "road", "is", "built"),),
    ]
    predictions = [("a", "house", "is", "built"), ("a", "road", "is", "built"), ("trees",)]
    scorer = CiderScorer(references)
    single = [scorer.score(p, r) for p, r in zip(predictions, references, strict=True)]
    assert single == pytest.approx(cider_d(predictions, references), abs=1e-12)


def test_only_the_decoder_trains_and_the_reward_rises(reward: Callable[..., TrainConfig]) -> None:
    config = reward(epochs=12)
    task = build_task(config)
    assert isinstance(task, SelfCriticalTask)
    before = {k: v.clone() for k, v in task.hisem.state_dict().items()}

    def mean_reward() -> float:
        batches = [task.load([0, 1, 3, 4], torch.Generator().manual_seed(s)) for s in range(6)]
        parts = [task.loss(task.model, b, 0, torch.device("cpu")).parts for b in batches]
        return sum(p["reward"] for p in parts) / len(parts)

    start = mean_reward()
    fit(task, config, Path(config.out))
    changed = {k for k, v in task.hisem.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert mean_reward() > start + 0.05
    assert load_checkpoint(Path(config.out) / "best").family == "hisem"


def test_a_batch_without_changed_pairs_trains_on_captions(
    reward: Callable[..., TrainConfig],
) -> None:
    task = build_task(reward())
    batch = task.load([2, 5], torch.Generator().manual_seed(0))
    loss = task.loss(task.model, batch, 0, torch.device("cpu"))
    assert set(loss.parts) == {"caption"} and loss.total.requires_grad


def test_a_start_is_needed_and_must_fit(reward: Callable[..., TrainConfig], tiny: Make) -> None:
    with pytest.raises(UsageError, match="trained model"):
        build_task(tiny("nowhere", task="self-critical"))
    with pytest.raises(CheckpointError, match="another vocabulary"):
        build_task(reward(data={"min_count": 2}))
