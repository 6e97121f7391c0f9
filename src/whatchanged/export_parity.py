"""Whether onnxruntime computes what the model computes: measured after every export.

The reference is the model as it is used, with its routed paths and experts, not the dense
modules that were exported. The pictures are drawn scenes and noise, the feature maps those of
the scenes and noise, the captions random words; batches of one and of several, square and not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whatchanged.data.synthetic import draw_scene
from whatchanged.errors import WhatchangedError
from whatchanged.export_graphs import ENCODER, MEMORY, STEP, memory_outputs
from whatchanged.models.backbones import normalise
from whatchanged.models.hisem.generate import END, NULL, START, UNKNOWN
from whatchanged.models.hisem.model import HiSem
from whatchanged.models.outputs import CHANGED

Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-4
TIED_SHARE = 1e-3
"""Share of the tokens that may take other experts in a graph than in the model.

A token whose second and third best expert score the same to the last bits takes either, and
rounding decides. A router that is wrong is wrong for many more.
"""
_N_SCENES, _N_NOISE = 4, 4
_ATTEMPTS = 8


@dataclass(frozen=True)
class Parity:
    """What was measured.

    Attributes:
        differences: File name to the largest absolute difference of any output.
        n_unchanged: Pairs compared that took the unchanged path.
        n_changed: Pairs compared that took the changed path.
        n_tokens: Tokens of all pairs.
        n_tied: Tokens that took other experts than in the model; their values are left out.
    """

    differences: dict[str, float]
    n_unchanged: int
    n_changed: int
    n_tokens: int
    n_tied: int


@torch.no_grad()
def measure(folder: Path, hisem: HiSem) -> Parity:
    """Compare the three files of a folder with the model they were made of.

    Args:
        folder: Holds the files.
        hisem: In evaluation mode.

    Raises:
        WhatchangedError: A pair or too many tokens took another way in the graph than in the
            model.
    """
    noise = torch.Generator().manual_seed(0)
    encoder, memory, step = (_open(folder / name) for name in (ENCODER, MEMORY, STEP))
    before, after = _scenes(hisem.config.encoder.input_size)
    drawn = torch.cat([before, after])
    maps = _encode(hisem, drawn)
    graph_maps = torch.from_numpy(_run(encoder, {"pictures": drawn})["map"])
    encoded = [_difference(graph_maps, maps)]
    for pictures in _noise_pictures(hisem.config.encoder.input_size, noise):
        found = _run(encoder, {"pictures": pictures})["map"]
        encoded.append(_difference(found, _encode(hisem, pictures)))

    # Of the scenes the graph sees what the encoder's graph made of them.
    seen = [_compare_memory(memory, hisem, _pairs(maps), _pairs(graph_maps))]
    for attempt in range(_ATTEMPTS):
        taken = {int(path) for part in seen for path in part.path}
        if attempt >= 2 and len(taken) == len(hisem.hasd.paths):
            break
        pairs = _noise_pairs(maps, wider=attempt % 2, generator=noise)
        seen.append(_compare_memory(memory, hisem, pairs, pairs))

    dates = maps.chunk(2)
    said = [
        _compare_steps(step, hisem, hisem.memory(dates[0][:n], dates[1][:n]).tokens, noise)
        for n in (1, _N_SCENES)
    ]
    differences = {
        ENCODER: max(encoded),
        MEMORY: max(part.difference for part in seen),
        STEP: max(said),
    }
    return _summed(differences, seen)


@dataclass(frozen=True)
class _Seen:
    """Pairs of one run: the difference, their paths [B], tokens, and those that were tied."""

    difference: float
    path: Tensor
    n_tokens: int
    n_tied: int


def _summed(differences: dict[str, float], seen: list[_Seen]) -> Parity:
    path = torch.cat([part.path for part in seen])
    n_tokens, n_tied = sum(part.n_tokens for part in seen), sum(part.n_tied for part in seen)
    if n_tied > TIED_SHARE * n_tokens:
        raise WhatchangedError(
            f"{n_tied} of {n_tokens} tokens take other experts in {MEMORY} than in the model"
        )
    n_changed = int((path == CHANGED).sum())
    return Parity(differences, len(path) - n_changed, n_changed, n_tokens, n_tied)


def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: Mapping[str, Tensor]) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))


def _scenes(side: int) -> tuple[Tensor, Tensor]:
    """Draw scenes of 128 m or as near to it as can be, [B, 3, H, W] uint8 of both dates."""
    gsd_m = min(128 / side, 4.0)
    scenes = [draw_scene(seed, size=side, gsd_m=gsd_m) for seed in range(_N_SCENES)]
    dates = [scene.before for scene in scenes], [scene.after for scene in scenes]
    before, after = (torch.from_numpy(np.stack(date)).permute(0, 3, 1, 2) for date in dates)
    return before.contiguous(), after.contiguous()


def _noise_pictures(side: int, generator: torch.Generator) -> list[Tensor]:
    shapes = ((1, 3, side, side), (2, 3, side, side + 32), (2, 3, side + 32, side))
    return [torch.randint(0, 256, s, dtype=torch.uint8, generator=generator) for s in shapes]


def _encode(hisem: HiSem, pictures: Tensor) -> Tensor:
    maps: Tensor = hisem.encoder(normalise(pictures, hisem.config.encoder))
    return maps


def _pairs(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Pair the maps of both dates [2B, C, h, w] in both orders, and the first with itself.

    A trained model takes both paths then.
    """
    before, after = maps.chunk(2)
    return torch.cat([before, after, before[:1]]), torch.cat([after, before, before[:1]])


def _noise_pairs(like: Tensor, *, wider: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make pairs of noise; a single pair when wider than the maps they are like."""
    channels, h, w = like.shape[1:]
    n_maps = 2 if wider else 2 * _N_NOISE
    before, after = torch.randn(n_maps, channels, h, w + wider, generator=generator).chunk(2)
    return (before, after) if wider else (torch.cat([before, after]), torch.cat([after, before]))


# Where pairs and tokens are counted in the outputs that the routes decide.
_PAIR_AND_TOKEN = {"tokens": (0, 1), "memory_keys": (1, 3), "memory_values": (1, 3)}


def _compare_memory(
    session: Any, hisem: HiSem, maps: tuple[Tensor, Tensor], graph_maps: tuple[Tensor, Tensor]
) -> _Seen:
    """Compare the memory graph, given `graph_maps`, with the model, given `maps`."""
    expected = {name: value.numpy() for name, value in memory_outputs(hisem, *maps).items()}
    found = _run(session, dict(zip(("before_map", "after_map"), graph_maps, strict=True)))
    path, n_tokens = expected["path"], expected["tokens"].shape[1]
    same = (found["path"] == path)[:, None].repeat(n_tokens, axis=1)  # [B, L]
    if not same.all():
        gap = np.abs(np.diff(expected["router_logits"], axis=1))[found["path"] != path]
        if gap.max() > TOLERANCE:
            raise WhatchangedError(f"a pair takes another path in {MEMORY} than in the model")
    if "experts" in found:
        # The order of a token's experts decides nothing; without a changed pair there are none.
        known = expected.get("experts", np.full_like(found["experts"], -1))
        same &= (np.sort(found["experts"], axis=2) == np.sort(known, axis=2)).all(axis=2)
    difference = 0.0
    for name in expected.keys() - {"path", "experts"}:
        pair = [np.asarray(values[name]) for values in (found, expected)]
        if name in _PAIR_AND_TOKEN:
            pair = [np.moveaxis(values, _PAIR_AND_TOKEN[name], (0, 1))[same] for values in pair]
        difference = max(difference, _difference(*pair))
    return _Seen(difference, torch.from_numpy(path), same.size, int((~same).sum()))


def _compare_steps(session: Any, hisem: HiSem, tokens: Tensor, generator: torch.Generator) -> float:
    """Compare word after word with one teacher-forced pass over memories [B, L, D].

    The pass hides later words with a mask and keeps nothing, so it shares little with the step.
    """
    decoder = hisem.decoder
    n_pairs, n_words = len(tokens), decoder.max_len - 1
    shape = (n_pairs, n_words)
    ids = torch.randint(END + 1, decoder.head.out_features, shape, generator=generator)
    ids[:, 0] = START
    expected = decoder(ids, tokens).log_softmax(dim=2)  # [B, T, V]
    expected[:, :, [NULL, UNKNOWN, START]] = -torch.inf
    known = decoder.remember(tokens)
    kept = {
        "memory_keys": torch.stack([layer.keys for layer in known]),
        "memory_values": torch.stack([layer.values for layer in known]),
    }
    past = {
        "past_keys": kept["memory_keys"][:, :, :, :0],
        "past_values": kept["memory_values"][:, :, :, :0],
    }
    difference = 0.0
    for t in range(n_words):
        found = _run(session, {"words": ids[:, t].contiguous(), **kept, **past})
        difference = max(difference, _difference(found["log_probabilities"], expected[:, t]))
        past = {f"past_{name}": torch.from_numpy(found[name]) for name in ("keys", "values")}
    return difference


def _difference(found: Tensor | NDArray[Any], expected: Tensor | NDArray[Any]) -> float:
    """Return the largest absolute difference; infinite where one is no number or infinite."""
    one, two = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(one == two, 0.0, np.abs(one - two))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))
