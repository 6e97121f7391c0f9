"""Position words of captions under mirrored pictures.

A flipped picture makes "a house on the left" false. Here the words are flipped with it, and a
caption is given up wherever that cannot be done surely: "left" may be a verb, "under" may mean
below in the picture or hidden by trees, "clockwise" turns the other way. The lists were
collected from every training and validation caption of LEVIR-CC and of sets annotated in its
manner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

Caption = tuple[str, ...]


def _both_ways(pairs: dict[str, str]) -> dict[str, str]:
    return pairs | {new: old for old, new in pairs.items()}


_LEFT_RIGHT = _both_ways(
    {"left": "right", "leftmost": "rightmost", "leftward": "rightward", "leftwards": "rightwards"}
)
_TOP_BOTTOM = _both_ways(
    {
        "top": "bottom",
        "upper": "lower",
        "topmost": "bottommost",
        "uppermost": "lowermost",
        "above": "below",
    }
)
_COMPASS = re.compile(r"(?=.)(north|south)?-?(east|west)?(ern|erly|wards?|most)?")
_EAST_WEST = _both_ways({"east": "west"})
_NORTH_SOUTH = _both_ways({"north": "south"})

# Every set below holds a word together with its mirror image, so that flipping twice is the
# identity: what proves a position before a flip proves it afterwards.
_SIDES = {"left", "right", "top", "bottom", "upper", "lower", "middle", "center", "centre"}
_LEADS = _SIDES | {"the", "its", "their", "both", "central", "far", "higher"}
_PLACES = {
    *("corner", "corners", "side", "sides", "edge", "edges", "half", "part", "parts", "area"),
    *("areas", "end", "ends", "bank", "banks", "portion", "section", "quarter", "border"),
}
_LINKS = {"and", "or", "to", ","}
_VERBS = {
    *("is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "only", "nothing"),
    *("remains", "remain", "cars", "buses", "vehicles", "trucks"),
}
# "the left farmland" may be the farmland that is left over.
_REMAINDERS = {
    *("farmland", "cropland", "grass", "grassland", "trees", "woods", "forest", "woodland"),
    *("land", "bareland", "vegetation", "space", "over", "houses", "buildings", "plants"),
}
# "the lower buildings" may be less high than others, "the top floor" is not in the picture plane.
_STOREYS = {
    *("level", "levels", "floor", "floors", "storey", "storeys", "layer", "layers", "water"),
    *("building", "buildings", "house", "houses", "vegetation", "density", "soil", "roof", "than"),
}
_FRAMES = {"scene", "picture", "screen", "image", "photo", "frame", "area"}
_HEIGHTS = {
    *("hill", "hills", "hillside", "mountain", "mountains", "slope", "slopes", "valley", "cliff"),
    *("roof", "roofs", "tower", "towers", "pit", "pits", "quarry", "dam", "stairs"),
}
_BRIDGES = {
    *("bridge", "bridges", "viaduct", "viaducts", "overpass", "overpasses", "flyover", "pillars"),
    *("piers", "elevated", "tunnel", "tunnels", "underground", "wire", "wires", "railway"),
}
_TEXT = {"letter", "letters", "word", "words", "text", "written", "writing", "logo", "inscription"}
_TURNING = {
    *("clockwise", "anticlockwise", "counterclockwise", "counter-clockwise", "anti-clockwise"),
    *("s-shaped", "z-shaped", "s", "z"),
}
_TURNS = {"turn", "turns", "turned", "turning", "veers", "bends"}
_LEFTOVERS = {"leftover", "leftovers"}
_UP_OR_AWAY = {
    *("underneath", "beneath", "highest", "lowest", "front", "behind", "fore", "forward"),
    *("forwards", "backward", "backwards", "ahead", "upward", "upwards", "downward", "downwards"),
    *("uphill", "downhill", "atop", "overhead"),
}
_PHRASAL_UP = {
    *("show", "shows", "showed", "showing", "how", "line", "lines", "lined", "dig", "dug", "dry"),
    *("dries", "dried", "grow", "grows", "grown", "put", "risen", "make", "makes", "made", "opens"),
    *("springs", "gone", "filled", "built"),
}
_PHRASAL_DOWN = {"cut", "knocked", "pulled", "torn", "taken", "broken", "burned"}
_HYPHENS = {"hand", "most", "side", "corner", "center", "centre", "middle"}


@dataclass(frozen=True)
class Flip:
    """A way to mirror a pair, and the captions that are true of the mirrored pictures.

    Args:
        horizontal: Left and right are exchanged.
        vertical: Top and bottom are exchanged.
        captions: Captions for the mirrored pictures, at least one.
    """

    horizontal: bool
    vertical: bool
    captions: tuple[Caption, ...]


def flip_caption(tokens: Sequence[str], *, horizontal: bool, vertical: bool) -> Caption | None:
    """Rewrite a caption so that it is true of the mirrored pictures.

    Args:
        tokens: Words of the caption, as :func:`whatchanged.data.tokens.tokenise` gives them.
        horizontal: Left and right are exchanged.
        vertical: Top and bottom are exchanged.

    Returns:
        The new words, or None where it is not sure what would be true. Flipping the result
        the same way gives the caption back.

    Exchanged are left and right, top and bottom, upper and lower, above and below, and the
    points of the compass, since pictures are read with north up; compounds such as
    "lower-left" too, which can give words ("upper-left") that no caption of a set contains.
    Given up are captions about writing and, wherever the flip concerns them: words of these
    lists that are not provably positions, "under", "behind" or "in front of", and directions of
    rotation (both flips together are a rotation by 180 degrees and keep those).
    """
    words = tuple(tokens)
    if not (horizontal or vertical):
        return words
    if _TEXT & set(words) or (horizontal != vertical and _is_handed(words)):
        return None
    if horizontal and _LEFTOVERS & set(words):
        return None
    if vertical and not _is_flat(words):
        return None
    result = []
    for index in range(len(words)):
        new = _mirrored(words, index, horizontal, vertical)
        if new is None or _breaks_article(words, index, new):
            return None
        result.append(new)
    return tuple(result)


def possible_flips(
    captions: Sequence[Caption], known: Collection[str] | None = None
) -> tuple[Flip, ...]:
    """List the ways to mirror a pair for which at least one caption stays true.

    Args:
        captions: Tokenised captions of one pair.
        known: Words of the vocabulary; a caption whose flip would bring in a word that is not
            there does not count. None to count all.

    Returns:
        The pair as it is, always first, and up to three mirrored versions.
    """
    flips = []
    for horizontal, vertical in ((False, False), (True, False), (False, True), (True, True)):
        survivors = []
        for caption in captions:
            new = flip_caption(caption, horizontal=horizontal, vertical=vertical)
            if new is not None and (known is None or _all_known(new, caption, known)):
                survivors.append(new)
        if survivors:
            flips.append(Flip(horizontal, vertical, tuple(survivors)))
    return tuple(flips)


def _all_known(new: Caption, old: Caption, known: Collection[str]) -> bool:
    return all(n == o or n in known for n, o in zip(new, old, strict=True))


def _mirrored(words: Caption, index: int, horizontal: bool, vertical: bool) -> str | None:
    """Return the word for the mirrored picture, None if that is not sure."""
    word = words[index]
    swaps = (_LEFT_RIGHT if horizontal else {}) | (_TOP_BOTTOM if vertical else {})
    if _COMPASS.fullmatch(word):
        points = (_EAST_WEST if horizontal else {}) | (_NORTH_SOUTH if vertical else {})
        return re.sub("north|south|east|west", lambda m: points.get(m[0], m[0]), word)
    if "-" in word:
        return _mirrored_compound(word, swaps)
    if word not in swaps:
        return word
    if word in ("above", "below"):
        return None if _next(words, index) in ("ground", "sea", "average") else swaps[word]
    if word in _SIDES:
        following = _next(words, index)
        if word in ("left", "right") and following in ("angle", "angles", "angled"):
            return word if word == "right" else None
        proof = _proof(word)
        return swaps[word] if proof(words, index) else None
    return swaps[word]


def _mirrored_compound(word: str, swaps: dict[str, str]) -> str | None:
    parts = word.split("-")
    if not any(part in swaps for part in parts) or word in ("right-angle", "right-angled"):
        return word
    if not all(part in swaps or part in _SIDES or part in _HYPHENS for part in parts):
        return None
    return "-".join(swaps.get(part, part) for part in parts)


def _proof(word: str) -> Callable[[Caption, int], bool]:
    return _is_left_or_right if word in ("left", "right") else _is_top_or_bottom


def _is_position(words: Caption, index: int) -> bool:
    """Whether the words around ``words[index]`` make it a place in the picture."""
    before, following = _previous(words, index), _next(words, index)
    if before in _VERBS:
        return False
    return (
        before in _LEADS
        or following in _PLACES
        or following == "of"
        or (before in _LINKS and _previous(words, index - 1) in _SIDES)
        or (before == "from" and following == "to")
    )


def _is_left_or_right(words: Caption, index: int) -> bool:
    remainder = _previous(words, index) == "the" and _next(words, index) in _REMAINDERS
    return _is_position(words, index) and not remainder


def _is_top_or_bottom(words: Caption, index: int) -> bool:
    following = words[index + 1 : index + 5]
    if following[:1] == ("of",):
        on_it = _previous(words, index) == "on" and not _FRAMES & set(following)
        if on_it or _HEIGHTS & set(following):
            return False
    return _is_position(words, index) and not _STOREYS & set(following[:1])


def _is_handed(words: Caption) -> bool:
    """Whether one reflection makes the caption false whatever its axis."""
    return any(
        word in _TURNING or (word in ("left", "right") and _previous(words, index) in _TURNS)
        for index, word in enumerate(words)
    )


def _is_flat(words: Caption) -> bool:
    """Whether up and down in the caption mean the picture plane and nothing else."""
    every = set(words)
    if _UP_OR_AWAY & every or ({"above", "below"} & every and (_HEIGHTS | _BRIDGES) & every):
        return False
    for index, word in enumerate(words):
        before, following = _previous(words, index), _next(words, index)
        unsure = (
            (word == "up" and before not in _PHRASAL_UP)
            or (word == "down" and before not in _PHRASAL_DOWN)
            or (word == "under" and following != "construction")
            or (word == "higher" and following not in ("building", "buildings", "houses"))
        )
        if unsure:
            return False
    return True


def _breaks_article(words: Caption, index: int, new: str) -> bool:
    """Whether the new word turns "a" into "an" or back."""
    before = _previous(words, index)
    return before in ("a", "an") and (new[0] in "aeiou") != (words[index][0] in "aeiou")


def _previous(words: Caption, index: int) -> str:
    return words[index - 1] if index > 0 else ""


def _next(words: Caption, index: int) -> str:
    return words[index + 1] if index + 1 < len(words) else ""
