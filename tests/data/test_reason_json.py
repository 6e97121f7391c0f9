from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from whatchanged.data import reason_json
from whatchanged.data.reason_json import (
    FIELDS,
    MASK_UNKNOWN,
    ReasonSample,
    encode_reason_mask,
    load_reason_json,
    read_reason_mask,
    write_reason_json,
)
from whatchanged.errors import DatasetError

Entry = dict[str, Any]


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """One good sample whose pictures lie beside the JSON's folder."""
    for name in ("A", "B"):
        save(tmp_path / "pictures" / name / "1.png", np.zeros((6, 8, 3), np.uint8))
    mask = np.zeros((6, 8), np.uint8)
    mask[:2], mask[2] = 255, MASK_UNKNOWN
    save(tmp_path / "pictures" / "mask.png", mask)
    paths = ("../pictures/A/1.png", "../pictures/B/1.png", "../pictures/mask.png")
    return dict(zip(FIELDS, (*paths, "new houses", "It's <CHG>."), strict=True))


def put(tmp_path: Path, content: Any, name: str = "samples.json") -> Path:
    path = tmp_path / "json" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("form", ["object", "list", "lines", "folder"])
def test_every_form_is_read(tmp_path: Path, entry: Entry, form: str) -> None:
    if form == "object":
        path = put(tmp_path, entry)
    elif form == "list":
        path = put(tmp_path, [entry])
    elif form == "lines":
        path = put(tmp_path, f"\n{json.dumps(entry)}\n\n", "samples.jsonl")
    else:
        path = put(tmp_path, entry, "0001.json").parent
        put(tmp_path, {"kind": "bcdd"}, "prepared.json")  # no sample
        put(tmp_path, "notes", "notes.txt")
    (sample,) = load_reason_json(path)
    assert (sample.question, sample.answer) == ("new houses", "It's <CHG>.")
    assert sample.before.samefile(tmp_path / "pictures" / "A" / "1.png")
    assert sample.after.samefile(tmp_path / "pictures" / "B" / "1.png")
    assert read_reason_mask(sample.mask).tolist() == [[1] * 8] * 2 + [[255] * 8] + [[0] * 8] * 3


def test_entries_keep_their_order(tmp_path: Path, entry: Entry) -> None:
    entries = [entry | {"question": f"wish {index}"} for index in range(12)]
    loaded = load_reason_json(put(tmp_path, entries))
    assert [sample.question for sample in loaded] == [e["question"] for e in entries]


def test_absolute_paths_and_a_byte_order_mark(tmp_path: Path, entry: Entry) -> None:
    for name in FIELDS[:3]:
        entry[name] = str((tmp_path / "json" / entry[name]).absolute())
    put(tmp_path, "")
    path = put(tmp_path, "\ufeff" + json.dumps(entry))
    assert len(load_reason_json(path)) == 1


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("value", "words"), [("", "is empty"), (7, "is no text"), (None, "is no text"), ([], "no text")]
)
def test_a_bad_field_is_named(
    tmp_path: Path, entry: Entry, field: str, value: Any, words: str
) -> None:
    path = put(tmp_path, [entry, entry | {field: value}])
    with pytest.raises(DatasetError, match=rf"samples\.json: entry 1: {field} .*{words}"):
        load_reason_json(path)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(tmp_path: Path, entry: Entry, field: str) -> None:
    del entry[field]
    path = put(tmp_path, json.dumps(entry), "samples.jsonl")
    with pytest.raises(DatasetError, match=rf"samples\.jsonl: line 1: {field} is missing"):
        load_reason_json(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"samples\.json: is no JSON"),
        ("[1, null]", r"2 faults:\n.*entry 0: is no JSON object\n.*entry 1"),
        ("3", "is no JSON object"),
        ("[]", "holds no samples"),
    ],
)
def test_what_is_no_sample_is_told(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_reason_json(put(tmp_path, content))


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        load_reason_json(tmp_path / "missing.json")
    with pytest.raises(DatasetError, match="holds no samples"):
        load_reason_json(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"question": "caf\xe9"}')
    with pytest.raises(DatasetError, match=r"latin\.json: 'utf-8'"):
        load_reason_json(tmp_path / "latin.json")


def test_missing_and_damaged_pictures_are_named(tmp_path: Path, entry: Entry) -> None:
    (tmp_path / "pictures" / "text.png").write_text("no picture")
    entries = [
        entry | {"img1_path": "gone.png"},
        entry | {"img2_path": "../pictures/text.png"},
    ]
    with pytest.raises(DatasetError, match="2 faults") as caught:
        load_reason_json(put(tmp_path, entries))
    assert "entry 0: img1_path" in caught.value.message
    assert "gone.png does not exist" in caught.value.message
    assert "entry 1: img2_path" in caught.value.message
    assert "text.png cannot be read" in caught.value.message


def test_sizes_and_mask_values_are_checked(tmp_path: Path, entry: Entry) -> None:
    small = save(tmp_path / "pictures" / "small.png", np.zeros((6, 7), np.uint8))
    grey = save(tmp_path / "pictures" / "grey.png", np.full((6, 8), 7, np.uint8))
    entries = [entry | {"mask_path": f"../pictures/{path.name}"} for path in (small, grey, grey)]
    with pytest.raises(DatasetError, match="3 faults") as caught:
        load_reason_json(put(tmp_path, entries))
    first, second, third = caught.value.message.splitlines()[1:]
    assert "entry 0: sizes differ: img1_path 8 x 6, img2_path 8 x 6, mask_path 7 x 6" in first
    assert "entry 1: mask_path" in second
    assert "has the value 7 at 48 pixels" in second
    assert "entry 2" in third


def test_many_faults_are_counted_and_ten_listed(tmp_path: Path, entry: Entry) -> None:
    with pytest.raises(DatasetError, match="25 faults") as caught:
        load_reason_json(put(tmp_path, [entry | {"answer": 1}] * 25))
    assert caught.value.message.count("answer is no text") == 10
    assert "and 15 more" in caught.value.message


def test_each_picture_is_opened_once(
    tmp_path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    decode = reason_json.read_reason_mask
    monkeypatch.setattr(
        reason_json, "read_reason_mask", lambda path: (opened.append(path), decode(path))[1]
    )
    load_reason_json(put(tmp_path, [entry] * 5))
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["samples.json", "samples.jsonl"])
def test_written_samples_are_read_again(tmp_path: Path, entry: Entry, name: str) -> None:
    questions = ["new houses", 'a "quoted" wish\nin two lines', "höher, größer \u2028 \x85 <CHG>"]
    (good,) = load_reason_json(put(tmp_path, entry))
    samples = [ReasonSample(good.before, good.after, good.mask, q, good.answer) for q in questions]
    path = tmp_path / "elsewhere" / "deep" / name
    write_reason_json(path, samples)
    loaded = load_reason_json(path)
    assert [sample.question for sample in loaded] == questions
    assert all(sample.mask.samefile(good.mask) for sample in loaded)
    assert os.listdir(path.parent) == [name]  # no temporary file stays
    text = path.read_text()
    assert "../../pictures/mask.png" in text and str(tmp_path) not in text


@given(st.lists(st.sampled_from([0, 1, 255]), min_size=1, max_size=30))
def test_masks_survive_their_files(values: list[int]) -> None:
    wished = np.array([values], np.uint8)
    encoded = encode_reason_mask(wished)
    assert set(np.unique(encoded)) <= {0, MASK_UNKNOWN, 255}
    decoded = np.where(encoded == MASK_UNKNOWN, 255, encoded != 0)
    assert decoded.tolist() == wished.tolist()
