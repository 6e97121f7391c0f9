"""What a ReasonCD is made of: one frozen dataclass per box of the paper's Fig. 2.

Defaults are those of the small preset where sizes are concerned, and otherwise the paper's;
where it is silent, those of the works it builds on (LISA, SAM, CBAM). Ablations:

==============================  ===========================================================
Fig. 10-12 (no MSFF)            ``fusion.kind=concat``
Table IV, Fig. 13-14 (rank)     ``language.lora_rank=4``, ``8``, ``12``
state of the target token       ``state=own`` (paper) or ``predicting`` (LISA)
==============================  ===========================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from whatchanged.errors import UsageError
from whatchanged.models.backbones import EncoderConfig

StateKind = Literal["own", "predicting"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def _at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True)
class LanguageConfig:
    """A LLaMA and its adapters (III-F, III-G).

    Attributes:
        start: Named weights, a folder, a GGUF file or a repository of the hub; None starts
            at random.
        vocabulary: Rows of the base's embedding table, without the five new tokens.
        width: D, the width of every state.
        hidden: Hidden width of the feed-forward networks.
        layers: Transformer blocks.
        heads: Attention heads.
        key_heads: Heads of keys and values; fewer than `heads` share them.
        positions: Longest sequence the base was trained for.
        rope_theta: Base of the rotary positions.
        norm_eps: Of RMSNorm.
        tied: Words are said with the table they are read with.
        dtype: Type of the frozen base, float32 where the device does not compute in bfloat16;
            adapters and new rows stay float32.
        lora_rank: r of Eq. 10.
        lora_alpha: The update is scaled by alpha / r.
        lora_dropout: On what enters the adapters.
        lora_targets: Projections of every attention that get an adapter.
    """

    start: str | None = None
    vocabulary: int = 49_152
    width: int = 576
    hidden: int = 1536
    layers: int = 30
    heads: int = 9
    key_heads: int = 3
    positions: int = 8192
    rope_theta: float = 100_000.0
    norm_eps: float = 1e-5
    tied: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing and heads that cannot share the width."""
        _at_least(self, 1, "vocabulary", "width", "hidden", "layers", "heads", "key_heads")
        _at_least(self, 1, "positions", "lora_rank")
        if self.width % self.heads or self.heads % self.key_heads:
            raise UsageError(
                f"language: width {self.width}, heads {self.heads} and key_heads "
                f"{self.key_heads} do not divide each other"
            )
        if not 0 <= self.lora_dropout < 1:
            raise UsageError(f"language: lora_dropout {self.lora_dropout} is not in [0, 1)")
        if not self.lora_targets:
            raise UsageError("language: lora_targets names no projection")


@dataclass(frozen=True)
class PromptConfig:
    """The words around images and wish (III-C), in the chat form of the language model.

    Attributes:
        opening: What the chat form puts before the user's turn.
        closing: What it puts after it; the answer follows.
        answer_end: The token that ends an answer.
        request: The task up to the wish: must hold `<T1>` and then `<T2>`, once each.
        demand: The result asked for, after the wish.
        max_wish_characters: Longer wishes are refused.
        max_wish_tokens: Wishes of more tokens are refused.
        max_answer_tokens: An answer ends here at the latest.
        max_length: Longest sequence, image tokens and answer included.
    """

    opening: str = "<|im_start|>user\n"
    closing: str = "<|im_end|>\n<|im_start|>assistant\n"
    answer_end: str = "<|im_end|>"
    request: str = (
        "For the Change Detection task, the earlier image is <T1> and the later image is <T2>. "
        "Please find the changes of interest:"
    )
    demand: str = ". Please produce the changemap for me."
    max_wish_characters: int = 300
    max_wish_tokens: int = 96
    max_answer_tokens: int = 256
    max_length: int = 1024

    def __post_init__(self) -> None:
        """Refuse a prompt without the two pictures in their order."""
        _at_least(self, 1, "max_wish_characters", "max_wish_tokens", "max_answer_tokens")
        text = self.opening + self.request + self.demand + self.closing
        if text.count("<T1>") != 1 or text.count("<T2>") != 1:
            raise UsageError("prompt: <T1> and <T2> must stand in it exactly once each")
        if not 0 <= self.request.find("<T1>") < self.request.find("<T2>"):
            raise UsageError("prompt: the request must name <T1> before <T2>")
        if any(token in text for token in ("<CRoI>", "</CRoI>", "<CHG>")):
            raise UsageError("prompt: <CRoI>, </CRoI> and <CHG> are put in by the program")


@dataclass(frozen=True)
class SamEncoderConfig:
    """SAM's image encoder (SAM, appendix A).

    Attributes:
        start: A folder or a repository of the hub with the whole SAM; None starts at random.
        width: Width of its tokens.
        layers: Transformer blocks.
        heads: Attention heads.
        global_layers: Blocks that attend to the whole picture; the others see windows.
        window: Side of a window, tokens.
        input_size: Longest side of the picture, which is padded to a square, pixels.
        patch: Patch side, pixels.
        channels: Channels of the map handed on.
    """

    start: str | None = None
    width: int = 1280
    layers: int = 32
    heads: int = 16
    global_layers: tuple[int, ...] = (7, 15, 23, 31)
    window: int = 14
    input_size: int = 1024
    patch: int = 16
    channels: int = 256

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        _at_least(self, 1, "width", "layers", "heads", "window", "patch", "channels")
        if self.width % self.heads or self.input_size % self.patch:
            raise UsageError("sam: heads must divide width, and patch the input size")


SAM_ENCODERS: dict[str, SamEncoderConfig] = {
    "h": SamEncoderConfig(start="facebook/sam-vit-huge"),
    "l": SamEncoderConfig("facebook/sam-vit-large", 1024, 24, 16, (5, 11, 17, 23)),
    "b": SamEncoderConfig("facebook/sam-vit-base", 768, 12, 12, (2, 5, 8, 11)),
}
"""The three published sizes of SAM's encoder."""


@dataclass(frozen=True)
class ResNetSettings:
    """ResNet34 under the feature pyramid (III-H).

    Attributes:
        start: A folder or a repository of the hub; None starts at random.
        stem: Channels of the stem.
        channels: Channels of the four stages, strides 4, 8, 16 and 32.
        depths: Basic blocks of each stage.
    """

    start: str | None = None
    stem: int = 64
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)


@dataclass(frozen=True)
class ClipSamConfig:
    """The paper's eyes: CLIP for the language model, SAM and ResNet34 for the mask.

    Attributes:
        clip: CLIP ViT-L/14 at 224; its penultimate layer is used (III-E).
        sam: SAM's image encoder.
        resnet: Under the feature pyramid; trained.
    """

    clip: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(
            kind="clip",
            unfreeze_last=0,
            input_size=224,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            channels=1024,
            layers=24,
            heads=16,
            patch=14,
        )
    )
    sam: SamEncoderConfig = field(default_factory=SamEncoderConfig)
    resnet: ResNetSettings = field(default_factory=ResNetSettings)
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse another encoder, or a trained one, in the place of CLIP."""
        if self.clip.kind != "clip" or self.clip.unfreeze_last:
            raise UsageError("clip_sam: clip must be of kind 'clip' and frozen")

    @property
    def image_tokens(self) -> int:
        """Image tokens a date."""
        return (self.clip.input_size // self.clip.patch) ** 2


@dataclass(frozen=True)
class CompactConfig:
    """One compact encoder in the place of CLIP, SAM and ResNet34.

    Attributes:
        encoder: Shared with HiSem; `start` may also name a HiSem checkpoint.
        side: Tokens a side that its joined map is pooled to for the language model.
    """

    encoder: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(start="hisem-small", unfreeze_last=0)
    )
    side: int = 8

    def __post_init__(self) -> None:
        """Refuse an encoder without a pyramid."""
        _at_least(self, 1, "side")
        if self.encoder.kind != "compact":
            raise UsageError("compact: the encoder must be of kind 'compact'")

    @property
    def image_tokens(self) -> int:
        """Image tokens a date."""
        return self.side**2


@dataclass(frozen=True)
class FusionConfig:
    """Multi-scale feature fusion, MSFF (III-H, Fig. 7).

    Attributes:
        kind: `msff`, or `concat`: the deep maps of both dates and the two blocks alone.
        grid: Side of the fused map; the mask decoder's output is four times as large.
        pyramid: Channels of each level of the feature pyramid.
        reduction: The channel attention narrows its channels by this factor.
        hidden: Channels between the two blocks.
        width: Channels handed to the mask decoder.
    """

    kind: Literal["msff", "concat"] = "msff"
    grid: int = 64
    pyramid: int = 256
    reduction: int = 16
    hidden: int = 512
    width: int = 256

    def __post_init__(self) -> None:
        """Refuse counts that build nothing."""
        _at_least(self, 1, "grid", "pyramid", "reduction", "hidden", "width")


@dataclass(frozen=True)
class MaskDecoderConfig:
    """SAM's mask decoder at the width of the fused map.

    Attributes:
        layers: Two-way attention blocks.
        heads: Attention heads.
        mlp: Hidden width of the blocks' feed-forward network.
        masks: Further mask tokens of SAM (three in the published weights); never read here.
    """

    layers: int = 2
    heads: int = 8
    mlp: int = 2048
    masks: int = 3

    def __post_init__(self) -> None:
        """Refuse counts that build nothing."""
        _at_least(self, 1, "layers", "heads", "mlp")
        _at_least(self, 0, "masks")


@dataclass(frozen=True)
class SightConfig:
    """The scale at which the training pictures showed the ground: what is asked is seen at it.

    Attributes:
        tile: Side of the training pictures, pixels; a window of a large pair has no fewer.
        gsd_m: Metres a pixel at which things should be seen; finer pairs are reduced to it.
        unknown: Side of a window, pixels, where a pair's metres a pixel are unknown.
        finest_m: Finest metres a pixel of the training pictures.
        coarsest_m: Coarsest metres a pixel of the training pictures.
    """

    tile: int = 256
    gsd_m: float = 1.0
    unknown: int = 512
    finest_m: float = 0.5
    coarsest_m: float = 2.0

    def __post_init__(self) -> None:
        """Refuse windows of nothing and scales that are not in their order."""
        _at_least(self, 1, "tile", "unknown")
        if not 0 < self.finest_m <= self.gsd_m <= self.coarsest_m:
            raise UsageError(
                f"sight: finest_m {self.finest_m}, gsd_m {self.gsd_m} and coarsest_m "
                f"{self.coarsest_m} must be above 0 and in this order"
            )


@dataclass(frozen=True)
class ReasonCDConfig:
    """The whole model.

    Attributes:
        language: Language model and adapters.
        prompt: The words around pictures and wish.
        clip_sam: The paper's image encoders; None if `compact` is used.
        compact: The compact encoder; None if `clip_sam` is used.
        fusion: Multi-scale feature fusion.
        decoder: Mask decoder.
        state: Whose last-layer state becomes the prompt of the mask: the target token's
            `own` (paper, III-B4), or the one `predicting` it (LISA).
        sight: Scale of the training pictures.
    """

    language: LanguageConfig = field(default_factory=LanguageConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    clip_sam: ClipSamConfig | None = None
    compact: CompactConfig | None = None
    fusion: FusionConfig = field(default_factory=FusionConfig)
    decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    state: StateKind = "own"
    sight: SightConfig = field(default_factory=SightConfig)

    def __post_init__(self) -> None:
        """Refuse two kinds of eyes or none, and lengths and widths that do not fit."""
        if (self.clip_sam is None) == (self.compact is None):
            raise UsageError("reasoncd: set exactly one of clip_sam and compact")
        longest = 2 * self.vision.image_tokens
        if self.prompt.max_length <= longest or self.language.positions < self.prompt.max_length:
            raise UsageError(
                f"reasoncd: prompt.max_length {self.prompt.max_length} must be above the "
                f"{longest} image tokens and at most the {self.language.positions} positions "
                "of the language model"
            )
        if self.fusion.width % (2 * self.decoder.heads) or self.fusion.width % 8:
            raise UsageError(
                f"reasoncd: fusion.width {self.fusion.width} must be a multiple of 8 and of "
                f"twice the decoder's {self.decoder.heads} heads"
            )

    @property
    def vision(self) -> ClipSamConfig | CompactConfig:
        """The image encoders that are set."""
        return self.compact or self.clip_sam or ClipSamConfig()  # one is set: __post_init__


BCDD_SIGHT = SightConfig(tile=256, gsd_m=0.2, unknown=256, finest_m=0.2, coarsest_m=0.2)
"""Tiles of BCDD, the paper's first data set (IV-A)."""

# The paper's model, IV-C; SAM's L and B encoders for smaller machines.
_LLAMA2_EYES = ClipSamConfig(
    clip=replace(ClipSamConfig().clip, start="openai/clip-vit-large-patch14"),
    sam=SAM_ENCODERS["h"],
    resnet=ResNetSettings(start="microsoft/resnet-34"),
)
_LLAMA2 = ReasonCDConfig(
    language=LanguageConfig(
        start="meta-llama/Llama-2-7b-chat-hf",
        vocabulary=32_000,
        width=4096,
        hidden=11_008,
        layers=32,
        heads=32,
        key_heads=32,
        positions=4096,
        rope_theta=10_000.0,
        tied=False,
    ),
    prompt=PromptConfig(opening="<s>[INST] ", closing=" [/INST]", answer_end="</s>"),
    clip_sam=_LLAMA2_EYES,
    sight=BCDD_SIGHT,
)


def _with_sam(size: str) -> ReasonCDConfig:
    return replace(_LLAMA2, clip_sam=replace(_LLAMA2_EYES, sam=SAM_ENCODERS[size]))


PRESETS: dict[str, ReasonCDConfig] = {
    "reasoncd-llama2-7b": _LLAMA2,
    "reasoncd-llama2-7b-sam-l": _with_sam("l"),
    "reasoncd-llama2-7b-sam-b": _with_sam("b"),
    # The same modules for two CPU cores; short words around the wish, for short sequences.
    "reasoncd-small": ReasonCDConfig(
        language=LanguageConfig(start="smollm2-135m-instruct", dtype="bfloat16"),
        prompt=PromptConfig(
            request=(
                "For the Change Detection task, the earlier image is <T1> and the later image "
                "is <T2>. Changes of interest:"
            ),
            max_answer_tokens=96,
            max_length=512,
        ),
        compact=CompactConfig(),
        fusion=FusionConfig(grid=32, pyramid=64, hidden=256, width=128),
        decoder=MaskDecoderConfig(heads=4, mlp=256, masks=0),
    ),
}
