"""Annotated pairs in LEVIR-CC's layout, with land cover where they changed, asked with wishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whatchanged import console
from whatchanged.answers import Understood
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import UNKNOWN, picture_size, read_land_cover, read_mask
from whatchanged.data.prepared import Faults, Prepared, finished, new_folder, write_record
from whatchanged.data.reason_json import ReasonSample, write_reason_json
from whatchanged.data.samples import CaptionSample, LabelColours
from whatchanged.data.set_types import SPLITS
from whatchanged.data.transitions import presence, wish_masks
from whatchanged.data.wish_samples import BANK_SPLIT, Bank, WishedPair, WishWriter
from whatchanged.data.wishes import load_wishes
from whatchanged.errors import DatasetError, UsageError

_HINT = "masks and class maps have the size of their pictures"


def prepare_pairs(
    source: Path,
    out: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    force: bool = False,
    bank: Bank = load_wishes,
) -> Prepared:
    """Make samples of annotated pairs: ``{train,val,test}.jsonl`` with masks beside.

    Args:
        source: Folder in LEVIR-CC's layout; ``label`` and ``sem`` say what changed into what
            (see `levir_cc`). Its pictures stay where they are.
        out: Folder to make.
        seed: Of the wordings; the splits are those of the set.
        limit: Pairs of each split, the first ones; None for all.
        force: Make it anew where it is finished.
        bank: Wordings by split.

    A pair is asked with every meaning that covers enough of it, and with two that it certainly
    does not meet (`transitions.presence`); what is uncertain is not asked.

    Raises:
        DatasetError: A broken set; masks that cannot be read or have other sizes, and land
            cover that does not exist, are counted, the first ten named. Or `out` holds
            something else.
        UsageError: A limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no pair")
    options = {"source": str(source.resolve()), "seed": seed, "limit": limit}
    if not force and (done := finished(out, "pairs", options)):
        return done
    dataset = load_levir_cc(source)
    faults = Faults()
    with new_folder(out) as part:
        counts = {}
        for split in SPLITS:
            pairs = dataset.of_split(split)[:limit]
            if not pairs:
                continue
            writer = WishWriter(part, split, bank(BANK_SPLIT[split]), seed)
            samples: list[ReasonSample] = []
            for sample in console.track(pairs, f"asking {split}"):
                pair = _wished(sample, writer.meanings, faults)
                if pair is not None:
                    samples += writer.ask(pair)
            write_reason_json(part / f"{split}.jsonl", samples)
            counts[split] = {"pairs": len(pairs), "samples": len(samples)}
        faults.check(str(source), hint=_HINT)
        record = write_record(part, "pairs", options, counts=counts)
    return Prepared(out, record, fresh=True)


def _wished(
    sample: CaptionSample, meanings: tuple[Understood, ...], faults: Faults
) -> WishedPair | None:
    """Find what a pair meets and what not; None, and faults, if its maps are broken."""
    try:
        shape = _shape(sample)
    except DatasetError as error:
        faults.add(error.message)
        return None
    layers = []
    for path, read in (
        (sample.classes_before, read_land_cover),
        (sample.classes_after, read_land_cover),
        (sample.mask, read_mask),
    ):
        try:
            layers.append(_read_map(path, read, sample.label_colours, shape))
        except DatasetError as error:
            faults.add(error.message)
    if len(layers) < 3:
        return None
    masks = wish_masks(meanings, *layers)
    states = {
        meaning: presence(meaning, wished, changed=sample.changed, captions=sample.captions)
        for meaning, wished in masks.items()
    }
    return WishedPair(
        sample.name,
        sample.before,
        sample.after,
        shape,
        {m: masks[m] for m, state in states.items() if state == "present"},
        [m for m, state in states.items() if state == "absent"],
    )


def _shape(sample: CaptionSample) -> tuple[int, int]:
    """Return height and width of both pictures from their headers."""
    sizes = [picture_size(path) for path in (sample.before, sample.after)]
    if sizes[0] != sizes[1]:
        raise DatasetError(
            f"{sample.after} is {sizes[1][0]} x {sizes[1][1]} pixels, its before picture "
            f"{sizes[0][0]} x {sizes[0][1]}"
        )
    width, height = sizes[0]
    return height, width


def _read_map(
    path: Path | None,
    read: Callable[[Path, LabelColours | None], NDArray[np.uint8]],
    colours: LabelColours | None,
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    if path is None:
        return np.full(shape, UNKNOWN, np.uint8)
    values = read(path, colours)
    if values.shape != shape:
        (height, width), (h, w) = values.shape, shape
        raise DatasetError(f"{path} is {width} x {height} pixels, its pictures {w} x {h}")
    return values
