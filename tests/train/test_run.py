from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from whatchanged.config import to_mapping
from whatchanged.data.reason_json import ReasonSample, write_reason_json
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.models import weights
from whatchanged.models.backbones import EncoderConfig, build_encoder
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.reasoncd.language import build_base
from whatchanged.train import loop, run, sample_task, wish_task
from whatchanged.train.config import TrainConfig
from whatchanged.train.curves import plot_curves
from whatchanged.train.record import RunLog, read_log
from whatchanged.train.run import build_task, start_encoder, train

# All that is drawn in a run: views, lights, dropout, scenes.
RICH: dict[str, Any] = {
    "data": {"flips": True, "photometric": 0.8, "views": 2, "self_pairs": 0.2, "synthetic": 0.2},
    "optimiser": {"name": "adamw", "clip": 1.0, "schedule": "cosine", "warmup": 3},
    "label_routing": 0.5,
    "warmup_epochs": 1,
}


class Killed(Exception):
    """What a killed run raises in these tests."""


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """Every step's numbers as they were before rounding, by step; a later one wins."""
    curve: dict[int, dict[str, Any]] = {}
    write = RunLog.step

    def watched(self: RunLog, **values: Any) -> None:
        curve[values["step"]] = {k: v for k, v in values.items() if k != "pairs_per_second"}
        write(self, **values)

    monkeypatch.setattr(RunLog, "step", watched)
    return curve


def train_until(config: TrainConfig, step: int) -> None:
    """Train and die inside a step, after its loss."""
    forward = loop._Run.forward

    def dying(self: Any, *arguments: Any) -> Any:
        loss = forward(self, *arguments)
        if self.progress.global_step == step:
            raise Killed
        return loss

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._Run, "forward", dying)
        train(config)


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_checkpoint(one).tensors, load_checkpoint(other).tensors
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def logged(out: Path) -> list[dict[str, Any]]:
    records = read_log(out / "log.jsonl")
    return [{k: v for k, v in r.items() if k != "pairs_per_second"} for r in records]


# Exact resume


def test_killed_at_ten_random_steps_the_curve_is_the_uninterrupted_one(
    tiny: Callable[..., TrainConfig], tmp_path: Path, curve: dict[int, dict[str, Any]]
) -> None:
    train(tiny(tmp_path / "whole", epochs=6, **RICH))
    whole = dict(curve)
    curve.clear()
    n_steps = len(whole)
    kills = np.random.default_rng(11).choice(np.arange(1, n_steps), 10, replace=False)
    for number, step in enumerate(sorted(kills.tolist())):
        # Some die just after a saved state, some several steps behind it.
        minutes = 0.0 if number % 3 == 0 else 1e6
        train_until(tiny(tmp_path / "killed", epochs=6, save_minutes=minutes, **RICH), step)
    train(tiny(tmp_path / "killed", epochs=6, **RICH))
    assert n_steps == 24 and curve == whole  # difference exactly 0
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    for name in ("last", "best"):
        assert same_weights(tmp_path / "killed" / name, tmp_path / "whole" / name)


def test_a_trained_encoder_and_accumulation_resume_exactly(
    tiny: Callable[..., TrainConfig], tmp_path: Path, curve: dict[int, dict[str, Any]]
) -> None:
    values = {**RICH, "epochs": 1, "accumulate": 2, "model": {"encoder": {"unfreeze_last": 7}}}
    train(tiny(tmp_path / "whole", **values))
    whole = dict(curve)
    curve.clear()
    for step in (1, 3):
        train_until(tiny(tmp_path / "killed", save_minutes=0.0, **values), step)
    train(tiny(tmp_path / "killed", **values))
    assert curve == whole
    assert same_weights(tmp_path / "killed" / "last", tmp_path / "whole" / "last")


def test_a_damaged_state_costs_steps_and_changes_nothing(
    tiny: Callable[..., TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny(tmp_path / "whole"))
    train_until(tiny(tmp_path / "killed", save_minutes=0.0), 4)
    newest = max((tmp_path / "killed" / "state").iterdir())
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 4
    (newest / "model.safetensors").write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        train(tiny(tmp_path / "killed"))
    assert newest.name in caplog.text
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert same_weights(tmp_path / "killed" / "last", tmp_path / "whole" / "last")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "whatchanged", "train", *arguments, "--quiet"]


def written(config: TrainConfig, path: Path) -> str:
    path.write_text(yaml.safe_dump(to_mapping(config)), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_a_process_killed_by_the_system_resumes_exactly(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = tiny(tmp_path / "whole", epochs=6, **RICH)
    train(whole)
    config = replace(whole, out=str(tmp_path / "killed"), save_minutes=0.0)
    log = tmp_path / "killed" / "log.jsonl"
    process = subprocess.Popen(command(written(config, tmp_path / "run.yaml")))
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= 7:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert 0 < log.read_bytes().count(b"\n") < len(logged(tmp_path / "whole"))
    train(config)
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert same_weights(tmp_path / "killed" / "last", tmp_path / "whole" / "last")


# Two processes

_WATCHER = """
import hashlib, json, os, sys
from whatchanged.config import load_config
from whatchanged.train import run, wish_task
from whatchanged.train.config import TrainConfig
from whatchanged.train.sharding import is_shard

names, fit = [], run.fit

def watched_fit(task, config, out, facts):
    load = task.load
    task.load = lambda indices, generator: (
        names.append(task.names(indices)) or load(indices, generator)
    )
    progress = fit(task, config, out, facts)
    digest = hashlib.sha256()
    # Statistics of BatchNorm are each process's own; the first one's are saved.
    shared = 0
    for _, tensor in task.model.named_parameters():
        if is_shard(tensor):
            shared += tensor.to_local().numel()
        if tensor.requires_grad:
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    told = {"names": names, "weights": digest.hexdigest(), "step": progress.global_step}
    told["shared"] = shared
    with open(os.path.join(sys.argv[2], os.environ["RANK"] + ".json"), "w") as file:
        json.dump(told, file)
    return progress

if len(sys.argv) > 3:  # the tiny ReasonCD of the tests, in the place of a real one
    import runpy
    wish_task.start_reasoncd = runpy.run_path(sys.argv[3])["make"]
run.fit = watched_fit
run.train(load_config(TrainConfig, sys.argv[1]))
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_in_two(
    config: TrainConfig, folder: Path, *kit: str, **environment: str
) -> list[dict[str, Any]]:
    """Train in two processes and return what each tells: names loaded, weights, last step."""
    script = folder / "watch.py"
    script.write_text(_WATCHER, encoding="utf-8")
    arguments = [sys.executable, str(script), written(config, folder / "run.yaml"), str(folder)]
    # What `torchrun --nproc-per-node 2` sets; gloo stays on this machine.
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo", **environment}
    processes = [
        subprocess.Popen(
            [*arguments, *kit],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=400)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.loopback
@pytest.mark.slow
def test_two_processes_share_the_samples_and_agree_on_the_weights(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    # Batches of 4, 4 and 3 in pieces of one pair or two: the last leaves 2 pieces and 1.
    config = tiny(tmp_path / "run", accumulate=2, save_minutes=0.0, warmup_epochs=1)
    first, second = run_in_two(config, tmp_path)
    assert first["weights"] == second["weights"]
    assert first["step"] == second["step"] == 6
    per_epoch = [[{n for piece in told["names"][start : start + n_pieces] for n in piece}
                  for told, start, n_pieces in ((first, 6 * e, 6), (second, 5 * e, 5))]
                 for e in range(2)]  # fmt: skip
    for own, other in per_epoch:
        assert len(own) == 6 and len(other) == 5 and not own & other
    records = read_log(tmp_path / "run" / "log.jsonl")
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 7))
    assert [r["step"] for r in records if r["event"] == "validation"] == [3, 6]
    assert len(list((tmp_path / "run").glob("features-*"))) == 1
    assert load_checkpoint(tmp_path / "run" / "best").family == "hisem"


@pytest.mark.loopback
@pytest.mark.slow
@pytest.mark.parametrize("decode", [False, True])
def test_two_processes_train_wishes(
    tiny_wishes: Callable[..., TrainConfig], tmp_path: Path, decode: bool
) -> None:
    build_task(tiny_wishes("wish-masks", "unused")).save(tmp_path / "masks", {})
    values = {"start": str(tmp_path / "masks"), "wishes": {"decode": decode, "per_pair": 2}}
    config = tiny_wishes("wishes", tmp_path / "run", accumulate=2, **values)
    kit = Path(__file__).parents[1] / "models" / "reasoncd" / "conftest.py"
    first, second = run_in_two(config, tmp_path, str(kit))
    assert first["weights"] == second["weights"] and first["step"] == second["step"] == 2
    own, other = ({n for piece in told["names"] for n in piece} for told in (first, second))
    assert len(own) == len(other) == 4 and not own & other
    assert load_checkpoint(tmp_path / "run" / "best").family == "reasoncd"


@pytest.mark.loopback
@pytest.mark.slow
def test_a_sharded_base_changes_nothing_but_memory(
    tiny_wishes: Callable[..., TrainConfig], reasoncd_kit: ModuleType, tmp_path: Path
) -> None:
    """Two processes with half of every block each train the weights of two with whole ones."""
    base = build_base(reasoncd_kit.TINY.language)
    base.save_pretrained(tmp_path / "base")
    reasoncd_kit.byte_tokenizer().save_pretrained(tmp_path / "base")
    build_task(tiny_wishes("wish-masks", "unused")).save(tmp_path / "masks", {})
    values = {
        "start": str(tmp_path / "masks"),
        "wishes": {"decode": True, "per_pair": 2},
        "model": {"language": {"start": str(tmp_path / "base")}},
        "epochs": 2,
        "accumulate": 2,
    }
    told = {}
    for name, environment in (("whole", {}), ("sharded", {"ACCELERATE_USE_FSDP": "true"})):
        (tmp_path / name).mkdir()
        config = tiny_wishes("wishes", tmp_path / name / "run", **values)
        first, second = told[name] = run_in_two(config, tmp_path / name, **environment)
        assert first["weights"] == second["weights"] and first["step"] == second["step"] == 4
    assert [t["weights"] for t in told["whole"]] == [t["weights"] for t in told["sharded"]]
    blocks = sum(p.numel() for p in base.model.layers.parameters())
    assert [t["shared"] for t in told["whole"]] == [0, 0]
    assert sum(t["shared"] for t in told["sharded"]) == blocks
    assert all(0 < t["shared"] < 0.6 * blocks for t in told["sharded"])
    assert same_weights(*(tmp_path / name / "run" / "best" for name in told))
    whole, sharded = (
        [r for r in read_log(tmp_path / name / "run" / "log.jsonl") if r["event"] == "validation"]
        for name in told
    )
    assert len(whole) == 2 and whole == sharded
    # A sharded run goes on, and its saved state holds no block of the base.
    states = sorted((tmp_path / "sharded" / "run" / "state").glob("state-*"))
    inside = load_checkpoint(states[-1]).tensors
    assert any("lora" in key for key in inside)
    assert not any(".layers." in key and "lora" not in key for key in inside if ".llm." in key)
    config = tiny_wishes("wishes", tmp_path / "sharded" / "run", **{**values, "epochs": 2})
    again = run_in_two(config, tmp_path / "sharded", ACCELERATE_USE_FSDP="true")
    assert [t["step"] for t in again] == [4, 4]
    assert [t["weights"] for t in again] == [t["weights"] for t in told["sharded"]]


# One command


def test_a_run_from_a_file_leaves_a_model_that_describes(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from whatchanged.predict import describe_arrays, load_model

    monkeypatch.setattr(loop, "plot_curves", plot_curves)
    path = written(tiny(tmp_path / "elsewhere"), tmp_path / "run.yaml")
    out = tmp_path / "run"
    best = train(path, [f"out={out}", "epochs=1", "precision=bf16"])
    assert best == out / "best"
    with Image.open(out / "curves.png") as image:
        assert image.format == "PNG"
    for name in ("best", "last"):
        model = load_model(str(out / name))
        assert "house" in model.vocabulary.words and not model.hisem.training
    dates = (
        np.asarray(Image.open(pairs / "images" / "val" / date / "val_000.png")) for date in "AB"
    )
    described = describe_arrays(*dates, model=str(best))
    assert set(described.caption.split()) <= set(model.vocabulary.words)


@pytest.mark.parametrize("native", [True, False])
def test_a_device_without_bfloat16_is_told_of(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: bool,
) -> None:
    monkeypatch.setattr(loop, "computes_bfloat16", lambda _: native)
    with caplog.at_level(logging.WARNING, logger=loop.log.name):
        train(tiny(tmp_path / "run", epochs=1, precision="bf16"))
    told = [r.message for r in caplog.records if "bfloat16" in r.message]
    assert told == ([] if native else [
        "precision=bf16: cpu does not compute in bfloat16, so this run is float32"
    ])  # fmt: skip


def test_the_record_tells_versions_configuration_and_what_was_left_out(
    tiny: Callable[..., TrainConfig], write_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_pairs(folder)
    (folder / "images" / "train" / "A" / "train_004.png").unlink()
    data = {"captions": [str(folder)], "skip_broken": True}
    config = tiny(tmp_path / "run", data=data, max_steps=1)
    train(config)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["samples"] == 10
    assert len(record["left_out"]) == 1 and "train_004.png" in record["left_out"][0]
    assert record["config"] == to_mapping(config)
    assert record["torch"].startswith(torch.__version__.partition("+")[0])


def test_the_state_of_another_run_is_refused(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(tiny(tmp_path, max_steps=1))
    record = (tmp_path / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="another configuration"):
        train(tiny(tmp_path, max_steps=2, batch_size=3))
    assert (tmp_path / "run.json").read_bytes() == record


# Start weights


@pytest.fixture
def saved_encoder(tmp_path: Path) -> Path:
    """Checkpoint of an encoder of 32 channels, as dense pre-training leaves it."""
    torch.manual_seed(9)
    encoder = build_encoder(EncoderConfig(channels=32))
    save_checkpoint(
        tmp_path / "encoder", family="encoder", config={}, tensors=encoder.state_dict(), extras={}
    )
    return tmp_path / "encoder"


def test_a_run_starts_from_a_trained_encoder(
    tiny: Callable[..., TrainConfig], tmp_path: Path, saved_encoder: Path
) -> None:
    task = build_task(tiny(tmp_path / "run", encoder=str(saved_encoder)))
    saved = load_checkpoint(saved_encoder).tensors
    own = task.hisem.encoder.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(own[key], saved[key]) for key in saved)


def test_a_run_starts_from_the_encoder_of_a_trained_model(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    first = build_task(tiny(tmp_path / "first", seed=1))
    first.save(tmp_path / "model", {})
    saved = load_checkpoint(tmp_path / "model").tensors
    task = build_task(tiny(tmp_path / "run", seed=2, encoder=str(tmp_path / "model")))
    own = task.hisem.encoder.state_dict()  # type: ignore[attr-defined]
    assert own and all(torch.equal(own[key], saved[f"encoder.{key}"]) for key in own)


def test_an_encoder_that_does_not_fit_is_refused(
    tiny: Callable[..., TrainConfig], tmp_path: Path, saved_encoder: Path
) -> None:
    wide = build_encoder(EncoderConfig(channels=48))
    with pytest.raises(CheckpointError, match="is not the encoder of this run"):
        start_encoder(wide, tiny(tmp_path, encoder=str(saved_encoder)))
    save_checkpoint(tmp_path / "h", family="reasoncd", config={}, tensors={}, extras={})
    with pytest.raises(CheckpointError, match="holds a reasoncd, not an encoder"):
        start_encoder(wide, tiny(tmp_path, encoder=str(tmp_path / "h")))


def test_without_a_checkpoint_the_named_start_is_fetched(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_encoder(EncoderConfig(channels=32, start="some-start"))
    asked: list[Any] = []
    monkeypatch.setattr(weights, "fetch", lambda name: asked.append(name) or tmp_path)
    monkeypatch.setattr(encoder, "load_start_weights", asked.append)
    start_encoder(encoder, tiny(tmp_path))
    assert asked == ["some-start", tmp_path]
    start_encoder(build_encoder(EncoderConfig(channels=32)), tiny(tmp_path))  # random: no fetch
    assert len(asked) == 2


def test_an_unknown_preset_is_named_before_data_is_read(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    for task in ("hisem", "dense", "wish-masks", "wishes"):
        with pytest.raises(UsageError, match="preset 'hisem-big' is unknown"):
            values = {"preset": "hisem-big", "start": "none", "data": {"captions": ["no"]}}
            build_task(tiny(tmp_path, task=task, **values))


def test_every_task_of_the_configuration_is_built(
    tiny: Callable[..., TrainConfig],
    tiny_wishes: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    reasoncd_kit: Any,
    wish_sets: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(wish_task, "start_reasoncd", reasoncd_kit.make)
    monkeypatch.setattr(sample_task, "start_reasoncd", reasoncd_kit.make)
    masks = build_task(tiny_wishes("wish-masks", tmp_path))
    masks.save(tmp_path / "masks", {})
    hisem = build_task(tiny(tmp_path))
    hisem.save(tmp_path / "hisem", {})
    start = {"wishes": str(tmp_path / "masks"), "self-critical": str(tmp_path / "hisem")}
    kinds = {"hisem": hisem, "wish-masks": masks}
    kinds |= {task: build_task(tiny(tmp_path, task=task, start=start.get(task)))
              for task in ("dense", "self-critical")}  # fmt: skip
    kinds["wishes"] = build_task(tiny_wishes("wishes", tmp_path, start=start["wishes"]))
    houses = wish_sets / "masks" / "houses"
    pair = (houses / place / "there.png" for place in ("A", "B", "label"))
    sample = ReasonSample(*pair, "new houses", "It's <CHG>.")
    for split in ("train", "val"):
        write_reason_json(tmp_path / f"{split}.jsonl", [sample])
    kinds["samples"] = build_task(
        tiny_wishes("samples", tmp_path, data={"samples": str(tmp_path)}, monitor="f1")
    )
    assert {name: type(task).__name__ for name, task in kinds.items()} == {
        "hisem": "HiSemTask",
        "dense": "DenseTask",
        "self-critical": "SelfCriticalTask",
        "wish-masks": "MaskTask",
        "wishes": "WishTask",
        "samples": "SampleTask",
    }
    assert set(kinds) == set(get_args(get_type_hints(TrainConfig)["task"]))


def test_the_public_names_are_there() -> None:
    assert set(run.__all__) <= set(dir(run))
