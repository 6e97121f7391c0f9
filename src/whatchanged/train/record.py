"""What a run tells of itself: its log, one JSON object a line, and the record `run.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whatchanged.files import write_bytes


class RunLog:
    """Appends records to `log.jsonl`; silent on all but the main process.

    Args:
        path: The file; made with its folder where it is absent.
        keep_until: Records of later steps are dropped, since a resumed run makes them anew.
        main: Whether this process writes.
    """

    def __init__(self, path: Path, keep_until: int, main: bool) -> None:
        self._file = None
        if not main:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= keep_until]
        write_bytes(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def step(self, **values: Any) -> None:
        """Record one optimiser step."""
        self._write({"event": "step", **values})

    def validation(self, **values: Any) -> None:
        """Record one validation."""
        self._write({"event": "validation", **values})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, values: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({k: _rounded(v) for k, v in values.items()}) + "\n")
            self._file.flush()


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write `run.json`, or another record of a run, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(values, indent=1).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, oldest first; a half-written last line is left out."""
    return [json.loads(line) for line in _lines(path)]


def _rounded(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text.splitlines()
    return whole if text.endswith("\n") else whole[:-1]
