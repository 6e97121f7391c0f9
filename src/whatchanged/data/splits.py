"""Named recipes that divide a data set into training, validation and test.

A recipe is a name such as ``random-0`` or ``blocks-0``: the rule and its seed. Order comes from
sha256 of seed and name, not from a random generator, so that a recipe gives the same lists with
any library, version and machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from whatchanged.errors import UsageError

BLOCK = 7
"""Side of a block in tiles: 1,792 pixels of 256-pixel tiles, 134 m in BCDD."""

_RECIPE = re.compile(r"(random|blocks)-(0|[1-9][0-9]{0,8})")


def parse_recipe(recipe: str) -> tuple[str, int]:
    """Return rule and seed of a recipe.

    Raises:
        UsageError: It is not ``random-SEED`` or ``blocks-SEED``.
    """
    match = _RECIPE.fullmatch(recipe)
    if match is None:
        raise UsageError(
            f"the recipe '{recipe}' is unknown",
            hint="random-SEED divides tiles, blocks-SEED blocks of neighbouring tiles",
        )
    return match[1], int(match[2])


def shuffled(names: Sequence[str], seed: int | str) -> list[str]:
    """Return names in the order of the sha256 of ``<seed>:<name>``."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def split_randomly(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Divide names 8:1:1: floors of 0.8 n and 0.1 n, the rest is test (design, 14 and 15).

    Each list keeps the order of ``names``. 7,434 give 5,947, 743 and 744.
    """
    order = shuffled(names, seed)
    n_train, n_val = 8 * len(order) // 10, len(order) // 10
    split_of = {name: "train" for name in order[:n_train]}
    split_of |= {name: "val" for name in order[n_train : n_train + n_val]}
    split_of |= {name: "test" for name in order[n_train + n_val :]}
    return _listed(names, split_of)


def split_by_blocks(
    places: Mapping[str, tuple[int, int]], seed: int, block: int = BLOCK
) -> dict[str, list[str]]:
    """Divide tiles so that blocks of ``block`` x ``block`` neighbours stay together.

    Args:
        places: Row and column of each tile by name.
        seed: Which blocks are taken.
        block: Side of a block in tiles.

    Test and validation take whole blocks until each has a tenth of the tiles. Tiles at the rim
    of a block still have neighbours in other splits; inside it none has.
    """
    blocks: dict[str, list[str]] = {}
    for name, (row, column) in places.items():
        blocks.setdefault(f"{row // block}/{column // block}", []).append(name)
    split_of: dict[str, str] = {}
    counts = {"test": 0, "val": 0, "train": 0}
    for key in shuffled(sorted(blocks), seed):
        short = [s for s in ("test", "val") if counts[s] * 10 < len(places)]
        split = short[0] if short else "train"
        counts[split] += len(blocks[key])
        split_of |= dict.fromkeys(blocks[key], split)
    return _listed(list(places), split_of)


def _listed(names: Sequence[str], split_of: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        split: [name for name in names if split_of[name] == split]
        for split in ("train", "val", "test")
    }
