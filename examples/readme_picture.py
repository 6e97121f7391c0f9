"""Draw the picture of the README: a generated scene on two dates and what the model says of it.

Run it from the root of the repository: ``python examples/readme_picture.py [file]``. The same
weights give the same picture.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from demo import SEED
from PIL import Image, ImageDraw, ImageFont

import whatchanged
from whatchanged.data.synthetic import SyntheticScene, draw_scene, encode_geotiff

SIDE, GAP, BAND = 512, 8, 64
PAPER, INK, SOFT = "#ffffff", "#1d2226", "#5c666e"


def describe(scene: SyntheticScene) -> whatchanged.Description:
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name) / "before.tif", Path(name) / "after.tif"
        before.write_bytes(encode_geotiff(scene.before, scene.grid))
        after.write_bytes(encode_geotiff(scene.after, scene.grid))
        return whatchanged.describe(before, after)


def compose(scene: SyntheticScene, caption: str, probability: float) -> Image.Image:
    """Place both dates side by side with the caption below."""
    width = 2 * SIDE + GAP
    sheet = Image.new("RGB", (width, SIDE + BAND), PAPER)
    draw = ImageDraw.Draw(sheet)
    label = ImageFont.load_default(16)
    for number, (picture, name) in enumerate(((scene.before, "before"), (scene.after, "after"))):
        image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        left = number * (SIDE + GAP)
        sheet.paste(image, (left, 0))
        box = draw.textbbox((left + 18, 14), name, font=label)
        draw.rounded_rectangle((box[0] - 8, box[1] - 5, box[2] + 8, box[3] + 5), 4, fill="#20262b")
        draw.text((left + 18, 14), name, font=label, fill="#ffffff")
    middle = SIDE + BAND / 2
    chance = f"changed {probability:.2f}"
    draw.text((width - 8, middle), chance, font=ImageFont.load_default(18), fill=SOFT, anchor="rm")
    room = width - 32 - draw.textlength(chance, font=ImageFont.load_default(18))
    size = next((s for s in range(26, 12, -1) if _length(draw, caption, s) <= room), 12)
    draw.text((8, middle), caption, font=ImageFont.load_default(size), fill=INK, anchor="lm")
    return sheet


def _length(draw: ImageDraw.ImageDraw, text: str, size: int) -> float:
    return float(draw.textlength(text, font=ImageFont.load_default(size)))


def main(target: Path) -> None:
    scene = draw_scene(SEED, kinds=["street"])
    description = describe(scene)
    sheet = compose(scene, description.caption, description.changed_probability)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, optimize=True)
    print(f"{target}: {description.caption}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/scene.png"))
