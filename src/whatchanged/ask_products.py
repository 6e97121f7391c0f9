"""What asking leaves in its folder: answers, masks, polygons, one report, provenance.

Products are written under temporary names and moved into place; `run.json` comes last, so a
folder that has it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import unicodedata
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whatchanged.ask_answer import WishResult
from whatchanged.errors import UsageError
from whatchanged.files import write_bytes
from whatchanged.geo.overlay import mark, shrink
from whatchanged.geo.report import REPORT_NAME, ReportEntry, picture_side, write_report
from whatchanged.geo.vector import ChangePolygon, write_geojson, write_geopackage
from whatchanged.geo.writer import write_mask, write_probability
from whatchanged.models.checkpoint import file_sha256
from whatchanged.products import run_facts

RUN = "run.json"
SHOWN = 100  # wishes on one page
_LISTED = 10  # polygons in the report's table
_PRODUCTS = (
    *("answer.txt", "mask.tif", "mask.png", "probability.tif", "probability.png"),
    *("changes.gpkg", "changes.geojson"),
)
_FOLDER = re.compile(r"\d{2,}-[a-z0-9-]+")
_SLUG_LENGTH = 40
_OVERLAY = "after, changes marked"


class AskWriter:
    """Writes the folder of a run of wishes about one pair; use it in a ``with`` block.

    What an earlier run left there under these names is taken away before the first product.

    Args:
        out: Folder, made where it is absent.
        n_wishes: Wishes to come; one alone gets no folder of its own. None where unknown.

    Raises:
        UsageError: The folder cannot be written.
    """

    def __init__(self, out: Path, n_wishes: int | None) -> None:
        self.out = out
        self._alone = n_wishes == 1
        self._side = picture_side(n_wishes or 1)
        self._started = time.time()
        self._entries: list[ReportEntry] = []
        self._records: list[dict[str, Any]] = []
        self._first: WishResult | None = None
        self._made = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(out, error) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write report and record if nothing went wrong, else take an empty folder away."""
        if kind is None:
            self.close()
        if self._made:
            with suppress(OSError):  # not empty: it has products
                self.out.rmdir()

    def add(self, result: WishResult) -> WishResult:
        """Write the products of the next wish; return its result with the path of the mask.

        Raises:
            UsageError: They cannot be written.
        """
        number = len(self._records) + 1
        folder = self.out if self._alone else self.out / f"{number:02d}-{slug(result.wish)}"
        try:
            if self._first is None:
                _clear(self.out)
            folder.mkdir(exist_ok=True)
            files = _write_products(folder, result)
        except OSError as error:
            raise _unwritable(folder, error) from error
        mask = next((path for path in files if path.stem == "mask"), None)
        written = dataclasses.replace(result, mask_path=mask)
        self._first = self._first or written
        self._records.append(
            {
                **written.to_json(),
                "said": written.said,
                "forced": written.forced,
                "threshold": written.threshold,
                "specks": written.n_specks,
                "files": [path.relative_to(self.out).as_posix() for path in files],
            }
        )
        if number <= SHOWN:
            self._entries.append(_entry(written, self._side))
        return written

    def close(self) -> None:
        """Write `report.html` and, last, `run.json`."""
        first = self._first
        if first is None:
            return
        facts = run_facts(first.model, first.model_sha256, self._started)
        title = f"{Path(first.before).name} / {Path(first.after).name}"
        record = {
            **facts,
            "model": {"name": first.model, "sha256": first.model_sha256},
            "seconds": round(time.time() - self._started, 3),
            "inputs": {
                name: {"path": path, "sha256": file_sha256(Path(path))}
                for name, path in (("before", first.before), ("after", first.after))
            },
            "reading": first.reading,
            "report": first.report.to_dict(),
            "seen": first.seen,
            "wishes": self._records,
        }
        try:
            write_report(self.out, title=title, entries=self._entries, rows=facts)
            write_bytes(self.out / RUN, json.dumps(record, indent=1).encode())
        except OSError as error:
            raise _unwritable(self.out, error) from error


def slug(wish: str) -> str:
    """Return a short name of a wish for a folder: small letters, digits and hyphens alone."""
    plain = unicodedata.normalize("NFKD", wish).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    return "-".join(words)[:_SLUG_LENGTH].strip("-") or "wish"


def _clear(out: Path) -> None:
    """Take away what an earlier run left: a mask of another wish would be a lie.

    The mark of a whole folder goes first. Files of other names stay.
    """
    for name in (RUN, REPORT_NAME, *_PRODUCTS):
        (out / name).unlink(missing_ok=True)
    for folder in out.iterdir():
        if _FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            for name in _PRODUCTS:
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty: somebody keeps something there
                folder.rmdir()


def _write_products(folder: Path, result: WishResult) -> list[Path]:
    """Write the answer and, if there is a mask, all that shows it; return the files."""
    answer = folder / "answer.txt"
    write_bytes(answer, f"{result.answer}\n".encode("utf-8", "replace"))
    if not result.has_mask:
        return [answer]
    valid = result.pixels.valid
    probability = write_probability(folder, result.probability, valid, result.grid)
    mask = write_mask(folder, result.mask, valid, result.grid)
    package, text = folder / "changes.gpkg", folder / "changes.geojson"
    write_geopackage(package, result.polygons, result.grid)
    write_geojson(text, result.polygons, result.grid)
    return [answer, probability, mask, package, text]


def _entry(result: WishResult, side: int) -> ReportEntry:
    overlays: dict[str, NDArray[Any]] = {}
    if result.has_mask:
        overlays[_OVERLAY] = mark(result.pixels.after, result.mask, side)
    listed = result.polygons[:_LISTED]
    title = "Largest places" if len(listed) < result.n_polygons else "Places"
    return ReportEntry(
        before=shrink(result.pixels.before, side),
        after=shrink(result.pixels.after, side),
        caption=result.answer,
        heading=f"\u201c{result.wish}\u201d",
        rows=_rows(result),
        overlays=overlays,
        shown=_OVERLAY,
        tables={title: [_HEADING, *map(_listed, listed)]} if listed else {},
        warnings=result.warnings,
    )


_HEADING = ("area", "probability", "centre")


def _listed(polygon: ChangePolygon) -> tuple[str, str, str]:
    area = f"{polygon.area_px:,} px"
    if polygon.area_m2 is not None:
        area = f"{polygon.area_m2:,.0f} m\u00b2"
    centre = polygon.geometry.representative_point()
    return area, f"{polygon.probability:.2f}", f"{centre.x:.8g}, {centre.y:.8g}"


def _rows(result: WishResult) -> dict[str, Any]:
    """Return the fields for people, as the page lists them."""
    rows: dict[str, Any] = {
        "found": "yes" if result.found else "no, the mask was forced" if result.forced else "no",
        "understood as": ", ".join(result.target) or "not stated",
        "direction": result.direction or "not stated",
    }
    if result.has_mask:
        rows["share of the picture"] = f"{result.changed_fraction:.2%}"
        if result.area_m2 is not None:
            rows["area"] = f"{result.area_m2:,.0f} m\u00b2"
        rows["places"] = result.n_polygons
        rows["threshold"] = f"{result.threshold:g}"
        if result.mask_path is not None:
            rows["mask"] = result.mask_path.name
    valid = float(np.mean(result.pixels.valid))
    return {**rows, "size": result.seen, "valid in both": f"{valid:.1%}"}


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--out {out} cannot be written: {error.strerror or error}",
        hint="name a folder that you may write to",
    )
