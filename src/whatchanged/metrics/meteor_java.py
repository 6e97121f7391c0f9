"""METEOR 1.5 by its own Java program, as pycocoevalcap ships it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from whatchanged.errors import MissingExtraError, WhatchangedError
from whatchanged.metrics.meteor import DELTA, MeteorCounts
from whatchanged.metrics.ngrams import Caption

# Exact, stem, synonym, paraphrase: the English weights of Denkowski and Lavie, 2014, Table 3.
_MATCHER_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
_N_STATISTICS = 23
_HARMLESS = ("Picked up ", "WARNING:")  # what Java notes of its own options and methods
_START_SECONDS = 300.0
_SECONDS_PER_REFERENCE = 0.02


def java_meteor_counts(
    predictions: Sequence[Caption],
    references: Sequence[Sequence[Caption]],
    *,
    time_limit: float | None = None,
) -> list[MeteorCounts]:
    """Let the METEOR program match each pair with stems, synonyms and paraphrases.

    Args:
        predictions: Tokens of one caption per pair.
        references: For each pair its reference captions.
        time_limit: Seconds after which the program is ended; None for a limit that grows with
            the number of references.

    Raises:
        MissingExtraError: pycocoevalcap or a Java runtime is not installed.
        WhatchangedError: The program failed, took too long or answered something else.
    """
    jar = meteor_jar()
    java = shutil.which("java")
    if java is None:
        raise MissingExtraError(
            "METEOR's own program needs Java 11 or newer, and no java command is on the PATH",
            hint="install a Java runtime, or use the METEOR back-end exact",
        )
    if time_limit is None:
        n_references = sum(len(alternatives) for alternatives in references)
        time_limit = _START_SECONDS + _SECONDS_PER_REFERENCE * n_references
    questions = [_question(p, r) for p, r in zip(predictions, references, strict=True)]
    answers = _run(java, jar, questions, time_limit)
    return [_parse(line) for line in answers]


def meteor_jar() -> Path:
    """Return the METEOR 1.5 jar of pycocoevalcap.

    Raises:
        MissingExtraError: pycocoevalcap is not installed or has no jar.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MissingExtraError(
        "METEOR's own program comes with pycocoevalcap, which is not installed",
        hint='pip install "whatchanged[metrics-java]", or use the METEOR back-end exact',
    )


def _question(prediction: Caption, references: Sequence[Caption]) -> str:
    """One line of the program's protocol; an empty caption keeps its blank."""
    captions = [*references, prediction]
    # The separator inside a token would shift the fields.
    return " ||| ".join(["SCORE", *(" ".join(c).replace("|||", "") for c in captions)])


def _run(java: str, jar: Path, questions: Sequence[str], time_limit: float) -> list[str]:
    command = [java, "-Xmx2G"]
    # The program prints numbers in the user's locale: a decimal comma breaks its own input.
    command += ["-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8"]
    command += ["-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    text = "".join(f"{question}\n" for question in questions)
    try:
        done = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WhatchangedError(
            f"METEOR's own program did not finish within {time_limit:.0f} s",
            hint="use the METEOR back-end exact, or score fewer captions at a time",
        ) from error
    said = done.stderr.decode(errors="replace").strip()
    complaints = [s for s in said.splitlines() if s.strip() and not s.startswith(_HARMLESS)]
    answers = done.stdout.decode(errors="replace").splitlines()
    if done.returncode != 0 or complaints:
        raise WhatchangedError(
            f"METEOR's own program ended with code {done.returncode}: {said[-400:]}",
            hint="check that `java -version` says 11 or newer, or use the back-end exact",
        )
    if len(answers) != len(questions):
        raise WhatchangedError(
            f"METEOR's own program answered {len(answers)} of {len(questions)} captions"
        )
    return answers


def _parse(line: str) -> MeteorCounts:
    """Read the statistics of one pair.

    Lengths and function words of both sides; for each of four matchers the matched content
    words of both sides, then the matched function words; chunks; matched words of both sides.
    """
    try:
        values = [float(part) for part in line.split()]
    except ValueError:
        values = []
    if len(values) != _N_STATISTICS:
        raise WhatchangedError(f"METEOR's own program answered {line[:200]!r} for a caption")
    length, reference_length, function, reference_function = values[:4]
    chunks, matched, reference_matched = values[20:]
    # [4 matchers, content then function] of the prediction and of the reference
    ours, theirs = values[4:20:2], values[5:20:2]
    perfect = sum(ours) == length and sum(theirs) == reference_length and chunks == 1
    return MeteorCounts(
        _weighted(length - function, function),
        _weighted(reference_length - reference_function, reference_function),
        _weighted_matches(ours),
        _weighted_matches(theirs),
        (matched + reference_matched) / 2,
        0.0 if perfect else chunks,
    )


def _weighted(content: float, function: float) -> float:
    return DELTA * content + (1 - DELTA) * function


def _weighted_matches(matches: Sequence[float]) -> float:
    """Weigh [content, function] counts of the four matchers."""
    return sum(
        weight * _weighted(content, function)
        for weight, content, function in zip(
            _MATCHER_WEIGHTS, matches[::2], matches[1::2], strict=True
        )
    )
