"""What asking costs: cold start, first and further wishes, a batch of wishes, and memory.

Beside it stands what a straightforward implementation does: every wish by itself, with the pair
read and encoded anew. Both are checked to give the same answers before anything is timed.

    python benchmarks/ask.py [--model reasoncd-small] [--repeat 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from whatchanged.asking import WishResult, ask, ask_many, load_ask_model, open_session
from whatchanged.data.synthetic import draw_scene

SIDE = 512
WISHES = (
    "new buildings",
    "changes that give people more room to live",
    "roads that were built",
    "places that lost green space",
    "what a flood officer should look at",
    "fields that became something else",
    "trees that were felled",
    "any change",
)


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Write a changed scene of 512 x 512 pixels."""
    scene = draw_scene(0, size=SIDE, changed=True)
    paths = folder / "before.png", folder / "after.png"
    for path, picture in zip(paths, (scene.before, scene.after), strict=True):
        Image.fromarray(picture).save(path)
    return paths


def timed(work: Callable[[], Any], repeat: int) -> float:
    """Return the median of `repeat` runs after one that does not count, seconds."""
    work()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cold_start(model: str, paths: tuple[Path, Path]) -> tuple[float, float]:
    """Run the command once with its products: seconds and peak resident memory in MB."""
    command = [sys.executable, "-m", "whatchanged", "ask", *map(str, paths), WISHES[0]]
    command += ["--model", model, "--out", str(paths[0].parent / "out")]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"the command failed with status {status}")
    return seconds, usage.ru_maxrss / 1024


def check_same(together: list[WishResult], alone: list[WishResult]) -> None:
    """Leave if wishes that were asked together were answered differently alone.

    Words may differ in the last bits of bfloat16; what they mean may not.
    """
    for one, two in zip(together, alone, strict=True):
        meant = [(r.found, r.target, r.direction) for r in (one, two)]
        apart = float(np.abs(one.probability - two.probability).mean())
        if meant[0] != meant[1] or apart > 0.02:
            raise SystemExit(f"'{one.wish}' is answered differently alone; nothing was timed")


def measure(model: str, repeat: int, paths: tuple[Path, Path]) -> dict[str, float]:
    """Measure everything and return it in seconds, MB and ratios."""
    results: dict[str, float] = {}
    results["cold_seconds"], results["cold_peak_mb"] = cold_start(model, paths)
    started = time.perf_counter()
    load_ask_model(model)
    results["load_seconds"] = time.perf_counter() - started
    together = ask_many(*paths, WISHES, model=model)
    check_same(together, [ask(*paths, wish, model=model) for wish in WISHES])
    results["words_an_answer"] = statistics.mean(len(r.said.split()) for r in together)
    results["found"] = sum(r.found for r in together)

    results["first_wish_seconds"] = timed(lambda: ask(*paths, WISHES[0], model=model), repeat)
    session = open_session(*paths, model=model)
    further = [timed(lambda w=wish: session.ask(w), repeat) for wish in WISHES]
    results["further_wish_seconds"] = statistics.mean(further)
    results["further_wish_share"] = further[0] / results["first_wish_seconds"]
    n = len(WISHES)
    results[f"batch_of_{n}_seconds"] = timed(lambda: ask_many(*paths, WISHES, model=model), repeat)
    anew = timed(lambda: [ask(*paths, wish, model=model) for wish in WISHES], repeat)
    results[f"anew_{n}_seconds"] = anew
    results["session_gain"] = anew / (results["first_wish_seconds"] + sum(further[1:]))
    results["batch_gain"] = anew / results[f"batch_of_{n}_seconds"]
    results["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return results


def main() -> None:
    """Print the measurements as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="reasoncd-small")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pair(Path(folder))
        results = measure(arguments.model, arguments.repeat, paths)
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for key, value in results.items():
        print(f"{key:28} {value:10.3f}")


if __name__ == "__main__":
    main()
