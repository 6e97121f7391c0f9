"""How the runs of a table are trained: the paper's recipe, or a small one for a CPU.

A recipe is the part of a `TrainConfig` that all rows of a table share. The small ones are
those of `configs/` without what is particular to one machine: the folders of data and the
encoder that was trained before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["small", "paper"]
Stage = Literal["hisem", "masks", "wishes", "samples"]
"""What is trained: HiSem, the mask part of ReasonCD, ReasonCD over such a mask part, or all of
ReasonCD at once on five-field samples, as in the paper."""

_HISEM_SMALL: Mapping[str, Any] = {
    "task": "hisem",
    "preset": "hisem-small",
    "model": {"encoder": {"unfreeze_last": 2}},
    "data": {
        "flips": True,
        "photometric": 0.6,
        "views": 2,
        "synthetic": 0.1,
        "self_pairs": 0.06,
    },
    "optimiser": {
        "name": "adamw",
        "lr": 4e-4,
        "encoder_lr": 6e-5,
        "weight_decay": 0.05,
        "clip": 1.0,
        "schedule": "cosine",
        "warmup": 100,
    },
    "epochs": 11,
    "validate_every": 2,
    "batch_size": 32,
    "precision": "bf16",
    "label_routing": 0.8,
}
# IV-C, and the words of the published protocol.
_HISEM_PAPER: Mapping[str, Any] = {
    "task": "hisem",
    "preset": "hisem-clip-b16",
    "data": {"size": 224, "vocabulary": "all-splits"},
    "optimiser": {"name": "adam", "lr": 1e-4},
    "epochs": 50,
    "batch_size": 64,
}
_MASKS_SMALL: Mapping[str, Any] = {
    "task": "wish-masks",
    "preset": "reasoncd-small",
    "model": {"compact": {"encoder": {"unfreeze_last": 7}}},
    "data": {"photometric": 0.6},
    "wishes": {"per_pair": 3, "absent": 0.25},
    "optimiser": {
        "name": "adamw",
        "lr": 8e-4,
        "encoder_lr": 2e-4,
        "weight_decay": 0.02,
        "clip": 1.0,
        "schedule": "cosine",
        "warmup": 50,
    },
    "epochs": 2,
    "validate_every": 2,
    "batch_size": 8,
    "precision": "bf16",
    "monitor": "score",
}
_WISHES_SMALL: Mapping[str, Any] = {
    "task": "wishes",
    "preset": "reasoncd-small",
    "model": {
        "language": {
            "lora_rank": 16,
            "lora_alpha": 32,
            "lora_dropout": 0,
            "lora_targets": [
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ],
        }
    },
    "data": {"photometric": 0.5},
    "wishes": {"per_pair": 14, "absent": 0.35, "align": 1.0},
    "optimiser": {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "clip": 1.0,
        "schedule": "linear",
        "warmup": 20,
    },
    "epochs": 1,
    "batch_size": 2,
    "precision": "bf16",
    "monitor": "score",
}

# ReasonCD, IV-C; batches of 16 by accumulation, and early stopping on F1 of the validation split.
_SAMPLES_PAPER: Mapping[str, Any] = {
    "task": "samples",
    "preset": "reasoncd-llama2-7b",
    "model": {"language": {"dtype": "bfloat16"}},
    "optimiser": {
        "name": "adamw",
        "lr": 5e-5,
        "clip": 1.0,
        "schedule": "linear",
        "final": 0.0,
        "warmup": 100,
    },
    "epochs": 100,
    "batch_size": 16,
    "accumulate": 4,
    "precision": "bf16",
    "monitor": "f1",
    "patience": 10,
}
_SAMPLES_SMALL: Mapping[str, Any] = {
    **_SAMPLES_PAPER,
    "preset": "reasoncd-small",
    "model": {},
    "data": {"photometric": 0.5},
    "optimiser": {**_SAMPLES_PAPER["optimiser"], "lr": 8e-4},
    "epochs": 10,
    "patience": 3,
}

RECIPES: Mapping[tuple[Stage, Preset], Mapping[str, Any]] = {
    ("hisem", "small"): _HISEM_SMALL,
    ("hisem", "paper"): _HISEM_PAPER,
    ("masks", "small"): _MASKS_SMALL,
    ("wishes", "small"): _WISHES_SMALL,
    ("samples", "small"): _SAMPLES_SMALL,
    ("samples", "paper"): _SAMPLES_PAPER,
}
"""The recipes there are. The paper trains ReasonCD on five-field samples and on nothing else."""
