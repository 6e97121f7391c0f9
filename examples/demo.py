"""Draw a georeferenced scene on two dates and let the shipped model say what changed.

Run it from anywhere: ``python examples/demo.py [folder]``. It writes before.tif, after.tif and
a report into the folder (``demo`` by default), needs no network and opens nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import whatchanged
from whatchanged.data.synthetic import draw_scene, encode_geotiff

SEED = 1004  # the shipped model was also trained on drawn scenes, of seeds below 203


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scene = draw_scene(SEED, kinds=["street"])
    before, after = folder / "before.tif", folder / "after.tif"
    before.write_bytes(encode_geotiff(scene.before, scene.grid))
    after.write_bytes(encode_geotiff(scene.after, scene.grid))

    description = whatchanged.describe(before, after, out=folder, explain=True)
    print(f"{description.caption}    changed {description.changed_probability:.2f}")
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
