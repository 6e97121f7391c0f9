"""What describing costs: cold start, warm time a pair, memory, and a naive variant beside it.

The naive variant does what a straightforward implementation does: one pair at a time, every
expert on every token, and every word decoded from scratch. Its captions are checked to be the
same before anything is timed.

    python benchmarks/describe.py [--model hisem-small] [--repeat 5] [--json]
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from whatchanged.data.synthetic import draw_scene
from whatchanged.models.hisem.generate import END, NULL, START, UNKNOWN
from whatchanged.models.hisem.moe import MixtureOfExperts, TokenRoute
from whatchanged.models.outputs import HiSemMemory
from whatchanged.predict import CaptionModel, describe_arrays, load_model

SIDE = 512
N_PAIRS = 8


def draw_pairs() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Draw changed scenes of 512 x 512 pixels."""
    scenes = [draw_scene(seed, size=SIDE, changed=True) for seed in range(N_PAIRS)]
    return [(scene.before, scene.after) for scene in scenes]


def dense_dispatch(self: MixtureOfExperts, tokens: Tensor, route: TokenRoute) -> Tensor:
    """Run every expert on every token and weigh the results, most of them by 0."""
    weights = torch.zeros_like(route.scores).scatter(1, route.experts, route.weights)
    results = torch.stack([expert(tokens) for expert in self.experts])  # [E, N, D]
    return torch.einsum("end,ne->nd", results, weights)


@contextmanager
def dense_experts() -> Iterator[None]:
    """Replace the routed dispatch by the dense one."""
    routed = MixtureOfExperts._dispatch
    MixtureOfExperts._dispatch = dense_dispatch  # type: ignore[method-assign]
    try:
        yield
    finally:
        MixtureOfExperts._dispatch = routed  # type: ignore[method-assign]


@torch.inference_mode()
def naive_decode(model: CaptionModel, memory: HiSemMemory) -> list[list[int]]:
    """Decode each pair by itself, all words anew for every word."""
    captions = []
    for row in range(len(memory.tokens)):
        words = [START]
        while len(words) < model.hisem.decoder.max_len:
            logits = model.hisem.decoder(torch.tensor([words]), memory.tokens[row : row + 1])[0, -1]
            logits[[NULL, START, UNKNOWN]] = -torch.inf
            words.append(int(logits.argmax()))
            if words[-1] == END:
                break
        captions.append([word for word in words[1:] if word != END])
    return captions


def timed(work: Callable[[], Any], repeat: int) -> float:
    """Return the median of `repeat` runs after one that does not count, seconds."""
    work()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cold_start(model: str) -> tuple[float, float]:
    """Run the command once on a pair of files: seconds and peak resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = draw_pairs()[0]
        Image.fromarray(before).save(Path(folder, "before.png"))
        Image.fromarray(after).save(Path(folder, "after.png"))
        command = [sys.executable, "-m", "whatchanged", "describe", "before.png", "after.png"]
        started = time.perf_counter()
        child = subprocess.Popen(
            [*command, "--model", model], cwd=folder, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"the command failed with status {status}")
    return seconds, usage.ru_maxrss / 1024


def measure(name: str, repeat: int) -> dict[str, float]:
    """Measure everything and return it in seconds, MB and ratios."""
    results: dict[str, float] = {}
    results["cold_seconds"], results["cold_peak_mb"] = cold_start(name)
    model = load_model(name)
    pairs = draw_pairs()
    results["warm_512_seconds"] = timed(lambda: describe_arrays(*pairs[0], model=name), repeat)

    size = (model.hisem.config.encoder.input_size,) * 2
    before, after = (
        torch.from_numpy(
            np.stack([np.asarray(Image.fromarray(pair[date]).resize(size)) for pair in pairs])
        ).permute(0, 3, 1, 2)
        for date in (0, 1)
    )
    both = model.see(before, after)
    same = [list(h[0].ids) for h in model.say(both, 1)]
    with dense_experts():
        naive = naive_decode(model, model.see(before, after))
    if naive != same:
        raise SystemExit("the naive variant says something else; nothing was timed")
    results["words_a_caption"] = statistics.mean(map(len, same))

    for n in (1, N_PAIRS):
        results[f"see_{n}_seconds"] = timed(lambda n=n: model.see(before[:n], after[:n]), repeat)
        memory = model.see(before[:n], after[:n])
        results[f"say_greedy_{n}_seconds"] = timed(lambda m=memory: model.say(m, 1), repeat)
        results[f"say_beam3_{n}_seconds"] = timed(lambda m=memory: model.say(m, 3), repeat)
    with torch.inference_mode():
        maps = timed(lambda: model.hisem.encode(before.float(), after.float()), repeat)
    total = results[f"see_{N_PAIRS}_seconds"] + results[f"say_greedy_{N_PAIRS}_seconds"]
    results["encoder_share"] = maps / total
    results["naive_say_8_seconds"] = timed(lambda: naive_decode(model, both), repeat)
    with dense_experts():
        results["naive_see_8_seconds"] = timed(
            lambda: [model.see(before[i : i + 1], after[i : i + 1]) for i in range(N_PAIRS)], repeat
        )
    results["decoding_gain"] = results["naive_say_8_seconds"] / results["say_greedy_8_seconds"]
    naive_total = results["naive_see_8_seconds"] + results["naive_say_8_seconds"]
    results["whole_gain"] = naive_total / total
    results["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return results


def main() -> None:
    """Print the measurements as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hisem-small")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.model, arguments.repeat)
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for key, value in results.items():
        print(f"{key:28} {value:10.3f}")


if __name__ == "__main__":
    main()
