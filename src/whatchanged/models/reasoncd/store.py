"""ReasonCD on disk: start weights, and one checkpoint folder for all that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from whatchanged.config import from_mapping, to_mapping
from whatchanged.errors import CheckpointError
from whatchanged.models import weights
from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint
from whatchanged.models.reasoncd.config import ReasonCDConfig
from whatchanged.models.reasoncd.language import build_base, open_base
from whatchanged.models.reasoncd.model import ReasonCD
from whatchanged.models.reasoncd.vision import ClipSamVision, CompactVision

FAMILY = "reasoncd"
_BASE = "language.llm."  # and not an adapter: the language model as it was published


def start_reasoncd(config: ReasonCDConfig, tokenizer: Any = None) -> ReasonCD:
    """Build a ReasonCD from the start weights that its configuration names.

    Args:
        config: Parts whose `start` is None begin at random.
        tokenizer: Needed where the language model begins at random.

    Raises:
        WeightsUnavailableError: Named weights are not on this machine.
        CheckpointError: Weights that are not those of the configuration.
    """
    base, found = _open_language(config, None)
    model = ReasonCD(config, base, tokenizer if found is None else found)
    _start_vision(model, trained=True)
    return model


def save_reasoncd(
    folder: str | Path, model: ReasonCD, preset: str, *, half: bool = False, card: str = ""
) -> None:
    """Write adapters, new rows, projection, fusion, prompt MLP and decoder as one folder.

    Frozen parts that their start weights hold unchanged are left out, and so is the tokenizer
    where it comes with the language model.

    Raises:
        CheckpointError: The adapters were merged, or as `save_checkpoint`.
    """
    if model.language.merged:
        raise CheckpointError(
            "a merged ReasonCD cannot be saved: its adapters are gone",
            hint="save it before merging",
        )
    elsewhere = _elsewhere(model)
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not _is_elsewhere(name, elsewhere)
    }
    extras = {}
    if model.config.language.start is None:
        extras["tokenizer"] = json.loads(model.writer.tokenizer.backend_tokenizer.to_str())
    save_checkpoint(
        folder,
        family=FAMILY,
        config={"preset": preset, **to_mapping(model.config)},
        tensors=tensors,
        extras=extras,
        half=half,
        card=card,
    )


def load_reasoncd(folder: str | Path) -> ReasonCD:
    """Read a checkpoint folder, and frozen parts from where they come from; evaluation mode.

    Everything is on the processor, and of a type that this one computes in.

    Raises:
        CheckpointError: Damaged, of another family, or not complete.
        WeightsUnavailableError: The language model's base is not on this machine.
    """
    checkpoint = load_checkpoint(folder)
    if checkpoint.family != FAMILY:
        raise CheckpointError(f"{folder} is a {checkpoint.family}, not a {FAMILY}")
    values = {key: value for key, value in checkpoint.config.items() if key != "preset"}
    config = from_mapping(ReasonCDConfig, values, f"{folder}/config.json")
    base, tokenizer = _open_language(config, torch.device("cpu"))
    if tokenizer is None:
        tokenizer = _read_tokenizer(checkpoint.extras, folder)
    model = ReasonCD(config, base, tokenizer)
    _start_vision(model, trained=False)
    own = model.state_dict()
    elsewhere = _elsewhere(model)
    needed = {name for name in own if not _is_elsewhere(name, elsewhere)}
    if needed != checkpoint.tensors.keys():
        wrong = sorted(needed ^ checkpoint.tensors.keys())[0]
        raise CheckpointError(f"{folder} does not fit its configuration: {wrong}")
    _check_ids(model, checkpoint.tensors, folder)
    try:
        model.load_state_dict(checkpoint.tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit its configuration: {error}") from error
    return model.eval()


def resolve(start: str) -> str | Path:
    """Return the file or folder of named weights or a path; else the name, for the hub."""
    if start in weights.NAMED_WEIGHTS or Path(start).exists() or "/" not in start:
        return weights.require(start)
    return start


def _open_language(config: ReasonCDConfig, device: torch.device | None) -> tuple[Any, Any]:
    start = config.language.start
    if start is None:
        return build_base(config.language, device), None
    return open_base(config.language, resolve(start), device)


def _start_vision(model: ReasonCD, *, trained: bool) -> None:
    """Fill the image encoders; parts a checkpoint holds are left alone if not `trained`."""
    vision = model.vision
    if isinstance(vision, CompactVision):
        if trained and vision.config.encoder.start is not None:
            vision.load_start_weights(Path(resolve(vision.config.encoder.start)))
        return
    config = vision.config
    if config.clip.start is not None:
        vision.clip.load_start_weights(Path(resolve(config.clip.start)))
    if config.sam.start is not None:
        load_sam(model, resolve(config.sam.start))
    if trained and config.resnet.start is not None:
        load_resnet(vision, resolve(config.resnet.start))


def load_sam(model: ReasonCD, source: str | Path) -> None:
    """Fill image encoder, mask decoder and no-mask embedding from a published SAM."""
    from transformers import SamModel

    sam = cast(Any, SamModel.from_pretrained(source, use_safetensors=True))
    decoder, vision = model.decoder, cast(ClipSamVision, model.vision)
    try:
        vision.sam.load_state_dict(sam.vision_encoder.state_dict())
        decoder.mask_decoder.load_state_dict(sam.mask_decoder.state_dict())
        decoder.no_mask_embed.load_state_dict(sam.prompt_encoder.no_mask_embed.state_dict())
        decoder.shared_image_embedding.load_state_dict(sam.shared_image_embedding.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{source} is not the SAM of this preset: {error}") from error


def load_resnet(vision: ClipSamVision, source: str | Path) -> None:
    """Fill the pyramid's ResNet from a published one."""
    from transformers import ResNetModel

    resnet = cast(Any, ResNetModel.from_pretrained(source, use_safetensors=True))
    try:
        vision.resnet.load_state_dict(resnet.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{source} is not the ResNet of this preset: {error}") from error


def _elsewhere(model: ReasonCD) -> tuple[str, ...]:
    """Prefixes of tensors that start weights hold."""
    prefixes = tuple(f"vision.{prefix}" for prefix in model.vision.elsewhere())
    return prefixes if model.config.language.start is None else (*prefixes, _BASE)


def _is_elsewhere(name: str, prefixes: tuple[str, ...]) -> bool:
    return name.startswith(prefixes) and ".lora_" not in name if prefixes else False


def _read_tokenizer(extras: dict[str, Any], folder: str | Path) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        backend = Tokenizer.from_str(json.dumps(extras["tokenizer"]))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{folder} holds no tokenizer that can be read") from error
    return cast(Any, PreTrainedTokenizerFast)(tokenizer_object=backend)


def _check_ids(model: ReasonCD, tensors: dict[str, Tensor], folder: str | Path) -> None:
    """The rows belong to ids; a tokenizer that counts differently would mix them up."""
    if not torch.equal(tensors["language.new_ids"], model.language.new_ids):
        raise CheckpointError(f"{folder}: its tokenizer and its new rows do not belong together")
