"""Sentences about the changes of a generated scene, in the style of the field's captions.

Positions are measured on the change mask, counts and former land use come from the facts.
Words are taken from the vocabulary of real change captions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whatchanged.data.synthetic_changes import Facts
from whatchanged.data.tokens import UNCHANGED_SENTENCES

N_CAPTIONS = 5

_LAND: dict[str, tuple[str, ...]] = {
    "meadow": ("grassland", "grass"),
    "crops": ("farmland", "cropland"),
    "woods": ("woods",),
    "scrub": ("grassland",),
    "bare": ("bareland",),
}
_COUNTS = ("no", "a", "two", "three", "four", "five", "six")
_OLD_GROUND = {"bare": "bareland", "meadow": "grass"}

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "houses": (
        "{thing} {is} built along the road {pos}",
        "{thing} {has} been built on the {land} {pos}",
        "{thing} {appear} beside the road {pos}",
        "{thing} {is} built on the {land}",
        "{new} {appear} {pos} along the road",
        "{thing} {replace} part of the {land} {pos}",
    ),
    "street": (
        "{thing} {is} built on both sides of a new road {pos}",
        "a road with houses on both sides is built on the {land} {pos}",
        "{area} {pos} {turned} into a road and {thing}",
        "a new road and {thing} replace {area} {pos}",
        "{thing} {appear} along a new road",
    ),
    "building": (
        "a large building with a parking lot is built {pos}",
        "a large building is built on the {land} {pos}",
        "a large building with a {colour} roof appears {pos}",
        "a parking lot and a large building replace part of the {land}",
        "part of the {land} {pos} has turned into a building and a parking lot",
        "a large {colour} building has been constructed {pos}",
    ),
    "sheds": (
        "{thing} {is} built on the {land} {pos}",
        "{thing} with {colour} roofs {appear} {pos}",
        "{thing} {appear} side by side on the {land}",
        "a row of long sheds is built {pos}",
        "part of the {land} {pos} has turned into {thing}",
        "{thing} {replace} part of the {land}",
    ),
    "demolition/houses": (
        "{thing} {is} demolished {pos}",
        "{thing} {pos} {has} disappeared",
        "{thing} {pos} {is} removed and {ground} remains",
        "{thing} along the road {is} replaced by {ground}",
        "{thing} {disappear} {pos}",
        "{ground} replaces {thing} {pos}",
    ),
    "demolition/building": (
        "a large building {pos} is demolished",
        "the large building and the parking lot {pos} have disappeared",
        "a large building and its parking lot are replaced by {ground}",
        "the large building {pos} is removed and {ground} appears",
        "{ground} replaces a large building {pos}",
        "a building with a parking lot disappears {pos}",
    ),
    "clearing": (
        "many trees {pos} are removed and {ground} appears",
        "{area} {pos} {turned} into {ground}",
        "many trees {pos} are cleared",
        "{area} {pos} {area_is} cleared and {ground} appears",
        "{ground} replaces {area} {pos}",
        "some trees are removed and {ground} appears {pos}",
    ),
    "bareland": (
        "{area} {pos} {turned} into bareland",
        "bareland replaces {area} {pos}",
        "bareland appears on the {land} {pos}",
        "{area} {pos} {area_is} replaced by bareland",
        "{area} {pos} becomes bare",
        "some vegetation {pos} disappears and bareland appears",
    ),
    "road": (
        "a {road} is built through the {land} {pos}",
        "a new {road} crosses the {land} {pos}",
        "a {road} has been built {pos}",
        "a new {road} appears {pos}",
        "a {road} replaces part of the {land}",
        "a {road} cuts through the {land} {pos}",
    ),
    "paving": (
        "the dirt road {pos} is paved",
        "a dirt road {pos} becomes a paved road",
        "the dirt road {pos} has turned into a concrete road",
        "the dirt track {pos} is replaced by a paved road",
        "the dirt road through the {land} is paved",
        "a concrete road replaces the dirt road {pos}",
    ),
    "pond": (
        "a pond is dug on the {land} {pos}",
        "a pond appears {pos}",
        "a new pond appears on the {land} {pos}",
        "part of the {land} {pos} has turned into a pond",
        "a pond has been dug {pos}",
        "a pond replaces part of the {land}",
    ),
    "pond_filled": (
        "the pond {pos} is filled",
        "the pond {pos} has turned into {ground}",
        "a pond disappears {pos}",
        "the pond is filled and {ground} appears {pos}",
        "{ground} replaces the pond {pos}",
        "the water {pos} has disappeared",
    ),
    "playground": (
        "a playground is built {pos}",
        "a playground is built on the {land} {pos}",
        "{court} {appear} {pos}",
        "{court} {has} been built on the {land}",
        "part of the {land} {pos} has turned into a playground",
        "a new playground replaces part of the {land} {pos}",
    ),
    "planting": (
        "many trees grow on the {land} {pos}",
        "trees are planted on the {land} {pos}",
        "{area} {pos} {turned} into woods",
        "many trees appear {pos}",
        "woods replace {area} {pos}",
        "{area} {pos} {area_is} covered with trees",
    ),
    "greening": (
        "{area} {pos} {turned} into grass",
        "grass grows on the bareland {pos}",
        "grass replaces {area} {pos}",
        "{area} {pos} {area_is} covered with grass",
        "{area} {pos} {area_is} overgrown with grass",
        "grass appears on the bareland {pos}",
    ),
}
_TREES_FELLED: dict[str, str] = {
    "houses": "some trees are removed and {thing} {is} built {pos}",
    "street": "the trees {pos} are cleared for a road and {thing}",
    "building": "some trees are removed and a large building is built {pos}",
    "road": "the trees are cleared for a {road} {pos}",
    "playground": "some trees are cleared and a playground is built {pos}",
}


def position(mask: NDArray[np.bool_]) -> str:
    """Name where the changed pixels lie: a side, a corner, the middle, or nothing.

    A side is named only if at least four fifths of the changed pixels lie in its half and
    their centroid within the outer 42 % of the picture.

    Args:
        mask: Changed pixels, [H, W].

    Returns:
        ``left``, ``top right``, ``middle`` and the like; empty where no word is true.
    """
    y, x = np.nonzero(mask)
    if not len(y):
        return ""
    height, width = mask.shape
    words = [
        _side((y + 0.5) / height, "top", "bottom"),
        _side((x + 0.5) / width, "left", "right"),
    ]
    named = " ".join(word for word in words if word)
    if named:
        return named
    central = (np.abs((y + 0.5) / height - 0.5) < 0.3) & (np.abs((x + 0.5) / width - 0.5) < 0.3)
    return "middle" if float(central.mean()) >= 0.85 else ""


def _side(at: NDArray[np.float64], low: str, high: str) -> str:
    centre = float(at.mean())
    if centre < 0.42 and float((at < 0.5).mean()) >= 0.8:
        return low
    if centre > 0.58 and float((at > 0.5).mean()) >= 0.8:
        return high
    return ""


def _phrase(rng: np.random.Generator, place: str) -> str:
    if not place:
        return ""
    if place == "middle":
        return "in the middle"
    if " " in place:
        return str(rng.choice([f"at the {place}", f"at the {place}", f"in the {place} corner"]))
    if place in ("left", "right"):
        return str(rng.choice([f"on the {place}", f"on the {place}", f"on the {place} side"]))
    return f"at the {place}"


def _things(rng: np.random.Generator, noun: str, n: int) -> str:
    """Count things as captions do: "a house", "three houses", "several houses"."""
    if n == 1:
        return f"a {noun}"
    options = [f"{_COUNTS[n]} {noun}s"] if n < len(_COUNTS) else [f"many {noun}s"]
    if n >= 3:
        options += [f"several {noun}s", f"some {noun}s"]
    if n >= 4 and noun == "house":
        options.append("a row of houses")
    return str(rng.choice(options))


def _fill(rng: np.random.Generator, template: str, facts: Facts, place: str) -> str:
    noun = {"sheds": "long shed"}.get(facts.kind, "house")
    land = str(rng.choice(_LAND.get(facts.source, ("land",))))
    area = f"the {land}" if facts.whole else f"part of the {land}"
    plural = area == "the woods"
    thing = _things(rng, noun, facts.n)
    if facts.kind == "street" and thing.startswith("a row"):
        thing = "many houses"
    track = facts.target == "track"
    court = "a playground" if track else str(rng.choice(["a sports court", "a playground"]))
    single = thing.startswith("a ") or "{court}" in template
    filled = template.format(
        thing=thing,
        new=thing if thing.startswith("a row") else thing.replace(noun, f"new {noun}", 1),
        court=court,
        road="wide road" if facts.target == "highway" else "road",
        ground=_OLD_GROUND.get(facts.target, "bareland"),
        colour=facts.colour,
        land=land,
        pos=_phrase(rng, place),
        area=area,
        turned="have turned" if plural else "has turned",
        area_is="are" if plural else "is",
        **{"is": "is" if single else "are", "has": "has" if single else "have"},
        appear="appears" if single else "appear",
        disappear="disappears" if single else "disappear",
        replace="replaces" if single else "replace",
    )
    return " ".join(filled.split()).replace("on the woods", "in the woods")


def _sentences(rng: np.random.Generator, facts: Facts, place: str) -> list[str]:
    """All templates that are true of a change, filled in random order."""
    key = f"demolition/{facts.source}" if facts.kind == "demolition" else facts.kind
    templates = list(_TEMPLATES[key])
    if facts.source == "woods" and facts.kind in _TREES_FELLED:
        templates.append(_TREES_FELLED[facts.kind])
    if facts.kind == "street" and facts.n >= 4:
        templates.append("a residential area with a new road appears {pos}")
    if facts.kind == "houses" and facts.beside:
        templates.append("{new} {is} built beside the old houses {pos}")
    if facts.kind == "houses" and not facts.rural:
        templates.append(
            "{thing} with a driveway is built {pos}"
            if facts.n == 1
            else ("{thing} with driveways {is} built {pos}")
        )
    order = rng.permutation(len(templates))
    return [_fill(rng, templates[int(k)], facts, place) for k in order]


def captions(
    rng: np.random.Generator, facts: Sequence[Facts], masks: Sequence[NDArray[np.bool_]]
) -> tuple[str, ...]:
    """Write five true sentences about a scene.

    Args:
        rng: Source of randomness.
        facts: One entry per change; none for a scene without changes.
        masks: Changed pixels [H, W] of each change.

    Returns:
        Five lower-case sentences without a final full stop.
    """
    if not facts:
        return UNCHANGED_SENTENCES
    each = [_sentences(rng, fact, position(mask)) for fact, mask in zip(facts, masks, strict=True)]
    return tuple(
        " and ".join(sentences[k % len(sentences)] for sentences in each) for k in range(N_CAPTIONS)
    )
