"""What a describing run leaves in its folder: captions, a report, provenance, explanations.

Products are written under temporary names and moved into place; `run.json` comes last, so a
folder that has it is whole.
"""

from __future__ import annotations

import io
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whatchanged import __version__
from whatchanged.errors import UsageError, WhatchangedError
from whatchanged.files import write_bytes
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.overlay import shrink
from whatchanged.geo.report import ReportEntry, picture_side, write_report
from whatchanged.predict import Description, Explanation

SHOWN = 500  # pairs on one page; captions.jsonl has all
_CAPTIONS, _RUN = "captions.jsonl", "run.json"
_EXPLAINED_SIDE = 1024  # longest side of a change map in the folder, pixels


class ProductWriter:
    """Collects the descriptions of a run and writes its folder; use it in a ``with`` block.

    Left without `close`, it takes away what it had begun.

    Args:
        out: Folder, made where it is absent.
        n_pairs: Pairs the run set out to describe; decides how large the report's pictures are.
        model: Name or folder of the model.
        model_sha256: Of the checkpoint's manifest.

    Raises:
        UsageError: The folder cannot be written.
    """

    def __init__(self, out: Path, n_pairs: int, model: str, model_sha256: str) -> None:
        self.out = out
        self.n_pairs = n_pairs
        self._model = {"name": model, "sha256": model_sha256}
        self._started = time.time()
        self._entries: list[ReportEntry] = []
        self._records: list[dict[str, Any]] = []
        self._made = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._captions = (out / f"{_CAPTIONS}.part").open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"--out {out} cannot be written: {error.strerror}",
                hint="name a folder that you may write to",
            ) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take away what was begun, unless it was closed."""
        self._captions.close()
        (self.out / f"{_CAPTIONS}.part").unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # not empty: it has products
                self.out.rmdir()

    def add(self, description: Description) -> None:
        """Take the next description; its explanation, if it has one, is drawn at once."""
        self._captions.write(json.dumps(description.to_json()) + "\n")
        side = picture_side(self.n_pairs)
        drawn: dict[str, NDArray[np.uint8]] = {}
        files: list[str] = []
        if description.explanation is not None:
            drawn, files = self._draw(description, description.explanation)
        self._records.append({**_record(description), "pictures": files})
        if len(self._entries) < SHOWN:
            overlays = {name: shrink(picture, side) for name, picture in drawn.items()}
            self._entries.append(_entry(description, overlays, side))

    def close(self, failures: Sequence[tuple[PairPaths, WhatchangedError]] = ()) -> Path:
        """Write everything and return the path of the report."""
        self._begin()
        self._captions.flush()
        os.fsync(self._captions.fileno())
        self._captions.close()
        os.replace(self.out / f"{_CAPTIONS}.part", self.out / _CAPTIONS)
        title = "What changed" if self.n_pairs == 1 else f"What changed in {self.n_pairs} pairs"
        rows = self._facts()
        if len(self._records) > SHOWN:
            rows["shown here"] = f"the first {SHOWN} pairs; {_CAPTIONS} has all"
        if failures:
            rows["pairs not described"] = f"{len(failures)}, see {_RUN}"
        report = write_report(self.out, title=title, entries=self._entries, rows=rows)
        record = {
            **self._facts(),
            "model": self._model,
            "seconds": round(time.time() - self._started, 3),
            "pairs": self._records,
            "failures": [
                {"before": str(paths.before), "after": str(paths.after), "error": error.message}
                for paths, error in failures
            ],
        }
        write_bytes(self.out / _RUN, json.dumps(record, indent=1).encode())
        return report

    def _begin(self) -> None:
        """Take the mark of a whole folder off an earlier run's before a file of it changes."""
        (self.out / _RUN).unlink(missing_ok=True)

    def _facts(self) -> dict[str, Any]:
        return run_facts(self._model["name"], self._model["sha256"], self._started)

    def _draw(
        self, description: Description, explanation: Explanation
    ) -> tuple[dict[str, NDArray[np.uint8]], list[str]]:
        """Draw both pictures into the folder; return them by title, and their names."""
        from whatchanged.explain import overlay, word_figure  # matplotlib takes half a second

        self._begin()
        after = shrink(description.pixels.after, _EXPLAINED_SIDE)
        figure, words = word_figure(shrink(after, 256), explanation), io.BytesIO()
        figure.savefig(words, dpi=110, format="png")
        drawn = {
            "change map (BDAM)": overlay(after, explanation.change_map),
            "where each word looked": np.asarray(Image.open(words).convert("RGB")),
        }
        # Numbered as the lines of captions.jsonl, from 0.
        prefix = "" if self.n_pairs == 1 else f"{len(self._records):05d}_"
        files = [f"{prefix}change_map.png", f"{prefix}words.png"]
        for name, picture in zip(files, drawn.values(), strict=True):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, format="PNG")
            write_bytes(self.out / name, content.getvalue())
        return drawn, files


def run_facts(model: str, model_sha256: str, started: float) -> dict[str, str]:
    """Return what every run says of itself: versions, model, and when it began (Unix time)."""
    return {
        "whatchanged": __version__,
        "model": f"{model} ({model_sha256[:12]})",
        "torch": version("torch"),
        "python": platform.python_version(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
    }


def _entry(description: Description, overlays: dict[str, NDArray[Any]], side: int) -> ReportEntry:
    return ReportEntry(
        before=shrink(description.pixels.before, side),
        after=shrink(description.pixels.after, side),
        caption=description.caption,
        heading=f"{Path(description.before).name} / {Path(description.after).name}",
        changed_probability=description.changed_probability,
        captions=[(c.text, c.score) for c in description.captions],
        rows=_facts_of(description),
        overlays=overlays,
        warnings=description.warnings,
    )


def _facts_of(description: Description) -> dict[str, Any]:
    return {
        "before": description.before,
        "after": description.after,
        "size": description.scale.describe(),
        "valid in both": f"{description.pixels.valid.mean():.1%}",
    }


def _record(description: Description) -> dict[str, Any]:
    """Return what `run.json` says of a pair: the contract's keys, and how it was read."""
    report, scale = description.report, description.scale
    return {
        **description.to_json(),
        "reading": description.reading,
        "report": None if report is None else report.to_dict(),
        "seen": {"height": scale.height, "width": scale.width, "gsd_m": scale.gsd_m},
    }
