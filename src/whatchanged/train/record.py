"""The log of a run: one JSON object a line, cut back to the saved state on resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
        partial = path.with_suffix(".part")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
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
            rounded = {k: float(f"{v:.7g}") if isinstance(v, float) else v for k, v in values.items()}
            self._file.write(json.dumps(rounded) + "\n")
            self._file.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, oldest first; a half-written last line is left out."""
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text.splitlines()
    return whole if text.endswith("\n") else whole[:-1]
