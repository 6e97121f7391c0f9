"""The data set of a table: what it holds, and ReasonCD's samples made of it where it has none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whatchanged.data.asked_pairs import open_pairs
from whatchanged.data.bcdd import is_scene, prepare_bcdd
from whatchanged.data.integrity import identify
from whatchanged.data.known_sets import SECOND, WHU_CD
from whatchanged.data.levir_cc import captions_files, load_levir_cc
from whatchanged.data.prepared import Prepared, has_samples, read_record, samples_file
from whatchanged.data.reason_json import load_reason_json
from whatchanged.data.second import is_second, prepare_second
from whatchanged.errors import DatasetError
from whatchanged.reproduce.experiments import Experiment

_TITLES = {"bcdd": "BCDD", "second": "SECOND"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundData:
    """What a data set holds.

    Attributes:
        name: Of the data set, or of the folder where it is none that is known.
        counts: Entries of each split.
        unit: What is counted: pairs, or five-field samples.
        whole: Whether there are as many pairs of every split as in the published set.
        left_out: Broken entries that were skipped.
    """

    name: str
    counts: Mapping[str, int]
    unit: Literal["pairs", "samples"] = "pairs"
    whole: bool = False
    left_out: int = 0

    @property
    def scored(self) -> Literal["test", "val"]:
        """Split that is scored."""
        return "test" if self.counts.get("test") else "val"

    def __str__(self) -> str:
        """Return name and training entries."""
        return f"{self.name}, {self.counts['train']:,} training {self.unit}"


def prepared_data(data: Path, out: Path) -> Path:
    """Return a folder that ReasonCD can be trained on.

    BCDD's scene is cut and divided by the recipe `random-0`, its tiles by the lists that came
    with them, SECOND asked by the paper's rule; as `whatchanged prepare` does, once, into
    `out/prepared/`. Every other folder is returned as it is.

    Raises:
        DatasetError: Files that are missing or broken, counted and named.
    """
    if has_samples(data, "train") or captions_files(data):
        return data
    known = identify(data)
    if is_second(data) or known is SECOND:
        return _tell(prepare_second(data, out / "prepared" / "second"))
    if is_scene(data):
        return _tell(prepare_bcdd(data, out / "prepared" / "bcdd"))
    if known is WHU_CD:
        return _tell(prepare_bcdd(data, out / "prepared" / "bcdd-lists", recipe="lists"))
    return data


def _tell(made: Prepared) -> Path:
    if made.fresh:
        log.info("prepared %s", made.folder)
    return made.folder


def look_at(experiment: Experiment, data: Path, *, skip_broken: bool) -> FoundData:
    """Count the entries of each split and refuse, before any training, what cannot be scored.

    Raises:
        DatasetError: No known layout, a split that is missing, or no masks where they are
            scored.
    """
    if experiment.paper == "ReasonCD" and has_samples(data, "train"):
        return _look_at_samples(data)
    try:
        loaded = load_levir_cc(data, skip_broken=skip_broken)
    except DatasetError as error:
        if experiment.paper == "HiSem":
            raise
        raise DatasetError(
            f"{experiment.name}: {error.message}",
            hint="name BCDD or SECOND as they are distributed, a folder that `whatchanged prepare` "
            "made, or one in LEVIR-CC's layout whose pairs have masks (label/)",
        ) from error
    counts = {split: len(loaded.of_split(split)) for split in ("train", "val", "test")}
    if not counts["train"] or not (counts["val"] or counts["test"]):
        raise DatasetError(f"{data} needs pairs of train, and of val or test")
    if experiment.paper == "ReasonCD":
        for split in ("train", "test" if counts["test"] else "val"):
            open_pairs(data, split, None, skip_broken=skip_broken)
    known = identify(data)
    # The layout alone is no set of its own: the folder's name says more.
    return FoundData(
        known.title if known and known.source else data.resolve().name,
        counts,
        whole=known is not None and dict(known.counts) == counts,
        left_out=len(loaded.broken),
    )


def _look_at_samples(folder: Path) -> FoundData:
    """Name a prepared folder, with its recipe if it has one, and count its samples."""
    counts = {
        split: len(load_reason_json(samples_file(folder, split)))
        if has_samples(folder, split)
        else 0
        for split in ("train", "val", "test")
    }
    if not counts["val"]:
        raise DatasetError(f"{folder} needs samples of val, which choose the checkpoint")
    name = folder.resolve().name
    record = read_record(folder)
    if record is not None:
        name = _TITLES.get(record["kind"], name)
        recipe = record["options"].get("recipe")
        name = f"{name} ({recipe})" if recipe else name
    return FoundData(name, counts, unit="samples")
