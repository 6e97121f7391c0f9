"""The report page: self-contained, harmless whatever the texts say, small, written whole."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from whatchanged.geo.report import ReportEntry, picture_side, write_report

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><script src=//evil.example></script>",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "$caption ${script} $$",
    "a\u202egnp.exe\x00\x1b[31m",
    "\udcff undecodable name",
)


class Page(HTMLParser):
    """Collects the tags with their attributes and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inner: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.inner[self._open[-1]] = self.inner.get(self._open[-1], "") + data
        else:
            self.texts.append(data)

    def images(self) -> list[Image.Image]:
        """Decode all embedded pictures."""
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [
            Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources
        ]


def picture(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def entry(**changes: object) -> ReportEntry:
    values: dict[str, object] = {
        "before": picture(),
        "after": picture(seed=1),
        "caption": "a house is built",
    }
    return ReportEntry(**(values | changes))  # type: ignore[arg-type]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_page_says_what_it_was_given(tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "new" / "folder",
        title="Two dates",
        entries=[
            entry(
                heading="scene 7",
                changed_probability=0.98,
                captions=[("a house is built", -0.1), ("a home appears", -0.7)],
                rows={"size": "16 x 12 pixels", "gsd": 0.5},
                warnings=["shifted by 0.8 pixels"],
            )
        ],
        rows={"model": "hisem-small"},
    )
    assert path == tmp_path / "new" / "folder" / "report.html"
    text = " ".join(read(path).texts)
    for expected in (
        *("Two dates", "scene 7", "a house is built", "0.98", "a home appears", "-0.70"),
        *("16 x 12 pixels", "gsd", "0.5", "shifted by 0.8 pixels", "model", "hisem-small"),
    ):
        assert expected in text
    assert not list(path.parent.glob("*.part*"))


def test_parts_without_content_are_left_out(tmp_path: Path) -> None:
    path = write_report(tmp_path, title="t", entries=[entry()])
    page = read(path)
    text = " ".join(page.texts)
    for absent in ("Other wordings", "Facts", "About this run", "probability"):
        assert absent not in text
    assert not any(attributes.get("class") == "warnings" for _, attributes in page.tags)
    assert not any(tag in ("meter", "table", "h2") for tag, _ in page.tags)


def test_several_pairs_stand_on_one_page_in_order(tmp_path: Path) -> None:
    entries = [entry(caption=f"caption number {k}") for k in range(5)]
    page = read(write_report(tmp_path, title="t", entries=entries))
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "article"]
    assert ids == [f"pair-{k}" for k in range(1, 6)]
    found = re.findall(r"caption number (\d)", " ".join(page.texts))
    assert found == list("01234")


def test_pictures_are_embedded_and_recognisable(tmp_path: Path) -> None:
    flat = np.full((20, 30, 3), (200, 40, 90), dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, :10] = True
    page = read(
        write_report(
            tmp_path,
            title="t",
            entries=[entry(before=flat, after=flat, overlays={"mask": mask, "map": flat})],
        )
    )
    images = page.images()
    assert [image.size for image in images] == [(30, 20)] * 4
    assert np.abs(np.asarray(images[0].convert("RGB")).astype(int) - flat).max() <= 3
    assert (np.asarray(images[2]) == mask * 255).all()  # a mask is not blurred by JPEG
    labels = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert labels == ["before", "after", "mask", "map"]


def test_the_slider_can_show_an_overlay_in_the_place_of_the_later_photograph(
    tmp_path: Path,
) -> None:
    overlays = {"marked": picture(seed=2), "other": picture(seed=3)}
    page = read(write_report(tmp_path, title="t", entries=[entry(overlays=overlays)]))
    slides = {a["alt"]: a.get("class") for tag, a in page.tags if tag == "img"}
    assert slides == {"before": "before", "after": "after", "marked": None, "other": None}
    shown = entry(overlays=overlays, shown="marked")
    page = read(write_report(tmp_path, title="t", entries=[shown]))
    slides = {a["alt"]: a.get("class") for tag, a in page.tags if tag == "img"}
    assert slides == {"before": "before", "after": None, "marked": "after", "other": None}
    # An overlay that is not there changes nothing: the slider needs both dates.
    page = read(write_report(tmp_path, title="t", entries=[entry(shown="marked")]))
    assert [a.get("class") for tag, a in page.tags if tag == "img"] == ["before", "after"]


def test_tables_are_written_and_escaped(tmp_path: Path) -> None:
    tables = {"<i>places</i>": [("area", "where"), *((5, text) for text in HOSTILE)]}
    path = write_report(tmp_path, title="t", entries=[entry(tables=tables, shown=HOSTILE[0])])
    page = read(path)
    assert [tag for tag, _ in page.tags].count("tr") == 1 + len(HOSTILE)
    assert [tag for tag, _ in page.tags].count("th") == 2
    assert "<i>places</i>" in page.texts
    assert not any(tag == "i" or "onerror" in attributes for tag, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 1


@pytest.mark.parametrize(("n", "side"), [(1, 1024), (13, 512)])
def test_large_pictures_are_shown_smaller(tmp_path: Path, n: int, side: int) -> None:
    large = np.zeros((600, 1500, 3), dtype=np.uint8)
    small = picture(40, 20)
    entries = [entry(before=large, after=large)] + [entry(before=small, after=small)] * (n - 1)
    images = read(write_report(tmp_path, title="t", entries=entries)).images()
    assert images[0].size == (side, round(600 * side / 1500))
    assert all(image.size == (20, 40) for image in images[2:])


@pytest.mark.parametrize(("n", "side"), [(1, 1024), (12, 1024), (13, 512), (80, 512), (81, 256)])
def test_the_more_pairs_the_smaller_the_pictures(n: int, side: int) -> None:
    assert picture_side(n) == side


def test_sheets_of_pictures_get_a_line_of_their_own(tmp_path: Path) -> None:
    overlays = {"map": picture(12, 16), "sheet": picture(10, 60), "tall": picture(60, 10)}
    path = write_report(tmp_path, title="t", entries=[entry(overlays=overlays)])
    text = path.read_text(encoding="utf-8")
    beside, below = text.split('<div class="wide">')
    assert [f'alt="{name}"' in beside for name in overlays] == [True, False, True]
    assert 'alt="sheet"' in below


def test_a_thin_picture_keeps_a_pixel(tmp_path: Path) -> None:
    thin = np.zeros((1, 4000, 3), dtype=np.uint8)
    page = read(write_report(tmp_path, title="t", entries=[entry(before=thin, after=thin)]))
    assert page.images()[0].size == (1024, 1)


def hostile_page(folder: Path, text: str) -> Page:
    """Write a page in which every text is hostile."""
    return read(
        write_report(
            folder,
            title=text,
            entries=[
                entry(
                    caption=text,
                    heading=text,
                    captions=[(text, 0.0), (text, -1.0)],
                    rows={text: text},
                    overlays={text: picture()},
                    warnings=[text],
                )
            ],
            rows={text: text},
        )
    )


def shape(page: Page) -> list[tuple[str, tuple[str, ...]]]:
    """Tags and names of attributes: what a text must not be able to change."""
    return [(tag, tuple(attributes)) for tag, attributes in page.tags]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path, text: str) -> None:
    harmless = hostile_page(tmp_path / "harmless", "harmless")
    page = hostile_page(tmp_path / "hostile", text)
    assert shape(page) == shape(harmless)
    assert page.inner == harmless.inner
    printable = text.translate({0: "\ufffd", 0x1B: "\ufffd", 0x202E: "\ufffd"})
    printable = printable.encode("utf-8", "replace").decode()
    assert " ".join(page.texts).count(printable) >= 7


@settings(max_examples=40)
@given(st.text(max_size=40).filter(lambda text: text.strip()))
def test_no_text_changes_the_structure(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    harmless = hostile_page(tmp_path_factory.getbasetemp() / "harmless", "harmless")
    assert shape(hostile_page(tmp_path_factory.getbasetemp() / "any", text)) == shape(harmless)


def test_placeholders_in_texts_are_not_filled(tmp_path: Path) -> None:
    page = hostile_page(tmp_path, "$script ${title} $$")
    assert " ".join(page.texts).count("$script ${title} $$") >= 7


def test_nothing_is_fetched_and_only_known_code_runs(tmp_path: Path) -> None:
    page = hostile_page(tmp_path, HOSTILE[0])
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href", "srcset"):
                assert (value or "").startswith("data:image/")
    policy = next(
        attributes["content"] or ""
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digest = hashlib.sha256(page.inner[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.00"), (1.0, "1.00"), (1.7, "1.00"), (-3.0, "0.00")]
)
def test_probability_stays_on_the_scale(tmp_path: Path, value: float, shown: str) -> None:
    page = read(write_report(tmp_path, title="t", entries=[entry(changed_probability=value)]))
    meter = next(attributes for tag, attributes in page.tags if tag == "meter")
    assert float(meter["value"] or "nan") == float(shown)
    assert shown in " ".join(page.texts)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"before": np.zeros((4, 4), np.uint8)}, "before"),
        ({"after": np.zeros((4, 4, 3), np.float32)}, "after"),
        ({"before": np.zeros((4, 5, 3), np.uint8)}, r"before is \[4, 5, 3\]"),
        ({"overlays": {"map": np.zeros((4, 4, 3), np.float32)}}, "map"),
        ({"overlays": {"map": np.zeros((4, 4, 2), np.uint8)}}, "map"),
    ],
)
def test_wrong_pictures_are_refused(tmp_path: Path, changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        write_report(tmp_path, title="t", entries=[entry(**changes)])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_earlier_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(tmp_path, title="first", entries=[entry()])

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, title="second", entries=[entry()])
    assert "<title>first</title>" in path.read_text(encoding="utf-8")


def test_same_input_same_page(tmp_path: Path) -> None:
    pages = [
        write_report(tmp_path / name, title="t", entries=[entry()]).read_bytes() for name in "ab"
    ]
    assert pages[0] == pages[1]


def test_special_characters_survive(tmp_path: Path) -> None:
    text = "Zürich & Köln: 5 < 6, \"北京\" 'quoted'"
    path = write_report(tmp_path, title=text, entries=[entry(caption=text)])
    assert html.escape(text) in path.read_text(encoding="utf-8").replace("&#x27;", "&#x27;")
    assert read(path).texts.count(text) >= 2
