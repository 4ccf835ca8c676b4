"""What a piece of work needs: weights in memory, and files that would be fetched for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from open4m.hub import text
from open4m.hub.blueprint import Blueprint
from open4m.hub.catalogue import published_configuration
from open4m.hub.places import Repository
from open4m.hub.sizes import bytes_of, model_size, tokenizer_size
from open4m.precision import activation_dtype
from open4m.streams import StreamKind
from open4m.weights import WEIGHTS, read_layout


@dataclass(frozen=True)
class Need:
    """One thing that is loaded.

    Attributes:
        name: model, tokenizer or file.
        memory: bytes of its weights in memory.
        download: bytes to fetch, computed from the number of parameters as float32; 0 if it is on this machine.
    """

    name: str
    memory: int
    download: int


@dataclass(frozen=True)
class Needs:
    """All that is loaded for a piece of work."""

    items: tuple[Need, ...]

    @property
    def memory(self) -> int:
        """Bytes of weights in memory; what is computed comes on top."""
        return sum(item.memory for item in self.items)

    @property
    def download(self) -> int:
        """Bytes to fetch; an estimate."""
        return sum(item.download for item in self.items)

    def lines(self) -> tuple[str, ...]:
        """For people."""
        parts = ", ".join(f"{item.name} {gigabytes(item.memory)}" for item in self.items if item.memory)
        missing = ", ".join(f"{item.name} {gigabytes(item.download)}" for item in self.items if item.download)
        fetched = f"about {gigabytes(self.download)} ({missing})" if missing else "nothing"
        return (f"memory for weights: {gigabytes(self.memory)} ({parts})", f"to download: {fetched}")


def needs_of(plan: Blueprint, streams: Iterable[str], dtype: torch.dtype = torch.float32) -> Needs:
    """What is loaded to read and write ``streams`` of a model with weights as ``dtype``; nothing is fetched to say so.

    Raises:
        CheckpointError: a tokenizer that a bundle names is not in its folder.
    """
    return Needs(tuple(_needs(plan, set(streams), dtype)))


def _needs(plan: Blueprint, streams: set[str], dtype: torch.dtype) -> Iterator[Need]:
    size = model_size(plan.config, plan.published)
    here = plan.weights is not None and plan.weights.is_file()
    yield Need(plan.info.name, size.held(dtype), 0 if here else size.stored)
    tokenizers, activations = plan.info.stream_tokenizers, activation_dtype(dtype)
    for name in dict.fromkeys(
        tokenizers[spec.name] for spec in plan.config.streams if spec.name in streams & tokenizers.keys()
    ):
        where = plan.tokenizer(name)
        if isinstance(where, Repository):
            stored = tokenizer_size(published_configuration(name), name).stored
            yield Need(name, stored * activations.itemsize // torch.float32.itemsize, stored)
        else:
            yield Need(name, bytes_of(read_layout(where / WEIGHTS).values(), activations), 0)
    words = any(spec.kind is StreamKind.SEQUENCE for spec in plan.config.streams if spec.name in streams)
    if words and plan.needs_published_text() and not text.text_at_hand():
        yield Need("text tokenizer", 0, text.BYTES)


def gigabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 5e6 else f"{count / 1e6:.1f} MB"
