"""Scores of a model beside the floors, on a generated data set and on the real captions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whatchanged.data.levir_cc import load_levir_cc, load_references
from whatchanged.data.synthetic import write_scenes
from whatchanged.data.tokens import UNCHANGED_CAPTION
from whatchanged.errors import DatasetError, MissingExtraError, UsageError
from whatchanged.evaluate import evaluate_captions, predict_samples
from whatchanged.metrics.captions import score_breakdown
from whatchanged.predict import CaptionModel, describe_arrays, load_model
from whatchanged.score import Ruler, floor_captions

CONSTANT = tuple(UNCHANGED_CAPTION.split())
FLOORS = ("constant", "right label + modal caption")
WORDS = Ruler("words", meteor="none")


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> CaptionModel:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty generated pairs in the layout of LEVIR-CC: 16 to train on, 2 and 2 held out."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, n=20, size=64, seed=3)
    return folder


def relabel(root: Path, **values: Any) -> None:
    path = root / "captions.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for entry in content["images"]:
        entry.update(values)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_split_is_scored_beside_the_floors(tiny_model: Path, scenes: Path) -> None:
    report = evaluate_captions([tiny_model], scenes, "train", ruler=WORDS)
    (result,) = report.evaluations
    samples = load_levir_cc(scenes).of_split("train")
    assert [p.sample for p in result.predictions] == list(samples)
    assert tuple(report.floors) == FLOORS
    changed = [sample.changed for sample in samples]
    assert 0 < sum(changed) < len(changed)
    for scores in (result.scores, *report.floors.values()):
        assert scores.overall.n == len(samples)
        assert scores.changed is not None
        assert scores.changed.n == sum(changed)
    captions = [p.caption for p in result.predictions]
    again = score_breakdown(captions, [s.captions for s in samples], changed, meteor="none")
    assert again == result.scores
    # A predictor that knows the label beats the one that does not.
    constant, knowing = (report.floors[name].overall for name in FLOORS)
    assert constant.bleu4 < knowing.bleu4


def test_the_router_is_counted_by_class(tiny_model: Path, scenes: Path) -> None:
    (result,) = evaluate_captions([tiny_model], scenes, "train", ruler=WORDS).evaluations
    classes = {"changed": {True}, "unchanged": {False}, "overall": {True, False}}
    for name, wanted in classes.items():
        chosen = [p for p in result.predictions if p.sample.changed in wanted]
        share = sum(p.changed == p.sample.changed for p in chosen) / len(chosen)
        assert result.router[name] == pytest.approx(100 * share)
    for prediction in result.predictions:
        assert prediction.probability is not None
        assert prediction.changed == (prediction.probability >= 0.5)


def test_a_class_that_is_not_there_has_no_share(tiny_model: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, n=3, size=64)
    relabel(tmp_path, changeflag=0)
    report = evaluate_captions([tiny_model], tmp_path, "val", ruler=WORDS)
    (result,) = report.evaluations
    assert result.router["changed"] is None
    assert result.scores.changed is None
    assert tuple(report.floors) == ("constant",)  # no changed pair to take a modal caption from


def test_predictions_are_those_of_describing(tiny: CaptionModel, scenes: Path) -> None:
    from whatchanged.data.pictures import read_picture

    samples = load_levir_cc(scenes).of_split("train")[:5]
    for beam in (1, 3):
        for prediction in predict_samples(tiny, samples, beam=beam)["predicted"]:
            sample = prediction.sample
            pictures = read_picture(sample.before), read_picture(sample.after)
            described = describe_arrays(*pictures, model=tiny.name, beam=beam)
            assert " ".join(prediction.caption) == described.caption
            assert prediction.changed == described.changed
            assert prediction.probability == pytest.approx(described.changed_probability, abs=1e-5)


def test_no_samples_are_no_predictions(tiny: CaptionModel) -> None:
    assert predict_samples(tiny, []) == {"predicted": []}


def test_a_split_that_is_not_there(tiny_model: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, n=1, size=64)
    with pytest.raises(DatasetError, match="split 'val'"):
        evaluate_captions([tiny_model], tmp_path, "val")
    with pytest.raises(UsageError, match="split 'dev'"):
        evaluate_captions([tiny_model], tmp_path, "dev")


def test_a_folder_that_is_no_data_set(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no annotation file"):
        evaluate_captions([tiny_model], tmp_path)


# --- floors ----------------------------------------------------------------------------------


def test_the_modal_caption_is_of_changed_pairs_and_first_in_the_alphabet(scenes: Path) -> None:
    sample = load_references(scenes / "captions.json")[0]
    assert sample.split == "train"
    a, b, c = ("a", "house"), ("b", "road"), ("c", "tree")
    train = [
        dataclasses.replace(sample, changed=True, captions=(b, a)),
        dataclasses.replace(sample, changed=True, captions=(a, b, c)),
        dataclasses.replace(sample, changed=False, captions=(c, c, c)),
    ]
    floors = floor_captions(train, [True, False, True])
    assert floors["constant"] == [CONSTANT] * 3
    assert floors["right label + modal caption"] == [a, CONSTANT, a]


def test_floors_see_nothing_but_the_label(scenes: Path) -> None:
    everything = load_references(scenes / "captions.json")
    labels = [True, True, False]
    one = floor_captions(everything, labels)
    other = floor_captions(everything[::-1], labels)
    assert one == other


@pytest.mark.slow
def test_floors_of_the_real_validation_pairs(shared_data: Path) -> None:
    """The numbers that every model here is compared with, METEOR by the field's own program."""
    everything = load_references(shared_data / "captioned" / "captions.json")
    samples = [sample for sample in everything if sample.split == "val"]
    changed = [sample.changed for sample in samples]
    references = [sample.captions for sample in samples]
    captions = floor_captions(everything, changed)
    try:
        constant, modal = (
            score_breakdown(captions[name], references, changed, meteor="java") for name in FLOORS
        )
    except MissingExtraError as error:
        pytest.skip(f"METEOR 1.5 cannot run here: {error.message}")
    assert modal.changed is not None
    found = [constant.overall.s_m, modal.overall.s_m, modal.changed.s_m]
    np.testing.assert_allclose(np.array(found, float), [27.55, 40.22, 21.28], atol=0.005)
