"""One exception family: what is wrong, where, and what to do about it.

Every error a user can cause derives from :class:`WhatchangedError` and carries a
``hint`` that says what to do next. ``EXIT_CODES`` is the one table from error to
process exit code; subclasses inherit their parent's code.
"""

from __future__ import annotations


class WhatchangedError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: What is wrong and where, one sentence, no trailing advice.
        hint: What the user can do about it; empty when nothing can be done.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(WhatchangedError):
    """An argument, option or configuration value that cannot be used."""


class InputError(WhatchangedError):
    """A photograph that cannot be opened, is refused, or ends too early."""


class PairMismatchError(WhatchangedError):
    """Two photographs that do not lie on one grid."""


class DatasetError(WhatchangedError):
    """A data set, annotation file or prediction file that is broken or missing."""


class CheckpointError(WhatchangedError):
    """A model folder or file that is damaged, foreign or of another version."""


class WeightsUnavailableError(WhatchangedError):
    """Named weights that no reachable source has."""


class MissingExtraError(WhatchangedError):
    """A feature whose optional packages or programs are not installed."""


class TrainingError(WhatchangedError):
    """Training that must not go on, such as a loss that is not a number."""


EXIT_CODES: dict[type[WhatchangedError], int] = {
    WhatchangedError: 1,
    UsageError: 2,
    InputError: 3,
    PairMismatchError: 4,
    DatasetError: 5,
    CheckpointError: 6,
    WeightsUnavailableError: 7,
    MissingExtraError: 8,
    TrainingError: 9,
}


def exit_code(error: WhatchangedError) -> int:
    """Return the process exit code of ``error``, looking up its class and then its bases."""
    for cls in type(error).__mro__:
        if cls in EXIT_CODES:
            return EXIT_CODES[cls]
    return EXIT_CODES[WhatchangedError]
