"""Photographs on the ground: grids, scenes, and pairs of them. No model and no torch here."""

from whatchanged.geo.grid import Grid
from whatchanged.geo.pair import PairPixels, PairReport, ScenePair, open_pair
from whatchanged.geo.scene import Scene
from whatchanged.geo.shift import Shift
from whatchanged.geo.stretch import Stretch

__all__ = [
    "Grid",
    "PairPixels",
    "PairReport",
    "Scene",
    "ScenePair",
    "Shift",
    "Stretch",
    "open_pair",
]
