"""What answers to wishes say, and back: the one grammar of data, model and command.

An answer states the wish as it was understood, so that it can be checked: classes, direction
and, for replacements, what stood there before (ReasonCD, III-C; design, 4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

from whatchanged.errors import UsageError

TARGET = "<CHG>"
"""The target token: stands in an answer where a mask belongs (Table I)."""

EXPLAIN = "Please explain."
"""Follows a wish whose answer shall give its reason first (ReasonCD, III-C)."""

Direction = Literal["appeared", "disappeared", "either"]

CLASS_WORDS: dict[str, str] = {
    "any": "anything",
    "building": "buildings",
    "road": "roads",
    "bare ground": "bare ground",
    "water": "water",
    "low vegetation": "low vegetation",
    "tree": "trees",
    "playground": "playgrounds",
}
"""Classes a wish can mean, and how answers name them."""

_UNCOUNTED = ("bare ground", "water", "low vegetation")

_VERBS: dict[Direction, str] = {
    "appeared": "appeared",
    "disappeared": "disappeared",
    "either": "changed",
}
_CLASS_OF = {word: name for name, word in CLASS_WORDS.items()}
_DIRECTION_OF: dict[str, Direction] = {verb: name for name, verb in _VERBS.items()}
_ANY_CLASS = "|".join(map(re.escape, [*_CLASS_OF, "nothing"]))
_LIST = rf"(?:{_ANY_CLASS})(?:(?:, | and )(?:{_ANY_CLASS}))*"
_STATEMENT = re.compile(
    rf"\b(?:it's|there (?:is|are)(?: no)?)\s+(?P<what>{_LIST})"
    rf"(?: that (?P<verb>{'|'.join(_DIRECTION_OF)})| made from (?P<former>{_LIST}))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Understood:
    """A wish in fields, as an answer states it.

    Attributes:
        classes: Names of `CLASS_WORDS`; `("any",)` for every change.
        direction: Whether they appeared, disappeared, or either.
        former: What stood there before, for a wish such as "farmland turned into buildings";
            empty if the wish does not say. The direction is then `appeared`.
    """

    classes: tuple[str, ...]
    direction: Direction
    former: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no answer could state."""
        unknown = [n for n in (*self.classes, *self.former) if n not in CLASS_WORDS]
        if unknown or not self.classes:
            raise UsageError(f"classes {unknown} are not known", hint=", ".join(CLASS_WORDS))
        if "any" in self.former or ("any" in self.classes and len(self.classes) > 1):
            raise UsageError("'any' stands alone and is no former class")
        if self.former and (self.direction != "appeared" or "any" in self.classes):
            raise UsageError("a former class needs a class that appeared in its place")


def format_answer(understood: Understood | None = None, explanation: str = "") -> str:
    """Return the answer to a wish that is met in the pair (design, 4).

    Args:
        understood: What the wish means; None gives the paper's plain "It's <CHG>.".
        explanation: Reasoning in sentences, put first.
    """
    stated = f"It's {state_wish(understood)}: {TARGET}." if understood else f"It's {TARGET}."
    return f"{explanation.strip()} {stated}".strip()


def format_absent(understood: Understood | None = None) -> str:
    """Return the answer to a wish that nothing in the pair meets: no target token (design, 4)."""
    if understood is None:
        return "This is not a change that can be seen from above."
    if understood.classes == ("any",):
        return f"There is nothing that {_VERBS[understood.direction]} between these images."
    single = len(understood.classes) == 1 and understood.classes[0] in _UNCOUNTED
    return f"There {'is' if single else 'are'} no {state_wish(understood)} between these images."


def usual_answers() -> tuple[str, ...]:
    """Return the answers about one class, two, or one in the place of another; met or not."""
    names = [name for name in CLASS_WORDS if name != "any"]
    directions: tuple[Direction, ...] = ("appeared", "disappeared", "either")
    several = [("any",), *((name,) for name in names), *combinations(names, 2)]
    meant = [Understood(classes, direction) for classes in several for direction in directions]
    meant += [Understood((new,), "appeared", (old,)) for new, old in permutations(names, 2)]
    return (*map(format_answer, meant), *map(format_absent, meant), format_absent())


def ask_to_explain(wish: str) -> str:
    """Return a wish that asks for the reason too, as training words it."""
    return f"{wish} {EXPLAIN}"


def parse_answer(text: str) -> Understood | None:
    """Return what an answer says it looked for; None if it states nothing.

    The inverse of `format_answer` and `format_absent`. Several statements are joined: their
    classes in order, their direction if they agree and else `either`.
    """
    found = [_understood(match) for match in _STATEMENT.finditer(text)]
    if len(found) < 2:
        return found[0] if found else None
    classes = tuple(dict.fromkeys(name for item in found for name in item.classes))
    former = tuple(dict.fromkeys(name for item in found for name in item.former))
    directions = {item.direction for item in found}
    direction = directions.pop() if len(directions) == 1 else "either"
    if "any" in classes:
        return Understood(("any",), direction)
    return Understood(classes, direction, former if direction == "appeared" else ())


def state_wish(understood: Understood) -> str:
    """Return what answers say of a wish, such as "buildings made from low vegetation"."""
    what = join_classes(understood.classes)
    if understood.former:
        return f"{what} made from {join_classes(understood.former)}"
    return f"{what} that {_VERBS[understood.direction]}"


def join_classes(names: Sequence[str]) -> str:
    """Return classes as answers name them: "roads, water and trees"."""
    words = [CLASS_WORDS[name] for name in names]
    return " and ".join([*([", ".join(words[:-1])] if words[:-1] else []), words[-1]])


def _names(words: str) -> tuple[str, ...]:
    parts = re.split(r", | and ", words.lower())
    names = tuple(dict.fromkeys(_CLASS_OF.get(part, "any") for part in parts))
    return ("any",) if "any" in names else names


def _understood(match: re.Match[str]) -> Understood:
    classes, former = _names(match["what"]), match["former"]
    if former is None:
        return Understood(classes, _DIRECTION_OF[match["verb"].lower()])
    made_from = _names(former)
    if "any" in (*classes, *made_from):
        return Understood(classes, "appeared")
    return Understood(classes, "appeared", made_from)
