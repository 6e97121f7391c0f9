"""What ReasonCD hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from whatchanged.answers import Understood
from whatchanged.models.reasoncd.vision import PairFeatures


@dataclass(frozen=True)
class ReasonCDOutput:
    """One teacher-forced pass over samples about B pairs.

    Attributes:
        text_logits: Of every token that is learned, [n, V].
        text_labels: What they should be, [n].
        mask_logits: At the pictures' size, [m, H, W], for the samples with a target token;
            several tokens of one sample are united by their maximum. Empty if no masks were
            wanted.
        has_target: Which samples these are, [n] bool, samples counted pair by pair.
        prompts: Prompt of the mask decoder of every target token, [t, C].
        owners: Sample of every target token, [t].
    """

    text_logits: Tensor
    text_labels: Tensor
    mask_logits: Tensor
    has_target: Tensor
    prompts: Tensor
    owners: Tensor


@dataclass(frozen=True)
class EncodedPairs:
    """B pairs, seen once; every further wish costs language model and mask decoder only.

    Attributes:
        features: Of the image encoders.
        fused: Map the masks are decoded from, [B, C, h, w].
        prefix: Keys and values of the prompt up to the wish, per layer [B, heads, L, d].
    """

    features: PairFeatures
    fused: Tensor
    prefix: tuple[tuple[Tensor, Tensor], ...]

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return self.fused.shape[0]


@dataclass(frozen=True)
class Generated:
    """One answer as tokens.

    Attributes:
        ids: Without the end of the answer.
        states: State of every target token, [n, D].
        forced: Whether the target token was appended and not said.
        complete: Whether the answer ended by itself.
    """

    ids: tuple[int, ...]
    states: Tensor
    forced: bool
    complete: bool


@dataclass(frozen=True)
class WishAnswer:
    """The answer to one wish.

    Attributes:
        wish: As it was asked, cleaned.
        answer: The model's words, with `<CHG>` where a mask belongs.
        found: Whether the model pointed at something; a forced token does not count.
        understood: The wish in fields, from the model's own answer; None if it states none.
        probability: Per pixel, [H, W] in [0, 1]; the maximum over target tokens, 0 without.
        mask: Where the logit is above 0, [H, W] bool.
        masks: One probability map a target token, [n, H, W].
        confidence: Mean probability inside the mask; 0 if it is empty.
        forced: Whether the target token was appended and not said.
        complete: Whether the answer ended by itself.
    """

    wish: str
    answer: str
    found: bool
    understood: Understood | None
    probability: Tensor
    mask: Tensor
    masks: Tensor
    confidence: float
    forced: bool
    complete: bool

    def fields(self) -> dict[str, Any]:
        """Return what can be said without pixels, as plain values."""
        stated = self.understood
        return {
            "wish": self.wish,
            "answer": self.answer,
            "found": self.found,
            "target": list(stated.classes) if stated else None,
            "direction": stated.direction if stated else None,
            "former": list(stated.former) if stated else [],
            "confidence": self.confidence,
        }
