"""What the frozen image encoders of the paper's ReasonCD see, computed once a picture.

CLIP ViT-L and SAM ViT-H are frozen, see the same pictures in every epoch, and cost more than all
that trains. With `data.feature_cache` their maps are kept on disk, one file a picture, named by the
picture's pixels: the later date of one pair, the questions about it and its mirrored forms all
find their own. A file is complete or not there, so processes may share a folder and a killed run
leaves nothing wrong.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from whatchanged.config import to_mapping
from whatchanged.models.reasoncd.vision import ClipSamVision

Seen = tuple[Tensor, Tensor]
"""Image tokens [B, N, C] and deep map [B, c, h, w]."""


class FrozenFeatures:
    """Image tokens and deep maps of pictures, float16 on disk.

    They are rounded to float16 the first time as well, so that every epoch sees the same.

    Args:
        vision: Its CLIP and SAM; what they are made of and their weights name the folder.
        folder: Holds the folders of all encoders.
    """

    def __init__(self, vision: ClipSamVision, folder: Path) -> None:
        self.folder = folder / f"frozen-{_digest(vision)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, pictures: Tensor, see: Callable[[Tensor], Seen]) -> Seen:
        """Return what is seen on pictures [B, 3, H, W]; `see` is called with the unknown ones."""
        places = [self.folder / f"{_key(picture)}.safetensors" for picture in pictures]
        known = [_read(place) for place in places]
        unknown = [row for row, found in enumerate(known) if found is None]
        if unknown:
            tokens, deep = (x.half() for x in see(pictures[unknown]))
            for place, row in enumerate(unknown):
                known[row] = tokens[place], deep[place]
                _write(places[row], tokens[place], deep[place])
        rows = [found for found in known if found is not None]
        tokens, deep = (torch.stack([x.to(pictures.device) for x in part])
                        for part in zip(*rows, strict=True))  # fmt: skip
        return tokens.float(), deep.float()


def _key(picture: Tensor) -> str:
    pixels = picture.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]


def _read(path: Path) -> Seen | None:
    try:
        found = load_file(path)
        return found["tokens"], found["deep"]
    except (FileNotFoundError, SafetensorError, KeyError):  # not there, or cut short by a crash
        return None


def _write(path: Path, tokens: Tensor, deep: Tensor) -> None:
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")  # another process may write the same
    try:
        save_file({"tokens": tokens.cpu().contiguous(), "deep": deep.cpu().contiguous()}, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _digest(vision: ClipSamVision) -> str:
    config = vision.config
    told = (to_mapping(config.clip), to_mapping(config.sam), config.mean, config.std)
    digest = hashlib.sha256(repr(told).encode())
    for part in (vision.clip, vision.sam):
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
