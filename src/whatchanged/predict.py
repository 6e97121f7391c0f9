"""From two photographs to a sentence: what `whatchanged describe` and `describe()` do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whatchanged.data.tokens import UNCHANGED_SENTENCES, Vocabulary, tokenise
from whatchanged.errors import CheckpointError, InputError, UsageError, WhatchangedError
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.pair import PairPixels, PairReport, open_pair
from whatchanged.models import weights
from whatchanged.models.backbones import normalise
from whatchanged.models.checkpoint import load_checkpoint
from whatchanged.models.hisem.model import HiSem
from whatchanged.models.outputs import HiSemMemory, Hypothesis
from whatchanged.prepare import Scale, choose_scale, fit_pixels, read_reduced

log = logging.getLogger(__name__)

_READERS = 2

__all__ = [
    "Caption",
    "CaptionModel",
    "Description",
    "Explanation",
    "PairPaths",
    "describe_arrays",
    "describe_pairs",
    "load_model",
]


@dataclass(frozen=True)
class Caption:
    """One caption with what it was ranked by: its mean log probability a word."""

    text: str
    score: float


@dataclass(frozen=True)
class Explanation:
    """What a caption came from, on the grid of the model's tokens.

    Attributes:
        change_map: How strongly each place differs, [h, w], at least 0 (BDAM's gated
            difference).
        words: The caption's words.
        word_maps: Where the decoder looked for each word, [words, h, w], each sums to 1.
    """

    change_map: NDArray[np.float32]
    words: tuple[str, ...]
    word_maps: NDArray[np.float32]


@dataclass(frozen=True)
class Description:
    """What changed between two photographs.

    Attributes:
        before: File of the earlier photograph.
        after: File of the later photograph.
        caption: The best caption.
        changed: Whether the image router judged the pair changed.
        changed_probability: Its probability, in [0, 1].
        captions: Alternatives of the beam, best first; the first is `caption`.
        model: Name or folder of the model.
        model_sha256: Of the checkpoint's manifest.
        warnings: What a user should know of the input.
        report: What was found of the pair's grids, stretch and shift; None for arrays.
        scale: The size at which the model saw the pair.
        pixels: The photographs as read, for reports.
        explanation: On request.
    """

    before: str
    after: str
    caption: str
    changed: bool
    changed_probability: float
    captions: tuple[Caption, ...]
    model: str
    model_sha256: str
    warnings: tuple[str, ...]
    report: PairReport | None
    scale: Scale
    pixels: PairPixels
    explanation: Explanation | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the command's `--json` contract."""
        return {
            "before": self.before,
            "after": self.after,
            "caption": self.caption,
            "changed": self.changed,
            "changed_probability": round(self.changed_probability, 4),
            "captions": [{"text": c.text, "score": round(c.score, 4)} for c in self.captions],
            "model": self.model,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class CaptionModel:
    """A loaded captioning model, for many pairs.

    Attributes:
        hisem: The network, in evaluation mode.
        vocabulary: Its words.
        name: What it was loaded as.
        sha256: Of the checkpoint's manifest.
    """

    hisem: HiSem
    vocabulary: Vocabulary
    name: str
    sha256: str

    @torch.inference_mode()
    def see(self, before: Tensor, after: Tensor) -> HiSemMemory:
        """Encode pictures [B, 3, H, W] in [0, 255] of both dates; sides multiples of 32."""
        encoder = self.hisem.config.encoder
        maps = self.hisem.encode(normalise(before, encoder), normalise(after, encoder))
        return self.hisem.memory(*maps)

    @torch.inference_mode()
    def say(self, memory: HiSemMemory, beam: int) -> list[list[Hypothesis]]:
        """Return up to `beam` captions a pair, best first."""
        return self.hisem.generate(memory, beam=beam)

    def text(self, hypothesis: Hypothesis) -> str:
        """Return a hypothesis as a sentence."""
        return " ".join(self.vocabulary.decode(hypothesis.ids))


@lru_cache(maxsize=2)
def load_model(model: str | Path = "hisem-small") -> CaptionModel:
    """Load a captioning model by name or from its checkpoint folder.

    Raises:
        WeightsUnavailableError: No source has the named weights.
        CheckpointError: Damaged, or of another family.
    """
    from whatchanged.config import from_mapping
    from whatchanged.models.hisem.config import HiSemConfig

    saved = load_checkpoint(weights.require(model))
    if saved.family != "hisem":
        raise CheckpointError(
            f"{model} is a checkpoint of family '{saved.family}', which writes no captions",
            hint="use hisem-small, or the best/ folder of a run of task hisem",
        )
    vocabulary = Vocabulary(tuple(saved.extras["vocabulary"]["words"]))
    hisem = HiSem(from_mapping(HiSemConfig, saved.config["model"]), len(vocabulary))
    try:
        hisem.load_state_dict({k: v.float() for k, v in saved.tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{model}: weights and configuration do not fit: {error}") from error
    hisem.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return CaptionModel(hisem, vocabulary, str(model), saved.manifest.sha256)


def describe_pairs(
    loaded: CaptionModel,
    pairs: Sequence[PairPaths],
    *,
    bands: Sequence[int] | None = None,
    align: bool = False,
    beam: int = 3,
    explain: bool = False,
    batch_size: int = 8,
    failures: list[tuple[PairPaths, WhatchangedError]] | None = None,
) -> Iterator[Description]:
    """Describe pairs in batches, in their order, reading ahead of the model.

    Args:
        loaded: Model.
        pairs: The pairs.
        bands: Bands to read as red, green and blue, from 1; None by colour interpretation.
        align: Warp the later photograph onto the earlier one's grid.
        beam: Captions kept while decoding.
        explain: Also return the change map and where each word looked.
        batch_size: Pairs of one size that run together.
        failures: Where pairs that cannot be read are put; None raises at the first.
    """
    if beam < 1:
        raise UsageError(f"beam is {beam}; it must be at least 1")
    trained = loaded.hisem.config.encoder.input_size
    for batch in _batches(_read_ahead(pairs, bands, align, trained, failures), batch_size):
        yield from _describe_batch(loaded, batch, beam, explain)


def describe_arrays(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    *,
    model: str | Path = "hisem-small",
    gsd_m: float | None = None,
    beam: int = 3,
    explain: bool = False,
) -> Description:
    """Say what changed between two pictures [H, W, 3] uint8, RGB, on one grid."""
    if before.shape != after.shape or before.ndim != 3 or before.shape[2] != 3:
        raise UsageError(f"pictures are {before.shape} and {after.shape}, not both [H, W, 3]")
    loaded = load_model(str(model))
    pixels = PairPixels(before, after, np.ones(before.shape[:2], bool))
    scale = choose_scale(*before.shape[:2], gsd_m, loaded.hisem.config.encoder.input_size)
    ready = _ready(PairPaths(Path("before"), Path("after")), pixels, scale, None, [])
    return _describe_batch(loaded, [ready], beam, explain)[0]


@dataclass(frozen=True)
class _Ready:
    """A pair as the model will see it, [3, h, w] a date."""

    paths: PairPaths
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    pixels: PairPixels
    scale: Scale
    report: PairReport | None
    warnings: tuple[str, ...]


def _read_ahead(
    pairs: Iterable[PairPaths],
    bands: Sequence[int] | None,
    align: bool,
    trained: int,
    failures: list[tuple[PairPaths, WhatchangedError]] | None,
) -> Iterator[_Ready]:
    """Read a few pairs ahead on threads; GDAL and Pillow work outside the interpreter lock."""
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: list[tuple[PairPaths, Future[_Ready]]] = []
        source = iter(pairs)

        def refill() -> None:
            while len(waiting) < 2 * _READERS:
                paths = next(source, None)
                if paths is None:
                    return
                waiting.append((paths, pool.submit(_read, paths, bands, align, trained)))

        refill()
        while waiting:
            paths, future = waiting.pop(0)
            try:
                ready = future.result()
            except WhatchangedError as error:
                if failures is None:
                    pool.shutdown(cancel_futures=True)
                    raise
                failures.append((paths, error))
                ready = None
            refill()
            if ready is not None:
                yield ready


def _read(
    paths: PairPaths, bands: Sequence[int] | None, align: bool, trained: int
) -> _Ready:
    with open_pair(paths.before, paths.after, bands=bands, align=align) as pair:
        scale = choose_scale(*pair.grid.shape, pair.grid.gsd_m, trained)
        pixels = read_reduced(pair, scale.height, scale.width)
        return _ready(paths, pixels, scale, pair.report, pair.report.warnings)


def _ready(
    paths: PairPaths,
    pixels: PairPixels,
    scale: Scale,
    report: PairReport | None,
    warnings: Sequence[str],
) -> _Ready:
    if not pixels.valid.any():
        raise InputError(
            f"{paths.before} and {paths.after} have no pixel that is valid in both",
            hint="check nodata values and that both cover the same place",
        )
    before, after, note = fit_pixels(pixels, scale)
    notes = tuple(text for text in (*warnings, scale.note, note) if text)
    return _Ready(paths, before, after, pixels, scale, report, notes)


def _batches(pairs: Iterator[_Ready], size: int) -> Iterator[list[_Ready]]:
    """Group consecutive pairs of one model size."""
    batch: list[_Ready] = []
    for pair in pairs:
        if batch and (len(batch) == size or batch[0].before.shape != pair.before.shape):
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch


def _describe_batch(
    model: CaptionModel, batch: list[_Ready], beam: int, explain: bool
) -> list[Description]:
    before = torch.from_numpy(np.stack([pair.before for pair in batch]))
    after = torch.from_numpy(np.stack([pair.after for pair in batch]))
    memory = model.see(before, after)
    found = model.say(memory, beam)
    probabilities = memory.changed_probability
    explanations = _explain(model, memory, found) if explain else [None] * len(batch)
    descriptions = []
    for index, (pair, hypotheses) in enumerate(zip(batch, found, strict=True)):
        captions = tuple(Caption(model.text(h), _per_word(h)) for h in hypotheses)
        if probabilities is None:  # a model without image-level routing says it in words only
            same = tuple(tokenise(captions[0].text)) in _UNCHANGED
            changed, probability = not same, float(not same)
        else:
            changed, probability = bool(memory.path[index]), float(probabilities[index])
        descriptions.append(
            Description(
                before=str(pair.paths.before),
                after=str(pair.paths.after),
                caption=captions[0].text,
                changed=changed,
                changed_probability=probability,
                captions=captions,
                model=model.name,
                model_sha256=model.sha256,
                warnings=pair.warnings,
                report=pair.report,
                scale=pair.scale,
                pixels=pair.pixels,
                explanation=explanations[index],
            )
        )
    return descriptions


def _per_word(hypothesis: Hypothesis) -> float:
    return hypothesis.log_probability / (len(hypothesis.ids) + 1)  # END counts as a word


_UNCHANGED = {tuple(tokenise(sentence)) for sentence in UNCHANGED_SENTENCES}


def _explain(
    model: CaptionModel, memory: HiSemMemory, found: list[list[Hypothesis]]
) -> list[Explanation]:
    best = [hypotheses[0] for hypotheses in found]
    with torch.inference_mode():
        attention = model.hisem.word_attention(memory, best)
    return [
        Explanation(
            change_map=memory.difference_map[index].float().numpy(),
            words=tuple(model.vocabulary.decode(hypothesis.ids)),
            word_maps=attention[index].float().numpy(),
        )
        for index, hypothesis in enumerate(best)
    ]
