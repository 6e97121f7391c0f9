"""HiSem in ONNX: the dense modules, the graphs in onnxruntime, and the folder they stand in."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from whatchanged import export
from whatchanged.data.synthetic import draw_scene
from whatchanged.data.tokens import SPECIALS, Vocabulary
from whatchanged.errors import CheckpointError, MissingExtraError, UsageError, WhatchangedError
from whatchanged.export import ExportReport, export_onnx
from whatchanged.export_dense import DenseExperts, DenseHASD, SmoothPositions
from whatchanged.export_graphs import (
    ENCODER,
    GRAPHS,
    MEMORY,
    STEP,
    MemoryGraph,
    make_graphs,
    memory_outputs,
)
from whatchanged.export_parity import Parity, measure
from whatchanged.export_readme import readme
from whatchanged.models.backbones import EncoderConfig, normalise
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.hisem.config import BDAMConfig, DecoderConfig, HASDConfig, HiSemConfig
from whatchanged.models.hisem.hasd import HASD, ImageRouter
from whatchanged.models.hisem.model import GridPositions, HiSem
from whatchanged.models.hisem.moe import MixtureOfExperts
from whatchanged.predict import CaptionModel, load_model
from whatchanged.train.hisem_task import save_hisem

WORDS = ["a", "built", "field", "house", "houses", "new", "on", "pond", "road", "the", "trees"]
FILES = {*GRAPHS, "vocabulary.json", "preprocessing.json", "README.txt"}
HIDDEN = {"norm": "group", "hidden": 16, "expert_hidden": 16}


def tiny_hisem(encoder: str = "clip", **hasd: Any) -> HiSem:
    """Small random HiSem in evaluation mode that sees 64 pixels a side."""
    torch.manual_seed(5)
    config = HiSemConfig(
        encoder=EncoderConfig(
            kind="clip" if encoder == "clip" else "compact",
            input_size=64,
            channels=32,
            layers=2,
            heads=2,
        ),
        width=32,
        grid=4,
        bdam=BDAMConfig(layers=2, heads=4),
        hasd=HASDConfig(**{**HIDDEN, **hasd}),
        decoder=DecoderConfig(layers=2, heads=4, max_len=9),
    )
    model = HiSem(config, len(SPECIALS) + len(WORDS))
    nn.init.normal_(model.decoder.embedding.weight)
    if model.hasd.router is not None:
        waver(model.eval(), model.hasd.router)
    return model.eval()


@torch.no_grad()
def waver(model: HiSem, router: ImageRouter) -> None:
    """Make a random model judge some scenes and some noise changed and others not.

    Its logits lose what all pairs share, and are then 0 on the mean.
    """
    pictures = [normalise(date, model.config.encoder) for date in scenes(64, range(6))]
    means = []
    for before, after in (model.encode(*pictures), torch.randn(2, 16, 32, 4, 4)):
        dates = torch.cat([before, after]), torch.cat([after, before])
        seen = model.bdam(*model.embed(*dates), (before.shape[2], before.shape[3]))
        means.append((seen.after - seen.before).mean(dim=(0, 1)))
    common = torch.linalg.qr(torch.stack(means, dim=1)).Q  # [D, 2]
    router.project.weight.sub_(router.project.weight @ common @ common.T)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    words = Vocabulary((*SPECIALS, *WORDS))
    save_hisem(folder, tiny_hisem(), "hisem-small", words, {}, card="# Tiny\n")
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """The tiny model, whose encoder is CLIP's, exported once."""
    return export_onnx(checkpoint, tmp_path_factory.mktemp("exports") / "tiny")


@pytest.fixture(scope="module")
def shipped(
    shipped_model: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CaptionModel, ExportReport]:
    """The model of the package, whose encoder is the compact one, exported once."""
    report = export_onnx(shipped_model, tmp_path_factory.mktemp("exports") / "small")
    return load_model(shipped_model), report


def session(report: ExportReport, name: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(report.folder / name, providers=["CPUExecutionProvider"])


def scenes(side: int, seeds: range) -> tuple[Tensor, Tensor]:
    """Both dates of drawn scenes, [B, 3, H, W] uint8."""
    drawn = [draw_scene(seed, size=side, gsd_m=128 / side) for seed in seeds]
    dates = [s.before for s in drawn], [s.after for s in drawn]
    before, after = (torch.from_numpy(np.stack(d).transpose(0, 3, 1, 2).copy()) for d in dates)
    return before, after


def run_example(report: ExportReport) -> Callable[..., Any]:
    """Run the example of README.txt in its folder, as a reader would; return its function."""
    text = (report.folder / "README.txt").read_text(encoding="utf-8")
    code = dedent(text[text.index("    import json") :])
    names: dict[str, Any] = {}
    with chdir(report.folder):
        exec(compile(code, "README.txt", "exec"), names)
    describe: Callable[..., Any] = names["describe"]
    return describe


def say(model: CaptionModel, before: Tensor, after: Tensor) -> tuple[list[str], list[bool]]:
    """Greedy captions of the Python model, and whether it judged the pairs changed."""
    memory = model.see(before, after)
    captions = [model.caption(best).text for (best,) in model.say(memory, 1)]
    return captions, (memory.path == 1).tolist()


# --- dense modules ---------------------------------------------------------------------------


@given(
    groups=st.sampled_from([1, 2, 4]),
    top_groups=st.integers(1, 2),
    top_k=st.integers(1, 3),
    shared=st.integers(0, 2),
    normalise=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=25)
def test_dense_experts_are_the_routed_ones(
    groups: int, top_groups: int, top_k: int, shared: int, normalise: bool, seed: int
) -> None:
    kept = min(top_groups, groups)
    config = HASDConfig(
        groups=groups,
        top_groups=kept,
        top_k=min(top_k, kept * 8 // groups),
        shared_experts=shared,
        normalise=normalise,
        expert_hidden=6,
    )
    torch.manual_seed(seed)
    routed = MixtureOfExperts(10, config).double()
    tokens = torch.randn(17, 10, dtype=torch.float64)
    expected, expected_route = routed(tokens)
    found, route = DenseExperts(routed)(tokens)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert torch.equal(route.experts, expected_route.experts)


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"unchanged": "moe", "changed": "ffn"},
        {"unchanged": "moe"},
        {"changed": "ffn"},
        {"unchanged": "none"},
        {"norm": "batch", "balance_loss": 0.1},
        {"routing": False, "unchanged": "moe"},
        {"routing": False, "unchanged": "none", "changed": "none"},
    ],
    ids=str,
)
def test_dense_hasd_is_the_routed_one(kinds: dict[str, Any]) -> None:
    torch.manual_seed(1)
    hasd = HASD(32, HASDConfig(**{**HIDDEN, **kinds})).eval()
    before, after = torch.randn(2, 6, 12, 32)
    before, after = torch.cat([before, after]), torch.cat([after, before])
    with torch.no_grad():
        expected, found = hasd(before, after, (3, 4)), DenseHASD(hasd)(before, after, (3, 4))
    assert set(found.path.tolist()) == ({0, 1} if hasd.router is not None else {1})
    assert torch.equal(found.path, expected.path)
    torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-5, rtol=0)
    assert (found.experts is None) is (expected.experts is None)
    if found.experts is not None:
        assert torch.equal(found.experts, expected.experts)
    if hasd.router is not None:
        assert torch.equal(found.router_logits, expected.router_logits)


@pytest.mark.parametrize("grid", [(4, 4), (6, 3), (1, 8)])
def test_positions_are_the_same_at_every_grid(grid: tuple[int, int]) -> None:
    positions = GridPositions(8, 4)
    found = SmoothPositions(positions)(grid)
    torch.testing.assert_close(found, positions(grid), atol=1e-7, rtol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_hisem(balance_loss=0.1)
    before = {name: type(module) for name, module in model.named_modules()}
    MemoryGraph(model)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert model.hasd.paths[1].body.balanced


# --- graphs ----------------------------------------------------------------------------------


def test_the_report_and_the_folder(exported: ExportReport) -> None:
    assert {path.name for path in exported.folder.iterdir()} == {*FILES, "card.md"}
    assert [path.name for path in exported.folder.parent.iterdir()] == [exported.folder.name]
    assert set(exported.parity.differences) == set(GRAPHS)
    assert all(0 < d <= 1e-4 for d in exported.parity.differences.values())
    assert exported.parity.n_unchanged > 0 and exported.parity.n_changed > 0
    for name, size in exported.sizes.items():
        assert size == (exported.folder / name).stat().st_size


@pytest.mark.parametrize(("n_pairs", "h", "w"), [(1, 4, 4), (7, 4, 4), (2, 3, 5), (3, 8, 1)])
def test_memory_is_that_of_the_routed_model(
    exported: ExportReport, checkpoint: Path, n_pairs: int, h: int, w: int
) -> None:
    model = load_model(checkpoint).hisem
    maps = torch.randn(2, n_pairs, 32, h, w, generator=torch.Generator().manual_seed(3))
    paths: set[int] = set()
    for before, after in (maps, maps.flip(0)):
        graph = session(exported, MEMORY)
        names = [output.name for output in graph.get_outputs()]
        feed = {"before_map": before.numpy(), "after_map": after.numpy()}
        found = dict(zip(names, graph.run(names, feed), strict=True))
        with torch.no_grad():
            memory = model.memory(before, after)
            expected = memory_outputs(model, before, after)
        assert memory.router_logits is not None
        np.testing.assert_allclose(found["tokens"], memory.tokens, atol=1e-4, rtol=0)
        np.testing.assert_allclose(found["router_logits"], memory.router_logits, atol=1e-4, rtol=0)
        np.testing.assert_allclose(found["difference_map"], memory.difference_map, atol=1e-4)
        np.testing.assert_array_equal(found["path"], memory.path)
        for name in ("memory_keys", "memory_values"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=0)
        no_experts = (found["experts"] == -1).all(axis=(1, 2))
        np.testing.assert_array_equal(no_experts, found["path"] == 0)
        paths |= set(found["path"].tolist())
    assert paths == {0, 1} or n_pairs < 7


def test_what_is_never_said_cannot_be_chosen(exported: ExportReport, checkpoint: Path) -> None:
    hisem = load_model(checkpoint).hisem
    known = np.zeros((2, 3, 4, 5, 8), np.float32)
    feed = {"words": np.array([2, 4, 5]), "memory_keys": known, "memory_values": known}
    past = {name: known[:, :, :, :0] for name in ("past_keys", "past_values")}
    scores, keys, values = session(exported, STEP).run(None, {**feed, **past})
    assert np.isneginf(scores[:, :3]).all() and np.isfinite(scores[:, 3:]).all()
    assert scores.shape == (3, hisem.decoder.head.out_features)
    assert keys.shape == values.shape == (2, 3, 4, 1, 8)


def test_the_example_says_what_the_model_says(exported: ExportReport, checkpoint: Path) -> None:
    before, after = scenes(64, range(6))
    before, after = torch.cat([before, after]), torch.cat([after, before])
    captions, changed = run_example(exported)(before.numpy(), after.numpy())
    expected = say(load_model(checkpoint), before, after)
    assert (captions, changed.tolist()) == expected
    assert len(set(captions)) > 1 and len(set(changed.tolist())) == 2


def test_graphs_say_what_they_were_made_of(exported: ExportReport, checkpoint: Path) -> None:
    sha256 = load_checkpoint(checkpoint).manifest.sha256
    for name in GRAPHS:
        facts = session(exported, name).get_modelmeta().custom_metadata_map
        assert (facts["model"], facts["model_sha256"]) == (str(checkpoint), sha256)
        stored = (exported.folder / name).read_bytes()
        here = str(Path(export.__file__).parent).encode()
        assert here not in stored and b'File "' not in stored  # no trace of the machine
    axes = {i.name: i.shape for i in session(exported, ENCODER).get_inputs()}
    assert axes == {"pictures": ["B", 3, "H", "W"]}


@pytest.mark.slow
def test_the_shipped_model(shipped: tuple[CaptionModel, ExportReport]) -> None:
    model, report = shipped
    assert max(report.parity.differences.values()) <= 1e-4
    assert report.parity.n_unchanged > 0 and report.parity.n_changed > 0
    describe = run_example(report)
    before, after = scenes(256, range(4))
    before, after = torch.cat([before, before[:2]]), torch.cat([after, before[:2]])
    captions, changed = describe(before.numpy(), after.numpy())
    assert (captions, changed.tolist()) == say(model, before, after)
    assert set(changed.tolist()) == {True, False}
    wide = before[:2, :, :128], after[:2, :, :128]  # [2, 3, 128, 256]
    captions, changed = describe(*(date.numpy() for date in wide))
    assert (captions, changed.tolist()) == say(model, *wide)


# --- what is measured ------------------------------------------------------------------------


def spoilt(model: HiSem, spoil: Callable[[HiSem], Any]) -> HiSem:
    other = copy.deepcopy(model)
    with torch.no_grad():
        spoil(other)
    return other


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        (ENCODER, lambda m: list(m.encoder.parameters())[-1].add_(5e-4)),
        (MEMORY, lambda m: m.norm.bias[0].add_(0.01)),
        (MEMORY, lambda m: m.hasd.paths[0].body.norm.bias[0].add_(0.01)),
        (MEMORY, lambda m: m.hasd.paths[1].body.norm.bias[0].add_(0.01)),
        (STEP, lambda m: m.decoder.places[7].add_(0.1)),
    ],
)
def test_another_model_is_noticed(
    exported: ExportReport, checkpoint: Path, file: str, spoil: Callable[[HiSem], Any]
) -> None:
    other = spoilt(load_model(checkpoint).hisem, spoil)
    differences = measure(exported.folder, other).differences
    assert differences[file] > 1e-4
    assert file == STEP or differences[STEP] <= 1e-4
    assert file == ENCODER or differences[ENCODER] <= 1e-4


def test_another_path_or_other_experts_are_refused(
    exported: ExportReport, checkpoint: Path
) -> None:
    model = load_model(checkpoint).hisem
    turned = spoilt(model, lambda m: m.hasd.router.project.weight.neg_())
    with pytest.raises(WhatchangedError, match="another path"):
        measure(exported.folder, turned)
    shuffled = spoilt(model, lambda m: m.hasd.paths[1].body.moe.router.score.weight.neg_())
    with pytest.raises(WhatchangedError, match="other experts"):
        measure(exported.folder, shuffled)


# --- the folder ------------------------------------------------------------------------------


def fill(part: Path, loaded: CaptionModel) -> Parity:
    """Stand in for writing and measuring."""
    for name in GRAPHS:
        (part / name).write_bytes(loaded.sha256.encode())
    return Parity(dict.fromkeys(GRAPHS, 0.0), 1, 1, 32, 0)


def test_an_earlier_export_is_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_fill", fill)
    target = tmp_path / "new" / "out"
    export_onnx(checkpoint, target)
    (target / ENCODER).write_bytes(b"old")
    (target / "README.txt").write_bytes(b"old")
    report = export_onnx(checkpoint, target)
    assert {path.name for path in target.iterdir()} == set(GRAPHS)
    assert report.sizes == dict.fromkeys(GRAPHS, 64)
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("foreign", ["notes.txt", "card.md"])
def test_a_folder_with_other_things_is_left_alone(
    checkpoint: Path, tmp_path: Path, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_fill", fill)
    (tmp_path / foreign).write_text("mine")
    with pytest.raises(UsageError, match="cannot be replaced"):
        export_onnx(checkpoint, tmp_path)
    with pytest.raises(UsageError, match="cannot be replaced"):
        export_onnx(checkpoint, tmp_path / foreign)
    assert [path.name for path in tmp_path.iterdir()] == [foreign]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_that_fails_leaves_what_was_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    monkeypatch.setattr(export, "_fill", fill)
    target = tmp_path / "out"
    export_onnx(checkpoint, target)

    def fail(part: Path, loaded: CaptionModel) -> Parity:
        fill(part, loaded)
        raise failure

    monkeypatch.setattr(export, "_fill", fail)
    with pytest.raises((KeyboardInterrupt, WhatchangedError)):
        export_onnx(checkpoint, target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in target.iterdir()} == set(GRAPHS)


def test_a_path_that_was_not_compared_is_told(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(export, "write_graph", lambda graph, path, facts: path.write_bytes(b"x"))
    parity = Parity(dict.fromkeys(GRAPHS, 0.0), 0, 9, 144, 0)
    monkeypatch.setattr(export, "measure", lambda *_: parity)
    export_onnx(checkpoint, tmp_path / "out")
    assert "no pair took the unchanged path" in caplog.text


@pytest.mark.parametrize("difference", [1.1e-4, float("inf")])
def test_a_difference_above_the_limit_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    differences = {ENCODER: 1e-6, MEMORY: difference, STEP: 1e-6}
    monkeypatch.setattr(export, "write_graph", lambda graph, path, facts: path.write_bytes(b"x"))
    monkeypatch.setattr(export, "measure", lambda *_: Parity(differences, 1, 1, 32, 0))
    with pytest.raises(WhatchangedError, match=r"memory\.onnx differs from the model by"):
        export_onnx(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_words_and_sizes_stand_beside_the_graphs(exported: ExportReport) -> None:
    vocabulary = json.loads((exported.folder / "vocabulary.json").read_text("utf-8"))
    special = {"null": 0, "unknown": 1, "start": 2, "end": 3}
    assert vocabulary == {"words": [*SPECIALS, *WORDS], "max_len": 9, **special}
    sizes = json.loads((exported.folder / "preprocessing.json").read_text("utf-8"))
    assert (sizes["input_size"], sizes["multiple"]) == (64, 32)
    assert (exported.folder / "card.md").read_text("utf-8") == "# Tiny\n"


@pytest.mark.parametrize(
    ("hasd", "outputs"),
    [
        ({}, {"router_logits", "experts"}),
        ({"changed": "ffn"}, {"router_logits"}),
        ({"routing": False, "unchanged": "moe"}, {"experts"}),
        ({"routing": False, "unchanged": "none", "changed": "none"}, set()),
    ],
    ids=["both", "router", "experts", "neither"],  # a set has another order in every process
)
def test_the_readme_names_the_outputs_there_are(hasd: dict[str, Any], outputs: set[str]) -> None:
    model = tiny_hisem(**hasd)
    found = set(make_graphs(model)[MEMORY].outputs)
    assert found & {"router_logits", "experts"} == outputs
    origin = {"model": "m", "model_sha256": "0" * 64, "whatchanged_version": "0"}
    parity = Parity(dict.fromkeys(GRAPHS, 1e-6), 3, 4, 96, 0)
    text = readme(model, origin, parity)
    assert {name for name in ("router_logits", "experts") if f" {name} " in text} == outputs
    assert all(f" {name}" in text for name in found)
    assert "7 pairs, 3 on the unchanged path, 4 on the changed\n\n" in text
    assert "$" not in text and max(map(len, text.splitlines())) <= 100
    tied = readme(model, origin, dataclasses.replace(parity, n_tied=1))
    assert "1 of 96 tokens, left out there, stood between experts of equal score" in tied


# --- what is refused -------------------------------------------------------------------------


def test_missing_packages_are_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        export,
        "importlib",
        SimpleNamespace(
            util=SimpleNamespace(find_spec=lambda n: None if n == "onnxscript" else find(n))
        ),
    )
    with pytest.raises(MissingExtraError, match="needs onnxscript, not installed") as caught:
        export_onnx(checkpoint, tmp_path / "out")
    assert caught.value.hint == 'pip install "whatchanged[export]"'
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_cannot_be_written_is_told(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.onnx.OnnxExporterError("a long story\n...") from ValueError("no aten.new")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(WhatchangedError, match=r"encoder\.onnx cannot be .*: no aten\.new\n"):
        export_onnx(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_family_is_refused(tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "other",
        family="reasoncd",
        config={},
        tensors={"x": torch.zeros(1)},
        extras={},
    )
    with pytest.raises(CheckpointError, match="family 'reasoncd'"):
        export_onnx(tmp_path / "other", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
