from __future__ import annotations

import errno
import io
import logging
import time
import unicodedata
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged import console
from whatchanged.errors import EXIT_CODES, InputError, WhatchangedError


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def raising(error: BaseException) -> object:
    def command() -> None:
        raise error

    return command


# --- errors and exit codes -------------------------------------------------------------------


@pytest.mark.parametrize("cls", EXIT_CODES, ids=lambda c: c.__name__)
def test_each_error_has_its_exit_code(
    cls: type[WhatchangedError], capsys: pytest.CaptureFixture[str]
) -> None:
    code = console.run(raising(cls("before.tif is broken", hint="download it again")))
    assert code == EXIT_CODES[cls]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: before.tif is broken\n  hint: download it again\n"


def test_success_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_exit_codes_are_distinct_and_leave_room() -> None:
    codes = list(EXIT_CODES.values())
    assert len(set(codes)) == len(codes)
    assert 0 not in codes
    assert console.EXIT_INTERNAL not in codes
    assert console.EXIT_INTERRUPTED not in codes


def test_a_subclass_takes_the_code_of_its_parent() -> None:
    class Truncated(InputError):
        pass

    assert console.run(raising(Truncated("short"))) == EXIT_CODES[InputError]


def test_debug_shows_the_traceback_before_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(debug=True)
    console.run(raising(InputError("broken")))
    err = capsys.readouterr().err
    assert err.index("Traceback") < err.rindex("error: broken")
    assert "in command" in err


def test_a_defect_says_so_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(raising(KeyError("x"))) == console.EXIT_INTERNAL
    err = capsys.readouterr().err
    assert err.startswith("error: KeyError: 'x'")
    assert "--debug" in err
    assert "Traceback" not in err


def test_the_operating_system_refusing_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    code = console.run(raising(OSError(errno.ENOSPC, "No space left on device", "out/x.png")))
    assert code == 1
    err = capsys.readouterr().err
    assert "No space left" in err
    assert "out/x.png" in err
    assert "defect" not in err


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_exits_pass_through() -> None:
    with pytest.raises(SystemExit) as caught:
        console.run(raising(SystemExit(2)))
    assert caught.value.code == 2


def test_a_file_name_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.run(raising(InputError("\x1b[2J\x1b]0;pwned\x07.tif is no picture")))
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\x07" not in err
    assert "\\x1b[2J" in err


# --- text ------------------------------------------------------------------------------------


@given(st.text())
def test_printable_leaves_nothing_that_moves_the_cursor(text: str) -> None:
    result = console.printable(text)
    assert all(unicodedata.category(c) not in {"Cc", "Cs"} or c in "\n\t" for c in result)
    assert not set(result) & set("\u061c\u200e\u200f\u202a\u202e\u2066\u2069")
    assert console.printable(result) == result
    result.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_printable_keeps_ordinary_text(text: str) -> None:
    assert console.printable(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31m", "\\x1b[31m"),
        ("gpj\u202efit.exe", "gpj\\u202efit.exe"),
        ("\udcff.tif", "\\udcff.tif"),
        ("münchen 北京", "münchen 北京"),
    ],
)
def test_printable_examples(text: str, expected: str) -> None:
    assert console.printable(text) == expected


# --- log lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, ["note", "warning: care", "error: bad"]),
        ({"quiet": True}, ["warning: care", "error: bad"]),
        ({"debug": True}, ["debug: detail", "note", "warning: care", "error: bad"]),
        ({"debug": True, "quiet": True}, ["debug: detail", "note", "warning: care", "error: bad"]),
    ],
)
def test_levels(
    options: dict[str, bool], seen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure(**options)
    log = logging.getLogger("whatchanged.somewhere")
    log.debug("detail")
    log.info("note")
    log.warning("care")
    log.error("bad")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == seen


def test_configure_twice_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    console.configure()
    logging.getLogger("whatchanged").warning("care")
    assert capsys.readouterr().err == "warning: care\n"


def test_log_lines_are_made_printable(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    logging.getLogger("whatchanged").info("reading \x1b[2J.tif")
    assert capsys.readouterr().err == "reading \\x1b[2J.tif\n"


def test_warnings_of_libraries_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    warnings.warn("Dataset has no geotransform", stacklevel=1)
    assert capsys.readouterr().err == ""


# --- progress --------------------------------------------------------------------------------


def terminal(monkeypatch: pytest.MonkeyPatch, delay: float = 0.01) -> Terminal:
    """Put a terminal in the place of stderr; not a fixture, since pytest resets stderr later."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "BAR_DELAY", delay)
    console.configure()
    return stream


def until(stream: io.StringIO, text: str, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    assert text in stream.getvalue()


def test_a_bar_shows_once_work_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with console.progress("describing [b]", total=4) as advance:
        advance(1)
        until(stream, "1/4")
        advance(2)
        until(stream, "3/4")
    assert "describing [b]" in stream.getvalue()  # names are not markup


def test_a_bar_shows_before_the_first_step_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with console.progress("loading"):
        until(stream, "loading")


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch, delay=60.0)
    assert list(console.track([1, 2, 3], "describing")) == [1, 2, 3]
    assert stream.getvalue() == ""


def test_a_bar_is_taken_away_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with pytest.raises(InputError), console.progress("describing", total=2):
        until(stream, "describing")
        raise InputError("broken")
    length = len(stream.getvalue())
    time.sleep(0.2)  # a bar refreshes ten times a second
    assert len(stream.getvalue()) == length


@pytest.mark.parametrize("how", ["pipe", "quiet", "library"])
def test_no_bar_without_a_reader(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO() if how == "pipe" else Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(console, "BAR_DELAY", 0.0)
    if how != "library":  # from Python nobody has asked for notes
        console.configure(quiet=how == "quiet")
    with console.progress("describing", total=2) as advance:
        advance(1)
        time.sleep(0.1)
    assert stream.getvalue() == ""


def test_track_takes_the_length_of_a_list_and_is_lazy() -> None:
    seen: list[int] = []
    tracked = console.track((seen.append(i) or i for i in range(3)), "x", total=3)
    assert seen == []
    assert next(tracked) == 0
    assert seen == [0]


@given(st.lists(st.integers(0, 1000), min_size=1).map(sorted))
def test_shares_add_up(done: list[int]) -> None:
    amounts: list[float] = []
    report = console.as_share(amounts.append)
    for n_bytes in [*done, 1000]:
        report(n_bytes, 1000)
    assert sum(amounts) == pytest.approx(1.0)
    assert all(amount >= 0 for amount in amounts)


def test_share_of_nothing_is_no_division() -> None:
    amounts: list[float] = []
    console.as_share(amounts.append)(0, 0)
    assert amounts == [0.0]
