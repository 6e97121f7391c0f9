"""What asking leaves in its folder: answers, masks, polygons, one report, provenance.

Products are written under temporary names and moved into place; `run.json` comes last, so a
folder that has it is whole. Until then `unfinished.json` lists what the run writes, so that what
a killed one left is known to be ours. No file that neither of the two lists is ever replaced.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whatchanged import __version__
from whatchanged.ask_answer import WishResult
from whatchanged.errors import UsageError
from whatchanged.files import write_bytes
from whatchanged.geo.overlay import mark, shrink
from whatchanged.geo.report import REPORT_NAME, ReportEntry, picture_side, write_report
from whatchanged.geo.vector import ChangePolygon, storable, write_geojson, write_geopackage
from whatchanged.geo.writer import write_mask, write_probability
from whatchanged.products import run_facts

RUN = "run.json"
UNFINISHED = "unfinished.json"
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

    What an earlier run left there is taken away before the first product.

    Args:
        out: Folder, made where it is absent.
        wishes: To come; one alone gets no folder of its own. None where they are unknown.

    Raises:
        UsageError: The folder cannot be written, or has a file of a product's name that no
            earlier run left there.
    """

    def __init__(self, out: Path, wishes: Sequence[str] | None) -> None:
        self.out = out
        self._alone = wishes is not None and len(wishes) == 1
        self._side = picture_side(1 if wishes is None else len(wishes))
        self._started = time.time()
        self._entries: list[ReportEntry] = []
        self._records: list[dict[str, Any]] = []
        self._first: WishResult | None = None
        self._pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._earlier = _listed_files(out / RUN) | _listed_files(out / UNFINISHED)
        self._files: list[str] = []
        _refuse_foreign(out, [RUN, UNFINISHED, REPORT_NAME], self._earlier)
        for number, wish in enumerate(wishes or (), start=1):
            _refuse_foreign(out, self._names(number, wish), self._earlier)
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

        Whatever goes wrong, no product of this wish is left, and those of earlier ones stay.

        Raises:
            UsageError: They cannot be written, or would replace a file that is not ours.
        """
        number = len(self._records) + 1
        names = self._names(number, result.wish)
        _refuse_foreign(self.out, names, self._earlier)
        folder = (self.out / names[0]).parent
        try:
            self._begin(names)
        except OSError as error:
            raise _unwritable(self.out, error) from error
        try:
            folder.mkdir(exist_ok=True)
            files = _write_products(folder, result)
            mask = next((path for path in files if path.stem == "mask"), None)
            written = dataclasses.replace(result, mask_path=mask)
            entry = _entry(written, self._side, self._shown(written)) if number <= SHOWN else None
        except BaseException as error:
            self._take_back(names)
            if isinstance(error, OSError):
                raise _unwritable(folder, error) from error
            raise
        self._first = self._first or written
        relative = [path.relative_to(self.out).as_posix() for path in files]
        self._files += relative
        self._records.append(
            {
                **written.to_json(),
                "said": written.said,
                "forced": written.forced,
                "threshold": written.threshold,
                "specks": written.n_specks,
                "files": relative,
            }
        )
        if entry is not None:
            self._entries.append(entry)
        return written

    def _shown(self, result: WishResult) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Both photographs as the page shows them, made once for all wishes."""
        if self._pictures is None:
            pixels = result.pixels
            self._pictures = shrink(pixels.before, self._side), shrink(pixels.after, self._side)
        return self._pictures

    def _names(self, number: int, wish: str) -> list[str]:
        """Names that products of a wish may have, as `run.json` lists them."""
        folder = "" if self._alone else f"{number:02d}-{slug(wish)}/"
        return [f"{folder}{name}" for name in _PRODUCTS]

    def _begin(self, names: Sequence[str]) -> None:
        """List what is written next; before the first product, take an earlier run away."""
        self._mark([*self._files, *names, *sorted(self._earlier)])
        if self._earlier:
            _clear(self.out, self._earlier)
            self._earlier = frozenset()

    def _take_back(self, names: Sequence[str]) -> None:
        """Take away what was written of a wish that failed."""
        with suppress(OSError):
            _remove(self.out, names)
            if self._files:
                self._mark(self._files)
            else:
                (self.out / UNFINISHED).unlink(missing_ok=True)

    def _mark(self, files: Sequence[str]) -> None:
        record = {"whatchanged": __version__, "wishes": [{"files": list(files)}]}
        write_bytes(self.out / UNFINISHED, json.dumps(record, indent=1).encode())

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
                name: {"path": path, "sha256": sha256}
                for name, path, sha256 in zip(
                    ("before", "after"), (first.before, first.after), first.sha256, strict=True
                )
            },
            "reading": first.reading,
            "report": first.report.to_dict(),
            "seen": first.seen,
            "wishes": self._records,
        }
        rows = dict(facts)
        if len(self._records) > SHOWN:
            rows["shown here"] = f"the first {SHOWN} wishes; {RUN} has all"
        try:
            write_report(self.out, title=title, entries=self._entries, rows=rows)
            write_bytes(self.out / RUN, json.dumps(record, indent=1).encode())
            (self.out / UNFINISHED).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.out, error) from error


def slug(wish: str) -> str:
    """Return a short name of a wish for a folder: small letters, digits and hyphens alone."""
    spaced = storable(wish).replace("\ufffd", " ")
    plain = unicodedata.normalize("NFKD", spaced).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    return "-".join(words)[:_SLUG_LENGTH].strip("-") or "wish"


def _listed_files(path: Path) -> frozenset[str]:
    """Return all files of a run that its record accounts for, itself too; none if it is foreign.

    Whatever the record says, these are names that products have, inside its folder.
    """
    try:
        record = json.loads(path.read_bytes())
        listed = [name for wish in record["wishes"] for name in wish["files"]]
        ours = "whatchanged" in record and all(isinstance(name, str) for name in listed)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset()
    if not ours:
        return frozenset()
    return frozenset([path.name, REPORT_NAME, *filter(_is_product, listed)])


def _is_product(name: str) -> bool:
    folder, slash, file = name.rpartition("/")
    return file in _PRODUCTS and (not slash or _FOLDER.fullmatch(folder) is not None)


def _refuse_foreign(out: Path, names: Iterable[str], ours: frozenset[str]) -> None:
    """Raise UsageError if a file that is not ours stands where a product may go."""
    for name in names:
        if name not in ours and os.path.lexists(out / name):
            raise UsageError(
                f"--out {out} has a file {name} that no earlier run of ask or chat left there",
                hint="choose another --out, or move that file away",
            )


def _clear(out: Path, names: Iterable[str]) -> None:
    """Take away what an earlier run left: a mask of another wish would be a lie.

    The mark of a whole folder goes first. Files of other names stay.
    """
    (out / RUN).unlink(missing_ok=True)
    _remove(out, [name for name in names if name != UNFINISHED])


def _remove(out: Path, names: Iterable[str]) -> None:
    """Remove files, what a killed run left of them half-written, and then empty folders."""
    paths = [out / name for name in names]
    paths = [
        p for p in paths if p.parent == out or (p.parent.is_dir() and not p.parent.is_symlink())
    ]
    for path in paths:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.stem}.part{path.suffix}").unlink(missing_ok=True)
    for folder in {path.parent for path in paths} - {out}:
        with suppress(OSError):  # not empty: somebody keeps something there; or not there
            folder.rmdir()


def _write_products(folder: Path, result: WishResult) -> list[Path]:
    """Write the answer and, if there is a mask, all that shows it; return the files."""
    answer = folder / "answer.txt"
    write_bytes(answer, f"{result.answer}\n".encode("utf-8", "replace"))
    if not result.has_mask:
        return [answer]
    known = ~np.isnan(result.probability)
    probability = write_probability(folder, result.probability, known, result.grid)
    mask = write_mask(folder, result.mask, known, result.grid)
    package, text = folder / "changes.gpkg", folder / "changes.geojson"
    write_geopackage(package, result.polygons, result.grid)
    write_geojson(text, result.polygons, result.grid)
    return [answer, probability, mask, package, text]


def _entry(
    result: WishResult, side: int, pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> ReportEntry:
    overlays: dict[str, NDArray[Any]] = {}
    if result.has_mask:
        overlays[_OVERLAY] = mark(result.pixels.after, result.mask, side)
    listed = result.polygons[:_LISTED]
    title = "Largest places" if len(listed) < result.n_polygons else "Places"
    return ReportEntry(
        before=pictures[0],
        after=pictures[1],
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
    if result.former:
        rows["made from"] = ", ".join(result.former)
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
