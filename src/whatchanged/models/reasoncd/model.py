"""ReasonCD: eyes, language model, fusion and mask decoder joined (III-B, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from whatchanged.answers import parse_answer, usual_answers
from whatchanged.errors import UsageError
from whatchanged.models.reasoncd.config import ReasonCDConfig
from whatchanged.models.reasoncd.fusion import MultiScaleFusion
from whatchanged.models.reasoncd.generate import greedy_answers, remember
from whatchanged.models.reasoncd.language import LanguageModel
from whatchanged.models.reasoncd.mask_decoder import ChangeMapDecoder, restore_size, state_prompt
from whatchanged.models.reasoncd.outputs import (
    EncodedPairs,
    Generated,
    ReasonCDOutput,
    WishAnswer,
)
from whatchanged.models.reasoncd.prompt import (
    IGNORED,
    PromptWriter,
    TextSample,
    clean_wish,
)
from whatchanged.models.reasoncd.sequence import (
    AFTER,
    BEFORE,
    TextBatch,
    collate,
    target_places,
)
from whatchanged.models.reasoncd.vision import PairFeatures, build_vision, see_pair


class ReasonCD(nn.Module):
    """Two photographs and a wish in, an answer and a mask out.

    Args:
        config: What it is made of.
        base: `LlamaForCausalLM`, of `build_base` or `open_base`; frozen here.
        tokenizer: Of that base; the five new tokens are added.
    """

    def __init__(self, config: ReasonCDConfig, base: Any, tokenizer: Any) -> None:
        super().__init__()
        self.config = config
        self.writer = PromptWriter(tokenizer, config.prompt)
        self.vision = build_vision(config.vision)
        self.language = LanguageModel(config.language, base, self.writer.ids.new)
        width = config.language.width
        self.project = nn.Linear(self.vision.token_channels, width)
        self.fusion = MultiScaleFusion(
            config.fusion, self.vision.deep_channels, self.vision.level_channels
        )
        self.state_prompt = state_prompt(width, config.fusion.width)
        self.decoder = ChangeMapDecoder(config.fusion.width, config.decoder)

    @cached_property
    def usual(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of the usual answers, without their end."""
        return tuple(self.writer.answer(text)[:-1] for text in usual_answers())

    def see(self, before: Tensor, after: Tensor) -> PairFeatures:
        """Run the image encoders on pictures [B, 3, H, W] in [0, 255]: what a cache may hold."""
        return see_pair(self.vision, before, after)

    def batch(self, groups: Sequence[Sequence[TextSample]]) -> TextBatch:
        """Expand and pad training sequences of `writer.sample`, grouped by the pair they ask."""
        limit = self.config.prompt.max_length
        return collate(groups, self.vision.n_tokens, self.writer.ids, limit)

    def embed(self, features: PairFeatures, text: TextBatch) -> Tensor:
        """Put both dates' image tokens in the places of the placeholders (III-E), [B, L, D]."""
        embedded = self.language.embed(text.ids)
        for kind, seen in ((BEFORE, features.before), (AFTER, features.after)):
            tokens = self.project(seen.tokens).to(embedded.dtype)  # [B, N, D]
            embedded = embedded.masked_scatter((text.kind == kind).unsqueeze(-1), tokens)
        return embedded

    def forward(
        self, features: PairFeatures, text: TextBatch, *, decode: bool = True
    ) -> ReasonCDOutput:
        """Run one teacher-forced pass.

        Args:
            features: Of `see`, or a cache of it; one pair a row of `text`.
            text: Of `batch`.
            decode: Whether masks are wanted, or the prompts of the mask decoder alone.
        """
        embedded = self.embed(features, text)
        states = self.language.states(embedded, text.attention(), text.positions)  # [B, L, D]
        learned = text.labels[:, 1:] != IGNORED  # place p predicts the token at p + 1
        target = self.writer.ids.target
        rows, places = target_places(text, target, self.config.state)
        prompts = self.state_prompt(states[rows, places])  # [t, C]
        owners = _owners(text, rows, places)
        n_samples = len(text.samples()[0])
        has_target = torch.zeros(n_samples, dtype=torch.bool, device=owners.device)
        has_target[owners] = True
        united = prompts.new_zeros(0, *features.size)
        if decode:
            fused = self.fusion(features.before, features.after)
            each = self.masks(fused[rows], prompts, features)  # [t, H, W]
            asked = has_target.nonzero().flatten().tolist()
            masks = [each[owners == i].amax(dim=0) for i in asked]
            united = torch.stack(masks) if masks else each
        return ReasonCDOutput(
            text_logits=self.language.logits(states[:, :-1][learned]),
            text_labels=text.labels[:, 1:][learned],
            mask_logits=united,
            has_target=has_target,
            prompts=prompts,
            owners=owners,
        )

    def masks(self, fused: Tensor, prompts: Tensor, features: PairFeatures) -> Tensor:
        """Decode prompts [n, C] on maps [n, C, h, w] to logits at the pictures' size, [n, H, W]."""
        if len(prompts) == 0:
            return prompts.new_zeros(0, *features.size)
        logits = self.decoder(fused, prompts)
        return restore_size(logits, features.square, features.valid, features.size)

    @torch.no_grad()
    def encode(self, features: PairFeatures) -> EncodedPairs:
        """Do all that does not depend on a wish; call in evaluation mode."""
        prefix = self.writer.prefix
        one = [TextSample(prefix, (IGNORED,) * len(prefix))]
        text = self.batch([one] * features.before.tokens.shape[0])
        embedded = self.embed(features, text.to(self.project.weight.device))
        fused = self.fusion(features.before, features.after)
        return EncodedPairs(features, fused, remember(self.language, embedded))

    @torch.no_grad()
    def ask(
        self,
        pairs: EncodedPairs,
        wishes: Sequence[str],
        which: Sequence[int] | None = None,
        *,
        force_target: bool = False,
        max_tokens: int | None = None,
    ) -> list[WishAnswer]:
        """Answer a batch of wishes together; call in evaluation mode.

        Args:
            pairs: Of `encode`.
            wishes: What to look for, in a user's words.
            which: The pair of each wish; None asks everything of the one pair there is.
            force_target: Decode a mask even where the answer has no target token.
            max_tokens: Longest answer; None is the configured one.

        Raises:
            UsageError: A wish is empty or too long, or a pair does not exist.
        """
        if not wishes:
            return []
        rows = [0] * len(wishes) if which is None else list(which)
        if which is None and pairs.n_pairs != 1:
            raise UsageError(f"there are {pairs.n_pairs} pairs: say which each wish is about")
        if len(rows) != len(wishes) or not all(0 <= row < pairs.n_pairs for row in rows):
            raise UsageError(f"{len(wishes)} wishes need as many pairs of 0..{pairs.n_pairs - 1}")
        prompt = self.config.prompt
        answers = greedy_answers(
            self.language,
            pairs.prefix,
            rows,
            [self.writer.wish(wish) for wish in wishes],
            self.writer.ids,
            max_tokens=min(max_tokens or prompt.max_answer_tokens, prompt.max_answer_tokens),
            state=self.config.state,
            force_target=force_target,
            usual=self.usual,
        )
        owners = [row for row, said in zip(rows, answers, strict=True) for _ in said.states]
        states = torch.cat([said.states for said in answers])
        logits = self.masks(pairs.fused[owners], self.state_prompt(states), pairs.features)
        each = cast(Any, logits).split([len(said.states) for said in answers])
        return [
            self._result(clean_wish(wish, prompt.max_wish_characters), said, masks)
            for wish, said, masks in zip(wishes, answers, each, strict=True)
        ]

    def _result(self, wish: str, said: Generated, logits: Tensor) -> WishAnswer:
        masks = logits.sigmoid()
        size = logits.shape[1:]
        probability = masks.amax(dim=0) if len(masks) else logits.new_zeros(size)
        mask = (logits > 0).any(dim=0)  # union; all False without a target token
        answer = self.writer.say(said.ids)
        return WishAnswer(
            wish=wish,
            answer=answer,
            found=len(masks) > 0 and not said.forced,
            understood=parse_answer(answer),
            probability=probability,
            mask=mask,
            masks=masks,
            confidence=float(probability[mask].mean()) if bool(mask.any()) else 0.0,
            forced=said.forced,
            complete=said.complete,
        )

    def merge(self) -> None:
        """Merge the adapters into the language model, for faster answers."""
        self.language.merge()


def _owners(text: TextBatch, rows: Tensor, places: Tensor) -> Tensor:
    """Return which sample of the batch each place belongs to, [t], samples counted row by row."""
    counts = text.segment.amax(dim=1)
    before = counts.cumsum(0) - counts
    owners: Tensor = before[rows] + text.segment[rows, places] - 1
    return owners
