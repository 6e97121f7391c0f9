"""What a person sees in the terminal: notes, progress, errors and the exit code.

Everything here goes to stderr; stdout belongs to results. The level of the
``whatchanged`` logger is the only state: INFO shows notes and progress, WARNING
(``--quiet``, and the library used from Python) neither, DEBUG adds tracebacks.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from whatchanged.errors import WhatchangedError, exit_code

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
Advance = Callable[[float], None]

EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a defect of this program
EXIT_INTERRUPTED = 130  # what shells report for SIGINT
BAR_DELAY = 2.0  # seconds before work counts as long

_logger = logging.getLogger("whatchanged")
# They reorder the text around them, so that a file name can look like another one.
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def configure(*, quiet: bool = False, debug: bool = False) -> None:
    """Send log lines of this package to stderr; ``debug`` wins over ``quiet``."""
    _logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in _logger.handlers):
        _logger.addHandler(_StderrHandler())
    logging.captureWarnings(not debug)  # developers' warnings of libraries help nobody here


def printable(text: str) -> str:
    r"""Return ``text`` with control and direction characters as ``\x1b``-like escapes.

    File names and captions of foreign vocabularies are data: they must not move the
    cursor, clear the screen or reorder the line. Newlines and tabs stay.
    """
    return "".join(_escape(c) for c in text)


def _escape(character: str) -> str:
    if character in "\n\t":
        return character
    if character in _BIDIRECTIONAL or unicodedata.category(character) in {"Cc", "Cs"}:
        return ascii(character)[1:-1]
    return character


def run(command: Callable[[], object]) -> int:
    """Run ``command`` and return the exit code; failures are told on stderr.

    A :class:`WhatchangedError` is printed with its hint and without traceback, a refusal
    of the operating system likewise; anything else is a defect of this program. With
    ``configure(debug=True)`` the traceback comes first.
    """
    try:
        command()
    except WhatchangedError as error:
        return _fail(str(error), exit_code(error))
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        return _fail(str(error), exit_code(WhatchangedError("")))
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        advice = "this is a defect; run again with --debug and report what it prints"
        return _fail(f"{what}\n  hint: {advice}", EXIT_INTERNAL)
    return 0


def _fail(message: str, code: int) -> int:
    if _logger.isEnabledFor(logging.DEBUG):
        traceback.print_exc(file=sys.stderr)
    print(f"error: {printable(message)}", file=sys.stderr)
    return code


@contextmanager
def progress(label: str, total: float | None = None) -> Iterator[Advance]:
    """Show a bar once the work inside has taken two seconds.

    Nothing is shown when stderr is not a terminal or the log level is above INFO.

    Args:
        label: What is being done, two or three words.
        total: Amount of work in any unit; None when unknown.

    Yields:
        A function that takes the amount of work just done.
    """
    if not (sys.stderr.isatty() and _logger.isEnabledFor(logging.INFO)):
        yield lambda amount: None
        return
    bar = _LateBar(label, total)
    try:
        yield bar.advance
    finally:
        bar.close()


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` under a progress bar, see :func:`progress`."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(label, total) as advance:
        for item in items:
            yield item
            advance(1)


def as_share(advance: Advance) -> Callable[[int, int], None]:
    """Turn ``advance`` of a bar with total 1.0 into a callback of bytes done and bytes in all."""
    shown = 0.0

    def report(done: int, total: int) -> None:
        nonlocal shown
        share = done / total if total else 0.0
        advance(share - shown)
        shown = share

    return report


class _LateBar:
    """A bar that a timer starts, so that one slow first step does not hide it."""

    def __init__(self, label: str, total: float | None) -> None:
        self._label, self._total, self._done = label, total, 0.0
        self._bar: Progress | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(BAR_DELAY, self._start)
        self._timer.daemon = True
        self._timer.start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        with self._lock:
            if self._closed:
                return
            counted = isinstance(self._total, int)
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn() if counted else TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            task = self._bar.add_task(self._label, total=self._total)
            self._bar.advance(task, self._done)
            self._bar.start()

    def advance(self, amount: float) -> None:
        with self._lock:
            self._done += amount
            if self._bar is not None:
                self._bar.advance(self._bar.task_ids[0], amount)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.stop()


class _StderrHandler(logging.Handler):
    """Lines to whatever stderr is now, above a running bar; warnings say that they are."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = f"{record.levelname.lower()}: " if record.levelno != logging.INFO else ""
            print(level + printable(self.format(record)), file=sys.stderr)
        except Exception:
            self.handleError(record)
