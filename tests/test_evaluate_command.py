"""Models on a data set: routes, router accuracy, gain and rho, runs, and what is written."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from whatchanged.data.samples import CaptionSample
from whatchanged.errors import DatasetError, UsageError
from whatchanged.evaluate import (
    CaptionReport,
    Prediction,
    evaluate_captions,
    predict_samples,
    router_accuracy,
)
from whatchanged.evaluate_report import (
    KEYS,
    Numbers,
    as_text,
    deviation,
    efficiency,
    gain,
    mean,
    numbers,
    to_json,
    write_report,
)
from whatchanged.models.backbones import EncoderConfig
from whatchanged.models.hisem.config import BDAMConfig, DecoderConfig, HASDConfig, HiSemConfig
from whatchanged.models.hisem.model import HiSem
from whatchanged.predict import load_model
from whatchanged.score import PARTS, SCORES, Ruler, score_file

SAME = "the scene is the same as before"
N_TEST = 18  # more than one batch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen test pairs, every third unchanged; the training split has captions alone."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    images = []
    for split, count in (("train", 4), ("test", N_TEST)):
        for number in range(count):
            changed = number % 3 != 2
            said = ["a house appear", "new houses built on the field"] if changed else [SAME]
            name = f"{split}_{number}.png"
            entry = {"filename": name, "split": split, "changeflag": int(changed)}
            images.append({**entry, "sentences": [{"raw": caption} for caption in said]})
    for image in images[4:]:
        for date in ("A", "B"):
            path = folder / "images" / "test" / date / str(image["filename"])
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64)).save(path)
    (folder / "captions.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def both(tiny_model: Path, data: Path) -> CaptionReport:
    """The tiny model by both routes."""
    return evaluate_captions([tiny_model], data, routes=("predicted", "label"))


def sample(changed: bool) -> CaptionSample:
    here = Path("a.png")
    said = (("a", "house"),)
    return CaptionSample("a", "test", here, here, said, changed, None, None, None, None, "levir")


def test_both_routes_are_those_asked_for_alone(
    tiny_model: Path, data: Path, both: CaptionReport
) -> None:
    predicted, label = both.evaluations
    assert (predicted.route, label.route) == ("predicted", "label")
    for route, found in (("predicted", predicted), ("label", label)):
        (alone,) = evaluate_captions([tiny_model], data, routes=(route,)).evaluations  # type: ignore[arg-type]
        assert alone.predictions == found.predictions
        assert alone.scores == found.scores


def test_labels_route_by_labels(both: CaptionReport) -> None:
    predicted, label = both.evaluations
    assert [p.sample.before.name for p in label.predictions] == [
        f"test_{number}.png" for number in range(N_TEST)
    ]
    assert all(p.changed == p.sample.changed for p in label.predictions)
    assert label.router == {"overall": 100, "changed": 100, "unchanged": 100}
    for by_router, by_label in zip(predicted.predictions, label.predictions, strict=True):
        assert by_router.probability is not None
        assert by_router.probability == by_label.probability
        assert by_router.changed is (by_router.probability >= 0.5)
        if by_router.changed == by_label.changed:
            assert by_router.caption == by_label.caption


def test_captions_are_those_of_the_model(tiny_model: Path, both: CaptionReport) -> None:
    model = load_model(tiny_model)
    chosen = both.evaluations[0].predictions[5]
    pictures = [
        torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).copy())[
            None
        ]
        for path in (chosen.sample.before, chosen.sample.after)
    ]
    memory = model.see(*pictures)
    (hypotheses,) = model.say(memory, 1)
    assert " ".join(chosen.caption) == model.caption(hypotheses[0]).text


def test_scores_are_those_of_the_same_captions_from_a_file(
    data: Path, both: CaptionReport, tmp_path: Path
) -> None:
    (evaluation, _) = both.evaluations
    said = {p.sample.before.name: " ".join(p.caption) for p in evaluation.predictions}
    path = tmp_path / "said.json"
    path.write_text(json.dumps(said), encoding="utf-8")
    scored = score_file(path, data / "captions.json")
    assert scored.scores == evaluation.scores
    assert scored.floors == both.floors
    record, other = to_json(both), scored.to_json()
    assert {key: record[key] for key in other} == other


def test_router_accuracy_by_hand() -> None:
    rows = [(True, True), (True, False), (True, True), (True, True), (False, True)]
    found = [Prediction(sample(label), (), path, 0.5) for label, path in rows]
    assert router_accuracy(found) == {"overall": 60, "changed": 75, "unchanged": 0}
    assert router_accuracy(found[:4])["unchanged"] is None
    without = [replace(p, probability=None) for p in found]
    assert set(router_accuracy(without).values()) == {None}


def row(*values: float | None) -> dict[str, float | None]:
    return dict(zip(KEYS, values, strict=True))


def test_gain_and_rho_are_those_of_table_vi() -> None:
    """The rows of changed and unchanged pairs on LEVIR-CC as printed in the paper."""
    changed = row(91.06, 77.89, 63.94, 51.15, 40.41, 25.92, 53.96, 65.12, 46.35)
    by_label = row(100, 79.69, 65.96, 52.95, 41.78, 27.05, 56.32, 69.54, 48.67)
    same = row(96.91, 97.22, 96.80, 96.57, 96.41, 75.75, 97.55, None, None)
    same_by_label = row(100, 100, 100, 100, 100, 100, 100, None, None)
    predicted: Numbers = {"overall": changed, "changed": changed, "unchanged": same}
    label: Numbers = {"overall": by_label, "changed": by_label, "unchanged": same_by_label}
    gained = gain(predicted, label)
    rho = efficiency(gained)
    printed = [0.20, 0.23, 0.20, 0.15, 0.13, 0.26, 0.49, 0.26]
    for key, value in zip(SCORES, printed, strict=True):
        assert rho["changed"][key] == pytest.approx(value, abs=0.0051)
    assert gained["unchanged"]["meteor"] == pytest.approx(24.25)
    assert rho["unchanged"]["meteor"] == pytest.approx(7.85, abs=0.005)
    assert gained["unchanged"]["cider_d"] is rho["unchanged"]["cider_d"] is None
    assert rho["changed"]["router"] is None


def test_rho_is_undefined_where_the_router_was_right() -> None:
    right: Numbers = {part: dict.fromkeys(KEYS, 100.0) for part in PARTS}
    assert set(efficiency(gain(right, right))["overall"].values()) == {None}


def test_mean_and_deviation_over_runs() -> None:
    runs: list[Numbers] = [
        {part: {**dict.fromkeys(KEYS, value), "cider_d": None} for part in PARTS}
        for value in (1.0, 3.0, 5.0)
    ]
    spread = deviation(runs)
    assert mean(runs)["overall"]["s_m"] == 3
    assert spread is not None and spread["changed"]["s_m"] == pytest.approx(2)
    assert mean(runs)["overall"]["cider_d"] is spread["overall"]["cider_d"] is None
    assert deviation(runs[:1]) is None


def test_json(both: CaptionReport) -> None:
    record = to_json(both)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["protocol"], record["vocabulary"], record["route"]) == (
        "ids",
        "all-splits",
        "predicted",
    )
    assert (record["n"], record["changed"]["n"], record["unchanged"]["n"]) == (18, 12, 6)
    predicted, label = record["routes"]["predicted"], record["routes"]["label"]
    assert predicted["overall"]["s_m"] == record["s_m"]
    assert record["gain"]["changed"]["bleu1"] == pytest.approx(
        label["changed"]["bleu1"] - predicted["changed"]["bleu1"]
    )
    assert record["deviation"] is None
    assert [run["route"] for run in record["runs"]] == ["predicted", "label"]
    assert len(record["floors"]) == 2


def test_the_table(both: CaptionReport) -> None:
    text = as_text(both)
    assert "split test, 18 pairs, 12 changed; beam 1\nprotocol ids" in text
    for name in ("routed by prediction", "routed by label", "gain by label", "rho = "):
        assert text.count(name) == 3
    assert text.count("floor: constant") == text.count("floor: right label") == 3
    unchanged = text[text.index("unchanged pairs") :]
    assert all(line.split()[-2:] == ["-", "-"] for line in unchanged.splitlines()[1:7])


def test_written_files(both: CaptionReport, tmp_path: Path) -> None:
    write_report(both, tmp_path / "new" / "out")
    write_report(both, tmp_path / "new" / "out")
    folder = tmp_path / "new" / "out"
    assert json.loads((folder / "scores.json").read_text("utf-8")) == to_json(both)
    assert (folder / "table.txt").read_text("utf-8") == as_text(both) + "\n"
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * N_TEST
    assert [row["route"] for row in rows] == ["predicted"] * N_TEST + ["label"] * N_TEST
    last, evaluation = rows[-1], both.evaluations[1]
    assert last["filename"] == "test_17.png"
    assert (last["changed"], last["routed_changed"]) == ("0", "0")
    assert last["caption"] == " ".join(evaluation.predictions[-1].caption)
    assert last["references"] == SAME
    assert float(last["rouge_l"]) == pytest.approx(evaluation.scores.pairs[-1].rouge_l, abs=1e-4)
    assert rows[0]["references"] == "a house appear | new houses built on the field"


def test_folders_of_runs_are_seeds(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        shutil.copytree(tiny_model, tmp_path / seed / "best")
    report = evaluate_captions([tmp_path / "0", tmp_path / "1"], data)
    assert [e.model for e in report.evaluations] == [str(tmp_path / s) for s in ("0", "1")]
    record = to_json(report)
    assert record["deviation"]["predicted"]["overall"]["s_m"] == 0
    assert record["s_m"] == pytest.approx(report.evaluations[0].scores.overall.s_m)
    assert record["gain"] is record["rho"] is None
    assert as_text(report).count("mean of 2 runs ± deviation") == 3
    assert "± 0.00" in as_text(report)


def test_words_and_beam(tiny_model: Path, data: Path) -> None:
    ruler = Ruler("words", meteor="none")
    report = evaluate_captions([tiny_model], data, ruler=ruler, beam=2)
    record = to_json(report)
    assert (record["protocol"], record["vocabulary"], record["beam"]) == ("words", None, 2)
    assert record["meteor"] is record["s_m"] is None
    assert "protocol words; without METEOR" in as_text(report)


def test_a_model_without_router_has_no_accuracy_and_no_labels(tiny_model: Path, data: Path) -> None:
    config = HiSemConfig(
        encoder=EncoderConfig(kind="compact", input_size=64, channels=16),
        width=16,
        grid=4,
        bdam=BDAMConfig(layers=1, heads=2),
        hasd=HASDConfig(routing=False, unchanged="ffn", changed="ffn", norm="group", hidden=16),
        decoder=DecoderConfig(heads=2, max_len=8),
    )
    tiny = load_model(tiny_model)
    model = replace(tiny, hisem=HiSem(config, len(tiny.vocabulary)).eval())
    samples = [p.sample for p in evaluate_captions([tiny_model], data).evaluations[0].predictions]
    found = predict_samples(model, samples[:2])["predicted"]
    assert [p.probability for p in found] == [None, None]
    with pytest.raises(UsageError, match="no image router"):
        predict_samples(model, samples, routes=("predicted", "label"))


def test_one_kind_of_pairs(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "captions.json"
    images = json.loads(path.read_text("utf-8"))["images"]
    path.write_text(json.dumps({"images": [images[4], images[5]]}), encoding="utf-8")
    report = evaluate_captions([tiny_model], tmp_path / "data", routes=("predicted", "label"))
    assert set(numbers(report.evaluations[0])["unchanged"].values()) == {None}
    assert "unchanged pairs" not in as_text(report)
    record = to_json(report)
    assert record["unchanged"]["n"] == 0 and record["gain"]["unchanged"]["s_m"] is None


def test_what_cannot_be_evaluated(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    nothing: list[Callable[[], Any]] = [
        lambda: evaluate_captions([], data),
        lambda: evaluate_captions([tiny_model], data, routes=()),
        lambda: evaluate_captions([tiny_model], data, beam=0),
        lambda: evaluate_captions([tiny_model], data, "dev"),
    ]
    for call in nothing:
        with pytest.raises(UsageError):
            call()
    with pytest.raises(DatasetError, match="split 'val'"):
        evaluate_captions([tiny_model], data, "val")
    with pytest.raises(DatasetError):
        evaluate_captions([tiny_model], tmp_path / "nowhere")


def test_a_missing_data_set_is_told_where_to_get_it(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist") as caught:
        evaluate_captions([tiny_model], tmp_path / "LEVIR_CC")
    assert "https://github.com/Chen-Yang-Liu/LEVIR-CC-Dataset" in caught.value.hint
    assert "licence" in caught.value.hint and "LevirCCcaptions.json" in caught.value.hint


def test_broken_entries_are_left_out_on_request(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "captions.json"
    images = json.loads(path.read_text("utf-8"))["images"]
    images[0]["sentences"] = []  # of the training split, whose captions floors are made of
    images[5]["changeflag"] = "perhaps"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    (tmp_path / "data/images/test/B/test_7.png").unlink()
    with pytest.raises(DatasetError, match="perhaps") as caught:
        evaluate_captions([tiny_model], tmp_path / "data")
    assert "--skip-broken" in caught.value.hint

    report = evaluate_captions([tiny_model], tmp_path / "data", skip_broken=True)
    assert len(report.evaluations[0].predictions) == N_TEST - 2
    assert [("perhaps" in line, "test_7.png" in line) for line in report.left_out] == [
        (True, False),
        (False, True),
    ]
    record = to_json(report)
    assert record["n"] == N_TEST - 2 and record["left_out"] == list(report.left_out)
    assert "2 broken entries left out" in as_text(report)
    assert str(tmp_path / "data/images/test/B/test_7.png") in as_text(report)


def test_nothing_is_said_to_be_left_out_of_a_whole_split(both: CaptionReport) -> None:
    assert both.left_out == () and to_json(both)["left_out"] == []
    assert "left out" not in as_text(both)


def test_shipped_weights_say_which_test_sets_they_have_seen(both: CaptionReport) -> None:
    assert to_json(both)["notes"] == []
    (run, *_) = both.evaluations
    shipped = replace(both, evaluations=(replace(run, model="hisem-small"),))
    (note,) = to_json(shipped)["notes"]
    assert "hisem-small was trained on tiles of LEVIR-CC's test split" in note
    assert note in as_text(shipped) and note not in as_text(both)
