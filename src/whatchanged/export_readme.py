"""What stands beside exported graphs: how to use them without this package."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from whatchanged.export_graphs import OPSET
from whatchanged.export_parity import Parity
from whatchanged.models.hisem.model import HiSem
from whatchanged.prepare import STRIDE

# Run by a test as it stands.
EXAMPLE = '''\
import json

import numpy as np
import onnxruntime as ort

names = ("encoder", "memory", "decoder_step")
encoder, memory, step = (ort.InferenceSession(f"{name}.onnx") for name in names)
with open("vocabulary.json", encoding="utf-8") as file:
    vocabulary = json.load(file)


def describe(before, after):
    """Captions of pictures [B, 3, H, W] uint8 of both dates; whether judged changed."""
    dates = {"before_map": before, "after_map": after}
    maps = {name: encoder.run(["map"], {"pictures": date})[0] for name, date in dates.items()}
    kept = ["memory_keys", "memory_values"]
    path, *values = memory.run(["path", *kept], maps)
    known = dict(zip(kept, values))
    past_keys, past_values = (value[:, :, :, :0] for value in values)  # no word said yet
    word = np.full(len(before), vocabulary["start"], np.int64)
    said = []
    while len(said) < vocabulary["max_len"] - 1:
        past = {"past_keys": past_keys, "past_values": past_values}
        scores, past_keys, past_values = step.run(None, {"words": word, **known, **past})
        word = scores.argmax(axis=1)
        said.append(word)
        if (np.array(said) == vocabulary["end"]).any(axis=0).all():
            break
    return [_sentence(ids) for ids in np.transpose(said).tolist()], path == 1


def _sentence(ids):
    ids = ids[: ids.index(vocabulary["end"])] if vocabulary["end"] in ids else ids
    return " ".join(vocabulary["words"][i] for i in ids)
'''

_TEXT = Template(
    """\
$model in ONNX
$underline

Three graphs that say what changed between two photographs of one place; onnxruntime or any
other runtime of opset $opset runs them.

  model               $model
  sha256              $sha256
  written by          whatchanged $version
  largest difference  $difference
  measured on         $pairs pairs, $unchanged on the unchanged path, $changed on the changed
$tied
If the model has a card, it is beside this file as card.md: its licence holds for these files too.


The graphs

B, H, W, h, w and L = h w are free, t is at most max_len - 2; N = $layers, D = $width, V = $words
here. What has no type is float32.

encoder.onnx, once for each date
  in   pictures         [B, 3, H, W] uint8   RGB, 0 to 255; normalised inside
  out  map              [B, C, h, w]         h = H / $stride, w = W / $stride

memory.onnx, once for a pair
  in   before_map       [B, C, h, w]
       after_map        [B, C, h, w]
  out  tokens           [B, L, D]            what the decoder sees
$router       path             [B] int64            0 unchanged, 1 changed
       difference_map   [B, h, w]            how strongly each place differs, at least 0
$experts       memory_keys      [N, B, heads, L, D / heads]
       memory_values    [N, B, heads, L, D / heads]

decoder_step.onnx, once for a word
  in   words            [B] int64            the last word of each caption; the first is START
       memory_keys, memory_values            of memory.onnx
       past_keys        [N, B, heads, t, D / heads]   of the t words before; first t = 0
       past_values      [N, B, heads, t, D / heads]
  out  log_probabilities  [B, V]             of the next word; -inf for what is never said
       keys, values     [N, B, heads, t + 1, D / heads]   the next past_keys, past_values

A caption ends with the word END or after max_len - 1 words (vocabulary.json). For a beam, give
each pair as many rows as the beam is wide.


The pictures

H and W are multiples of $multiple. The model was trained on $side x $side pixels: resize a pair
(Lanczos) so that H W is about $side x $side. Where either date has no data, give both the same
grey, 127.


An example with numpy and onnxruntime, greedy decoding

$example"""
)


def readme(hisem: HiSem, origin: Mapping[str, str], parity: Parity) -> str:
    """Return the text of README.txt.

    Args:
        hisem: Model.
        origin: Keys `model`, `model_sha256` and `whatchanged_version`.
        parity: As measured.
    """
    config, hasd = hisem.config, hisem.config.hasd
    routed = "       router_logits    [B, 2]               unchanged and changed; softmax them\n"
    chosen = "       experts          [B, L, k] int64      each token's experts; -1 for none\n"
    has_experts = "moe" in ((hasd.unchanged, hasd.changed) if hasd.routing else (hasd.changed,))
    differences = (f"{name} {value:.1e}" for name, value in parity.differences.items())
    tied = (
        f"                      {parity.n_tied} of {parity.n_tokens} tokens, left out there, "
        "stood between experts of equal score\n"
    )
    title = f"{origin['model']} in ONNX"
    return _TEXT.substitute(
        model=origin["model"],
        underline="=" * len(title),
        sha256=origin["model_sha256"],
        version=origin["whatchanged_version"],
        difference=", ".join(differences),
        pairs=parity.n_unchanged + parity.n_changed,
        unchanged=parity.n_unchanged,
        changed=parity.n_changed,
        tied=tied if parity.n_tied else "",
        opset=OPSET,
        layers=config.decoder.layers,
        width=config.width,
        words=hisem.decoder.head.out_features,
        stride=hisem.encoder.stride,
        router=routed if hasd.routing else "",
        experts=chosen if has_experts else "",
        multiple=STRIDE,
        side=config.encoder.input_size,
        example="".join(f"    {line}".rstrip() + "\n" for line in EXAMPLE.splitlines()),
    )
