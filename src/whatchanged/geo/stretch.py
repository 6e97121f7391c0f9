"""One radiometric stretch for both dates, from what the sensor wrote to eight bits.

Stretching each date by itself would make a dark and a bright day look alike, and would also
turn a change in one half of a picture into a change of the other half. So the limits are
shared: equal values before and after stay equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class Stretch:
    """A linear map per band from stored values to [0, 255].

    Attributes:
        kind: "identity" for 8-bit pictures, else "percentile".
        low: Value shown as 0, for red, green, blue.
        high: Value shown as 255, above ``low``.
        percentiles: Where in the joint distribution of both dates the limits lie; None for the
            identity.
        n_samples: Pixels per band that the limits were taken from; 0 for the identity.
    """

    kind: Literal["identity", "percentile"]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    percentiles: tuple[float, float] | None = None
    n_samples: int = 0

    def apply(self, data: NDArray[Any]) -> NDArray[np.uint8]:
        """Map values [3, H, W] to a picture [H, W, 3] uint8; values beyond the limits saturate.

        Values that are not numbers become 0.
        """
        if self.kind == "identity":
            return np.ascontiguousarray(np.moveaxis(data, 0, -1), dtype=np.uint8)
        # float32 is exact for 16-bit values; wider types keep their precision.
        working = np.float32 if data.dtype.itemsize <= 2 else np.float64
        picture = np.empty((*data.shape[1:], 3), dtype=np.uint8)  # [H, W, 3]
        for band, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            scaled = data[band].astype(working)
            scaled -= low
            scaled *= 255.0 / (high - low)
            np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
            picture[..., band] = np.rint(np.clip(scaled, 0.0, 255.0, out=scaled), out=scaled)
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Stretch:
        """Rebuild a stretch from what :meth:`to_dict` gave, also after a trip through JSON."""
        limits = values["percentiles"]
        return cls(
            kind=values["kind"],
            low=(values["low"][0], values["low"][1], values["low"][2]),
            high=(values["high"][0], values["high"][1], values["high"][2]),
            percentiles=None if limits is None else (limits[0], limits[1]),
            n_samples=values["n_samples"],
        )


IDENTITY = Stretch("identity", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def fit_stretch(samples: Iterable[NDArray[Any]]) -> Stretch:
    """Joint percentile limits of sampled valid values of both dates.

    Args:
        samples: Arrays [3, N], any mixture of the two dates, without invalid pixels. N may
            differ and may be 0.

    Returns:
        The stretch; limits are 0 and 1 where there is no sample, and at least one apart where a
        band has a single value.
    """
    values = np.concatenate([np.empty((3, 0)), *samples], axis=1)  # [3, N]
    if values.shape[1] == 0:
        return Stretch("percentile", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), PERCENTILES, 0)
    low, high = np.percentile(values, PERCENTILES, axis=1)  # [3], [3]
    high = np.where(high > low, high, low + np.maximum(1.0, 1e-6 * np.abs(low)))
    return Stretch(
        kind="percentile",
        low=(float(low[0]), float(low[1]), float(low[2])),
        high=(float(high[0]), float(high[1]), float(high[2])),
        percentiles=PERCENTILES,
        n_samples=values.shape[1],
    )
