"""What a HiSem is made of: one frozen dataclass per box of the paper's Fig. 2.

Defaults are the paper's (section IV-C) and, where it is silent, those of the published runs.
Every ablation is a configuration:

=====================================  ======================================================
Table III without BDAM                 ``bdam.layers=0``
Table III without HASD, V row 1        ``hasd.routing=false hasd.unchanged=none
                                       hasd.changed=none``
Table IV                               ``bdam.dfc``, ``bdam.bdci``
Table V rows 2 and 3                   ``hasd.routing=false``, both paths ``ffn`` or both ``moe``
Table V rows 4 to 6                    ``hasd.routing=true`` and the two path kinds
Table VIII                             ``bdam.layers``, ``decoder.layers``
=====================================  ======================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whatchanged.errors import UsageError
from whatchanged.models.backbones import EncoderConfig

PathKind = Literal["none", "ffn", "moe"]


@dataclass(frozen=True)
class BDAMConfig:
    """Bidirectional Differential Attention Modulation (III-B).

    Attributes:
        layers: Stacked layers; 0 leaves the encoder's features as they are.
        heads: Attention heads of the cross-temporal interaction.
        gate_reduction: The gate of Eq. 2 narrows the width by this factor.
        dfc: Discrepancy-aware feature conditioning, Eq. 1-3. Off: both streams pass
            unchanged and Eq. 4 sees the raw difference of Eq. 1.
        bdci: Bidirectional discrepancy-guided cross-temporal interaction, Eq. 4-8.
        bias: The diagonal attention bias of Eq. 4.
        alpha: Start of the learnable scale of Eq. 4, before -> after and after -> before.
        balance: Lambda of Eq. 7-8.
        learnable_balance: Train lambda, from `balance` on.
    """

    layers: int = 3
    heads: int = 8
    gate_reduction: int = 4
    dfc: bool = True
    bdci: bool = True
    bias: bool = True
    alpha: tuple[float, float] = (1.0, 0.5)
    balance: float = 0.9
    learnable_balance: bool = False

    def __post_init__(self) -> None:
        """Refuse counts that build nothing."""
        _at_least(self, 0, "layers")
        _at_least(self, 1, "heads", "gate_reduction")


@dataclass(frozen=True)
class HASDConfig:
    """Hierarchical Adaptive Semantic Disentanglement (III-C).

    Attributes:
        routing: Image-level routing, Eq. 9-11. Off: every pair takes the one path there is,
            and no pair is judged changed or unchanged.
        unchanged: Body of the unchanged path after its FusionBlock.
        changed: Body of the changed path after its FusionBlock.
        norm: Norm inside the FusionBlock: `batch` (published) sees the routed pairs only;
            `group` does not depend on the other pairs of a batch.
        hidden: Hidden width of an `ffn` path.
        dropout: In an `ffn` path.
        experts: Specialised experts E of a `moe` path.
        groups: Groups the experts are divided into.
        top_groups: Groups kept per token, k_g of Eq. 15.
        top_k: Experts kept per token, k of Eq. 16.
        expert_hidden: Hidden width of one specialised expert.
        shared_experts: Experts every token visits; merged into one SwiGLU, which is the same.
        shared_hidden: Hidden width of one shared expert; None is the model's width D.
        normalise: Weights of the chosen experts sum to 1 (Eq. 16); off is the published
            code's raw sigmoid scores.
        balance_loss: Coefficient of the sequence-level balance loss; not in the paper,
            0.001 in the published runs.
    """

    routing: bool = True
    unchanged: PathKind = "ffn"
    changed: PathKind = "moe"
    norm: Literal["batch", "group"] = "batch"
    hidden: int = 2048
    dropout: float = 0.1
    experts: int = 8
    groups: int = 4
    top_groups: int = 2
    top_k: int = 2
    expert_hidden: int = 2048
    shared_experts: int = 2
    shared_hidden: int | None = None
    normalise: bool = True
    balance_loss: float = 0.0

    def __post_init__(self) -> None:
        """Refuse combinations that no token could be routed by."""
        _at_least(self, 1, "hidden", "experts", "groups", "top_groups", "top_k", "expert_hidden")
        _at_least(self, 0, "shared_experts")
        if self.experts % self.groups:
            raise UsageError(
                f"hasd: {self.experts} experts cannot be divided into {self.groups} equal groups"
            )
        if self.top_groups > self.groups:
            raise UsageError(f"hasd: top_groups {self.top_groups} of only {self.groups} groups")
        if self.top_k > self.top_groups * (self.experts // self.groups):
            raise UsageError(
                f"hasd: top_k {self.top_k} is more than the experts in {self.top_groups} groups",
                hint="lower hasd.top_k or raise hasd.top_groups",
            )
        if not self.routing and self.unchanged != self.changed:
            raise UsageError(
                "hasd: without routing there is one path, so both kinds must be the same",
                hint=f"set hasd.unchanged={self.changed}",
            )


@dataclass(frozen=True)
class DecoderConfig:
    """Transformer caption decoder (III-A, IV-C).

    Attributes:
        layers: Post-norm layers.
        heads: Attention heads.
        ffn: Hidden width of the feed-forward network, as a multiple of D.
        dropout: On attention weights, sublayer outputs and embedded words.
        max_len: Longest caption in words, START and END included (26 for WHU-CDC).
        outer_residual: Add a layer's input to its output, as the published code does.
    """

    layers: int = 1
    heads: int = 8
    ffn: int = 4
    dropout: float = 0.1
    max_len: int = 41
    outer_residual: bool = False

    def __post_init__(self) -> None:
        """Refuse a decoder that cannot say a word."""
        _at_least(self, 1, "layers", "heads", "ffn")
        _at_least(self, 3, "max_len")


@dataclass(frozen=True)
class HiSemConfig:
    """The whole model.

    Attributes:
        encoder: Image encoder, shared by both dates.
        width: D, the width of every token.
        grid: Side of the token grid the position embeddings are made for; other grids
            interpolate them.
        bdam: Bidirectional Differential Attention Modulation.
        hasd: Hierarchical Adaptive Semantic Disentanglement.
        decoder: Caption decoder.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    width: int = 768
    grid: int = 14
    bdam: BDAMConfig = field(default_factory=BDAMConfig)
    hasd: HASDConfig = field(default_factory=HASDConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        """Refuse a width that the heads or the two position axes cannot share."""
        _at_least(self, 1, "grid", "width")
        for name, parts in (("bdam", self.bdam.heads), ("decoder", self.decoder.heads)):
            if self.width % parts:
                raise UsageError(f"width {self.width} is not a multiple of {name}.heads {parts}")
        if self.width % 2:
            raise UsageError(f"width {self.width} is odd; rows and columns take half of it each")


def _at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")


PRESETS: dict[str, HiSemConfig] = {
    # The paper's model, IV-C: 224 px pictures, 14 x 14 tokens of CLIP ViT-B/16.
    "hisem-clip-b16": HiSemConfig(
        encoder=EncoderConfig(
            kind="clip",
            start="clip-vit-b16",
            unfreeze_last=4,
            input_size=224,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            channels=768,
        ),
    ),
    # The same modules for two CPU cores: 256 px pictures, 16 x 16 tokens at stride 16.
    "hisem-small": HiSemConfig(
        encoder=EncoderConfig(kind="compact", start="efficientnet-lite0"),
        width=256,
        grid=16,
        bdam=BDAMConfig(heads=4),
        hasd=HASDConfig(norm="group", hidden=512, expert_hidden=512),
    ),
}
