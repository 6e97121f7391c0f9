from __future__ import annotations

import inspect

import pytest

from whatchanged import errors
from whatchanged.errors import EXIT_CODES, UsageError, WhatchangedError, exit_code

FAMILY = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if cls.__module__ == errors.__name__
]


@pytest.mark.parametrize("cls", FAMILY)
def test_every_error_is_of_the_family_and_has_a_code(cls: type[WhatchangedError]) -> None:
    assert issubclass(cls, WhatchangedError)
    assert cls in EXIT_CODES
    assert exit_code(cls("wrong")) == EXIT_CODES[cls]


def test_codes_are_distinct_and_none_means_success() -> None:
    codes = list(EXIT_CODES.values())
    assert len(set(codes)) == len(codes)
    assert 0 not in codes and max(codes) < 64  # below sysexits.h, far below signals


def test_a_subclass_has_the_code_of_its_nearest_base() -> None:
    class OddValue(UsageError):
        pass

    class Odder(OddValue):
        pass

    class Plain(WhatchangedError):
        pass

    assert exit_code(Odder("x")) == EXIT_CODES[UsageError] == 2
    assert exit_code(Plain("x")) == EXIT_CODES[WhatchangedError] == 1


def test_text_is_message_and_hint() -> None:
    error = UsageError("band 9 does not exist", hint="use 1 to 4")
    assert (error.message, error.hint) == ("band 9 does not exist", "use 1 to 4")
    assert str(error) == "band 9 does not exist\n  hint: use 1 to 4"
    assert str(UsageError("no advice")) == "no advice"


def test_the_hint_is_named_when_it_is_given() -> None:
    with pytest.raises(TypeError):
        UsageError("message", "hint")  # type: ignore[misc]
