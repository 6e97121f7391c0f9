"""What every test shares: no network, few threads, and the place of the real data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# Set before any test imports a library that reads them; subprocesses inherit them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

if not os.environ.get("CI"):  # there hypothesis takes its own profile, without chance
    settings.register_profile("whatchanged", deadline=None)
    settings.load_profile("whatchanged")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests marked ``loopback`` open connections to this machine alone."""
    for item in items:
        if item.get_closest_marker("loopback"):
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1", "::1"]))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photographs; skips the test where they are not at hand."""
    folder = Path(os.environ.get("WHATCHANGED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(
            "the real photographs are not here: set WHATCHANGED_DATA to the folder that holds "
            "captioned/ and masks/"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a small random HiSem that sees 64 pixels a side.

    One pass in training mode gives its norms statistics, so that its answers depend on the
    pictures as those of a trained model do.
    """
    import torch
    from torch import nn

    from whatchanged.data.tokens import SPECIALS, Vocabulary
    from whatchanged.models.backbones import EncoderConfig
    from whatchanged.models.hisem.config import BDAMConfig, DecoderConfig, HASDConfig, HiSemConfig
    from whatchanged.models.hisem.model import HiSem
    from whatchanged.train.hisem_task import save_hisem

    config = HiSemConfig(
        encoder=EncoderConfig(kind="compact", input_size=64, channels=32),
        width=32,
        grid=4,
        bdam=BDAMConfig(layers=1, heads=4),
        hasd=HASDConfig(norm="group", hidden=16, expert_hidden=16),
        decoder=DecoderConfig(heads=4, max_len=9),
    )
    words = ["a", "appear", "built", "farm", "field", "house", "houses", "new", "on"]
    words += ["pond", "road", "the", "trees"]
    torch.manual_seed(11)
    model = HiSem(config, len(SPECIALS) + len(words))
    nn.init.normal_(model.decoder.embedding.weight)
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.encoder.train()
    with torch.no_grad():
        model.encoder(torch.randn(4, 3, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3))
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_hisem(folder, model, "hisem-small", Vocabulary((*SPECIALS, *words)), {})
    return folder


@pytest.fixture(scope="session")
def shipped_model() -> str:
    """Name of the weights in the package; skips the test where they are not."""
    from whatchanged.models import weights

    if weights.locate("hisem-small") is None:
        pytest.skip("the weights hisem-small are not in this copy of the package")
    return "hisem-small"


@pytest.fixture(scope="session")
def reasoncd_kit() -> ModuleType:
    """The tiny ReasonCDs that the tests of the model are made with."""
    path = REPOSITORY / "tests" / "models" / "reasoncd" / "conftest.py"
    spec = importlib.util.spec_from_file_location("reasoncd_kit", path)
    assert spec is not None and spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit


@pytest.fixture(scope="session")
def tiny_ask_model(reasoncd_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder of a small random ReasonCD that sees 64 pixels a side."""
    from whatchanged.models.reasoncd.store import save_reasoncd

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-ask"
    save_reasoncd(folder, reasoncd_kit.make(), "reasoncd-small")
    return folder


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], list[int]]:
    """Put a script in the place of ReasonCD's judgement; all around it stays as it is.

    A script takes the wish and a window of both dates as the model got it, [3, h, w], and
    returns an answer and a probability map [h, w], or None where it finds nothing. What
    installing it returns is filled with the number of wishes of every call.
    """
    import torch

    from whatchanged.answers import parse_answer
    from whatchanged.models.reasoncd.model import ReasonCD
    from whatchanged.models.reasoncd.outputs import WishAnswer

    see, seen = ReasonCD.see, {}

    def remembering(self: Any, before: Any, after: Any) -> Any:
        features = see(self, before, after)
        seen[id(features)] = features, before.numpy(), after.numpy()
        return features

    def install(script: Callable[..., Any]) -> list[int]:
        calls: list[int] = []

        def ask(
            self: Any, pairs: Any, wishes: Any, which: Any = None, *, force_target: bool = False
        ) -> list[WishAnswer]:
            calls.append(len(wishes))
            _, before, after = seen[id(pairs.features)]
            answers = []
            for wish, row in zip(wishes, which or [0] * len(wishes), strict=True):
                said, map_ = script(wish, before[row], after[row])
                found, forced = map_ is not None, map_ is None and force_target
                shape = pairs.features.size
                probability = torch.full(shape, 0.75) if forced else torch.zeros(shape)
                if map_ is not None:
                    probability = torch.as_tensor(map_, dtype=torch.float32)
                mask = probability > 0.5
                masks = probability[None] if found or forced else probability[None][:0]
                stated = parse_answer(said)
                answers.append(
                    WishAnswer(
                        wish, said, found, stated, probability, mask, masks, 0.0, forced, True
                    )
                )
            return answers

        monkeypatch.setattr(ReasonCD, "see", remembering)
        monkeypatch.setattr(ReasonCD, "ask", ask)
        return calls

    return install
