"""Transformer caption decoder with cached keys and values (HiSem, III-A, IV-C)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whatchanged.errors import UsageError
from whatchanged.models.hisem.config import DecoderConfig


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of one attention, each [B, heads, n, D / heads]."""

    keys: Tensor
    values: Tensor

    def first(self, n: int) -> KeysValues:
        """Return the first `n` of them, without a copy."""
        return KeysValues(self.keys[:, :, :n], self.values[:, :, :n])

    def take(self, rows: Tensor) -> KeysValues:
        """Return the given rows of the batch."""
        return KeysValues(self.keys[rows], self.values[rows])


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be made once and kept."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def remember(self, tokens: Tensor) -> KeysValues:
        """Make keys and values of tokens [B, n, D]."""
        keys, values = self.key_value(tokens).chunk(2, dim=2)
        return KeysValues(self._split(keys), self._split(values))

    def forward(self, x: Tensor, known: KeysValues, *, causal: bool = False) -> Tensor:
        """Let x [B, T, D] attend to what is known; `causal` hides what follows each word."""
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x)),
            known.keys,
            known.values,
            dropout_p=dropout,
            is_causal=causal,
        )
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))  # [B, T, D]
        return out

    def weights(self, x: Tensor, known: KeysValues) -> Tensor:
        """Return how x [B, T, D] spreads its attention, mean over heads, [B, T, n]."""
        query = self._split(self.query(x))
        scale: float = query.shape[3] ** -0.5
        logits = (query * scale) @ known.keys.transpose(2, 3)  # [B, heads, T, n]
        return logits.softmax(dim=3).mean(dim=1)

    def _split(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        return x.view(b, n, self.heads, width // self.heads).transpose(1, 2)  # [B, heads, n, D/h]


class DecoderLayer(nn.Module):
    """Post-norm layer: words before, then the memory, then a feed-forward network."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attention = Attention(width, config.heads, config.dropout)
        self.cross_attention = Attention(width, config.heads, config.dropout)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.ffn * width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn * width, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)
        self.outer_residual = config.outer_residual

    def forward(self, x: Tensor, memory: KeysValues) -> Tensor:
        """Map all words of captions at once, [B, T, D]; each sees itself and those before."""
        return self._finish(x, self.read(x), memory)

    def read(self, x: Tensor) -> Tensor:
        """Let every word of [B, T, D] attend to itself and the words before it."""
        attended = self.self_attention(x, self.self_attention.remember(x), causal=True)
        out: Tensor = self.norms[0](x + self.dropout(attended))
        return out

    def step(self, x: Tensor, memory: KeysValues, past: KeysValues, t: int) -> Tensor:
        """Map word `t` of K captions a pair, [B, K, D], and write it into `past`.

        Args:
            x: Word `t` of every caption.
            memory: Keys and values of the memory, one set a pair: the K captions of a pair
                query it together, so a wider beam does not copy it.
            past: Room for the keys and values of all words, [B K, heads, T, D / heads].
            t: Place of the word.
        """
        rows = x.flatten(0, 1).unsqueeze(1)  # [B K, 1, D]
        new = self.self_attention.remember(rows)
        past.keys[:, :, t : t + 1] = new.keys
        past.values[:, :, t : t + 1] = new.values
        attended = self.self_attention(rows, past.first(t + 1))
        return self._finish(x, self.norms[0](x + self.dropout(attended.view_as(x))), memory)

    def _finish(self, x: Tensor, y: Tensor, memory: KeysValues) -> Tensor:
        y = self.norms[1](y + self.dropout(self.cross_attention(y, memory)))
        y = self.norms[2](y + self.dropout(self.ffn(y)))
        return x + y if self.outer_residual else y


class CaptionDecoder(nn.Module):
    """From a memory and the words so far to the next word.

    Training costs O(T^2 D + T L D + T D^2) a caption and layer. Decoding word t costs
    O(t D + L D + D^2): keys and values of earlier words and of the memory are kept.
    Captions end in NULL words; those come after every real one, so hiding what follows
    (the causal mask) already hides them and the loss leaves their predictions out.
    """

    places: Tensor

    def __init__(self, width: int, vocabulary_size: int, config: DecoderConfig) -> None:
        super().__init__()
        self.max_len = config.max_len
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.register_buffer("places", sinusoids(config.max_len, width), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(width, config) for _ in range(config.layers))
        self.head = nn.Linear(width, vocabulary_size)

    def remember(self, memory: Tensor) -> list[KeysValues]:
        """Make every layer's keys and values of a memory [B, L, D], once for all words."""
        return [layer.cross_attention.remember(memory) for layer in self._layers()]

    def forward(self, captions: Tensor, memory: Tensor) -> Tensor:
        """Return the logits of the word after each of captions [B, T], [B, T, V]."""
        x = self._embed(captions)
        for layer, known in zip(self._layers(), self.remember(memory), strict=True):
            x = layer(x, known)
        logits: Tensor = self.head(x)
        return logits

    def attention(self, captions: Tensor, memory: Tensor) -> Tensor:
        """Return what part of the memory each next word of captions [B, T] came from.

        Returns:
            Cross-attention, mean over heads and layers, [B, T, L]; each row sums to 1.
        """
        x = self._embed(captions)
        weights = []
        for layer, known in zip(self._layers(), self.remember(memory), strict=True):
            weights.append(layer.cross_attention.weights(layer.read(x), known))
            x = layer(x, known)
        return torch.stack(weights).mean(dim=0)

    def room(self, known: list[KeysValues], rows: int, length: int) -> list[KeysValues]:
        """Make room for the keys and values of `rows` captions of up to `length` words."""
        empty = []
        for kept in known:
            shape = (rows, kept.keys.shape[1], length, kept.keys.shape[3])
            empty.append(KeysValues(kept.keys.new_zeros(shape), kept.values.new_zeros(shape)))
        return empty

    def step(
        self, words: Tensor, t: int, known: list[KeysValues], past: list[KeysValues]
    ) -> Tensor:
        """Return the logits after word `t`, [B, K, V], of K captions a pair, words [B, K]."""
        x = self.dropout(self.embedding(words) + self.places[t])
        for layer, kept, earlier in zip(self._layers(), known, past, strict=True):
            x = layer.step(x, kept, earlier, t)
        logits: Tensor = self.head(x)
        return logits

    def _layers(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.layers))

    def _embed(self, captions: Tensor) -> Tensor:
        n_words = captions.shape[1]
        if n_words > self.max_len:
            raise UsageError(
                f"a caption of {n_words} words is longer than the decoder's {self.max_len}",
                hint="raise decoder.max_len or cut the captions",
            )
        x: Tensor = self.dropout(self.embedding(captions) + self.places[:n_words])
        return x


def sinusoids(length: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make the fixed positions of Vaswani et al. 2017 (3.5), [length, width]."""
    place = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(1e4) / width))
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)
    return table.to(dtype)
