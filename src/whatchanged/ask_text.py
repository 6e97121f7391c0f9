"""What a model answered, as people read it: without tokens, long or short."""

from __future__ import annotations

import re

from whatchanged.answers import TARGET, Understood, parse_answer, state_wish

_BARE = re.compile(rf"\bit(?:'s| is):?\s*{re.escape(TARGET)}", re.IGNORECASE)
_TOKEN = re.compile(rf"\s*:?\s*{re.escape(TARGET)}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_MARKED = "It's marked in the mask"
_UNMARKED = "It's not marked: no mask was drawn"
_SILENT = "The model gave no answer."


def answer_text(answer: str, *, explain: bool, marked: bool = True) -> str:
    """Return an answer without the target token, in the model's own words.

    "New roofs stand on former fields. It's buildings that appeared: <CHG>." becomes "New roofs
    stand on former fields. It's buildings that appeared." with `explain`, and else the statement
    alone. The paper's bare "It's <CHG>." becomes "It's marked in the mask.", if it is `marked`.
    """
    bare = _MARKED if marked else _UNMARKED
    sentences = _SENTENCE.split(" ".join(answer.split()))
    if not explain:
        stated = [s for s in sentences if TARGET in s or parse_answer(s) is not None]
        sentences = stated or sentences
    text = " ".join(_TOKEN.sub("", _BARE.sub(bare, sentence)) for sentence in sentences)
    text = text.strip()
    if any(c.isalnum() for c in text):
        return text
    return f"{bare}." if TARGET in answer else _SILENT


def understood_text(understood: Understood | None) -> str:
    """Return what a wish was understood as, such as "buildings that appeared"."""
    if understood is None:
        return "something that is not stated"
    return state_wish(understood)
