"""Training wishes composed of a name and a phrase: "new" + "sheds", "{old} turned into {new}".

The bank words ideas; this names things. A few hundred names and phrases give some hundred
thousand explicit wishes, so that a model learns what names and phrases mean and not which
wordings there are. The words are in ``wish_phrases.yaml``; those that the bank keeps for
validation and test are not among them.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import yaml

from whatchanged.answers import Understood, join_classes
from whatchanged.data.wishes import Wish, load_wishes, plain_wording

_SENTENCE = 0.2  # share of wishes that are whole sentences
_REQUEST = 0.4  # share of phrases that stand inside a request
_JOINED = 0.4  # share of several classes that are named one by one

Rng = np.random.Generator


@cache
def load_phrases() -> Mapping[str, Any]:
    """Return names and phrases as the file in the package has them."""
    file = importlib.resources.files("whatchanged.data").joinpath("wish_phrases.yaml")
    return cast(Mapping[str, Any], yaml.safe_load(file.read_text(encoding="utf-8")))


def can_compose(understood: Understood | None) -> bool:
    """Whether there are names for what a wish means: for all but "any" and off the subject."""
    return understood is not None and understood.classes != ("any",)


def compose_wish(understood: Understood, rng: Rng) -> Wish:
    """Draw an explicit wish that means `understood`; see `can_compose`.

    What is by chance a wording of the bank's validation or test split is drawn again: nothing
    that a model is measured with is trained on.
    """
    wish = _draw_wish(understood, rng)
    while plain_wording(wish.text) in _held_out():
        wish = _draw_wish(understood, rng)
    return wish


@cache
def _held_out() -> frozenset[str]:
    splits = ("validation", "test")
    return frozenset(plain_wording(wish.text) for split in splits for wish in load_wishes(split))


def _draw_wish(understood: Understood, rng: Rng) -> Wish:
    words = load_phrases()
    new = _name(understood.classes, rng)
    if understood.former:
        old = _name(understood.former, rng)
        return Wish(
            _say(words["replaced"], (), rng, old=old, new=new),
            understood,
            "explicit",
            "composed",
            f"{_means(old, understood.former)}, {_means(new, understood.classes)}.",
        )
    verbs = words[understood.direction]
    own = verbs.get("+".join(understood.classes), ())
    why = f"{_means(new, understood.classes)}."
    return Wish(_say(verbs, own, rng, x=new), understood, "explicit", "composed", why)


def _say(verbs: Mapping[str, Sequence[str]], own: Sequence[str], rng: Rng, **names: str) -> str:
    """Fill a sentence, or a phrase that may stand inside a request."""
    if rng.random() < _SENTENCE:
        return _pick(verbs["sentences"], rng).format(**names)
    # What a class alone can undergo is said as often as what all can.
    phrases = own if own and rng.random() < 0.5 else verbs["phrases"]
    phrase = _pick(phrases, rng).format(**names)
    if rng.random() < _REQUEST:
        return _pick(load_phrases()["requests"], rng).format(w=phrase)
    return phrase


def _name(classes: Sequence[str], rng: Rng) -> str:
    names = load_phrases()["names"]
    together = names.get("+".join(classes))
    if together and (len(classes) == 1 or rng.random() >= _JOINED):
        return _pick(together, rng)
    order = [classes[i] for i in rng.permutation(len(classes))]
    return _pick((" and ", " or "), rng).join(_pick(names[name], rng) for name in order)


def _means(name: str, classes: Sequence[str]) -> str:
    return f'"{name}" means {join_classes(classes)}'


def _pick(items: Sequence[str], rng: Rng) -> str:
    return items[int(rng.integers(len(items)))]
