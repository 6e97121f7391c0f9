"""What each table and figure of the papers needs: rows, runs, scores and pictures, as data.

A table is a list of rows; a row names the variant of the model it trains and how its numbers
are read. Variants are shared: the full HiSem is one run a seed, in whichever tables it stands.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whatchanged.errors import UsageError
from whatchanged.evaluate_report import KEYS
from whatchanged.reproduce.recipes import Stage
from whatchanged.score import SCORES

Reading = Literal["predicted", "label", "gain", "rho"]
"""Scores when routed by prediction or by label, what the label gains, and gain a point of
router accuracy (Table VI)."""
Part = Literal["overall", "changed", "unchanged"]
Kind = Literal["captions", "masks", "pictures"]
Picture = Literal["captions", "bdam", "router", "experts", "curves", "masks", "wishes"]

MASK_SCORES = ("f1", "precision", "recall", "oa", "iou", "kappa")


@dataclass(frozen=True)
class Variant:
    """A model that is trained for some row.

    Attributes:
        stage: What is trained, and so by which recipe.
        values: Values laid over the recipe.
        start: Variant whose best checkpoint it starts from; None if from the recipe's start.
    """

    stage: Stage
    values: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of ours.

    Attributes:
        label: First cells, equal to those of the published row.
        variant: Name of what is trained.
        part: Pairs that are scored.
        reading: How the numbers are read.
    """

    label: tuple[str, ...]
    variant: str
    part: Part = "overall"
    reading: Reading = "predicted"


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        name: As the command takes it.
        title: What it shows.
        paper: `HiSem` or `ReasonCD`.
        kind: What is scored: captions, masks, or nothing but pictures.
        dataset: Data set of the paper.
        rows: Rows of ours.
        heads: Heads of the label cells.
        scores: Keys of the scores in their order.
        pictures: Pictures that are drawn of its runs.
    """

    name: str
    title: str
    paper: Literal["HiSem", "ReasonCD"]
    kind: Kind
    dataset: str
    rows: tuple[Row, ...]
    heads: tuple[str, ...] = ("method",)
    scores: tuple[str, ...] = SCORES
    pictures: tuple[Picture, ...] = ("curves",)

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants of the rows, each once, in their order."""
        return tuple(dict.fromkeys(row.variant for row in self.rows))


def _model(**parts: Mapping[str, Any]) -> Variant:
    return Variant("hisem", {"model": parts})


_NO_HASD = {"routing": False, "unchanged": "none", "changed": "none"}

VARIANTS: dict[str, Variant] = {
    "full": Variant("hisem"),
    # WHU-CDC's captions have at most 24 words.
    "full-whu": Variant(
        "hisem", {"model": {"decoder": {"max_len": 26}}, "data": {"max_words": 26}}
    ),
    "baseline": _model(bdam={"layers": 0}, hasd=_NO_HASD),
    "without-hasd": _model(hasd=_NO_HASD),
    "without-bdam": _model(bdam={"layers": 0}),
    "dfc-alone": _model(bdam={"bdci": False}),
    "bdci-alone": _model(bdam={"dfc": False}),
    "one-path-ffn": _model(hasd={"routing": False, "unchanged": "ffn", "changed": "ffn"}),
    "one-path-moe": _model(hasd={"routing": False, "unchanged": "moe", "changed": "moe"}),
    "both-paths-ffn": _model(hasd={"unchanged": "ffn", "changed": "ffn"}),
    "both-paths-moe": _model(hasd={"unchanged": "moe", "changed": "moe"}),
    "bdam-1": _model(bdam={"layers": 1}),
    "bdam-2": _model(bdam={"layers": 2}),
    "decoder-2": _model(decoder={"layers": 2}),
    "decoder-3": _model(decoder={"layers": 3}),
    "msff": Variant("masks"),
    "concat": Variant("masks", {"model": {"fusion": {"kind": "concat"}}}),
    **{
        f"rank-{rank}": Variant("wishes", {"model": {"language": {"lora_rank": rank}}}, "msff")
        for rank in (4, 8, 12)
    },
}
"""Name of a run's folder -> what is trained."""


def _routing_rows(variant: str) -> tuple[Row, ...]:
    """Rows of Tables VI and VII: three parts of the split, read four ways."""
    readings: dict[str, Reading] = {
        "Routing (w. Pre)": "predicted",
        "Routing (w. GT)": "label",
        "Improvement": "gain",
        "rho": "rho",
    }
    parts: dict[str, Part] = {"unchanged": "unchanged", "changed": "changed", "all": "overall"}
    return tuple(
        Row((shown, label), variant, part, reading)
        for shown, part in parts.items()
        for label, reading in readings.items()
    )


def _captions(
    name: str,
    title: str,
    *rows: Row,
    kind: Kind = "captions",
    dataset: str = "LEVIR-CC",
    **more: Any,
) -> Experiment:
    return Experiment(name, title, "HiSem", kind, dataset, rows, **more)


def _masks(
    name: str, title: str, *rows: Row, kind: Kind = "masks", dataset: str = "BCDD", **more: Any
) -> Experiment:
    return Experiment(name, title, "ReasonCD", kind, dataset, rows, scores=MASK_SCORES, **more)


_MSFF = (Row(("with MSFF",), "msff"), Row(("without MSFF",), "concat"))
_RANKS = tuple(Row((f"r = {rank}",), f"rank-{rank}") for rank in (4, 8, 12))

_ALL = (
    _captions(
        "hisem-table-1",
        "Captions on LEVIR-CC",
        Row(("HiSem",), "full"),
        pictures=("curves", "captions"),
    ),
    _captions(
        "hisem-table-2",
        "Captions on WHU-CDC",
        Row(("HiSem",), "full-whu"),
        dataset="WHU-CDC",
        pictures=("curves", "captions"),
    ),
    _captions(
        "hisem-table-3",
        "BDAM and HASD",
        Row(("✗", "✗"), "baseline"),
        Row(("✓", "✗"), "without-hasd"),
        Row(("✗", "✓"), "without-bdam"),
        Row(("✓", "✓"), "full"),
        heads=("BDAM", "HASD"),
    ),
    _captions(
        "hisem-table-4",
        "Sublayers of BDAM: DFC and BDCI",
        Row(("✗", "✗"), "without-bdam"),
        Row(("✓", "✗"), "dfc-alone"),
        Row(("✗", "✓"), "bdci-alone"),
        Row(("✓", "✓"), "full"),
        heads=("DFC", "BDCI"),
    ),
    _captions(
        "hisem-table-5",
        "Image-level routing with FFN and MoE paths",
        Row(("✗", "-", "-"), "without-hasd"),
        Row(("✗", "FFN", "FFN"), "one-path-ffn"),
        Row(("✗", "MoE", "MoE"), "one-path-moe"),
        Row(("✓", "FFN", "FFN"), "both-paths-ffn"),
        Row(("✓", "MoE", "MoE"), "both-paths-moe"),
        Row(("✓", "MoE", "FFN"), "full"),
        heads=("routing", "changed path", "unchanged path"),
    ),
    _captions(
        "hisem-table-6",
        "Routing by prediction and by label, LEVIR-CC",
        *_routing_rows("full"),
        heads=("pairs", "method"),
        scores=KEYS,
        pictures=("router", "experts"),
    ),
    _captions(
        "hisem-table-7",
        "Routing by prediction and by label, WHU-CDC",
        *_routing_rows("full-whu"),
        heads=("pairs", "method"),
        scores=KEYS,
        dataset="WHU-CDC",
        pictures=("router", "experts"),
    ),
    _captions(
        "hisem-table-8",
        "Depth of BDAM and of the caption decoder",
        Row(("1", "1"), "bdam-1"),
        Row(("2", "1"), "bdam-2"),
        Row(("3", "1"), "full"),
        Row(("3", "2"), "decoder-2"),
        Row(("3", "3"), "decoder-3"),
        heads=("BDAM layers", "decoder layers"),
    ),
    _captions(
        "hisem-fig-5",
        "Captions beside the references",
        Row(("HiSem",), "full"),
        kind="pictures",
        pictures=("captions",),
    ),
    _captions(
        "hisem-fig-6",
        "Features before and after BDAM",
        Row(("HiSem",), "full"),
        kind="pictures",
        pictures=("bdam",),
    ),
    _masks(
        "reasoncd-table-3",
        "Change masks beside supervised methods",
        Row(("ReasonCD",), "rank-8"),
        pictures=("curves", "masks"),
    ),
    _masks("reasoncd-table-4", "Rank of the adapters", *_RANKS, heads=("rank",)),
    _masks("reasoncd-fig-10", "With and without MSFF: scores", *_MSFF, pictures=("masks",)),
    _masks("reasoncd-fig-11", "With and without MSFF: loss curves", *_MSFF, kind="pictures"),
    _masks("reasoncd-fig-12", "With and without MSFF: validation curves", *_MSFF, kind="pictures"),
    _masks("reasoncd-fig-13", "Rank of the adapters: loss curves", *_RANKS, kind="pictures"),
    _masks("reasoncd-fig-14", "Rank of the adapters: validation curves", *_RANKS, kind="pictures"),
    *(
        _masks(
            f"reasoncd-fig-{number}",
            title,
            Row(("ReasonCD",), "rank-8"),
            kind="pictures",
            dataset="SECOND",
            pictures=("wishes",),
        )
        for number, title in (
            (15, "Explicit wishes, and wishes that the pair does not meet"),
            (16, "Implicit wishes"),
            (17, "Implicit wishes with an explanation"),
        )
    ),
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}
"""Everything that `whatchanged reproduce` knows, by name."""


def experiment(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
        UsageError: There is none of that name; the hint names the nearest.
    """
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        known = f"one of {', '.join(EXPERIMENTS)}"
        hint = f"did you mean '{near[0]}'? {known}" if near else known
        raise UsageError(f"table '{name}' is unknown", hint=hint)
    return EXPERIMENTS[name]
