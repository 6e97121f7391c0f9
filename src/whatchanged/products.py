"""What a describing run leaves in its folder: captions, a report, provenance, explanations.

Products are written under temporary names and moved into place; `run.json` comes last, so a
folder that has it is whole.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whatchanged import __version__
from whatchanged.errors import UsageError, WhatchangedError
from whatchanged.explain import overlay, word_figure
from whatchanged.geo.listing import PairPaths
from whatchanged.geo.report import ReportEntry, picture_side, write_report
from whatchanged.predict import Description

SHOWN = 500  # pairs on one page; captions.jsonl has all


@dataclass
class ProductWriter:
    """Collects the descriptions of a run and writes its folder.

    Attributes:
        out: Folder, made where it is absent.
        n_pairs: Pairs the run set out to describe; decides how large the report's pictures are.
    """

    out: Path
    n_pairs: int
    started: float = field(default_factory=time.time)
    _entries: list[ReportEntry] = field(default_factory=list)
    _inputs: list[dict[str, Any]] = field(default_factory=list)
    _model: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the folder and begin `captions.jsonl` beside its final name."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._captions = (self.out / "captions.jsonl.part").open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--out {self.out} cannot be written: {error.strerror}") from error

    def add(self, description: Description) -> None:
        """Take the next description."""
        self._captions.write(json.dumps(description.to_json()) + "\n")
        self._model = {"name": description.model, "sha256": description.model_sha256}
        self._inputs.append(_input_record(description))
        if len(self._entries) >= SHOWN:
            return
        overlays: dict[str, NDArray[Any]] = {}
        if description.explanation is not None:
            overlays = self._explain(description)
        self._entries.append(_entry(description, overlays, picture_side(self.n_pairs)))

    def close(self, failures: Sequence[tuple[PairPaths, WhatchangedError]] = ()) -> Path:
        """Write everything and return the path of the report."""
        self._captions.flush()
        os.fsync(self._captions.fileno())
        self._captions.close()
        os.replace(self.out / "captions.jsonl.part", self.out / "captions.jsonl")
        title = "What changed" if self.n_pairs == 1 else f"What changed in {self.n_pairs} pairs"
        report = write_report(self.out, title=title, entries=self._entries, rows=self._facts())
        record = {
            **self._facts(),
            "model": self._model,
            "seconds": round(time.time() - self.started, 3),
            "pairs": self._inputs,
            "failures": [
                {"before": str(p.before), "after": str(p.after), "error": e.message}
                for p, e in failures
            ],
        }
        _write_text(self.out / "run.json", json.dumps(record, indent=1))
        return report

    def _facts(self) -> dict[str, Any]:
        return {
            "whatchanged": __version__,
            "model": f"{self._model.get('name')} ({self._model.get('sha256', '')[:12]})",
            "torch": version("torch"),
            "python": platform.python_version(),
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started)),
        }

    def _explain(self, description: Description) -> dict[str, NDArray[Any]]:
        explanation = description.explanation
        assert explanation is not None
        after = _shrunk(description.pixels.after, 1024)
        heat = overlay(after, explanation.change_map)
        prefix = "" if self.n_pairs == 1 else f"{len(self._inputs):05d}_"
        _save_png(self.out / f"{prefix}change_map.png", heat)
        figure = word_figure(_shrunk(after, 256), explanation)
        partial = self.out / f"{prefix}words.png.part"
        figure.savefig(partial, dpi=110, format="png")
        words = np.asarray(Image.open(partial).convert("RGB"))
        os.replace(partial, self.out / f"{prefix}words.png")
        return {"change map (BDAM)": heat, "where each word looked": words}


def _entry(
    description: Description, overlays: dict[str, NDArray[Any]], side: int
) -> ReportEntry:
    return ReportEntry(
        before=_shrunk(description.pixels.before, side),
        after=_shrunk(description.pixels.after, side),
        caption=description.caption,
        heading=f"{Path(description.before).name} / {Path(description.after).name}",
        changed_probability=description.changed_probability,
        captions=[(c.text, c.score) for c in description.captions],
        rows=_facts_of(description),
        overlays=overlays,
        warnings=description.warnings,
    )


def _facts_of(description: Description) -> dict[str, Any]:
    scale = description.scale
    facts: dict[str, Any] = {"before": description.before, "after": description.after}
    height, width = description.pixels.valid.shape
    facts["read as"] = f"{width} x {height} pixels"
    facts["seen by the model as"] = f"{scale.width} x {scale.height} pixels" + (
        "" if scale.gsd_m is None else f", {scale.gsd_m:.2f} m a pixel"
    )
    facts["valid in both"] = f"{description.pixels.valid.mean():.1%}"
    return facts


def _input_record(description: Description) -> dict[str, Any]:
    report = description.report
    return {
        **description.to_json(),
        "grid": None if report is None else report.to_dict(),
        "seen": {
            "height": description.scale.height,
            "width": description.scale.width,
            "gsd_m": description.scale.gsd_m,
        },
    }


def _shrunk(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _save_png(path: Path, picture: NDArray[np.uint8]) -> None:
    partial = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(partial, format="PNG")
    os.replace(partial, path)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
