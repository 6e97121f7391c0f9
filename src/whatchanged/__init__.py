"""Say in words what changed between two aerial or satellite photographs of one place.

``import whatchanged`` is cheap: a public name is imported from its module when it is
first used, so neither torch nor GDAL is loaded before it is needed.

>>> import whatchanged as wc
>>> wc.describe("before.tif", "after.tif").caption  # doctest: +SKIP
'a row of houses is built along the new road'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whatchanged.asking import WishResult, ask, ask_many, load_ask_model
    from whatchanged.describing import describe, describe_many
    from whatchanged.errors import WhatchangedError
    from whatchanged.geo.grid import Grid
    from whatchanged.geo.listing import PairPaths, find_pairs
    from whatchanged.geo.pair import ScenePair, open_pair
    from whatchanged.geo.scene import Scene
    from whatchanged.predict import CaptionModel, Description, describe_arrays, load_model
    from whatchanged.train.run import train as train_model

__version__ = "0.1.0"

__all__ = [
    "CaptionModel",
    "Description",
    "Grid",
    "PairPaths",
    "Scene",
    "ScenePair",
    "WhatchangedError",
    "WishResult",
    "ask",
    "ask_many",
    "describe",
    "describe_arrays",
    "describe_many",
    "find_pairs",
    "load_ask_model",
    "load_model",
    "open_pair",
    "train_model",
]

# Public name -> the module that has it, and its name there. `train` is the subpackage, and
# Python binds it on this package once anything in it is imported: hence `train_model`.
_HOMES: dict[str, tuple[str, str]] = {
    "CaptionModel": ("whatchanged.predict", "CaptionModel"),
    "Description": ("whatchanged.predict", "Description"),
    "Grid": ("whatchanged.geo.grid", "Grid"),
    "PairPaths": ("whatchanged.geo.listing", "PairPaths"),
    "Scene": ("whatchanged.geo.scene", "Scene"),
    "ScenePair": ("whatchanged.geo.pair", "ScenePair"),
    "WhatchangedError": ("whatchanged.errors", "WhatchangedError"),
    "WishResult": ("whatchanged.asking", "WishResult"),
    "ask": ("whatchanged.asking", "ask"),
    "ask_many": ("whatchanged.asking", "ask_many"),
    "describe": ("whatchanged.describing", "describe"),
    "describe_arrays": ("whatchanged.predict", "describe_arrays"),
    "describe_many": ("whatchanged.describing", "describe_many"),
    "find_pairs": ("whatchanged.geo.listing", "find_pairs"),
    "load_ask_model": ("whatchanged.asking", "load_ask_model"),
    "load_model": ("whatchanged.predict", "load_model"),
    "open_pair": ("whatchanged.geo.pair", "open_pair"),
    "train_model": ("whatchanged.train.run", "train"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'whatchanged' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
