"""The public way from photographs to sentences and products: `describe` and `describe_many`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from whatchanged.errors import WhatchangedError
from whatchanged.geo.listing import PairPaths, find_pairs
from whatchanged.predict import Description, describe_pairs, load_model
from whatchanged.products import ProductWriter

__all__ = ["Description", "PairPaths", "describe", "describe_many", "find_pairs"]


def describe(
    before: str | Path,
    after: str | Path,
    *,
    model: str | Path = "hisem-small",
    bands: Sequence[int] | None = None,
    align: bool = False,
    beam: int = 3,
    explain: bool = False,
    out: str | Path | None = None,
) -> Description:
    """Say what changed between two co-registered photographs of one place.

    Args:
        before: Earlier photograph: GeoTIFF, COG, PNG, JPEG, JPEG 2000 or WebP.
        after: Later photograph on the same grid.
        model: Named weights or a checkpoint folder.
        bands: Bands to read as red, green and blue, from 1; None by colour interpretation.
        align: Warp the later photograph onto the earlier one's grid.
        beam: Captions kept while decoding; 1 is greedy (HiSem, IV-C).
        explain: Also return the change map and where each word looked.
        out: Folder for `captions.jsonl`, `report.html`, `run.json` and, with `explain`,
            pictures.

    Raises:
        InputError: A photograph that cannot be read or is refused.
        PairMismatchError: The two do not lie on one grid.
        WeightsUnavailableError: The model cannot be had.
    """
    pairs = [PairPaths(Path(before), Path(after))]
    (description,) = describe_many(
        pairs, model=model, bands=bands, align=align, beam=beam, explain=explain, out=out
    )
    return description


def describe_many(
    pairs: Iterable[PairPaths],
    *,
    model: str | Path = "hisem-small",
    bands: Sequence[int] | None = None,
    align: bool = False,
    beam: int = 3,
    explain: bool = False,
    out: str | Path | None = None,
    batch_size: int = 8,
    failures: list[tuple[PairPaths, WhatchangedError]] | None = None,
) -> Iterator[Description]:
    """Describe many pairs in batches, in their order, reading ahead of the model.

    Args:
        pairs: The pairs.
        model: As in `describe`, and so the options up to `out`.
        bands: See `describe`.
        align: See `describe`.
        beam: See `describe`.
        explain: See `describe`.
        out: Folder for one report of all pairs.
        batch_size: Pairs of one size that run together.
        failures: Where pairs that cannot be read are put; None raises at the first.

    Raises:
        InputError: Without `failures`: as in `describe`, and so the other errors of a pair.
        UsageError: `beam` or `batch_size` is below 1, or `out` cannot be written.
        WeightsUnavailableError: The model cannot be had.
    """
    listed = list(pairs)
    loaded = load_model(model)
    described = describe_pairs(
        loaded,
        listed,
        bands=bands,
        align=align,
        beam=beam,
        explain=explain,
        batch_size=batch_size,
        failures=failures,
    )
    if out is None:
        yield from described
        return
    with ProductWriter(Path(out), len(listed), loaded.name, loaded.sha256) as writer:
        for description in described:
            writer.add(description)
            yield description
        writer.close(failures or ())
