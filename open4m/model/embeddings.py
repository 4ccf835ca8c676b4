"""Embeddings: what an item contains and where it is, one module per stream.

Parameters that several modules use (vocabulary tables, modality embeddings) are handed in by the transformer:
every parameter has exactly one owner and one name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from open4m.batch import TokenInputs, TokenTargets
from open4m.errors import DataError
from open4m.streams import Position, StreamKind, StreamSpec

SEQUENCE_POSITIONS = 512
"""Rows of the 1-d position table (as published, whatever the longest sequence of a stream)."""


def sincos_1d(length: int, dim: int) -> Tensor:
    """(length, dim) float32: all sines, then all cosines, of ``n · 10000^(-i / (dim/2))`` (spec: model §3).

    Computed in float32 in this order of operations, which gives the published tables bit for bit.
    """
    omega = 1.0 / 10_000 ** (torch.arange(dim // 2, dtype=torch.float32) / (dim / 2.0))
    angle = torch.outer(torch.arange(length, dtype=torch.float32), omega)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos_2d(grid: tuple[int, int], dim: int) -> Tensor:
    """(rows · columns, dim) float32, row-major: the first half of the channels tells the row, the second the column."""
    rows, columns = grid
    index = torch.arange(rows * columns)
    table = sincos_1d(max(grid), dim // 2)
    return torch.cat([table[index // columns], table[index % columns]], dim=1)


def group_rows(stream: Tensor, valid: Tensor, streams: int) -> list[tuple[int, Tensor]]:
    """Valid items of each stream that is present: (stream index, (n,) rows of the flattened (B·N) batch, ascending)."""
    key = torch.where(valid, stream, streams).flatten()
    order = torch.argsort(key, stable=True)
    sizes = torch.bincount(key, minlength=streams + 1).tolist()
    return [(index, rows) for index, rows in enumerate(order.split(sizes)[:streams]) if len(rows)]


def scatter_rows(parts: list[tuple[Tensor, Tensor]], like: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Inverse of :func:`group_rows`: parts (rows (n,), values (n, dim)) → (B, N, dim), zero elsewhere."""
    out = torch.zeros(like.numel(), dim, dtype=dtype, device=like.device)
    if parts:
        rows, values = zip(*parts, strict=True)
        out = out.index_copy(0, torch.cat(rows), torch.cat([v.to(dtype) for v in values]))
    return out.view(*like.shape, dim)


def cut_patches(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) → patches (B, H/side, W/side, side, side, C), a view; the channel is fastest."""
    rows = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return rows.permute(0, 2, 4, 3, 5, 1)


class StreamEmbedding(nn.Module):
    """The positions of one stream on one side (encoder or decoder); its ids are looked up in a shared table.

    ``pos_emb`` (positions, D) is a parameter for learned positions, else a constant that is not stored.
    """

    pos_emb: Tensor

    def __init__(self, spec: StreamSpec, dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.dim = dim
        if spec.position is Position.LEARNED:
            self.pos_emb = nn.Parameter(torch.empty(spec.max_tokens, dim))
        else:
            self.register_buffer("pos_emb", self.position_table(), persistent=False)

    def position_table(self) -> Tensor:
        """The constant table of this stream (float32)."""
        if self.spec.position is Position.SINCOS_2D:
            return sincos_2d(self.spec.grid or _no_grid(self.spec), self.dim)
        return sincos_1d(max(SEQUENCE_POSITIONS, self.spec.max_tokens), self.dim)

    def reset_buffers(self, device: torch.device | str) -> None:
        """Recompute the constant table on ``device`` (after building on the meta device)."""
        if self.spec.position is not Position.LEARNED:
            with torch.device("cpu"):
                self.pos_emb = self.position_table().to(device)

    def place(self, position: Tensor) -> Tensor:
        """(n,) positions → (n, D)."""
        return self.pos_emb[position]


class DenseInput(StreamEmbedding, ABC):
    """An input stream whose content is no id: pixels or given vectors."""

    @abstractmethod
    def content(self, inputs: TokenInputs, rows: Tensor) -> Tensor:
        """Content (n, D) of the flat ``rows`` (n,) of ``inputs``; raises :class:`DataError` if it has another shape."""

    def dense(self, inputs: TokenInputs, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream's dense content, and for each row its sample and its position."""
        if self.spec.name not in inputs.dense:
            raise DataError(f"The batch has visible positions of {self.spec.name} but no dense content for it.")
        sample = rows // inputs.stream.shape[1]
        return inputs.dense[self.spec.name], sample, inputs.position.flatten()[rows]


class PixelInput(DenseInput):
    """Image patches: a linear map of the patch, flattened as (row, column, channel). Only visible patches are cut."""

    def __init__(self, spec: StreamSpec, dim: int) -> None:
        super().__init__(spec, dim)
        self.proj = nn.Linear(spec.patch_size**2 * spec.channels, dim, bias=False)

    def content(self, inputs: TokenInputs, rows: Tensor) -> Tensor:
        """See :meth:`DenseInput.content`."""
        image, sample, position = self.dense(inputs, rows)
        side, (height, width) = self.spec.patch_size, self.spec.grid or _no_grid(self.spec)
        expected = (self.spec.channels, height * side, width * side)
        if tuple(image.shape[1:]) != expected:
            raise DataError(f"{self.spec.name}: images are {tuple(image.shape[1:])}; the model expects {expected}.")
        visible = cut_patches(image, side)[sample, position // width, position % width]
        return self.proj(visible.flatten(1).to(self.proj.weight.dtype))


class VectorInput(DenseInput):
    """Given vectors, such as the states of a text encoder: a linear map with bias."""

    def __init__(self, spec: StreamSpec, dim: int) -> None:
        super().__init__(spec, dim)
        self.emb_proj = nn.Linear(spec.channels, dim)

    def content(self, inputs: TokenInputs, rows: Tensor) -> Tensor:
        """See :meth:`DenseInput.content`."""
        vectors, sample, position = self.dense(inputs, rows)
        if vectors.shape[2] != self.spec.channels:
            raise DataError(f"{self.spec.name}: vectors of {vectors.shape[2]} given, {self.spec.channels} expected.")
        return self.emb_proj(vectors[sample, position].to(self.emb_proj.weight.dtype))


class TargetEmbedding(StreamEmbedding):
    """A stream as the decoder sees it: sequences read their preceding id, grids and sets the mask token."""

    def content(self, targets: TokenTargets, rows: Tensor, table: nn.Module, mask_token: Tensor) -> Tensor:
        """Decoder input (n, D) of the flat ``rows`` (n,) of ``targets``; ``mask_token`` (1, 1, D)."""
        if self.spec.kind is StreamKind.SEQUENCE:
            return table(targets.token.flatten()[rows])
        return mask_token.view(1, -1).expand(len(rows), -1)

    def place(self, position: Tensor) -> Tensor:
        """(n,) → (n, D); positions from ``max_target_position`` on count as 0 (a published quirk)."""
        limit = self.spec.max_target_position
        return super().place(position if limit is None else torch.where(position < limit, position, 0))


def input_embedding(spec: StreamSpec, dim: int) -> StreamEmbedding:
    """The encoder's module for a stream."""
    kinds = {StreamKind.PIXELS: PixelInput, StreamKind.EMBEDDING: VectorInput}
    return kinds.get(spec.kind, StreamEmbedding)(spec, dim)


def vocabulary_table(spec: StreamSpec, dim: int) -> nn.Embedding:
    """The table of a stream's ids; the padding id 0 of sequences receives no gradient."""
    return nn.Embedding(spec.vocab_size, dim, padding_idx=0 if spec.kind is StreamKind.SEQUENCE else None)


def _no_grid(spec: StreamSpec) -> tuple[int, int]:
    raise ValueError(f"stream {spec.name}: image-like streams need a grid (rows, columns)")
