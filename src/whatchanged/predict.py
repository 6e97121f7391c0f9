"""From two photographs to a sentence: what `whatchanged describe` and `describe()` do."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whatchanged.data.tokens import UNCHANGED_SENTENCES, Vocabulary, tokenise
from whatchanged.errors import CheckpointError, UsageError, WhatchangedError
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.pair import PairPixels, PairReport
from whatchanged.models import weights
from whatchanged.models.backbones import normalise
from whatchanged.models.checkpoint import MANIFEST, load_checkpoint
from whatchanged.models.hisem.model import HiSem
from whatchanged.models.outputs import HiSemMemory, Hypothesis
from whatchanged.prepare import PreparedPair, Scale, choose_scale, group, prepare, read_ahead

log = logging.getLogger(__name__)

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
        reading: Grid of the pair, and file, bands and type of both dates, as plain values;
            None for arrays.
        scale: The size at which the model saw the pair.
        pixels: The photographs as read, for reports; large ones reduced by a whole factor.
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
    reading: dict[str, Any] | None
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

    def caption(self, hypothesis: Hypothesis) -> Caption:
        """Return a hypothesis as a sentence with its mean log probability a word."""
        # END is one of the words, unless the longest caption was cut off before it.
        n_words = min(len(hypothesis.ids) + 1, self.hisem.config.decoder.max_len - 1)
        text = " ".join(self.vocabulary.decode(hypothesis.ids))
        return Caption(text, hypothesis.log_probability / n_words)


def load_model(model: str | Path = "hisem-small") -> CaptionModel:
    """Load a captioning model by name or from its checkpoint folder.

    The last two models stay in memory; a checkpoint that was replaced is read again.

    Raises:
        WeightsUnavailableError: No source has the named weights.
        CheckpointError: Damaged, or of another family.
    """
    folder = weights.require(model).resolve()
    manifest = folder / MANIFEST
    return _load(str(model), folder, manifest.stat().st_mtime_ns if manifest.is_file() else 0)


@lru_cache(maxsize=2)
def _load(name: str, folder: Path, changed_ns: int) -> CaptionModel:
    """Load a checkpoint; `changed_ns` tells one that was replaced from the one remembered."""
    from whatchanged.config import from_mapping
    from whatchanged.models.hisem.config import HiSemConfig

    saved = load_checkpoint(folder)
    if saved.family != "hisem":
        raise CheckpointError(
            f"{name} is a checkpoint of family '{saved.family}', which writes no captions",
            hint="use hisem-small, or the best/ folder of a run of task hisem",
        )
    try:
        vocabulary = Vocabulary(tuple(saved.extras["vocabulary"]["words"]))
        hisem = HiSem(from_mapping(HiSemConfig, saved.config["model"]), len(vocabulary))
        hisem.load_state_dict({k: v.float() for k, v in saved.tensors.items()})
    except (KeyError, TypeError, RuntimeError, WhatchangedError) as error:
        reason = error.message if isinstance(error, WhatchangedError) else error
        raise CheckpointError(
            f"{name}: vocabulary, configuration and weights do not fit together: {reason}",
            hint="the checkpoint is of another version of whatchanged; use one of this version",
        ) from error
    hisem.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return CaptionModel(hisem, vocabulary, name, saved.manifest.sha256)


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

    Raises:
        UsageError: `beam` or `batch_size` is below 1.
    """
    for name, value in (("beam", beam), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    trained = loaded.hisem.config.encoder.input_size
    noted: set[str] = set()
    for batch in group(read_ahead(pairs, bands, align, trained, failures), batch_size):
        for scale in (pair.scale.describe() for pair in batch):
            if scale not in noted:  # once a size, not once a pair
                noted.add(scale)
                log.info("%s", scale)
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
    """Say what changed between two pictures of one place on one grid.

    Args:
        before: Earlier picture, [H, W, 3] uint8, RGB.
        after: Later picture, likewise.
        model: Named weights or a checkpoint folder.
        gsd_m: Ground sampling distance in metres per pixel; None where unknown.
        beam: Captions kept while decoding.
        explain: Also return the change map and where each word looked.

    Raises:
        UsageError: Arrays of another shape or type, or a number below what it can be.
    """
    for picture in (before, after):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise UsageError(f"a picture is {picture.shape}, not [H, W, 3]")
        if picture.dtype != np.uint8:
            raise UsageError(f"a picture holds {picture.dtype} values, not uint8")
    if before.shape != after.shape:
        raise UsageError(f"pictures are {before.shape} and {after.shape}, not on one grid")
    if gsd_m is not None and not 0 < gsd_m < math.inf:
        raise UsageError(f"gsd_m is {gsd_m}; it must be metres a pixel above 0")
    loaded = load_model(model)
    pixels = PairPixels(before, after, np.ones(before.shape[:2], bool))
    height, width = before.shape[:2]
    scale = choose_scale(height, width, gsd_m, loaded.hisem.config.encoder.input_size)
    ready = prepare(PairPaths(Path("before"), Path("after")), pixels, scale)
    return _describe_batch(loaded, [ready], beam, explain)[0]


def _describe_batch(
    model: CaptionModel, batch: list[PreparedPair], beam: int, explain: bool
) -> list[Description]:
    before = torch.from_numpy(np.stack([pair.before for pair in batch]))
    after = torch.from_numpy(np.stack([pair.after for pair in batch]))
    memory = model.see(before, after)
    found = model.say(memory, beam)
    probabilities = memory.changed_probability
    explanations = _explain(model, memory, found) if explain else [None] * len(batch)
    descriptions = []
    for index, (pair, hypotheses) in enumerate(zip(batch, found, strict=True)):
        captions = tuple(model.caption(hypothesis) for hypothesis in hypotheses)
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
                reading=pair.reading,
                scale=pair.scale,
                pixels=pair.pixels,
                explanation=explanations[index],
            )
        )
    return descriptions


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
