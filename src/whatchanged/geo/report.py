"""Reports for people: one HTML page with pictures in it, and nothing fetched from anywhere.

All text is data. Captions, file names and tags are escaped, and the page carries a content
security policy under which only its own script and style, both known by their hash, may run:
even a text that slipped through could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whatchanged.files import write_bytes
from whatchanged.geo.report_page import ENTRY, PAGE, SCRIPT, STYLE

REPORT_NAME = "report.html"
# Longest side of embedded pictures by number of pairs, so that a page stays below some 30 MB.
_SIDES = ((12, 1024), (80, 512))
_SMALLEST_SIDE = 256
_WIDE = 1.5  # an overlay this much wider than the photographs gets a line of its own
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class ReportEntry:
    """One pair of photographs on the page.

    Attributes:
        before: Earlier photograph, [H, W, 3] uint8.
        after: Later photograph on the same grid, [H, W, 3] uint8.
        caption: What is said of the pair.
        heading: Name of the pair, shown above it; empty for none.
        changed_probability: Probability of a change in [0, 1], or None where none is known.
        captions: Alternative captions with their scores, best first.
        rows: Facts to list, such as size, grid and model.
        overlays: Further named pictures, [H, W] or [H, W, 3] uint8, or [H, W] bool.
        shown: Name of the overlay that the slider shows in the place of the later photograph.
        tables: Rows of values by title; the first row of each is its heading.
        warnings: What the reader should know before trusting the caption.
    """

    before: Picture
    after: Picture
    caption: str
    heading: str = ""
    changed_probability: float | None = None
    captions: Sequence[tuple[str, float]] = ()
    rows: Mapping[str, Any] = field(default_factory=dict)
    overlays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    shown: str = ""
    tables: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def write_report(
    out: Path,
    *,
    title: str,
    entries: Sequence[ReportEntry],
    rows: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``report.html`` into a folder: one self-contained page about one or more pairs.

    Pictures are embedded, downscaled to 1024 pixels on the longer side (512 on pages with more
    than 12 pairs, 256 above 80). The page reads in light and dark and in print, and works
    without its script. It is written under a temporary name and moved into place.

    Args:
        out: Folder, created if missing.
        title: Heading of the page.
        entries: The pairs, in order.
        rows: Facts about the whole run, listed at the end.

    Returns:
        Path of the page.

    Raises:
        ValueError: A picture has another shape or type than its documentation says.
    """
    side = picture_side(len(entries))
    parts = [_entry(entry, number, side) for number, entry in enumerate(entries, start=1)]
    facts = _rows(rows or {})
    page = Template(PAGE).substitute(
        title=_text(title),
        policy=html.escape(_policy()),
        style=STYLE,
        script=SCRIPT,
        entries="\n".join(parts),
        run=f'<section class="run"><h2>About this run</h2>{facts}</section>' if facts else "",
    )
    out.mkdir(parents=True, exist_ok=True)
    target = out / REPORT_NAME
    write_bytes(target, page.encode("utf-8"))
    return target


def picture_side(n_pairs: int) -> int:
    """Longest side in pixels at which a page of `n_pairs` shows a picture."""
    return next((side for n, side in _SIDES if n_pairs <= n), _SMALLEST_SIDE)


def _policy() -> str:
    """Return the page's content security policy: its own style and script, embedded pictures."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        for text in (STYLE, SCRIPT)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _text(value: object) -> str:
    """Make any text safe inside elements and quoted attributes.

    Control characters, direction overrides and lone surrogates (undecodable file names)
    become U+FFFD; markup is escaped.
    """
    valid = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROL.sub("\ufffd", valid), quote=True)


def _entry(entry: ReportEntry, number: int, side: int) -> str:
    """Return the HTML of one pair."""
    for name, picture in (("before", entry.before), ("after", entry.after)):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"{name} must be [H, W, 3] uint8, not {_shape(picture)}")
    if entry.before.shape != entry.after.shape:
        raise ValueError(f"before is {_shape(entry.before)}, after {_shape(entry.after)}")
    height, width = entry.before.shape[:2]
    heading = f"<h2>{_text(entry.heading)}</h2>" if entry.heading else ""
    small: list[str] = []
    wide: list[str] = []  # sheets of several pictures would be unreadable beside the others
    for name, picture in entry.overlays.items():
        figure = _overlay(name, picture, side, slides=name == entry.shown)
        broad = picture.shape[1] * height > _WIDE * picture.shape[0] * width
        (wide if broad else small).append(figure)
    return Template(ENTRY).substitute(
        number=number,
        heading=heading,
        caption=_text(entry.caption),
        probability=_probability(entry.changed_probability),
        warnings=_listed("warnings", [_text(text) for text in entry.warnings]),
        before=_photograph(entry.before, side),
        after=_photograph(entry.after, side),
        width=width,
        height=height,
        overlays="".join(small),
        wide=f'<div class="wide">{"".join(wide)}</div>' if wide else "",
        slides="" if entry.shown in entry.overlays else ' class="after"',
        shown=_text(entry.shown if entry.shown in entry.overlays else "after"),
        tables="".join(_table(title, rows) for title, rows in entry.tables.items()),
        captions=_captions(entry.captions),
        rows=f"<h3>Facts</h3>{_rows(entry.rows)}" if entry.rows else "",
    )


def _shape(picture: NDArray[Any]) -> str:
    return f"{list(picture.shape)} {picture.dtype}"


def _probability(value: float | None) -> str:
    if value is None:
        return ""
    level = min(max(float(value), 0.0), 1.0)
    return (
        f'<p class="probability"><meter min="0" max="1" value="{level:.4f}"></meter> '
        f"probability of a change <strong>{level:.2f}</strong></p>"
    )


def _listed(kind: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _captions(captions: Sequence[tuple[str, float]]) -> str:
    if len(captions) < 2:
        return ""
    items = [f"{_text(text)} <small>{score:.2f}</small>" for text, score in captions]
    return "<h3>Other wordings</h3>" + _listed("captions", items[1:])


def _rows(rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in rows.items()
    ]
    return f"<table>{''.join(lines)}</table>"


def _table(title: str, rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of values; its first row is the heading."""
    lines = [
        "<tr>" + "".join(f"<{cell}>{_text(value)}</{cell}>" for value in row) + "</tr>"
        for row, cell in zip(rows, ["th", *["td"] * len(rows)], strict=False)
    ]
    return f'<h3>{_text(title)}</h3><table class="values">{"".join(lines)}</table>'


def _overlay(name: str, picture: NDArray[Any], side: int, *, slides: bool) -> str:
    """Return one further picture as a figure; few-coloured ones stay exact (PNG)."""
    if picture.dtype == np.bool_ and picture.ndim == 2:
        picture = picture.astype(np.uint8) * np.uint8(255)
    plain = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if not plain or picture.dtype != np.uint8:
        raise ValueError(f"overlay {name!r} must be [H, W] or [H, W, 3], not {_shape(picture)}")
    grey = picture.ndim == 2
    source = _encoded(picture, side, "PNG" if grey else "JPEG")
    label = _text(name)
    kind = ' class="after"' if slides else ""
    image = f'<img{kind} src="{source}" alt="{label}">'
    return f"<figure>{image}<figcaption>{label}</figcaption></figure>"


def _photograph(picture: Picture, side: int) -> str:
    return _encoded(picture, side, "JPEG")


def _encoded(picture: NDArray[np.uint8], side: int, kind: str) -> str:
    """Return a picture as a data address, at most ``side`` pixels on its longer side."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = side / max(image.size)
    if scale < 1.0:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    options = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {"optimize": True}
    image.save(buffer, kind, **options)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"
