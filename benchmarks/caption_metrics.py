"""Time and values of the caption metrics beside pycocoevalcap, on the LEVIR-CC test set.

    python benchmarks/caption_metrics.py LevirCCcaptions.json

The prediction for each pair is a reference drawn from any pair of the same change label, so
captions are as varied as a model's. Seconds of processor time are printed beside seconds of the
wall clock: on a busy machine only the first can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whatchanged.metrics.captions import CaptionScores, score_captions
from whatchanged.metrics.protocol import build_vocabulary, to_ids

Captions = list[list[str]]


def load(path: Path) -> tuple[Captions, list[Captions]]:
    """Return predictions and references of the test split as ids of the published protocol."""
    images = json.loads(path.read_text())["images"]
    splits: dict[str, Captions] = {}
    for image in images:
        splits.setdefault(image["split"], []).extend(s["tokens"] for s in image["sentences"])
    vocabulary = build_vocabulary(splits)
    test = [image for image in images if image["split"] == "test"]
    references = [[to_ids(s["tokens"], vocabulary) for s in i["sentences"]] for i in test]
    rng = random.Random(0)
    pools = {
        flag: [group for group, i in zip(references, test, strict=True) if i["changeflag"] == flag]
        for flag in (0, 1)
    }
    return [rng.choice(rng.choice(pools[image["changeflag"]])) for image in test], references


def timed(task: Callable[[], Any]) -> tuple[Any, float, float]:
    """Run ``task``; return its result, processor seconds with child processes, wall seconds."""
    cpu, wall = sum(os.times()[:4]), time.perf_counter()
    result = task()
    return result, sum(os.times()[:4]) - cpu, time.perf_counter() - wall


def oracle(predictions: Captions, references: list[Captions], meteor: bool) -> list[float]:
    """Score with pycocoevalcap: BLEU-1 to 4, METEOR if asked, ROUGE-L, CIDEr-D in percent."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    truths = {i: [" ".join(r) for r in group] for i, group in enumerate(references)}
    guesses = {i: [" ".join(p)] for i, p in enumerate(predictions)}
    scores = list(Bleu(4).compute_score(truths, guesses, verbose=0)[0])
    if meteor:
        scores.append(Meteor().compute_score(truths, guesses)[0])
    scores += [m.compute_score(truths, guesses)[0] for m in (Rouge(), Cider())]
    return [100 * float(score) for score in scores]


def flat(scores: CaptionScores) -> list[float]:
    """List the scores in the oracle's order."""
    listed = [scores.bleu1, scores.bleu2, scores.bleu3, scores.bleu4]
    return [s for s in [*listed, scores.meteor, scores.rouge_l, scores.cider_d] if s is not None]


def show(name: str, scores: list[float], cpu: float, wall: float) -> None:
    values = " ".join(f"{score:8.3f}" for score in scores)
    print(f"{name:28s} {cpu:7.2f} s cpu {wall:7.2f} s wall   {values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, help="LevirCCcaptions.json")
    predictions, references = load(parser.parse_args().captions)
    n_references = sum(len(group) for group in references)
    print(f"{len(predictions)} predictions, {n_references} references, protocol ids")
    ours = {}
    for meteor in ("none", "exact"):
        scores, *seconds = timed(lambda m=meteor: score_captions(predictions, references, meteor=m))
        ours[meteor] = flat(scores)
        show(f"whatchanged, METEOR {meteor}", ours[meteor], *seconds)
    try:
        theirs, *seconds = timed(lambda: oracle(predictions, references, False))
        show("pycocoevalcap, no METEOR", theirs, *seconds)
        gap = max(abs(a - b) for a, b in zip(ours["none"], theirs, strict=True))
        print(f"largest difference {gap:.1e}")
        if shutil.which("java") is None:
            print("no java: METEOR's own program was not run")
            return
        theirs, *seconds = timed(lambda: oracle(predictions, references, True))
        show("pycocoevalcap, METEOR jar", theirs, *seconds)
        print(f"METEOR differs by {abs(ours['exact'][4] - theirs[4]):.3f} points")
    except ImportError:
        print("pycocoevalcap is not installed: nothing to compare with")


if __name__ == "__main__":
    main()
