"""Where a pair meets a wish: masks from land cover before and after, and what is certain.

Land cover is numbered 1 water, 2 bare ground, 3 low vegetation, 4 tree, 5 building,
6 playground, 7 road; 0 says that the pixel did not change, 255 that its class is unknown. Other
values do not get here: `pictures.read_land_cover` refuses them.
Annotations know less than a wish may ask: some masks mark buildings alone, most pairs name one
transition. So everything here is three-valued (Kleene): no, unknown, yes as 0, 1, 2, where
"and" is the minimum, "or" the maximum and "not" 2 - x.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whatchanged.answers import Understood
from whatchanged.data.caption_classes import names_class, names_removal
from whatchanged.data.pictures import UNKNOWN
from whatchanged.errors import UsageError

Mask = NDArray[np.uint8]
Presence = Literal["present", "absent", "unknown"]

CLASS_NUMBERS: dict[str, int] = {
    "water": 1,
    "bare ground": 2,
    "low vegetation": 3,
    "tree": 4,
    "building": 5,
    "playground": 6,
    "road": 7,
}
"""Numbers of the classes a wish can name, "any" apart."""

PRESENT_SHARE = 24 / 256**2
"""Smallest share of a picture that counts as a change: 24 pixels of 256 x 256."""

_NO, _MAYBE, _YES = np.uint8(0), np.uint8(1), np.uint8(2)
_BUILT = ("building", "road", "playground")  # captions tell when these are taken away


def wish_mask(
    understood: Understood,
    classes_before: Mask | None,
    classes_after: Mask | None,
    mask: Mask | None,
) -> Mask:
    """Return where a wish is met.

    Args:
        understood: What the wish means.
        classes_before: Land cover before, [H, W]: 1-7, 0 unchanged, 255 unknown; None if
            unknown everywhere.
        classes_after: Land cover after, likewise.
        mask: Change, [H, W]: 0 unchanged, 1 changed, 255 unknown; None if unknown everywhere.

    Returns:
        [H, W] uint8: 1 where the wish is met, 0 where it is not, 255 where it cannot be told.

    A pixel changed if the mask says so or its two classes differ. A class appeared if the pixel
    changed, has the class after and had it not before; disappeared is the reverse. Land always
    turns from something into something, so "any" in any direction is every change.

    Raises:
        UsageError: Nothing is given, or arrays of several shapes.
    """
    shape = _shape(classes_before, classes_after, mask)
    before, after, marks = (
        np.full(shape, UNKNOWN, np.uint8) if values is None else values
        for values in (classes_before, classes_after, mask)
    )
    changed = _changed(before, after, marks)
    if "any" in understood.classes:
        met = changed
    else:
        was, became = (_is(understood.classes, values, changed) for values in (before, after))
        appeared = np.minimum(became, _YES - was)
        if understood.former:
            appeared = np.minimum(appeared, _is(understood.former, before, changed))
        disappeared = np.minimum(was, _YES - became)
        by_direction = {
            "appeared": appeared,
            "disappeared": disappeared,
            "either": np.maximum(appeared, disappeared),
        }
        met = np.minimum(changed, by_direction[understood.direction])
    return np.array([0, UNKNOWN, 1], np.uint8)[met]


def wish_masks(
    wishes: Iterable[Understood],
    classes_before: Mask | None,
    classes_after: Mask | None,
    mask: Mask | None,
) -> dict[Understood, Mask]:
    """Return the masks of many wishes; as `wish_mask`, at the cost of a look-up each.

    A pair has few transitions, so each wish is decided once per transition and not per pixel.
    """
    shape = _shape(classes_before, classes_after, mask)
    layers = [
        np.full(shape, UNKNOWN, np.uint8) if values is None else values
        for values in (classes_before, classes_after, mask)
    ]
    code = (layers[0].astype(np.int32) << 16) | (layers[1].astype(np.int32) << 8) | layers[2]
    kinds, places = np.unique(code, return_inverse=True)
    before, after, marks = (((kinds >> shift) & 255).astype(np.uint8) for shift in (16, 8, 0))
    return {wish: wish_mask(wish, before, after, marks)[places.reshape(shape)] for wish in wishes}


def presence(
    understood: Understood,
    wished: Mask,
    *,
    changed: bool | None,
    captions: Sequence[Sequence[str]] = (),
    complete: bool = False,
    reverse: bool = False,
) -> Presence:
    """Decide whether a pair meets a wish, certainly does not, or cannot be used for it.

    Args:
        understood: What the wish means.
        wished: Its mask by `wish_mask`, [H, W].
        changed: The pair's label; None if it has none.
        captions: Tokenised captions of the pair.
        complete: The classes know every change of the pair (composites, generated scenes,
            SECOND), so that no caption has to confirm that something is absent.
        reverse: The dates of the pair were exchanged; its captions tell of the other way round.

    Present is what covers `PRESENT_SHARE` of the picture. Absent is every wish where the pair
    is labelled unchanged; elsewhere one without a pixel that meets it or might, that no caption
    contradicts: none names the class at all, or it is something built that should have
    disappeared and no caption tells of a removal.
    """
    if changed is False:
        return "absent"
    least = max(1, math.ceil(PRESENT_SHARE * wished.size))
    if np.count_nonzero(wished == 1) >= least:
        return "present"
    if (wished == 1).any() or np.count_nonzero(wished == UNKNOWN) >= least:
        return "unknown"
    if complete:
        return "absent"
    if "any" in understood.classes or not captions:
        return "unknown"
    return "absent" if _captions_rule_out(understood, captions, reverse) else "unknown"


def _captions_rule_out(
    understood: Understood, captions: Sequence[Sequence[str]], reverse: bool
) -> bool:
    if not any(names_class(name, captions) for name in understood.classes):
        return True
    lasting = all(name in _BUILT for name in understood.classes)
    removed = "appeared" if reverse else "disappeared"
    return lasting and understood.direction == removed and not names_removal(captions)


def _shape(*layers: Mask | None) -> tuple[int, ...]:
    shapes = {layer.shape for layer in layers if layer is not None}
    if len(shapes) != 1:
        found = ", ".join(str(shape) for shape in sorted(shapes)) or "nothing"
        raise UsageError(f"a wish needs mask or classes of one shape, not {found}")
    return shapes.pop()


def _changed(before: Mask, after: Mask, marks: Mask) -> Mask:
    """Return whether each pixel changed, three-valued; a change that either source knows wins."""
    known = _known(before) & _known(after)
    unchanged = (marks == 0) | (known & (before == after)) | ((before == 0) & (after == 0))
    changed: Mask = np.where(unchanged, _NO, _MAYBE)
    changed[(marks == 1) | (known & (before != after))] = _YES
    return changed


def _is(names: Sequence[str], classes: Mask, changed: Mask) -> Mask:
    """Return whether each pixel is of one of the classes, three-valued."""
    numbers = [CLASS_NUMBERS[name] for name in names]
    found: Mask = np.where(np.isin(classes, numbers), _YES, _NO)
    # Class 0 says "unchanged"; where the mask knows better, the class is unknown.
    found[(classes == UNKNOWN) | ((classes == 0) & (changed != _NO))] = _MAYBE
    return found


def _known(classes: Mask) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = (classes > 0) & (classes != UNKNOWN)
    return known
