"""The language model: a frozen LLaMA, adapters on its attention, rows for five new tokens.

The base's tables are never resized: the new tokens' rows are parameters of their own, so that
frozen rows stay as they are to the bit, take no gradient, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.errors import CheckpointError, MissingExtraError
from whatchanged.files import replacing_folder
from whatchanged.models.precision import computes_bfloat16
from whatchanged.models.reasoncd.config import LanguageConfig


class LanguageModel(nn.Module):
    """LLaMA with LoRA (III-F, III-G, Eq. 9-10) and the embeddings of the new tokens (Eq. 2-3).

    Args:
        config: Of the adapters.
        base: `LlamaForCausalLM`; frozen here.
        new_ids: Ids of the new tokens, anywhere at or above the base's tokens.
    """

    new_ids: Tensor

    def __init__(self, config: LanguageConfig, base: Any, new_ids: Sequence[int]) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        self.config = config
        base.requires_grad_(False)
        words, said = base.get_input_embeddings().weight, base.get_output_embeddings().weight
        self.rows = nn.Parameter(_draw_rows(words, len(new_ids)))
        self.said_rows = None if config.tied else nn.Parameter(_draw_rows(said, len(new_ids)))
        self.register_buffer("new_ids", torch.tensor(list(new_ids)))
        self.n_words = max(words.shape[0], max(new_ids) + 1)
        self.llm: Any = get_peft_model(
            base,
            LoraConfig(
                r=config.lora_rank,
                lora_alpha=cast(int, config.lora_alpha),
                lora_dropout=config.lora_dropout,
                target_modules=list(config.lora_targets),
                task_type="CAUSAL_LM",
            ),
        )

    @property
    def base(self) -> Any:
        """The `LlamaForCausalLM` inside, with its adapters or merged."""
        return self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm

    @property
    def merged(self) -> bool:
        """Whether the adapters have become part of the weights."""
        return not hasattr(self.llm, "get_base_model")

    def merge(self) -> None:
        """Add the adapters to the weights they adapt: W + B A alpha / r (Eq. 9-10).

        The same answers, faster; the adapters can no longer be trained or saved.
        """
        if not self.merged:
            self.llm = self.llm.merge_and_unload()

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids [...], [..., D] float32."""
        match = ids.unsqueeze(-1) == self.new_ids  # [..., 5]
        is_new = match.any(dim=-1)
        table = self.base.get_input_embeddings()
        known = table(ids.masked_fill(is_new, 0)).float()
        return torch.where(is_new.unsqueeze(-1), match.float() @ self.rows, known)

    def states(
        self,
        embedded: Tensor,
        attention: Tensor,
        positions: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the last layer's states [B, L, D], float32, after the final norm.

        Args:
            embedded: [B, L, D].
            attention: 1 at places that exist, [B, past + L].
            positions: Of every token, [B, L]; None counts from 0.
            cache: Keys and values of the past, extended in place.
        """
        base = self.base
        out = base.model(
            inputs_embeds=embedded.to(base.get_input_embeddings().weight.dtype),
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return cast(Tensor, out.last_hidden_state.float())

    def logits(self, states: Tensor) -> Tensor:
        """Return the logit of every next token, [..., V] float32, from states [..., D]."""
        head = self.base.get_output_embeddings().weight
        known = F.linear(states.to(head.dtype), head).float()
        new = (states @ (self.rows if self.said_rows is None else self.said_rows).T).float()
        # Ids between the base's table and the new tokens, if any, are never said.
        room = known.new_full((*states.shape[:-1], self.n_words - known.shape[-1]), -torch.inf)
        return torch.cat([known, room], dim=-1).index_copy(-1, self.new_ids, new)


def base_dtype(config: LanguageConfig, device: torch.device | None = None) -> torch.dtype:
    """Return the type of the frozen base: bfloat16 where asked for and computed in.

    Args:
        config: Says what is asked for.
        device: Where the base will be; None for the one that models are trained on here.
    """
    half = config.dtype == "bfloat16" and computes_bfloat16(device)
    return torch.bfloat16 if half else torch.float32


def build_base(config: LanguageConfig, device: torch.device | None = None) -> Any:
    """Build the base with random weights, of a type for `device`; see `base_dtype`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_heads,
            max_position_embeddings=config.positions,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
        )
    )
    return base.to(base_dtype(config, device))


def open_base(
    config: LanguageConfig, source: str | Path, device: torch.device | None = None
) -> tuple[Any, Any]:
    """Read base and tokenizer from a folder, a GGUF file or a repository of the hub.

    A GGUF file is converted once; the result is kept beside it as bfloat16 safetensors.

    Args:
        config: Of the language model.
        source: Folder, file or repository.
        device: Where the base will be, see `base_dtype`.

    Raises:
        CheckpointError: It cannot be read or is not the base of this preset.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    cast(Any, disable_progress_bar)()  # it would draw where there is no terminal
    path = Path(source)
    place = convert_gguf(path) if path.suffix == ".gguf" else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        base = LlamaForCausalLM.from_pretrained(
            place, dtype=base_dtype(config, device), use_safetensors=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"language model {source} cannot be read: {reason}",
            hint="name a folder with config.json, model.safetensors and tokenizer.json",
        ) from error
    check_base(config, base, str(source))
    return base, tokenizer


def check_base(config: LanguageConfig, base: Any, name: str) -> None:
    """Raise CheckpointError if a base does not have the sizes of `config`."""
    found = base.config
    for ours, theirs in (
        ("vocabulary", "vocab_size"),
        ("width", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("key_heads", "num_key_value_heads"),
        ("tied", "tie_word_embeddings"),
    ):
        if getattr(config, ours) != getattr(found, theirs):
            raise CheckpointError(
                f"{name} has {theirs} {getattr(found, theirs)}; the preset has "
                f"{getattr(config, ours)}",
                hint="use the language model that the preset names",
            )


def convert_gguf(path: Path) -> Path:
    """Turn a GGUF file into a folder of safetensors and tokenizer beside it; return that.

    A folder that is complete is used as it is.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        import gguf  # noqa: F401  transformers reads the file through it
    except ImportError as error:
        raise MissingExtraError(
            f"{path.name} cannot be read without the package gguf", hint="pip install gguf"
        ) from error
    import transformers
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = path.with_suffix("")
    if (folder / "complete").exists():
        return folder
    where: dict[str, Any] = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    # Packed 4-bit weights could neither be adapted nor stored as plain safetensors.
    # Before it had a class for them, transformers always unpacked.
    packed: Any = getattr(transformers, "GgufConfig", None)
    plain = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    base = LlamaForCausalLM.from_pretrained(path.parent, dtype=torch.bfloat16, **where, **plain)
    try:
        with replacing_folder(folder, shared=True) as part:
            base.save_pretrained(part)
            tokenizer.save_pretrained(part)
            (part / "complete").touch()
            for file in part.iterdir():  # some are made for their owner alone
                file.chmod(0o644)
    except OSError as error:
        if not (folder / "complete").exists():  # nobody else has done it
            raise CheckpointError(
                f"{path.name} cannot be converted beside itself: {error.strerror or error}",
                hint="set WHATCHANGED_CACHE to a folder that may be written, with 300 MB of room",
            ) from error
    return folder


def _draw_rows(table: Tensor, count: int) -> Tensor:
    """Draw rows like those of a table [V, D]: its mean and deviation in every column."""
    rows = table.detach().float()
    return rows.mean(dim=0) + rows.std(dim=0) * torch.randn(count, rows.shape[1])
