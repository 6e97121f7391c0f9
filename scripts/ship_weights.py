"""Turn the best checkpoint of a run into the weights that ship in the package.

    python scripts/ship_weights.py runs/hisem-small/best docs/models/hisem-small.md hisem-small

Weights become float16; the model card travels with them. Run `benchmarks/hisem_card.py` on the
shipped weights afterwards, not on the float32 ones: the card's numbers are of what ships.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from whatchanged.models.checkpoint import load_checkpoint, save_checkpoint

WEIGHTS = Path(__file__).resolve().parents[1] / "src" / "whatchanged" / "weights"


def main() -> None:
    """Read, halve, write, and say how large it became."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the best checkpoint")
    parser.add_argument("card", type=Path, help="model card in Markdown")
    parser.add_argument("name", help="name in src/whatchanged/weights")
    arguments = parser.parse_args()
    saved = load_checkpoint(arguments.run)
    save_checkpoint(
        WEIGHTS / arguments.name,
        family=saved.family,
        config=saved.config,
        tensors=saved.tensors,
        extras=saved.extras,
        half=True,
        card=arguments.card.read_text(encoding="utf-8"),
    )
    size = sum(path.stat().st_size for path in (WEIGHTS / arguments.name).iterdir())
    print(f"{WEIGHTS.name}/{arguments.name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
