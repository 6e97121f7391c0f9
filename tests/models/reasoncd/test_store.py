"""Checkpoint folders of ReasonCD: what is stored, what comes from elsewhere, what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, SamConfig, SamModel

from whatchanged import files
from whatchanged.errors import CheckpointError, WeightsUnavailableError
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.reasoncd.language import build_base, check_base, convert_gguf
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.store import (
    load_reasoncd,
    resolve,
    save_reasoncd,
    start_reasoncd,
)


def answer(model: ReasonCD, kit: SimpleNamespace) -> tuple[str, torch.Tensor]:
    with torch.no_grad():
        pairs = model.encode(model.see(*kit.pictures()))
    result = model.ask(pairs, ["new houses"], force_target=True)[0]
    return result.answer, result.probability


def test_a_saved_model_answers_the_same(
    each_model: ReasonCD, kit: SimpleNamespace, tmp_path: Path
) -> None:
    save_reasoncd(tmp_path / "m", each_model, "tiny")
    loaded = load_reasoncd(tmp_path / "m")
    assert loaded.config == each_model.config and not loaded.training
    for (name, old), new in zip(
        each_model.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(old, new), name
    said, seen = answer(each_model, kit)
    assert answer(loaded, kit)[0] == said and torch.equal(answer(loaded, kit)[1], seen)


def test_the_base_stays_where_it_is(kit: SimpleNamespace, tmp_path: Path) -> None:
    """With a language model that has a place of its own, the folder holds nothing of it."""
    torch.manual_seed(5)
    build_base(kit.tiny.language).save_pretrained(tmp_path / "base")
    kit.byte_tokenizer().save_pretrained(tmp_path / "base")
    language = replace(kit.tiny.language, start=str(tmp_path / "base"))
    model = start_reasoncd(replace(kit.tiny, language=language)).eval()
    save_reasoncd(tmp_path / "m", model, "tiny")
    stored = load_checkpoint(tmp_path / "m")
    inside = [name for name in stored.tensors if name.startswith("language.llm.")]
    assert inside and all(".lora_" in name for name in inside)
    assert {"language.rows", "project.weight"} <= stored.tensors.keys()
    assert "tokenizer" not in stored.extras
    assert answer(load_reasoncd(tmp_path / "m"), kit)[0] == answer(model, kit)[0]


def test_half_precision(model: ReasonCD, tmp_path: Path) -> None:
    save_reasoncd(tmp_path / "m", model, "tiny", half=True)
    loaded = load_reasoncd(tmp_path / "m")
    assert loaded.project.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.project.weight, model.project.weight, rtol=1e-3, atol=1e-3)


def test_a_merged_model_is_not_saved(kit: SimpleNamespace, tmp_path: Path) -> None:
    model = kit.make()
    model.merge()
    with pytest.raises(CheckpointError, match="merged"):
        save_reasoncd(tmp_path / "m", model, "tiny")


@pytest.mark.parametrize("damage", ["family", "missing", "foreign", "ids", "tokenizer"])
def test_foreign_folders_are_refused(damage: str, model: ReasonCD, tmp_path: Path) -> None:
    save_reasoncd(tmp_path / "m", model, "tiny")
    stored = load_checkpoint(tmp_path / "m")
    tensors, extras, family = dict(stored.tensors), dict(stored.extras), stored.family
    if damage == "family":
        family = "hisem"
    elif damage == "missing":
        del tensors["project.weight"]
    elif damage == "foreign":
        tensors["project.other"] = torch.zeros(1)
    elif damage == "ids":
        tensors["language.new_ids"] = tensors["language.new_ids"].flip(0)
    else:
        extras["tokenizer"] = {"no": "tokenizer"}
    save_checkpoint(
        tmp_path / "x", family=family, config=stored.config, tensors=tensors, extras=extras
    )
    with pytest.raises(CheckpointError):
        load_reasoncd(tmp_path / "x")


def test_a_base_of_another_size_is_refused(kit: SimpleNamespace) -> None:
    base = build_base(kit.tiny.language)
    check_base(kit.tiny.language, base, "base")
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        check_base(replace(kit.tiny.language, layers=3), base, "base")


def test_names_are_resolved(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("some/repository") == "some/repository"
    with pytest.raises(WeightsUnavailableError):
        resolve("no-such-weights")


@torch.no_grad()
def test_published_parts_are_read_from_their_folders(kit: SimpleNamespace, tmp_path: Path) -> None:
    """SAM gives encoder and decoder; both are told from what a checkpoint must hold."""
    config = kit.tiny_clip_sam
    donor = kit.make(config, seed=7)
    sam = donor.config.clip_sam.sam
    whole = SamModel(
        SamConfig(
            vision_config={**donor.vision.sam.config.to_dict(), "num_pos_feats": 8},
            mask_decoder_config=donor.decoder.mask_decoder.config.to_dict(),
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
        )
    )
    whole.save_pretrained(tmp_path / "sam")
    donor.vision.resnet.save_pretrained(tmp_path / "resnet")
    donor.vision.clip.vision.save_pretrained(tmp_path / "clip")
    eyes = replace(
        config.clip_sam,
        clip=replace(config.clip_sam.clip, start=str(tmp_path / "clip")),
        sam=replace(sam, start=str(tmp_path / "sam")),
        resnet=replace(config.clip_sam.resnet, start=str(tmp_path / "resnet")),
    )
    model = start_reasoncd(replace(config, clip_sam=eyes), kit.byte_tokenizer()).eval()
    for ours, theirs in (
        (model.vision.sam, whole.vision_encoder),
        (model.decoder.mask_decoder, whole.mask_decoder),
        (model.decoder.no_mask_embed, whole.prompt_encoder.no_mask_embed),
        (model.decoder.shared_image_embedding, whole.shared_image_embedding),
        (model.vision.resnet, donor.vision.resnet),
        (model.vision.clip, donor.vision.clip),
    ):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    model.decoder.mask_decoder.mask_tokens.weight.add_(1.0)  # as training would
    save_reasoncd(tmp_path / "m", model, "tiny")
    stored = load_checkpoint(tmp_path / "m").tensors
    assert not any(name.startswith(("vision.clip.", "vision.sam.")) for name in stored)
    loaded = load_reasoncd(tmp_path / "m")
    torch.testing.assert_close(answer(loaded, kit)[1], answer(model, kit)[1])


def test_the_encoder_of_hisem_is_shared(
    kit: SimpleNamespace, model: ReasonCD, tiny_model: Path
) -> None:
    encoder = replace(kit.tiny.compact.encoder, start=str(tiny_model), channels=32)
    compact = replace(kit.tiny.compact, encoder=encoder)
    started = start_reasoncd(replace(kit.tiny, compact=compact), kit.byte_tokenizer())
    stored = load_checkpoint(tiny_model).tensors
    for name, tensor in started.vision.encoder.state_dict().items():
        assert torch.equal(tensor, stored[f"encoder.{name}"]), name
    with pytest.raises(CheckpointError, match="encoder"):
        model.vision.load_start_weights(tiny_model)  # sixteen channels here


# --- conversion of a packed base --------------------------------------------------------------


@pytest.fixture
def packed(
    kit: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[Path]]:
    """A file that converts to a tiny base, and the folders it was read from."""
    pytest.importorskip("gguf")
    read: list[Path] = []

    def opened(what: Any) -> Any:
        def from_pretrained(folder: Path, **_: Any) -> Any:
            read.append(folder)
            return what()

        return from_pretrained

    build = partial(build_base, kit.tiny.language)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", opened(kit.byte_tokenizer))
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", opened(build))
    path = tmp_path / "cache" / "base.gguf"
    path.parent.mkdir()
    path.write_bytes(b"packed")
    return path, read


def test_a_packed_base_is_converted_once_and_for_everybody(
    packed: tuple[Path, list[Path]],
) -> None:
    path, read = packed
    folder = convert_gguf(path)
    assert len(read) == 2 and convert_gguf(path) == folder and len(read) == 2
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["base", "base.gguf"]
    assert (folder / "model.safetensors").is_file() and (folder / "complete").is_file()
    if os.name == "posix":
        assert folder.stat().st_mode & 0o755 == 0o755
        assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())


def test_a_conversion_that_was_killed_starts_over(packed: tuple[Path, list[Path]]) -> None:
    path, _ = packed
    half = path.with_suffix("")
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    folder = convert_gguf(path)
    assert (folder / "model.safetensors").stat().st_size > 4 and (folder / "complete").is_file()


def test_a_conversion_without_room_leaves_nothing_and_says_so(
    packed: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = packed

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace_folder", full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        convert_gguf(path)
    assert "WHATCHANGED_CACHE" in str(caught.value.hint)
    assert [entry.name for entry in path.parent.iterdir()] == ["base.gguf"]


def test_a_cache_that_cannot_be_written_is_an_error_of_ours(
    packed: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = packed

    def refused(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(CheckpointError, match="Permission denied"):
        convert_gguf(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["base.gguf"]
