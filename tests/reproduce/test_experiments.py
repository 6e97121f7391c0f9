"""The tables as data: every row can be built, and ablates what the paper says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from whatchanged.config import load_config
from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import PRESETS
from whatchanged.reproduce.experiments import EXPERIMENTS, VARIANTS, experiment
from whatchanged.reproduce.plan import Request, run_config
from whatchanged.reproduce.recipes import RECIPES, Preset, Stage
from whatchanged.train.config import TrainConfig, model_config, reasoncd_config


def config_of(name: str, preset: Preset = "small", *overrides: str) -> TrainConfig:
    request = Request(
        EXPERIMENTS["hisem-table-3"], Path("d"), Path("o"), (0,), preset, None, overrides
    )
    return run_config(request, name, 0)


def test_all_tables_and_figures_are_there() -> None:
    hisem = {f"hisem-table-{n}" for n in range(1, 9)} | {"hisem-fig-5", "hisem-fig-6"}
    reasoncd = {"reasoncd-table-3", "reasoncd-table-4"}
    reasoncd |= {f"reasoncd-fig-{n}" for n in range(10, 18)}
    assert EXPERIMENTS.keys() == hisem | reasoncd


def test_rows_name_variants_and_have_a_label_for_each_head() -> None:
    for found in EXPERIMENTS.values():
        assert found.rows
        for row in found.rows:
            assert row.variant in VARIANTS
            assert found.kind == "pictures" or len(row.label) == len(found.heads)
        assert len({row.label for row in found.rows}) == len(found.rows)


@pytest.mark.parametrize("preset", ["small", "paper"])
@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.stage == "hisem"])
def test_every_variant_of_hisem_is_a_model(name: str, preset: Preset) -> None:
    assert model_config(config_of(name, preset)).width in (256, 768)


def test_what_the_variants_ablate() -> None:
    def parts(name: str) -> tuple[Any, ...]:
        made = model_config(config_of(name, "paper"))
        bdam, hasd = made.bdam, made.hasd
        paths = (hasd.routing, hasd.changed, hasd.unchanged)
        return (bdam.layers, bdam.dfc, bdam.bdci, *paths, made.decoder.layers)

    full = (3, True, True, True, "moe", "ffn", 1)
    assert parts("full") == full
    assert model_config(config_of("full", "paper")) == PRESETS["hisem-clip-b16"]
    none = (False, "none", "none", 1)
    assert parts("baseline") == (0, True, True, *none)
    assert parts("without-hasd") == (*full[:3], *none)
    assert parts("without-bdam") == (0, *full[1:])
    assert parts("dfc-alone") == (3, True, False, *full[3:])
    assert parts("bdci-alone") == (3, False, True, *full[3:])
    assert parts("one-path-ffn")[3:6] == (False, "ffn", "ffn")
    assert parts("one-path-moe")[3:6] == (False, "moe", "moe")
    assert parts("both-paths-ffn")[3:6] == (True, "ffn", "ffn")
    assert parts("both-paths-moe")[3:6] == (True, "moe", "moe")
    assert [parts(f"bdam-{n}")[0] for n in (1, 2)] == [1, 2]
    assert [parts(f"decoder-{n}")[6] for n in (2, 3)] == [2, 3]
    assert model_config(config_of("full-whu")).decoder.max_len == 26
    assert config_of("full-whu").data.max_words == 26
    assert reasoncd_config(config_of("concat")).fusion.kind == "concat"
    ranks = [reasoncd_config(config_of(f"rank-{r}")).language.lora_rank for r in (4, 8, 12)]
    assert ranks == [4, 8, 12]


def test_the_recipe_of_the_paper() -> None:
    config = config_of("full", "paper")
    assert (config.epochs, config.batch_size, config.optimiser.name) == (50, 64, "adam")
    assert (config.optimiser.lr, config.optimiser.schedule, config.optimiser.clip) == (
        *(1e-4, "constant", 0.0),
    )
    assert (config.warmup_epochs, config.router_weight, config.label_routing) == (3, 0.8, 0.8)
    assert (config.data.size, config.data.flips, config.data.synthetic) == (224, False, 0.0)


def test_the_recipe_of_reasoncds_paper_is_its_configuration(repository: Path) -> None:
    path = repository / "configs" / "reasoncd-llama2-7b.yaml"
    values = yaml.safe_load(path.read_text("utf-8"))
    assert values.pop("data") == {"samples": "prepared/bcdd"} and values.pop("out")
    assert RECIPES["samples", "paper"] == values
    config = load_config(TrainConfig, path)
    optimiser = config.optimiser
    assert (optimiser.name, optimiser.lr, optimiser.warmup) == ("adamw", 5e-5, 100)
    assert (optimiser.schedule, optimiser.final, optimiser.clip) == ("linear", 0.0, 1.0)
    assert (config.batch_size, config.epochs, config.monitor) == (16, 100, "f1")


@pytest.mark.parametrize(
    ("stage", "file", "own"),
    [
        ("hisem", "hisem-small.yaml", set()),
        (
            "masks",
            "reasoncd-small-masks.yaml",
            {"masks_root", "masks", "landcover", "composites", "repeat"},
        ),
        ("wishes", "reasoncd-small.yaml", {"landcover", "composites"}),
    ],
)
def test_small_recipes_are_those_of_the_configs(
    stage: Stage, file: str, own: set[str], repository: Path
) -> None:
    values = yaml.safe_load((repository / "configs" / file).read_text("utf-8"))
    for key in ("out", "encoder", "start", "max_steps"):  # of one machine and its data
        values.pop(key, None)
    for key in own | {"captions"}:
        values["data"].pop(key)
    assert RECIPES[stage, "small"] == values


def test_what_a_row_ablates_lies_above_the_overrides() -> None:
    overrides = ("model.bdam.layers=5", "model.width=128", "optimiser.lr=0.5")
    config = config_of("bdam-1", "small", *overrides)
    assert model_config(config).bdam.layers == 1
    assert (model_config(config).width, config.optimiser.lr) == (128, 0.5)
    assert RECIPES["hisem", "small"]["optimiser"]["lr"] == 4e-4  # the recipe itself is untouched


def test_an_override_that_does_not_fit_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="optimizer"):
        config_of("full", "small", "optimizer.lr=1")
    with pytest.raises(UsageError, match="model"):
        config_of("full", "small", "model.widht=3")


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        experiment("hisem-table3")
    assert "did you mean 'hisem-table-3'" in error.value.hint
    with pytest.raises(UsageError) as error:
        experiment("x")
    assert error.value.hint.startswith("one of hisem-table-1")
