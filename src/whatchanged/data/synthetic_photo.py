"""What differs between two photographs of one place although nothing changed there.

Sun, season, exposure, colour cast, haze, sharpness, noise, compression and a registration
error below half a pixel: drawn per date, applied to the lit scene.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from whatchanged.data.synthetic_paint import BytePicture, FloatArray, Rgb
from whatchanged.data.synthetic_render import MARGIN, Light


@dataclass(frozen=True)
class Photo:
    """One flight over the place.

    Attributes:
        light: Sun and sky.
        season: 1 for lush, 0 for bleached vegetation.
        exposure: Factor on linear light.
        gains: White balance, RGB factors on linear light.
        gamma: Exponent of the tone curve on top of sRGB's; above 1 darkens the midtones.
        saturation: 1 keeps colours, 0 is grey.
        haze: Share of veiling light in [0, 1].
        blur: Standard deviation of the optical blur in pixels.
        noise: Standard deviation of sensor noise in grey levels.
        shift: Registration error (x, y) in pixels, below half a pixel.
        quality: JPEG quality of the archive copy.
    """

    light: Light
    season: float
    exposure: float
    gains: Rgb
    gamma: float
    saturation: float
    haze: float
    blur: float
    noise: float
    shift: tuple[float, float]
    quality: int


def draw_photo(rng: np.random.Generator) -> Photo:
    """Draw the conditions of one flight; the sun stands in the south as north of the tropics."""
    warmth, green = rng.normal(0.0, 0.035), rng.normal(0.0, 0.015)
    if rng.random() < 0.12:  # the strong green cast of some archives
        green += rng.uniform(0.05, 0.12)
    return Photo(
        light=Light(
            azimuth=float(np.deg2rad(rng.uniform(35.0, 145.0))),
            elevation=float(np.deg2rad(rng.uniform(36.0, 60.0))),
            sky=float(rng.uniform(0.22, 0.34)),
        ),
        season=float(rng.beta(1.7, 1.0)),
        exposure=float(np.exp(rng.normal(0.08, 0.17))),
        gains=(float(1.0 + warmth), float(1.0 + green), float(1.0 - warmth)),
        gamma=float(np.exp(rng.normal(0.04, 0.12))),
        saturation=float(rng.uniform(0.75, 1.2)),
        haze=float(rng.beta(1.1, 9.0) * 0.4),
        blur=float(rng.uniform(0.0, 0.65)),
        noise=float(rng.uniform(0.6, 3.2)),
        shift=(float(rng.uniform(-0.45, 0.45)), float(rng.uniform(-0.45, 0.45))),
        quality=int(rng.integers(78, 96)),
    )


def develop(light: FloatArray, photo: Photo, rng: np.random.Generator) -> BytePicture:
    """Turn linear light with its margin into the finished picture.

    Args:
        light: Linear light [size + 2 MARGIN, size + 2 MARGIN, 3].
        photo: Conditions of the flight.
        rng: Randomness of this date (sensor noise).

    Returns:
        Picture [size, size, 3] uint8.
    """
    inner = _shifted(light, photo.shift)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    exposed = inner * (photo.exposure * np.array(photo.gains, dtype=np.float32))
    grey = exposed @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    exposed = grey[..., None] + (exposed - grey[..., None]) * photo.saturation
    veil = np.array([0.42, 0.46, 0.52], dtype=np.float32)
    exposed = exposed * (1.0 - photo.haze) + veil * photo.haze
    tone = np.clip(exposed, 0.0, None) ** (photo.gamma / 2.2)
    tone = np.where(tone > 0.8, 0.8 + 0.2 * np.tanh((tone - 0.8) / 0.2), tone)  # film shoulder
    image = Image.fromarray((tone * 255.0).astype(np.uint8))
    if photo.blur > 0.15:
        image = image.filter(ImageFilter.GaussianBlur(photo.blur))
    noisy = np.asarray(image, dtype=np.float32) + _sensor_noise(rng, image.size[::-1], photo.noise)
    return _compressed(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), photo.quality)


def _shifted(light: FloatArray, shift: tuple[float, float]) -> FloatArray:
    """Move the picture by a fraction of a pixel (bilinear)."""
    for axis, fraction in ((1, shift[0]), (0, shift[1])):
        neighbour = np.roll(light, 1 if fraction > 0 else -1, axis=axis)
        light = light + np.float32(abs(fraction)) * (neighbour - light)
    return light


def _sensor_noise(rng: np.random.Generator, shape: tuple[int, int], level: float) -> FloatArray:
    """Noise of brightness and, half as strong, of colour, [H, W, 3] in grey levels."""
    common = rng.standard_normal((*shape, 1), dtype=np.float32)
    single = rng.standard_normal((*shape, 3), dtype=np.float32)
    return np.asarray(level * (0.9 * common + 0.45 * single), dtype=np.float32)


def _compressed(picture: BytePicture, quality: int) -> BytePicture:
    """Send a picture through JPEG, as archives do."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    buffer.seek(0)
    with Image.open(buffer) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)
