"""Land cover, surface materials and noise fields of the scene generator.

A surface is described by what it looks like in full sun: two tones that alternate in
patches, a grain, a roughness in metres that the sun then shades, and how far a dry season
bleaches it. Tones are sRGB in [0, 255], chosen by eye to resemble aerial photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray: TypeAlias = NDArray[np.float32]
BytePicture: TypeAlias = NDArray[np.uint8]
Rgb: TypeAlias = tuple[float, float, float]


class Cover(IntEnum):
    """Land cover classes, numbered as in the annotated data sets (0 is "unchanged" there)."""

    WATER = 1
    BARE = 2
    LOW = 3
    TREE = 4
    BUILDING = 5
    PLAYGROUND = 6
    ROAD = 7


@dataclass(frozen=True)
class Material:
    """One surface as seen from above.

    Attributes:
        cover: Land cover class that the surface counts as.
        tone: Colour in full sun, sRGB in [0, 255].
        patch_tone: Second colour, mixed in by slow noise.
        patch: Contrast of that mixture; 0 keeps ``tone`` alone.
        grain: Relative amplitude of fine brightness noise.
        relief: Standard deviation of the micro relief in metres.
        leafy: How far a dry season bleaches the tone, in [0, 1].
    """

    cover: Cover
    tone: Rgb
    patch_tone: Rgb
    patch: float
    grain: float
    relief: float = 0.0
    leafy: float = 0.0


_ROAD, _LOW, _BARE = Cover.ROAD, Cover.LOW, Cover.BARE
_PLAY, _TREE = Cover.PLAYGROUND, Cover.TREE

MATERIALS: dict[str, Material] = {
    "meadow": Material(_LOW, (112, 122, 82), (146, 138, 104), 1.1, 0.10, 0.05, 0.7),
    "lawn": Material(_LOW, (94, 110, 70), (122, 122, 86), 0.7, 0.07, 0.03, 0.7),
    "verge": Material(_LOW, (122, 122, 86), (150, 138, 104), 0.8, 0.09, 0.04, 0.7),
    "scrub": Material(_LOW, (142, 132, 102), (104, 104, 74), 1.3, 0.12, 0.10, 0.5),
    "crop": Material(_LOW, (98, 114, 74), (112, 122, 82), 0.7, 0.06, 0.04, 0.45),
    "straw": Material(_LOW, (158, 146, 102), (146, 138, 92), 0.5, 0.06, 0.04, 0.2),
    "floor": Material(_TREE, (72, 76, 54), (96, 92, 68), 0.8, 0.10, 0.12, 0.6),
    "bare": Material(_BARE, (182, 160, 126), (150, 126, 96), 1.0, 0.08, 0.07),
    "clay": Material(_BARE, (176, 144, 114), (144, 116, 92), 1.0, 0.08, 0.08),
    "sand": Material(_BARE, (198, 184, 156), (170, 152, 124), 1.0, 0.06, 0.06),
    "dirt": Material(_BARE, (172, 154, 124), (150, 132, 104), 0.8, 0.07, 0.03),
    "bank": Material(_BARE, (146, 132, 100), (116, 112, 82), 0.8, 0.09, 0.05, 0.3),
    "asphalt": Material(_ROAD, (122, 121, 119), (132, 130, 126), 0.6, 0.03),
    "tarmac": Material(_ROAD, (92, 92, 94), (100, 100, 101), 0.6, 0.03),
    "concrete": Material(_ROAD, (168, 165, 158), (152, 149, 143), 0.7, 0.04),
    "pavement": Material(_ROAD, (180, 176, 168), (164, 160, 152), 0.5, 0.05),
    "kerb": Material(_ROAD, (104, 104, 106), (112, 112, 112), 0.5, 0.03),
    "marking": Material(_ROAD, (198, 198, 192), (178, 178, 172), 0.7, 0.03),
    "yellow": Material(_ROAD, (196, 172, 92), (180, 160, 96), 0.7, 0.03),
    "water": Material(Cover.WATER, (52, 70, 66), (60, 78, 68), 0.8, 0.015),
    "track": Material(_PLAY, (166, 88, 70), (156, 82, 66), 0.5, 0.03),
    "pitch": Material(_PLAY, (88, 122, 68), (98, 128, 74), 0.5, 0.05, 0.02, 0.3),
    "court": Material(_PLAY, (72, 124, 98), (80, 130, 104), 0.4, 0.03),
    "court_blue": Material(_PLAY, (72, 108, 150), (80, 114, 154), 0.4, 0.03),
    "line": Material(_PLAY, (222, 222, 214), (206, 206, 200), 0.4, 0.02),
    "fence": Material(_LOW, (118, 104, 86), (100, 92, 78), 0.8, 0.05),
    "car": Material(_ROAD, (200, 200, 200), (200, 200, 200), 0.0, 0.02),
    "roof": Material(Cover.BUILDING, (120, 112, 104), (104, 98, 92), 0.5, 0.05),
    "crown": Material(_TREE, (70, 86, 52), (84, 94, 60), 0.8, 0.10, 0.22, 0.55),
}
MATERIAL_IDS: dict[str, int] = {name: number for number, name in enumerate(MATERIALS)}

HOUSE_ROOFS: tuple[Rgb, ...] = (
    (98, 96, 96), (110, 104, 100), (118, 100, 86), (134, 118, 102),
    (150, 134, 112), (104, 110, 118), (88, 84, 84), (126, 108, 92),
)  # fmt: skip
VILLAGE_ROOFS: tuple[Rgb, ...] = (
    (164, 98, 74), (150, 88, 70), (176, 116, 90), (126, 126, 124),
    (190, 186, 178), (140, 134, 126), (108, 128, 152), (168, 150, 132),
)  # fmt: skip
HALL_ROOFS: dict[str, Rgb] = {
    "white": (206, 206, 202),
    "grey": (150, 152, 152),
    "blue": (106, 130, 160),
    "red": (158, 88, 74),
}
CROWNS: tuple[Rgb, ...] = (
    (64, 80, 50), (58, 74, 48), (76, 90, 56), (72, 80, 56), (86, 96, 62), (60, 72, 46),
    (56, 70, 50), (98, 98, 66), (66, 82, 54),
)  # fmt: skip
CARS: tuple[Rgb, ...] = (
    (214, 214, 214), (70, 72, 76), (142, 58, 52), (74, 86, 112), (178, 178, 176), (120, 122, 124),
)  # fmt: skip


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> FloatArray:
    """Draw smooth noise of zero mean and unit variance.

    Args:
        rng: Source of randomness.
        shape: Height and width of the field in pixels.
        cell: Distance between independent values in pixels.

    Returns:
        Field [H, W] float32.
    """
    height, width = (int(np.ceil(n / cell)) + 3 for n in shape)
    coarse = rng.standard_normal((height, width), dtype=np.float32)
    box = (1.0, 1.0, 1.0 + shape[1] / cell, 1.0 + shape[0] / cell)
    field = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box)
    values = np.asarray(field, dtype=np.float32)
    spread = float(values.std())
    return np.asarray((values - values.mean()) / max(spread, 1e-6), dtype=np.float32)


@dataclass(frozen=True)
class Weave:
    """Noise fields of one place, the same on both dates; each [H, W] of unit variance."""

    fine: FloatArray
    medium: FloatArray
    patches: FloatArray
    slow: FloatArray


def draw_weave(rng: np.random.Generator, shape: tuple[int, int], pixel_m: float) -> Weave:
    """Draw the noise fields that all surfaces of one place share.

    Args:
        rng: Source of randomness.
        shape: Height and width of the canvas in pixels.
        pixel_m: Pixel size of the canvas in metres.
    """
    patches = smooth_noise(rng, shape, max(9.0 / pixel_m, 4.0))
    small = smooth_noise(rng, shape, max(2.6 / pixel_m, 2.5))
    slow = smooth_noise(rng, shape, max(38.0 / pixel_m, 8.0))
    return Weave(
        fine=smooth_noise(rng, shape, 1.6),
        medium=smooth_noise(rng, shape, max(1.1 / pixel_m, 2.0)),
        patches=np.asarray(0.62 * patches + 0.42 * small + 0.66 * slow, dtype=np.float32),
        slow=slow,
    )


def to_linear(tone: NDArray[np.floating]) -> FloatArray:
    """Turn sRGB in [0, 255] into linear light in [0, 1] (pure power law, 2.2)."""
    return np.asarray((np.clip(tone, 0.0, 255.0) / 255.0) ** 2.2, dtype=np.float32)


def bleach(tone: FloatArray, amount: FloatArray) -> FloatArray:
    """Bleach vegetation tones towards dry grass.

    Args:
        tone: sRGB tones, [N, 3].
        amount: Share of the way to go in [0, 1], [N].
    """
    luminance = tone @ np.array([0.3, 0.55, 0.15], dtype=np.float32)
    dry = luminance[:, None] * np.array([1.14, 1.0, 0.76], dtype=np.float32)
    return np.asarray(tone + (dry - tone) * amount[:, None], dtype=np.float32)
