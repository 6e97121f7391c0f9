"""Roads of the scene generator, their markings, the cars on them and car parks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whatchanged.data.synthetic_land import tint
from whatchanged.data.synthetic_paint import CARS
from whatchanged.data.synthetic_plan import Area, Points, ribbon, rotation


@dataclass(frozen=True)
class Local:
    """Axes at a point of a street: u along it, v away from it, in metres."""

    origin: tuple[float, float]
    angle: float

    def box(self, u0: float, u1: float, v0: float, v1: float) -> Points:
        """Return the outline [4, 2] of a rectangle in scene coordinates."""
        corners = np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])
        return self.points(corners)

    def points(self, uv: Points) -> Points:
        """Turn local coordinates [N, 2] into scene coordinates."""
        turned: Points = uv @ rotation(self.angle).T + np.array(self.origin)
        return turned

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Return the scene coordinates of one local point."""
        x, y = self.points(np.array([[u, v]]))[0]
        return float(x), float(y)


def car(rng: np.random.Generator, centre: tuple[float, float], angle: float) -> Area:
    """One car, 4.5 by 1.9 metres."""
    red, green, blue = CARS[int(rng.integers(len(CARS)))]
    outline = Local(centre, angle).box(-2.2, 2.2, -0.95, 0.95)
    factor = (red / 200.0, green / 200.0, blue / 200.0)
    return Area("car", outline, factor, height=1.35, movable=True)


def car_park(
    rng: np.random.Generator, local: Local, size: tuple[float, float], full: float
) -> tuple[Area, ...]:
    """Asphalt with marked bays; ``size`` along u and v in metres, ``full`` share of bays taken."""
    length, depth = size
    areas = [Area(str(rng.choice(["asphalt", "tarmac"])), local.box(0, length, 0, depth))]
    for row in np.arange(1.0, depth - 5.0, 16.5):
        for v in (float(row), float(row) + 11.0):
            if v + 5.0 > depth:
                continue
            for u in np.arange(1.5, length - 2.0, 2.8):
                stripe = local.box(float(u), float(u) + 0.3, v, v + 5.0)
                areas.append(Area("marking", stripe))
                if rng.random() < full and u + 2.8 < length - 1.0:
                    areas.append(
                        car(rng, local.at(float(u) + 1.5, v + 2.5), local.angle + np.pi / 2)
                    )
    return tuple(areas)


_ROADS: dict[str, tuple[float, str, bool]] = {
    "street": (8.5, "asphalt", True),
    "lane": (5.0, "concrete", False),
    "highway": (14.0, "tarmac", False),
    "dirt": (3.6, "dirt", False),
}


def road_width(kind: str) -> float:
    """Return the full width of a road with its verges or pavements in metres."""
    width, _, pavement = _ROADS[kind]
    return width + (3.6 if pavement else 5.0 if kind == "highway" else 1.6)


@dataclass(frozen=True)
class Road:
    """Areas of one road: what lies beside it, drawn before all surfaces, and its surface."""

    sides: tuple[Area, ...]
    surface: tuple[Area, ...]


def road(line: Points, kind: str, rng: np.random.Generator) -> Road:
    """One road along a polyline [N, 2]: verge or pavement, surface, markings.

    ``kind`` is ``street``, ``lane``, ``highway`` or ``dirt``.
    """
    width, material, pavement = _ROADS[kind]
    sides = [Area("verge", ribbon(line, road_width(kind)), tint(rng, 0.04))]
    if pavement:
        sides.append(Area("pavement", ribbon(line, width + 3.2), tint(rng, 0.03)))
        sides.append(Area("kerb", ribbon(line, width + 0.5)))
    shade = tint(rng, 0.05)
    surface = [Area(material, ribbon(line, width), shade)]
    if kind == "dirt":
        surface.append(Area("verge", ribbon(line, 0.7), shade))
    if kind == "highway":
        for offset in (-width / 2 + 0.9, width / 2 - 0.9):
            surface.append(Area("marking", ribbon(_beside(line, offset), 0.3)))
        surface.append(Area("yellow", ribbon(line, 0.35)))
        for offset in (-width / 4, width / 4):
            surface.extend(_dashes(_beside(line, offset)))
    return Road(tuple(sides), tuple(surface))


def lengthened(line: Points, metres: float) -> Points:
    """Continue a polyline [N, 2] straight on at both ends, so that it meets other roads."""
    first, last = line[0] - line[1], line[-1] - line[-2]
    first = line[0] + first / np.linalg.norm(first) * metres
    last = line[-1] + last / np.linalg.norm(last) * metres
    return np.concatenate([first[None], line, last[None]])


def _beside(line: Points, offset: float) -> Points:
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return np.asarray(line + np.stack([-along[:, 1], along[:, 0]], axis=1) * offset)


def _dashes(line: Points) -> list[Area]:
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    found = []
    for start in np.arange(0.0, distance[-1] - 4.0, 10.0):
        ends = np.array([start, start + 4.0])
        dash = np.stack([np.interp(ends, distance, line[:, k]) for k in (0, 1)], axis=1)
        found.append(Area("marking", ribbon(dash, 0.3)))
    return found
