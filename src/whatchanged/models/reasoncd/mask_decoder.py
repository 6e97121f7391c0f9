"""From the state of the target token to a mask: prompt MLP and SAM's mask decoder (III-B5)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.models.reasoncd.config import MaskDecoderConfig


def state_prompt(width: int, out: int) -> nn.Sequential:
    """Build the MLP from a state [D] to the sparse prompt [out] of the decoder (design, 6)."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


class ChangeMapDecoder(nn.Module):
    """SAM's mask decoder with one sparse prompt, its no-mask embedding, and one mask.

    Tensors carry SAM's names, so that its published weights fit.

    Args:
        width: Channels of the fused map.
        config: Size of the decoder.
    """

    def __init__(self, width: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        from transformers import SamMaskDecoderConfig, SamVisionConfig
        from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding

        sam = SamMaskDecoderConfig(
            hidden_size=width,
            mlp_dim=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_multimask_outputs=config.masks,
            iou_head_hidden_dim=width,
        )
        sam._attn_implementation = "eager"
        self.mask_decoder = SamMaskDecoder(sam)
        self.no_mask_embed = nn.Embedding(1, width)
        # SAM draws its frequencies once, with unit deviation, and never trains them.
        positional: Any = SamPositionalEmbedding
        self.shared_image_embedding = positional(SamVisionConfig(num_pos_feats=width // 2))
        nn.init.normal_(self.shared_image_embedding.positional_embedding)
        self._freeze_unread()

    def _freeze_unread(self) -> None:
        """Freeze the prompt encoder's parts (LISA) and what one mask never reads."""
        self.no_mask_embed.requires_grad_(False)
        self.shared_image_embedding.requires_grad_(False)
        self.mask_decoder.iou_prediction_head.requires_grad_(False)
        for mlp in self.mask_decoder.output_hypernetworks_mlps[1:]:
            mlp.requires_grad_(False)

    def forward(self, fused: Tensor, prompts: Tensor) -> Tensor:
        """Decode one mask a prompt.

        Args:
            fused: Map of each prompt's pair, [n, width, h, w].
            prompts: [n, width].

        Returns:
            Logits [n, 4 h, 4 w].
        """
        n, width, height, across = fused.shape
        positions = self._positions(height, across).expand(n, -1, -1, -1)
        dense = self.no_mask_embed.weight.view(1, width, 1, 1).expand(n, -1, height, across)
        masks, _ = self.mask_decoder(
            image_embeddings=fused,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=prompts[:, None, None, :],  # [n, 1, 1, width]
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        logits: Tensor = masks[:, 0, 0]
        return logits

    def _positions(self, height: int, width: int) -> Tensor:
        device = self.shared_image_embedding.positional_embedding.device
        rows = (torch.arange(height, device=device) + 0.5) / height
        columns = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        encoded: Tensor = self.shared_image_embedding(torch.stack([x, y], dim=-1))
        return encoded.permute(2, 0, 1).unsqueeze(0)  # [1, width, h, w]


def restore_size(
    logits: Tensor, square: int, valid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Bring mask logits to the pictures' size, the padding removed (design, 8).

    Args:
        logits: [n, h, w], covering the padded square.
        square: Side of the square.
        valid: Height and width of the picture in it.
        size: Height and width of the picture.

    Returns:
        [n, H, W].
    """
    x = logits.unsqueeze(1)
    x = F.interpolate(x, size=(square, square), mode="bilinear", align_corners=False)
    x = x[:, :, : valid[0], : valid[1]]
    if valid != size:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x.squeeze(1)
