"""What a training run is made of: one frozen tree of values per YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from whatchanged.config import apply_mapping, from_mapping, to_mapping
from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import PRESETS, HiSemConfig
from whatchanged.models.reasoncd.config import PRESETS as REASONCD_PRESETS
from whatchanged.models.reasoncd.config import ReasonCDConfig

_Preset = TypeVar("_Preset")

MaskKind = Literal["building", "cropland", "object"]


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser and its learning rate over time.

    HiSem's paper: Adam at 1e-4, constant, no decay, no clipping (IV-C).

    Attributes:
        name: `adam` or `adamw`.
        lr: Highest learning rate of the parts that start at random.
        encoder_lr: Highest learning rate of the encoder; None for the same.
        weight_decay: Decoupled for adamw.
        clip: Largest gradient norm; 0 for no clipping.
        schedule: `constant`, or `cosine` / `linear` decay to `final` of the highest.
        warmup: Optimiser steps of linear warm-up.
        final: Share of the highest rate at the end of a decay.
    """

    name: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    encoder_lr: float | None = None
    weight_decay: float = 0.0
    clip: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: int = 0
    final: float = 0.01

    def __post_init__(self) -> None:
        """Refuse rates that train nothing or backwards."""
        _in_range("optimiser", self, 0, None, "lr", "encoder_lr", "weight_decay", "clip", "warmup")
        _in_range("optimiser", self, 0, 1, "final")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from.

    Attributes:
        captions: Folders in the LEVIR-CC layout.
        masks: Folders that hold `{A,B,label}` mask sets, by what their masks mean
            (dense pre-training only): name of the set -> `building`, `cropland` or `object`.
        masks_root: Folder that holds the mask sets.
        samples: Folder with five-field samples, `train.jsonl` and `val.jsonl`, as
            `whatchanged prepare` writes it (task samples).
        feature_cache: Folder that keeps what frozen encoders see, for any number of runs: the
            encoder of HiSem (None: the run's own folder), CLIP and SAM of ReasonCD (task
            samples; some 3 MB a picture for the paper's; None: seen anew in every epoch).
        landcover: Folder with class masks of single pictures to composite changes from.
        tiles: Index of windows that show LEVIR-CC tiles (see `data.levir_cc_tiles`).
        tiles_captions: LEVIR-CC's annotation file, for `tiles`.
        tiles_pictures: Folder `{A,B}` of the pictures that `tiles` names.
        repeat: Source of pairs -> visits of each in an epoch, where not one (wishes).
        swap: Share of a pair's visits at which its dates change places, and with them what
            appeared and what disappeared (wishes).
        composites: Share of pairs put together from `landcover` added to each epoch (wishes).
        synthetic: Share of generated scenes added to each epoch (0.1 = one in eleven).
        self_pairs: Share of unchanged pairs made of one picture, changed in light and place.
        size: Side of the pictures while training, pixels; a HiSem is shown them so later, too.
        vocabulary: Of the training captions (`train`), or of the published `all-splits`.
        min_count: A word is known when it occurs more often than this.
        max_words: Longest caption with START and END.
        flips: Mirror pictures and the position words of their captions.
        photometric: Strength of changes of light and colour, 0 to 1.
        zoom: Smallest part of a pair's side that is shown, enlarged, both dates alike; 1 for
            the whole. Captions stay true from 0.94 on.
        views: Lights a pair is shown in: 1 is the picture as it is, each more a change of
            light and colour (cached where the encoder is frozen, else drawn anew each time).
        skip_broken: List broken entries in the run's record instead of stopping.
    """

    captions: tuple[str, ...] = ()
    masks: dict[str, MaskKind] = field(default_factory=dict)
    masks_root: str | None = None
    samples: str | None = None
    feature_cache: str | None = None
    landcover: str | None = None
    tiles: str | None = None
    tiles_captions: str | None = None
    tiles_pictures: str | None = None
    repeat: dict[str, int] = field(default_factory=dict)
    swap: float = 0.0
    composites: float = 0.0
    synthetic: float = 0.0
    self_pairs: float = 0.0
    size: int = 256
    vocabulary: Literal["train", "all-splits"] = "train"
    min_count: int = 5
    max_words: int = 41
    flips: bool = False
    photometric: float = 0.0
    zoom: float = 1.0
    views: int = 1
    skip_broken: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes and shares that show nothing."""
        _in_range("data", self, 32, None, "size")
        _in_range("data", self, 0.5, 1, "zoom")
        _in_range("data", self, 0, 1, "swap")
        _in_range("data", self, 3, None, "max_words")
        _in_range("data", self, 1, None, "views")
        given = [self.tiles, self.tiles_captions, self.tiles_pictures]
        if any(given) and not all(given):
            raise UsageError("data.tiles, tiles_captions and tiles_pictures come together")
        _in_range("data", self, 0, None, "synthetic", "self_pairs", "min_count", "photometric")
        _in_range("data", self, 0, None, "composites")
        if any(times < 0 for times in self.repeat.values()):
            raise UsageError(f"data.repeat is {self.repeat}; visits are counted from 0")


@dataclass(frozen=True)
class WishConfig:
    """What is asked about each pair while ReasonCD trains.

    Attributes:
        per_pair: Wishes a pair and step.
        absent: Share of the wishes that the pair does not meet.
        align: Weight of the distance between a target token's prompt and the one the mask
            part was trained with (task wishes).
        decode: Learn masks through the language model too, as the paper does (task wishes).
        keep_table: Leave the table of wishes as it was at the start, so that a language model
            that has learned to say it stays right (task wish-masks with `start`).
    """

    per_pair: int = 4
    absent: float = 0.25
    align: float = 1.0
    decode: bool = False
    keep_table: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that ask nothing."""
        _in_range("wishes", self, 1, None, "per_pair")
        _in_range("wishes", self, 0, 1, "absent")
        _in_range("wishes", self, 0, None, "align")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        task: `hisem` (captions), `dense` (the compact encoder on masks and words),
            `self-critical` (the decoder of a trained HiSem, by reward), `wish-masks` (the mask
            part of ReasonCD, wishes in fields), `wishes` (ReasonCD, wishes in words) or
            `samples` (ReasonCD on five-field samples, as in the paper).
        out: Folder of the run: `last/`, `best/`, `log.jsonl`, `curves.png`, `run.json`.
        preset: Model preset; `model` overrides single values of it.
        model: Nested values laid over the preset.
        encoder: Named weights or checkpoint folder of an encoder, or of a HiSem whose encoder
            starts this run; None for the preset's start.
        start: Named weights or checkpoint folder to go on from: a HiSem (task self-critical)
            or a mask part (tasks wish-masks, wishes and samples).
        language: Named weights or checkpoint folder of a ReasonCD whose language part this run
            goes on with: adapters, new rows, projection and prompt MLP (task wishes).
        data: Where samples come from.
        wishes: What is asked (tasks wish-masks and wishes).
        optimiser: Optimiser and schedule.
        epochs: Passes over the training samples.
        batch_size: Pairs per optimiser step over all processes.
        accumulate: Forward and backward passes per optimiser step; each weighs by its pairs.
        seed: Of everything that is drawn.
        precision: `float32` or `bf16` (autocast; float32 where the device does not compute
            in bfloat16, which the log says).
        label_routing: Share of the epochs whose routing follows the label (design, 10).
        warmup_epochs: Epochs before the router learns (Eq. 19).
        router_weight: The balancing coefficient lambda of Eq. 19.
        word_dropout: Share of a caption's words that the decoder must do without while it
            learns to say the next one (task hisem).
        auxiliary: Weight of the heads that tell words and land cover from the decoder's
            memory (task hisem; see `train.auxiliary`).
        samples: Captions drawn a pair (task self-critical).
        caption_weight: Weight of the caption loss beside the reward (task self-critical).
        monitor: Validation number whose best checkpoint is kept.
        validate_every: Epochs between validations.
        patience: Stop after this many validations in a row without a better `monitor`; 0 for
            never.
        save_minutes: Longest time between two saved states within an epoch.
        max_steps: Stop after this many optimiser steps, where a decay then ends; 0 for no limit.
        resume: Go on from the last saved state of `out` where there is one.
    """

    task: Literal["hisem", "dense", "self-critical", "wish-masks", "wishes", "samples"]
    out: str
    preset: str = "hisem-small"
    model: dict[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    start: str | None = None
    language: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    wishes: WishConfig = field(default_factory=WishConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 50
    batch_size: int = 64
    accumulate: int = 1
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    label_routing: float = 0.8
    warmup_epochs: int = 3
    router_weight: float = 0.8
    word_dropout: float = 0.0
    auxiliary: float = 0.0
    samples: int = 5
    caption_weight: float = 0.2
    monitor: str = "s_m"
    validate_every: int = 1
    patience: int = 0
    save_minutes: float = 10.0
    max_steps: int = 0
    resume: bool = True

    def __post_init__(self) -> None:
        """Refuse counts that train nothing."""
        _in_range("", self, 1, None, "epochs", "batch_size", "accumulate", "validate_every")
        _in_range("", self, 0, 1, "label_routing")
        _in_range("", self, 2, None, "samples")
        _in_range("", self, 0, None, "warmup_epochs", "router_weight", "save_minutes", "max_steps")
        _in_range("", self, 0, None, "patience")
        _in_range("", self, 0, None, "caption_weight", "auxiliary")
        _in_range("", self, 0, 1, "word_dropout")


def model_config(config: TrainConfig) -> HiSemConfig:
    """Return the HiSem preset of a run with the run's values laid over it.

    A compact encoder's `input_size` becomes `data.size`, so that the model is shown pictures
    later at the size it was trained at.

    Raises:
        UsageError: An unknown preset, a value of `model` that it does not have, or pictures of
            another size than CLIP's positions are for.
    """
    values = apply_mapping(to_mapping(_preset(config.preset, PRESETS)), config.model)
    model = from_mapping(HiSemConfig, values, source="model")
    side = config.data.size
    if model.encoder.kind == "compact":
        return replace(model, encoder=replace(model.encoder, input_size=side))
    if model.encoder.input_size != side:
        raise UsageError(
            f"data.size is {side}, and the CLIP of preset '{config.preset}' sees pictures of "
            f"{model.encoder.input_size} pixels",
            hint=f"set data.size={model.encoder.input_size}",
        )
    return model


def reasoncd_config(config: TrainConfig) -> ReasonCDConfig:
    """Return the ReasonCD preset of a run; errors as `model_config`."""
    values = apply_mapping(to_mapping(_preset(config.preset, REASONCD_PRESETS)), config.model)
    return from_mapping(ReasonCDConfig, values, source="model")


def _preset(name: str, presets: Mapping[str, _Preset]) -> _Preset:
    if name not in presets:
        raise UsageError(f"preset '{name}' is unknown", hint=f"one of {', '.join(sorted(presets))}")
    return presets[name]


def _in_range(section: str, config: object, least: float, most: float | None, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not least <= value <= (math.inf if most is None else most):
            dotted = f"{section}.{name}" if section else name
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise UsageError(f"{dotted} is {value}; it must be {limits}")
