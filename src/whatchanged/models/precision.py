"""Where bfloat16 saves time and where it is only imitated.

A processor without instructions for it (AVX2 alone, say) ran a product of 2,048 x 2,048
matrices some 300 times slower than in float32: what is a gift on one machine is a standstill
on the next. So bfloat16 is a wish, and this file decides whether the device grants it.
"""

from __future__ import annotations

from typing import Any

import torch


def computes_bfloat16(device: torch.device | None = None) -> bool:
    """Return whether a device computes in bfloat16 at least as fast as in float32.

    Args:
        device: None for the one that models are trained on here: an accelerator if there is
            one, else the processor.
    """
    if device is None:
        here = torch.accelerator.is_available()
        device = (torch.accelerator.current_accelerator() if here else None) or torch.device("cpu")
    if device.type == "cpu":
        library: Any = torch.ops.mkldnn
        return bool(library._is_mkldnn_bf16_supported())
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True
