from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.config import (
    apply_mapping,
    apply_overrides,
    from_mapping,
    load_config,
    to_mapping,
)
from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import PRESETS, HiSemConfig
from whatchanged.models.reasoncd.config import PRESETS as REASONCD_PRESETS
from whatchanged.models.weights import NAMED_WEIGHTS
from whatchanged.train.config import (
    DataConfig,
    OptimiserConfig,
    TrainConfig,
    model_config,
    reasoncd_config,
)
from whatchanged.train.dense_task import DenseTask
from whatchanged.train.hisem_task import HiSemTask
from whatchanged.train.mask_task import MaskTask
from whatchanged.train.sample_task import SampleTask
from whatchanged.train.self_critical import SelfCriticalTask
from whatchanged.train.wish_task import WishTask

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))
MEASURES = {
    "dense": DenseTask.measures,
    "hisem": HiSemTask.measures,
    "self-critical": SelfCriticalTask.measures,
    "wish-masks": MaskTask.measures,
    "wishes": WishTask.measures,
    "samples": SampleTask.measures,
}


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["adam", "sgd"] = "adam"
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 10
    flip: bool = False
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    free: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# YAML and overrides


def test_a_file_fills_the_tree_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nsteps: 3\ninner: {kind: sgd, sizes: [4]}\n")
    assert load_config(Outer, path) == Outer("x", steps=3, inner=Inner(kind="sgd", sizes=(4,)))


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nsteps: 3\ninner: {kind: sgd}\n")
    overrides = ["steps=7", "inner.rate=0.25", "flip=true", "limit=null", "inner.sizes=[3, 5]"]
    inner = Inner(rate=0.25, kind="sgd", sizes=(3, 5))
    assert load_config(Outer, path, overrides) == Outer("x", steps=7, flip=True, inner=inner)


def test_the_last_override_counts_and_may_open_a_section() -> None:
    values = apply_overrides({"name": "x"}, ["inner.rate=1", "inner.rate=2", "free.a.b=c"])
    assert values == {"name": "x", "inner": {"rate": 2}, "free": {"a": {"b": "c"}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-4", 1e-4), ("1E5", 1e5), ("-2e3", -2000.0), (".5e-1", 0.05), ("3", 3), ("0.1", 0.1)),
        *(("true", True), ("null", None), ("abc", "abc"), ("e4", "e4"), ("nan", "nan")),
        *(("'1e-4'", "1e-4"), ("a=b", "a=b"), ("runs/1e-4", "runs/1e-4"), ("", None)),
        ("[1, two]", [1, "two"]),
    ],
)
def test_overrides_are_read_as_people_mean_them(text: str, value: Any) -> None:
    (read,) = apply_overrides({}, [f"key={text}"]).values()
    assert read == value and type(read) is type(value)


def test_numbers_of_a_file_may_be_written_as_1e_4(tmp_path: Path) -> None:
    config = load_config(Outer, write(tmp_path, "name: x\ninner: {rate: 1e-4}\n"))
    assert config.inner.rate == 1e-4


def test_inputs_are_left_as_they_are() -> None:
    values: dict[str, Any] = {"inner": {"rate": 1, "deep": {"x": 1}}}
    apply_overrides(values, ["inner.rate=2", "inner.deep.x=2", "new=3"])
    apply_mapping(values, {"inner": {"rate": 3}})
    assert values == {"inner": {"rate": 1, "deep": {"x": 1}}}


@pytest.mark.parametrize("override", ["steps", "=3", "steps 3"])
def test_an_override_without_key_and_value_is_refused(override: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        apply_overrides({}, [override])


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="'steps' is a value, not a section"):
        apply_overrides({"steps": 3}, ["steps.more=1"])


def test_an_override_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(UsageError, match="not valid YAML"):
        apply_overrides({}, ["sizes=[1, 2"])


def test_nested_values_are_laid_over_others() -> None:
    below = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": 4}}, "g": [1]}
    above = {"b": {"d": {"e": 30}}, "g": [2, 3], "h": {"i": 5}}
    assert apply_mapping(below, above) == {
        "a": 1,
        "b": {"c": 2, "d": {"e": 30, "f": 4}},
        "g": [2, 3],
        "h": {"i": 5},
    }
    assert apply_mapping(below, {"b": None})["b"] is None
    assert apply_mapping(below, {}) == below


# Errors


@pytest.mark.parametrize(
    ("values", "unknown", "hint"),
    [
        ({"name": "x", "stepps": 1}, "'stepps'", "'steps'"),
        ({"name": "x", "inner": {"rte": 1}}, "'inner.rte'", "'inner.rate'"),
        ({"name": "x", "maybe": {"kinds": "sgd"}}, "'maybe.kinds'", "'maybe.kind'"),
        ({"name": "x", "zzz": 1}, "'zzz'", "known: name, steps"),
        ({"name": "x", 3: 1}, "'3'", "known: name"),
    ],
)
def test_an_unknown_key_names_the_nearest(values: Any, unknown: str, hint: str) -> None:
    with pytest.raises(UsageError, match="unknown key") as caught:
        from_mapping(Outer, values, source="run.yaml")
    assert caught.value.message.startswith("run.yaml: ")
    assert unknown in caught.value.message and hint in caught.value.hint


def test_keys_of_a_free_section_are_not_checked() -> None:
    assert from_mapping(Outer, {"name": "x", "free": {"any": {"thing": 1}}}).free == {
        "any": {"thing": 1}
    }


@pytest.mark.parametrize(
    ("values", "where", "told"),
    [
        ({"steps": "many"}, "'steps'", "'many'"),
        ({"steps": 1.5}, "'steps'", "1.5"),
        ({"inner": {"kind": "rmsprop"}}, "'inner.kind'", "'adam' or 'sgd'"),
        ({"inner": {"sizes": [1, "b"]}}, "'inner.sizes.1'", "'b'"),
        ({"inner": 3}, "'inner'", "3"),
        ({"name": ["x"]}, "'name'", "string"),
        ({"flip": "perhaps"}, "'flip'", "'perhaps'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(values: Any, where: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_mapping(Outer, {"name": "x", **values}, source="run.yaml")
    assert caught.value.message.startswith("run.yaml: ")
    assert where in caught.value.message and told in caught.value.message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UsageError, match=r"'name'.*required"):
        from_mapping(Outer, {})


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"run\.yaml is not a mapping"):
        load_config(Outer, write(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml cannot be read: No such file"):
        load_config(Outer, tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match=r"run\.yaml is not valid YAML"):
        load_config(Outer, write(tmp_path, "a: [1\nb: }"))
    (tmp_path / "run.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UsageError, match=r"run\.yaml is not UTF-8"):
        load_config(Outer, tmp_path / "run.yaml")


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = write(tmp_path, "name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config(Outer, path)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(Inner, write(tmp_path, "")) == Inner()


# Round trips

inners = st.builds(
    Inner,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["adam", "sgd"]),
    sizes=st.lists(st.integers()).map(tuple),
)
outers = st.builds(
    Outer,
    name=st.text(),
    steps=st.integers(),
    flip=st.booleans(),
    limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    inner=inners,
    maybe=st.none() | inners,
    free=st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())),
)


@given(outers)
def test_plain_values_bring_the_tree_back(config: Outer) -> None:
    plain = to_mapping(config)
    assert from_mapping(Outer, plain) == config
    assert from_mapping(Outer, json.loads(json.dumps(plain))) == config


@given(outers)
def test_yaml_brings_the_tree_back(config: Outer) -> None:
    assert from_mapping(Outer, yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config


@given(
    st.sampled_from(["cosine", "linear", "constant"]),
    st.floats(0, 1),
    st.integers(1, 1000),
    st.dictionaries(st.text("abc", min_size=1), st.sampled_from(["building", "object"])),
)
def test_a_run_survives_its_saved_state(
    schedule: Any, final: float, epochs: int, masks: Any
) -> None:
    config = TrainConfig(
        task="hisem",
        out="runs/x",
        epochs=epochs,
        optimiser=OptimiserConfig(schedule=schedule, final=final),
        data=DataConfig(captions=("a", "b"), masks=masks),
        model={"encoder": {"unfreeze_last": 0}},
    )
    assert from_mapping(TrainConfig, json.loads(json.dumps(to_mapping(config)))) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_too(name: str) -> None:
    plain = json.loads(json.dumps(to_mapping(PRESETS[name])))
    assert from_mapping(HiSemConfig, plain) == PRESETS[name]


# Runs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_recipe_is_a_run_of_a_preset_that_exists(path: Path) -> None:
    config = load_config(TrainConfig, path)
    if config.preset in REASONCD_PRESETS:
        assert config.task in ("wish-masks", "wishes", "samples")
        preset = REASONCD_PRESETS[config.preset]
        assert reasoncd_config(config).language.width == preset.language.width
    else:
        assert model_config(config).width == PRESETS[config.preset].width
    assert config.monitor in MEASURES[config.task]
    assert config.out.startswith("runs/")
    assert load_config(TrainConfig, path, ["optimiser.lr=3e-4", "epochs=2"]).optimiser.lr == 3e-4


def test_there_are_recipes() -> None:
    assert {path.name for path in CONFIGS} == {
        *(
            "encoder-small.yaml",
            "hisem-small.yaml",
            "hisem-small-tiles.yaml",
            "hisem-small-reward.yaml",
        ),
        *("reasoncd-small-masks.yaml", "reasoncd-small.yaml", "reasoncd-llama2-7b.yaml"),
    }


def test_recipes_that_build_on_each_other_name_the_same_folders() -> None:
    recipes = {path.stem: load_config(TrainConfig, path) for path in CONFIGS}
    best = {f"{config.out}/best" for config in recipes.values()}
    for config in recipes.values():
        assert {config.start, config.encoder} - {None} <= best | NAMED_WEIGHTS.keys()
    # ReasonCD takes over what its mask part was trained as.
    masks, words = (
        reasoncd_config(recipes[name]) for name in ("reasoncd-small-masks", "reasoncd-small")
    )
    assert (masks.fusion, masks.decoder) == (words.fusion, words.decoder)
    assert masks.compact.encoder.channels == words.compact.encoder.channels


def test_the_model_of_a_run_is_its_preset_with_values_laid_over() -> None:
    values = {"encoder": {"unfreeze_last": 0}, "bdam": {"layers": 1}}
    model = model_config(TrainConfig(task="hisem", out="x", model=values))
    preset = PRESETS["hisem-small"]
    assert (model.encoder.unfreeze_last, model.bdam.layers) == (0, 1)
    assert (model.hasd, model.bdam.heads) == (preset.hasd, preset.bdam.heads)


def test_a_model_is_shown_pictures_at_the_size_it_is_trained_at() -> None:
    smaller = TrainConfig(task="hisem", out="x", data=DataConfig(size=128))
    assert model_config(smaller).encoder.input_size == 128
    clip: dict[str, Any] = {"task": "hisem", "out": "x", "preset": "hisem-clip-b16"}
    assert model_config(TrainConfig(**clip, data=DataConfig(size=224))).encoder.input_size == 224
    with pytest.raises(UsageError, match=r"data\.size is 256") as caught:
        model_config(TrainConfig(**clip))
    assert caught.value.hint == "set data.size=224"


def test_a_preset_or_model_value_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="preset 'hisem-smal'") as caught:
        model_config(TrainConfig(task="hisem", out="x", preset="hisem-smal"))
    assert "hisem-small" in caught.value.hint
    with pytest.raises(UsageError, match=r"unknown key 'hasd\.expert'") as caught:
        model_config(TrainConfig(task="hisem", out="x", model={"hasd": {"expert": 2}}))
    assert "hasd.experts" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"label_routing": 1.5}, "label_routing is 1.5; it must be between 0 and 1"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"optimiser": {"lr": -1e-4}}, "optimiser.lr is -0.0001"),
        ({"optimiser": {"final": 2}}, "optimiser.final is 2"),
        ({"data": {"views": 0}}, "data.views is 0"),
        ({"data": {"size": 8}}, "data.size is 8; it must be at least 32"),
        ({"data": {"max_words": 2}}, "data.max_words is 2"),
        ({"data": {"masks": {"gz_cd": "roads"}}}, "data.masks.gz_cd"),
        ({"optimiser": {"lr": math.nan}}, "optimiser.lr"),
    ],
)
def test_values_that_train_nothing_are_refused(values: Any, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_mapping(TrainConfig, {"task": "hisem", "out": "x", **values})
    assert named in caught.value.message
