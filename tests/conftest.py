"""What every test shares: no network, few threads, and the place of the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before any test imports a library that reads them; subprocesses inherit them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

if not os.environ.get("CI"):  # there hypothesis takes its own profile, without chance
    settings.register_profile("whatchanged", deadline=None)
    settings.load_profile("whatchanged")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests marked ``loopback`` open connections to this machine alone."""
    for item in items:
        if item.get_closest_marker("loopback"):
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1", "::1"]))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photographs; skips the test where they are not at hand."""
    folder = Path(os.environ.get("WHATCHANGED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(
            "the real photographs are not here: set WHATCHANGED_DATA to the folder that holds "
            "captioned/ and masks/"
        )
    return folder
