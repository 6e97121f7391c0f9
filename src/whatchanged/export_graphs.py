"""HiSem as three graphs without data-dependent control flow, each one ONNX file.

The graphs run the model's own modules, but for the few that branch (see `export_dense`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.errors import WhatchangedError
from whatchanged.export_dense import make_dense
from whatchanged.models.backbones import Encoder, normalise
from whatchanged.models.hisem.decoder import CaptionDecoder, KeysValues
from whatchanged.models.hisem.generate import NULL, START, UNKNOWN
from whatchanged.models.hisem.model import HiSem

Value = TypeVar("Value")

GRAPHS = ENCODER, MEMORY, STEP = "encoder.onnx", "memory.onnx", "decoder_step.onnx"
OPSET = 18  # the lowest that the exporter of torch writes without converting


class EncoderGraph(nn.Module):
    """Normalisation and encoder: RGB pictures [B, 3, H, W] uint8 to maps [B, C, h, w]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures of either date."""
        maps: Tensor = self.encoder(normalise(pictures, self.encoder.config))
        return maps


class MemoryGraph(nn.Module):
    """Positions, BDAM and HASD, and the keys and values the decoder reads the memory by.

    Args:
        hisem: Model in evaluation mode; it is copied, not changed.
    """

    def __init__(self, hisem: HiSem) -> None:
        super().__init__()
        self.hisem = make_dense(hisem)

    def forward(self, before_map: Tensor, after_map: Tensor) -> dict[str, Tensor]:
        """Return `memory_outputs` of two maps [B, C, h, w]."""
        return memory_outputs(self.hisem, before_map, after_map)


def memory_outputs(hisem: HiSem, before_map: Tensor, after_map: Tensor) -> dict[str, Tensor]:
    """Return what a model makes of two maps [B, C, h, w], by name.

    `tokens` [B, L, D], `router_logits` [B, 2], `path` [B], `difference_map` [B, h, w] and
    `experts` [B, L, k] as in `HiSemMemory`; those that are None are left out. `memory_keys` and
    `memory_values` [N, B, heads, L, D / heads] are what the N layers of the decoder read.
    """
    memory = hisem.memory(before_map, after_map)
    known = hisem.decoder.remember(memory.tokens)
    outputs = {
        "tokens": memory.tokens,
        "router_logits": memory.router_logits,
        "path": memory.path,
        "difference_map": memory.difference_map,
        "experts": memory.experts,
        "memory_keys": torch.stack([kept.keys for kept in known]),
        "memory_values": torch.stack([kept.values for kept in known]),
    }
    return {name: value for name, value in outputs.items() if value is not None}


class DecoderStepGraph(nn.Module):
    """One word of each caption to the log probabilities of the next, with kept keys and values."""

    never_said: Tensor

    def __init__(self, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        never = torch.zeros(decoder.head.out_features, dtype=torch.bool)
        never[[NULL, UNKNOWN, START]] = True
        self.register_buffer("never_said", never, persistent=False)

    def forward(
        self,
        words: Tensor,
        memory_keys: Tensor,
        memory_values: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Say what may follow word t.

        Args:
            words: Word t of each caption, [B]; word 0 is START.
            memory_keys: From the memory graph, [N, B, heads, L, D / heads], N layers.
            memory_values: Likewise.
            past_keys: Of the t words before, [N, B, heads, t, D / heads].
            past_values: Likewise.

        Returns:
            Log probabilities [B, V], -inf for what is no word of a caption; keys and values
            of t + 1 words, the next step's past.
        """
        t = past_keys.shape[3]
        kept = zip(memory_keys.unbind(0), memory_values.unbind(0), strict=True)
        known = [KeysValues(keys, values) for keys, values in kept]
        past = [
            KeysValues(F.pad(keys, (0, 0, 0, 1)), F.pad(values, (0, 0, 0, 1)))
            for keys, values in zip(past_keys.unbind(0), past_values.unbind(0), strict=True)
        ]
        logits = self.decoder.step(words.unsqueeze(1), t, known, past).squeeze(1)  # [B, V]
        scores = logits.log_softmax(dim=1).masked_fill(self.never_said, -torch.inf)
        all_keys = torch.stack([layer.keys for layer in past])
        return scores, all_keys, torch.stack([layer.values for layer in past])


@dataclass(frozen=True)
class Graph:
    """A module with what it is traced on.

    Attributes:
        module: In evaluation mode.
        inputs: Name to example, in the order of `forward`.
        axes: Input name to its axes of any length: index to letter.
        outputs: Names, in the order `forward` returns them.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]


def make_graphs(hisem: HiSem) -> dict[str, Graph]:
    """Return the graphs of a model in evaluation mode by file name.

    The examples have lengths of 2 and more that differ from each other: a length of 1, or two
    equal ones, would be taken for a law.
    """
    encoder = EncoderGraph(hisem.encoder)
    pictures = torch.arange(2 * 3 * 64 * 96).remainder(256).to(torch.uint8).view(2, 3, 64, 96)
    memory = MemoryGraph(hisem)
    with torch.no_grad():
        maps = encoder(pictures)
        seen = memory(maps, maps.flip(0))
    words = torch.tensor([START, START])
    keys, values = seen["memory_keys"], seen["memory_values"]
    past = torch.zeros_like(keys[:, :, :, :3])
    kept, said = {1: "B", 3: "L"}, {1: "B", 3: "t"}
    return {
        ENCODER: Graph(
            encoder, {"pictures": pictures}, {"pictures": {0: "B", 2: "H", 3: "W"}}, ("map",)
        ),
        MEMORY: Graph(
            memory,
            {"before_map": maps, "after_map": maps.flip(0)},
            {name: {0: "B", 2: "h", 3: "w"} for name in ("before_map", "after_map")},
            tuple(seen),
        ),
        STEP: Graph(
            DecoderStepGraph(hisem.decoder),
            {
                "words": words,
                "memory_keys": keys,
                "memory_values": values,
                "past_keys": past,
                "past_values": past.clone(),
            },
            {
                "words": {0: "B"},
                **dict.fromkeys(("memory_keys", "memory_values"), kept),
                **dict.fromkeys(("past_keys", "past_values"), said),
            },
            ("log_probabilities", "keys", "values"),
        ),
    }


def write_graph(graph: Graph, path: Path, properties: Mapping[str, str]) -> None:
    """Write one ONNX file with everything in it.

    Args:
        graph: What to write.
        path: The file.
        properties: Stored in the file as its metadata.

    Raises:
        WhatchangedError: The exporter has no way to write an operator of this model.
    """
    inputs = {name: value.clone() for name, value in graph.inputs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            program: Any = torch.onnx.export(
                graph.module,
                kwargs=inputs,
                input_names=list(inputs),
                output_names=list(graph.outputs),
                dynamic_shapes={name: dict(axes) for name, axes in graph.axes.items()},
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.diagonal_scatter.default: _put_diagonal},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise WhatchangedError(
                f"{path.name} cannot be written by the exporter of torch: {reason}",
                hint="use torch and onnxscript as in constraints.txt; --debug shows more",
            ) from error
    for node in program.model.graph.all_nodes():  # where it was traced: paths of this machine
        node.metadata_props.clear()
    program.model.metadata_props.update(properties)
    program.save(path)


def _put_diagonal(
    matrices: Value, diagonals: Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    """Write `aten.diagonal_scatter` in ONNX, for the main diagonal of the last two axes.

    It is what tracing makes of adding to a diagonal in place (Eq. 4), and the exporter of torch
    has no operators for it.
    """
    from onnxscript import opset18

    op: Any = opset18  # its types know no function that is traced
    length = op.Shape(matrices, start=-1)  # [1]
    places = op.Range(0, op.Squeeze(length), 1)  # [L]
    on_diagonal = op.Equal(op.Unsqueeze(places, [1]), places)  # [L, L]
    return cast(Value, op.Where(on_diagonal, op.Unsqueeze(diagonals, [-1]), matrices))
