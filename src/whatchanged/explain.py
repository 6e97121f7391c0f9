"""Pictures of why: the change map over the later photograph, and where each word looked."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from whatchanged.predict import Explanation

_STRENGTH = 0.55  # opacity of the strongest place
_WORDS_A_ROW = 6


def overlay(picture: NDArray[np.uint8], strengths: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a coarse map of strengths over a photograph as heat.

    Args:
        picture: [H, W, 3] uint8.
        strengths: [h, w], at least 0. The weakest place becomes clear, the strongest opaque;
            a map that is the same everywhere leaves the photograph as it is.

    Returns:
        [H, W, 3] uint8.
    """
    height, width = picture.shape[:2]
    low, high = float(strengths.min()), float(strengths.max())
    if high - low < 1e-12:
        return picture
    scaled = ((strengths - low) / (high - low) * 255).astype(np.uint8)
    smooth = Image.fromarray(scaled).resize((width, height), Image.Resampling.BICUBIC)
    share = np.asarray(smooth, np.float32)[..., None] / 255  # [H, W, 1]
    heat = colormaps["inferno"](share[..., 0])[..., :3].astype(np.float32) * 255
    weight = _STRENGTH * share
    mixed: NDArray[np.uint8] = (picture * (1 - weight) + heat * weight + 0.5).astype(np.uint8)
    return mixed


def word_figure(picture: NDArray[np.uint8], explanation: Explanation) -> Figure:
    """Draw the later photograph once a word, with the places the decoder looked at for it."""
    n_words = len(explanation.words)
    rows = max(1, math.ceil(n_words / _WORDS_A_ROW))
    figure = Figure(figsize=(1.7 * _WORDS_A_ROW, 1.95 * rows), layout="constrained")
    axes = figure.subplots(rows, _WORDS_A_ROW, squeeze=False)
    for index, place in enumerate(axes.flat):
        place.set_axis_off()
        if index < n_words:
            place.imshow(overlay(picture, explanation.word_maps[index]))
            place.set_title(explanation.words[index], fontsize=10, parse_math=False)
    return figure
