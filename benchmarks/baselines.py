"""Three change-detection baselines, trained for the same time on the same pairs.

    python benchmarks/baselines.py --data ../shared/data [--minutes 20] [--networks fc-ef ...]
        [--seed 0] [--out results.json] [--sheet sheet.png]
        [--predictions name=module:function ...]

Training pairs are those of `captioned` (split train) that have a mask and the building sets of
`masks`; validation pairs those of `captioned` (split val) that have one. `--predictions` adds
rows of other models, scored by the same code on the same pairs (see `mask_scores.Predict`).

The seed sets start weights, the order of pairs, their augmentation and dropout. How many steps
fit into the time, and with them the learning rates, depend on the machine; steps, seconds and
seconds of processor time are printed and written.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baseline_networks import BASELINES, Baseline
from mask_scores import (
    SIDE,
    Picture,
    Predict,
    draw_sheet,
    load_validation,
    mask_tables,
    score_masks,
    with_masks,
    write_rows,
)
from whatchanged.data.augment import photometric
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.mask_sets import load_mask_set
from whatchanged.data.samples import CaptionSample
from whatchanged.errors import TrainingError
from whatchanged.models.backbones import EncoderConfig, normalise
from whatchanged.models.precision import computes_bfloat16
from whatchanged.models.reasoncd.loss import mask_bce, mask_dice
from whatchanged.train.pair_layers import LayerStore

MASK_SETS = ("levir_train_plain", "levir_train_jitter", "gz_cd")
BATCH = 16
LIGHT = 0.6
WEIGHT_DECAY = 0.01
WARMUP = 0.03  # share of the time
REPORTED = 50  # steps between two lines of progress


@dataclass(frozen=True)
class Batch:
    """Normalised pictures [B, 3, H, W] of both dates and masks [B, H, W], 255 unknown."""

    before: Tensor
    after: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Training:
    """What training one network took.

    Attributes:
        parameters: Of the network.
        steps: Optimiser steps.
        seconds: From the first picture loaded to the last step done.
        cpu_seconds: Processor time of the same, all threads.
        first_loss: Mean of the first tenth of the steps.
        last_loss: Mean of the last tenth.
    """

    parameters: int
    steps: int
    seconds: float
    cpu_seconds: float
    first_loss: float
    last_loss: float


def training_samples(data: Path) -> list[CaptionSample]:
    """List the training pairs below `data` that have a mask."""
    captioned = load_levir_cc(data / "captioned", "train").samples
    sets = [sample for name in MASK_SETS for sample in load_mask_set(data / "masks" / name)]
    return with_masks([*captioned, *sets])


def batches(store: LayerStore, seed: int) -> Iterator[Batch]:
    """Yield batches without end: large pairs whole or, half of the time, a part; turned; lit."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = rng.permutation(len(store))
        for start in range(0, len(order), BATCH):
            pairs = []
            for index in order[start : start + BATCH].tolist():
                part = store.crop(index, rng) if rng.random() < 0.5 else None
                pairs.append((part or store.whole(index)).turned(rng))
            before, after = photometric(
                torch.from_numpy(np.stack([pair.before for pair in pairs])),
                torch.from_numpy(np.stack([pair.after for pair in pairs])),
                LIGHT,
                generator,
            )
            mask = torch.from_numpy(np.stack([pair.mask for pair in pairs]))
            config = EncoderConfig()
            yield Batch(normalise(before, config), normalise(after, config), mask)


def train(
    network: nn.Module,
    data: Iterator[Batch],
    minutes: float,
    rate: float,
    *,
    layout: torch.memory_format = torch.channels_last,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Training:
    """Train until the time is over; the step that is running then is finished.

    Binary cross-entropy and Dice, AdamW, cosine decay over the time after a short warm-up.

    Args:
        network: Trained in place.
        data: Batches; drawing them counts as time.
        minutes: Wall-clock time.
        rate: Highest learning rate.
        layout: Of weights and pictures in memory.
        clock: Seconds.
        tell: Told of the progress now and then.

    Raises:
        TrainingError: The loss is not a number.
    """
    network.train()
    network.to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    native = computes_bfloat16(torch.device("cpu"))  # else imitated, some ten times slower
    losses: list[float] = []
    started, cpu = clock(), time.process_time()
    while (passed := (clock() - started) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_share(passed)
        batch = next(data)
        dates = (date.contiguous(memory_format=layout) for date in (batch.before, batch.after))
        with torch.autocast("cpu", torch.bfloat16, enabled=native):
            logits = network(*dates)
        loss = mask_bce(logits, batch.mask) + mask_dice(logits, batch.mask)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"the loss is {losses[-1]} at step {len(losses)}")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if len(losses) % REPORTED == 0:
            recent = np.mean(losses[-REPORTED:])
            tell(f"step {len(losses)}, {passed:.0%} of the time, loss {recent:.3f}")
    seconds, cpu_seconds, tenth = clock() - started, time.process_time() - cpu, len(losses) // 10
    return Training(
        parameters=sum(p.numel() for p in network.parameters()),
        steps=len(losses),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        first_loss=float(np.mean(losses[: tenth + 1])),
        last_loss=float(np.mean(losses[-tenth - 1 :])),
    )


def rate_share(passed: float) -> float:
    """Share of the highest learning rate when `passed` of the time, in [0, 1], is over."""
    if passed < WARMUP:
        return max(passed, WARMUP / 100) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (passed - WARMUP) / (1 - WARMUP)))


def predictor(network: nn.Module) -> Predict:
    """Make a function of two pictures of a network, in evaluation mode."""
    network.eval()

    @torch.inference_mode()
    def predict(before: Picture, after: Picture) -> np.ndarray[Any, np.dtype[np.float32]]:
        both = torch.from_numpy(np.stack([before, after])).permute(0, 3, 1, 2)  # [2, 3, H, W]
        both = normalise(both, EncoderConfig())
        probability: Tensor = network(both[:1], both[1:])[0].float().sigmoid()
        return probability.numpy()

    return predict


def load_predictions(text: str) -> tuple[str, Predict]:
    """Find the model of `name=module:function`."""
    name, _, place = text.partition("=")
    module, _, function = place.partition(":")
    if not (name and module and function):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=module:function")
    try:
        found: Predict = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"'{place}' cannot be imported: {error}") from error
    return name, found


def train_baseline(
    baseline: Baseline, network: nn.Module, store: LayerStore, minutes: float, seed: int
) -> tuple[Predict, Training]:
    """Train the network of a baseline."""
    print(f"{baseline.title}: {minutes:g} minutes", file=sys.stderr, flush=True)
    torch.manual_seed(seed)  # of dropout
    data = batches(store, seed)
    training = train(network, data, minutes, baseline.rate, layout=baseline.layout)
    return predictor(network), training


def build(baseline: Baseline, seed: int) -> nn.Module:
    """Build the network of a baseline with its start weights."""
    torch.manual_seed(seed)
    return baseline.build()


def training_table(trainings: Mapping[str, Training]) -> str:
    """Markdown table of what training took."""
    heads = ("", "parameters", "steps", "seconds", "processor seconds", "first loss", "last loss")
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, t in trainings.items():
        took = f"{t.steps} | {t.seconds:.0f} | {t.cpu_seconds:.0f}"
        lines.append(
            f"| {name} | {t.parameters:,} | {took} | {t.first_loss:.3f} | {t.last_loss:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, print; write results and sheet where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="holds captioned/ and masks/")
    parser.add_argument("--minutes", type=float, default=20.0, help="for each network")
    parser.add_argument("--networks", nargs="*", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--predictions", nargs="*", type=load_predictions, default=[])
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--sheet", type=Path, help="PNG")
    asked = parser.parse_args(arguments)
    if not asked.networks and not asked.predictions:
        parser.error("there is no network and no prediction to score")
    if asked.minutes <= 0:
        parser.error("--minutes must be above 0")

    # All at once: missing start weights are told now and not after forty minutes.
    networks = [(BASELINES[name], build(BASELINES[name], asked.seed)) for name in asked.networks]
    validation = load_validation(asked.data / "captioned")
    samples = training_samples(asked.data) if asked.networks else []
    models: dict[str, Predict] = dict(asked.predictions)
    rows = {name: score_masks(predict, validation) for name, predict in models.items()}
    trainings: dict[str, Training] = {}
    facts = {"minutes": asked.minutes, "seed": asked.seed, "n_training": len(samples)}
    facts |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if samples:
        store = LayerStore(samples, SIDE)
        for baseline, network in networks:
            title, given = baseline.title, (store, asked.minutes, asked.seed)
            models[title], trainings[title] = train_baseline(baseline, network, *given)
            rows[title] = score_masks(models[title], validation)
            if asked.out:  # after each: an hour's work is not lost with the last network
                took = {title: asdict(training) for title, training in trainings.items()}
                write_rows(asked.out, rows, {**facts, "training": took})
    elif asked.out:
        write_rows(asked.out, rows, facts)
    print(f"{len(samples)} training pairs, {facts['threads']} threads, seed {asked.seed}\n")
    print(f"{training_table(trainings)}\n\n{mask_tables(rows)}")
    if asked.sheet:
        draw_sheet(validation, models, asked.sheet)


if __name__ == "__main__":
    main()
