"""The bank of wishes: wordings and their meaning, in families that lie whole in one split.

A family is one idea, or one synonym, in many wordings. No idea of the validation or test split
is trained on, so that they measure understanding and not memory. The bank is the YAML files in
``wish_bank``; each is a list of families with the keys of `WishFamily`, the meaning spelled out
as ``classes``, ``direction`` and ``former``.
"""

from __future__ import annotations

import importlib.resources
import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable
from typing import Any, Literal, cast, get_args

import yaml

from whatchanged.answers import CLASS_WORDS, TARGET, Understood, format_answer, parse_answer
from whatchanged.errors import DatasetError, UsageError

Kind = Literal["explicit", "implicit"]
Split = Literal["train", "validation", "test"]

MAX_CHARACTERS = 200
"""Longest wording of the bank."""

MAX_WHY_WORDS = 25
"""Longest explanation: the answer must stay cheap to learn and to say."""

_NEEDED = {"family", "classes", "kind", "split", "why", "wishes"}
_KEYS = _NEEDED | {"direction", "former"}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class WishFamily:
    """Wordings of one idea.

    Attributes:
        name: Unique in the bank, kebab case.
        understood: What every wording means; None if nothing seen from above is meant.
        kind: `explicit` if the thing or a synonym is named; `implicit` if a purpose, a cause
            or an actor stands for it.
        split: Where all wordings of the family belong.
        why: Explanation that holds in general, one or two sentences.
        wishes: The wordings.
    """

    name: str
    understood: Understood | None
    kind: Kind
    split: Split
    why: str
    wishes: tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """One wording with its meaning; the other fields are those of its family."""

    text: str
    understood: Understood | None
    kind: Kind
    family: str
    why: str


@cache
def load_families() -> tuple[WishFamily, ...]:
    """Return every family of the bank in the package.

    Raises:
        DatasetError: An entry is malformed; the message names its file and family.
    """
    return read_bank(importlib.resources.files("whatchanged.data").joinpath("wish_bank"))


@cache
def load_wishes(split: str | None = None) -> tuple[Wish, ...]:
    """Return the wordings of one split, or of all, in the order of the bank.

    Raises:
        UsageError: There is no such split.
        DatasetError: An entry of the bank is malformed.
    """
    if split is not None and split not in get_args(Split):
        raise UsageError(f"there is no split '{split}'", hint=", ".join(get_args(Split)))
    return tuple(
        Wish(text, family.understood, family.kind, family.name, family.why)
        for family in load_families()
        if split in (None, family.split)
        for text in family.wishes
    )


def read_bank(folder: Traversable) -> tuple[WishFamily, ...]:
    """Read and check every ``*.yaml`` of a folder, in the order of their names.

    Raises:
        DatasetError: A file that is no list of families, a malformed entry, a family name or a
            wording that occurs twice, or a folder without files.
    """
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    if not files:
        raise DatasetError(f"{folder} holds no wishes", hint="reinstall whatchanged")
    names: dict[str, str] = {}
    texts: dict[str, str] = {}
    families = []
    for file in files:
        for entry in _entries(file):
            family = _family(entry, file.name)
            place = f"{file.name}: {family.name}"
            _once(names, [family.name], place, "the family")
            _once(texts, family.wishes, place, "the wish")
            families.append(family)
    return tuple(families)


def _once(seen: dict[str, str], texts: Iterable[str], place: str, what: str) -> None:
    """Enter texts with their place; a text seen before is an error that names both places."""
    for text in texts:
        first = seen.setdefault(text.lower(), place)
        if first is not place:
            raise DatasetError(f"{place}: {what} '{text}' stands also in {first}")


# --- one file -------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: two families run together by a missing dash."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _entries(file: Traversable) -> list[object]:
    try:
        entries = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file.name}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise DatasetError(f"{file.name}: is no list of families")
    return entries


# --- one family -----------------------------------------------------------------------------


def _family(entry: object, file: str) -> WishFamily:
    if not isinstance(entry, dict):
        raise DatasetError(f"{file}: '{entry}' is no family")
    name = entry.get("family")
    place = f"{file}: {name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DatasetError(f"{place}: the family's name is not kebab case")
    odd = sorted(map(str, (entry.keys() - _KEYS) | (_NEEDED - entry.keys())))
    if odd:
        raise DatasetError(f"{place}: missing or unknown: {', '.join(odd)}")
    understood = _meaning(entry, place)
    return WishFamily(
        name=name,
        understood=understood,
        kind=cast(Kind, _one_of(entry, "kind", get_args(Kind), place)),
        split=cast(Split, _one_of(entry, "split", get_args(Split), place)),
        why=_why(entry["why"], understood, place),
        wishes=_wishes(entry["wishes"], place),
    )


def _one_of(entry: Mapping[str, object], key: str, known: tuple[str, ...], place: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or value not in known:
        raise DatasetError(f"{place}: {key} is '{value}'", hint=", ".join(known))
    return value


def _meaning(entry: Mapping[str, object], place: str) -> Understood | None:
    classes = in_order(_texts(entry["classes"], place, "classes"))
    former = in_order(_texts(entry.get("former", []), place, "former"))
    if not classes:
        if "direction" in entry or former:
            raise DatasetError(f"{place}: a wish off the subject has no direction and no former")
        return None
    direction = _one_of(entry, "direction", ("appeared", "disappeared", "either"), place)
    try:
        return Understood(classes, cast(Any, direction), former)
    except UsageError as error:
        raise DatasetError(f"{place}: {error.message}", hint=error.hint) from error


def plain_wording(text: str) -> str:
    """Return a text without what a hasty writer changes: capitals and the last stop."""
    return text.casefold().rstrip("?.!")


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Sort names as `CLASS_WORDS` has them: one meaning is stated in one way."""
    order = list(CLASS_WORDS)
    return tuple(sorted(names, key=lambda n: order.index(n) if n in order else len(order)))


def _why(why: object, understood: Understood | None, place: str) -> str:
    """Check that the explanation is short and does not itself read as a statement."""
    if not isinstance(why, str) or not why.strip():
        raise DatasetError(f"{place}: why is no text")
    if TARGET in why or len(why.split()) > MAX_WHY_WORDS:
        raise DatasetError(f"{place}: why has the target token or above {MAX_WHY_WORDS} words")
    stated = parse_answer(format_answer(understood, why) if understood else why)
    if stated != understood:
        raise DatasetError(f"{place}: why makes the answer read as {stated}")
    return why.strip()


def _wishes(value: object, place: str) -> tuple[str, ...]:
    wishes = _texts(value, place, "wishes")
    if not wishes:
        raise DatasetError(f"{place}: no wishes")
    lower = [text.lower() for text in wishes]
    for text in wishes:
        if len(text) > MAX_CHARACTERS or text != text.strip() or not _is_plain(text):
            raise DatasetError(
                f"{place}: '{text[:80]}' is no plain line of 1-{MAX_CHARACTERS} characters"
            )
        if lower.count(text.lower()) > 1:
            raise DatasetError(f"{place}: the wish '{text}' stands twice")
    return wishes


def _is_plain(text: str) -> bool:
    """Whether a wish says something and has no control characters; nobody may ask otherwise."""
    return any(c.isalnum() for c in text) and not any(unicodedata.category(c) == "Cc" for c in text)


def _texts(value: object, place: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DatasetError(
            f"{place}: {key} is no list of texts", hint="quote wishes with a colon, yes or no"
        )
    return tuple(value)
