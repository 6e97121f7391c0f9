"""Oracles of the metrics: the programs whose numbers the field prints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def meteor_program() -> Iterator[Any]:
    """METEOR 1.5 as pycocoevalcap runs it; skips where it or Java is absent."""
    module = pytest.importorskip(
        "pycocoevalcap.meteor.meteor", reason="pycocoevalcap (the METEOR jar) is not installed"
    )
    if shutil.which("java") is None:
        pytest.skip("there is no java command to run METEOR's own program")
    program = module.Meteor()
    yield program
    program.meteor_p.stdin.close()
    program.meteor_p.wait(timeout=60)
    program.meteor_p.stdout.close()
    program.meteor_p.stderr.close()
