"""Augmentations under which captions stay true.

- **Light and colour** (:func:`photometric`), drawn for each date by itself: two dates never
  share sun, season or sensor, and captions do not name absolute colours of light.
- **Mirroring** (:func:`mirror`), the same for both dates, masks and class maps, together with
  the position words of the caption (:mod:`whatchanged.data.positions`).
- **Misregistration** (:func:`misregister`) of one date by a pixel or two: captions name no
  place that finely, and a shift is not a change.
- **Zoom** (:func:`zoom`) by at most a few per cent, the same box for both dates. A stronger
  crop could cut off what the caption tells, and a mask does not prove that it did not, since
  masks mark less than captions tell. It would be safe for unchanged pairs, but if these alone
  were enlarged, their blur would give them away; so all pairs get the same.
- Not used: rotation by 90 degrees with captions (prepositions differ: "at the top", "on the
  left"), exchange of the dates (a caption tells a direction in time), cut-out and mixing.

All draws come from one ``torch.Generator``, so that a resumed run sees the same pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_GREY = torch.full((3, 3), 1 / 3)
_BLUR_TAPS = 3  # on either side; holds a Gaussian of 1.2 pixels


def mirror(pixels: NDArray[np.uint8], horizontal: bool, vertical: bool) -> NDArray[np.uint8]:
    """Mirror the last two axes (rows, columns) of a picture or map.

    Args:
        pixels: [..., H, W].
        horizontal: Exchange left and right.
        vertical: Exchange top and bottom.

    Returns:
        A contiguous array of the same shape.
    """
    axes = ((-1,) if horizontal else ()) + ((-2,) if vertical else ())
    return np.ascontiguousarray(np.flip(pixels, axes))


def photometric(
    before: Tensor, after: Tensor, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change light, colour and quality of both dates, each by its own draw.

    In the order of the way to the sensor: blur; contrast, saturation, hue, colour cast, haze
    and brightness as one affine map of colours; a tone curve (gamma); noise; JPEG.

    Args:
        before: [B, 3, H, W], uint8 or float in [0, 255].
        after: As ``before``.
        strength: 0 leaves the pictures as they are; 1 covers what aerial photographs of
            different years show.
        generator: Source of all draws; their number depends on B, H and W alone.

    Returns:
        Both dates as float32 in [0, 255].
    """
    pixels = torch.cat([before, after]).float()
    if strength > 0:
        pixels = _photometric(pixels, strength, generator)
    return pixels[: len(before)], pixels[len(before) :]


def misregister(pixels: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Shift each picture by its own fraction of pixels, at most ``largest`` along each axis.

    Args:
        pixels: One date, [B, 3, H, W], uint8 or float. Masks stay as they are: they mark a
            place to within such a shift anyway.
        largest: Pixels.
        generator: Source of the draws.

    Returns:
        float32, [B, 3, H, W]: bilinear, edges repeated.
    """
    shift = (torch.rand(len(pixels), 2, generator=generator) * 2 - 1) * largest  # [B, (y, x)]
    reach = math.ceil(largest)
    taps = torch.arange(-reach, reach + 1)
    kernels = (1 - (taps + shift.unsqueeze(-1)).abs()).clamp(min=0)  # [B, 2, K]
    return _separable(pixels.float(), kernels[:, 0], kernels[:, 1])


def zoom(layers: Sequence[Tensor], smallest: float, generator: torch.Generator) -> list[Tensor]:
    """Cut one random square per pair out of all its layers and enlarge it to the old size.

    Args:
        layers: Pictures [B, 3, H, W] (bilinear) and maps [B, H, W] (nearest), any dtype.
        smallest: Side of the smallest square, as a share of the full side. Keep it at 0.94 or
            above for pairs with captions: see the module.
        generator: Source of the draws.

    Returns:
        The layers in order, shapes and dtypes unchanged.
    """
    height, width = layers[0].shape[-2:]
    results = [layer.clone() for layer in layers]
    share = smallest + (1 - smallest) * torch.rand(len(layers[0]), generator=generator)
    places = torch.rand(len(layers[0]), 2, generator=generator)
    for index in range(len(layers[0])):
        h, w = round(float(share[index]) * height), round(float(share[index]) * width)
        top, left = (
            int(p * (n + 1)) for p, n in zip(places[index], (height - h, width - w), strict=True)
        )
        for layer, result in zip(layers, results, strict=True):
            cut = layer[index : index + 1, ..., top : top + h, left : left + w]
            if layer.ndim == 4:
                big = F.interpolate(cut, (height, width), mode="bilinear")
            else:
                big = F.interpolate(cut[None], (height, width), mode="nearest-exact")[0]
            result[index : index + 1] = big
    return results


def _photometric(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    n = len(pixels)
    for_blur, for_noise, for_jpeg = _chosen(n, (0.25, 0.3, 0.2), strength, generator)
    sigma = 0.4 + 0.8 * torch.rand(n, generator=generator)
    if len(for_blur):
        pixels[for_blur] = _blur(pixels[for_blur], sigma[for_blur])
    contrast, matrix, offset = _colours(n, strength, generator)
    bend = 0.25 * torch.randn(n, generator=generator).clamp_(-2, 2) * strength
    for index, a in enumerate(bend.clamp(-0.9, 0.9).tolist()):  # one picture fits the cache
        flat = pixels[index].flatten(1)  # [3, HW]
        pivot = (1 - contrast[index]) * flat.mean(1, keepdim=True)
        shift = offset[index] + matrix[index] @ pivot
        flat = torch.addmm(shift, contrast[index] * matrix[index], flat)
        pixels[index] = _tone(flat.clamp_(0, 255), a).view_as(pixels[index])
    _add_noise(pixels, for_noise, strength, generator)
    pixels.clamp_(0, 255)
    quality = torch.randint(35, 91, (n,), generator=generator)
    for index in for_jpeg.tolist():
        pixels[index] = _jpeg(pixels[index], int(quality[index]))
    return pixels


def _chosen(
    n: int, shares: Sequence[float], strength: float, generator: torch.Generator
) -> list[Tensor]:
    """Draw which of ``n`` pictures get each effect; returns their indices."""
    draws = torch.rand(len(shares), n, generator=generator)
    limits = torch.tensor(shares)[:, None] * min(strength, 1.0)
    return [row.nonzero().flatten() for row in draws < limits]


def _colours(n: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw an affine map of colours per picture: y = M (mean + c (x - mean)) + b.

    M = (1 - h) diag(gain) R S: saturation S, hue R (a rotation about the grey axis), gain per
    channel (colour cast), haze h; b holds brightness and the haze's light.

    Returns:
        Contrast c [N, 1, 1], M [N, 3, 3] and b [N, 3, 1].
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator).clamp_(-2, 2) * strength

    contrast, brightness = torch.exp(0.2 * normal(1, 1)), 18 * normal(1, 1)
    saturation = torch.exp(0.3 * normal(1, 1))
    colour = saturation * torch.eye(3) + (1 - saturation) * _GREY
    gain = torch.exp(0.09 * normal(3, 1))
    # A cast of one channel, mostly green, is frequent in mosaics of archived pictures.
    cast = torch.rand(n, 2, generator=generator)
    green = (cast[:, 0] < 0.15 * strength) * cast[:, 1] * strength
    gain[:, :, 0] *= torch.stack([1 - 0.2 * green, 1 + 0.25 * green, 1 - 0.2 * green], 1)
    haze, veil = _haze(n, strength, generator)
    matrix = (1 - haze) * gain * (_hue(math.radians(7) * normal(1, 1)) @ colour)
    return contrast, matrix, brightness + haze * veil


def _haze(n: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw how much haze lies over each picture, [N, 1, 1], and its colour, [N, 3, 1]."""
    draws = torch.rand(n, 3, 1, generator=generator)
    haze = (draws[:, :1] < 0.25 * strength) * 0.35 * draws[:, 1:2] * min(strength, 1.0)
    veil = 150 + 80 * draws[:, 2:] + torch.tensor([[-6.0], [0.0], [8.0]])
    return haze, veil


def _hue(angle: Tensor) -> Tensor:
    """Rotate about the grey axis by ``angle`` [N, 1, 1] in radians (Rodrigues), [N, 3, 3]."""
    axis = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * torch.eye(3) + (1 - cos) * _GREY + sin * cross


def _tone(pixels: Tensor, a: float) -> Tensor:
    """Bend the tone curve in place by x + a x (1 - x), x in [0, 1]; monotone for -1 < a < 1.

    It does what gamma does (lifts or sinks the middle, keeps black and white) at a fraction
    of a power's cost.
    """
    return pixels.mul_((pixels * (-a / 255)).add_(1 + a))


def _add_noise(pixels: Tensor, chosen: Tensor, strength: float, generator: torch.Generator) -> None:
    """Add noise to the chosen pictures: one field for all, shifted to its own place in each."""
    n, channels, height, width = pixels.shape
    field = torch.randn(channels, height, width, generator=generator)
    shifts = torch.randint(0, min(height, width), (n, 2), generator=generator)
    sigma = 8 * strength * torch.rand(n, generator=generator)
    for index in chosen.tolist():
        rows, columns = shifts[index].tolist()
        pixels[index].add_(field.roll((rows, columns), (1, 2)), alpha=float(sigma[index]))


def _blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur each picture with its own Gaussian, ``sigma`` [N] in pixels."""
    taps = torch.arange(-_BLUR_TAPS, _BLUR_TAPS + 1)
    kernel = torch.exp(-0.5 * (taps / sigma.unsqueeze(-1)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)  # [N, K]
    return _separable(pixels, kernel, kernel)


def _separable(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Filter each picture [N, C, H, W] by its own kernels [N, K] along rows' and columns' axis."""
    n, channels, height, width = pixels.shape
    reach = rows.shape[1] // 2
    one = F.pad(pixels, (reach, reach, reach, reach), mode="replicate").flatten(0, 1).unsqueeze(0)
    down = rows.repeat_interleave(channels, 0)[:, None, :, None].to(pixels.dtype)
    across = columns.repeat_interleave(channels, 0)[:, None, None, :].to(pixels.dtype)
    one = F.conv2d(F.conv2d(one, down, groups=n * channels), across, groups=n * channels)
    return one.view(n, channels, height, width)


def _jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Pass one picture [3, H, W] in [0, 255] through JPEG."""
    array = pixels.add(0.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
